"""Asks: replays or sends, keeps each question in its place of a conversation, minds the budget; knows no IPython."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic import addresses, credentials, errors, recording
from aiml_magic.answer import Answer
from aiml_magic.budget import Price, characters, price_of
from aiml_magic.conversation import Conversation
from aiml_magic.credentials import Key, Secrets
from aiml_magic.jobs import Job, Rounds, Runner, Sender
from aiml_magic.journal import Journal, NewRow, Row, journal_at
from aiml_magic.recording import Record
from aiml_magic.replay import differences, nearest, request_keys
from aiml_magic.responses import Raw, Response, approval, cost, log_entries, logged_cost, user_message
from aiml_magic.tools import NO_TOOLS, Tools

if TYPE_CHECKING:
    from aiml_magic.schemas import Schema

SANDBOX = "sandbox"  # the one server of this name, on whatever port it runs
_MAX_LOG = 2000  # entries of the server's log in which a request is looked for
_NO_KEY = "no-key-is-needed-here"


@dataclass(frozen=True)
class Question:
    """What to ask, and how.

    `text` is filled, `attached` are the parts that go with it, `cell` is its place in the notebook, `chat` is `None` for one that
    stands alone. With `items`, results of tools say, those are sent instead of the text, and continue the row `continues`.
    """

    text: str
    cell: str
    model: str
    attached: Sequence[Raw] = ()
    schema: Schema | None = None
    tools: Tools = NO_TOOLS
    tool_choice: Any = None
    items: Sequence[Raw] = ()
    continues: int | None = None
    effort: str | None = None
    summary: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    store: bool = True
    chat: str | None = "main"
    is_new: bool = False
    after: str | None = None
    chain: str = "auto"
    replay: str = "auto"
    timeout: float = 3600.0  # seconds of silence
    budget_usd: float | None = None
    background: bool = False
    max_tool_rounds: int = 8
    max_concurrency: int = 64

    def request(self) -> dict[str, Any]:
        """The body of the POST, without the conversation. `store` is always said, since its default differs by server."""
        reasoning = {"effort": self.effort, "summary": self.summary}
        body: dict[str, Any] = {
            "model": self.model,
            "input": list(self.items) or ([user_message(self.text, self.attached)] if self.attached else self.text),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "reasoning": {name: value for name, value in reasoning.items() if value} or None,
            "text": {"format": self.schema.format} if self.schema else None,
            "tools": list(self.tools.specifications) or None,
            "tool_choice": self.tool_choice,
            "stream": self.stream or None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return {**given, "store": self.store, **self.params}


@dataclass(frozen=True)
class Plan:
    """What a question comes to before it is sent: its request, what it continues, and the row that has or awaits its answer."""

    server: str
    base_url: str
    request: Mapping[str, Any]
    parent: Row | None
    key: str
    known: Row | None


class Finding(NamedTuple):
    """What a server says of a request: answered (and the text is kept), charged, failed (and free) or unknown (yet)."""

    fate: str
    cost_usd: float | None


class Session:
    """The questions of one kernel: one runner, and one conversation for each chat."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.notebook = os.fsencode(os.environ.get("JPY_SESSION_NAME") or Path.cwd()).decode("utf-8", "backslashreplace")
        self.sandbox_url: str | None = None
        self._runner: Runner | None = None
        self._conversations: dict[str, Conversation] = {}
        self._recording: Path | None = None
        self._lock = threading.RLock()  # questions may come from several threads, and each finds its place alone
        self._at_risk: dict[int, float] = {}  # dollars that questions on their way may cost at most, by their rows
        self._prices: dict[tuple[str, str], Price] = {}
        self._headers: dict[str, Mapping[str, str]] = {}  # of MCP servers by label: secret, and in no journal

    def ask(self, question: Question, base_url: str, journal_path: Path, sender: Sender | None = None) -> Job:
        """Replays the answer if the journal has it, follows the job if it was asked already; else journals it and has it sent.

        By `sender`, if given, else by this session's runner. Raises BadInput and JournalError, and then nothing is sent.
        """
        if question.background and question.tools.functions:
            raise errors.BadInput(
                "A function of the notebook cannot be called in the background. Nothing was sent.",
                "Ask without -b, or without the function.",
            )
        job = self._ask(question, base_url, journal_path, sender)
        if not question.tools.functions:
            return job
        ask_on = partial(self._next_round, question, base_url, journal_path)
        return Rounds(job, ask_on, question.tools.functions, question.max_tool_rounds)

    def _next_round(self, question: Question, base_url: str, journal_path: Path, answer: Answer, results: Sequence[Raw]) -> Job:
        """Sends what came of the calls that an answer asked for."""
        choice = "auto" if question.tool_choice is not None else None  # a choice that forces a call would do so for ever
        follow_up = replace(question, items=results, continues=answer.journal_id, after=None, is_new=False, tool_choice=choice)
        return self._ask(follow_up, base_url, journal_path)

    def _ask(self, question: Question, base_url: str, journal_path: Path, sender: Sender | None = None) -> Job:
        with self._lock:
            sender = sender or self.runner(journal_path)
            job = self._job(question, base_url, sender)
        job.parse = question.schema.parse if question.schema else None
        return self._recorded(job, sender.journal)

    def _recorded(self, job: Job, journal: Journal) -> Job:
        job.record = partial(self.keep, journal=journal)
        return job

    def _job(self, question: Question, base_url: str, sender: Sender) -> Job:
        journal = sender.journal
        plan = self.plan(question, base_url, journal)
        row = plan.known
        if question.replay == "only" and (row is None or row.state == "queued"):
            raise self._miss(plan, journal)
        if row is None or not _is_settled(row, sender):
            will_be_sent = row is None or row.state == "queued"
            is_key_here = will_be_sent and not (sender.has_keys and self.sandbox_url is None)
            key = self._key() if is_key_here else Key("where it is sent", "")
            worst = self._keep_to_budget(question, plan, sender) if will_be_sent and question.budget_usd is not None else None
            with journal.together("NORMAL"):  # since the first look another kernel may have asked the same, or been answered
                plan = self.plan(question, base_url, journal)
                row = plan.known or self._add(question, plan, journal)
            if worst is not None:
                self._at_risk[row.id] = worst
        if _is_settled(row, sender):
            return Job(row, journal, notices=self._note(question, plan, row.id, journal))
        is_moved = (
            plan.parent is not None and question.replay == "auto" and journal.has_answered(self.notebook, plan.request, plan.key)
        )
        notices = self._note(question, plan, row.id, journal) + (("parent_changed",) if is_moved else ())
        self._headers |= question.tools.secrets
        return sender.send(row, Secrets(key.text, self._headers), question.timeout, question.max_concurrency, notices)

    def _add(self, question: Question, plan: Plan, journal: Journal) -> Row:
        return journal.add(
            NewRow(
                base_url=plan.base_url,
                server=plan.server,
                request=plan.request,
                client_request_id=f"aiml-magic-{uuid.uuid4().hex}",
                parent=plan.parent.id if plan.parent else None,
                chain=self.chain(question, plan, journal),
                session=self.id,
                notebook=self.notebook,
                chat=question.chat,
                cell=question.cell,
                before=self._before(question, journal),
                key=plan.key,
                asked_at=time.time(),
            )
        )

    def plan(self, question: Question, base_url: str, journal: Journal) -> Plan:
        """What the question comes to. Raises BadInput; sends nothing, and writes nothing but an empty journal."""
        server, url = self.server(base_url)
        request = question.request()
        _check(question, f"{url} {request}", self._secret())
        parent = self._parent(question, journal)
        keys = request_keys(server, request, parent.link if parent else None)
        known = None if question.replay == "off" else _known(keys, url, journal)
        if known is None and parent is not None and parent.is_over and question.replay != "off":
            # Asked before that answer was there, and not taken up since.
            known = _known(request_keys(server, request, f"row {parent.id}"), url, journal)
        return Plan(server, url, request, parent, keys[0], known)

    def chain(self, question: Question, plan: Plan, journal: Journal) -> str | None:
        """How the conversation is sent: by the parent's id where this server is known to have it, else as a transcript."""
        parent = plan.parent
        if parent is None:
            return None
        has_id = parent.response_id is not None or not parent.is_over  # one that is not over may get one yet
        is_kept = parent.server == plan.server and has_id and bool(parent.request.get("store", True))
        if question.chain == "auto":
            return "id" if is_kept and not journal.has_lost_chain(self.id, plan.server) else "transcript"
        return "id" if question.chain == "id" and has_id else "transcript"

    def server(self, base_url: str) -> tuple[str, str]:
        """The server's name and address: the sandbox while it is in use. Raises BadInput."""
        if self.sandbox_url is not None:
            return SANDBOX, self.sandbox_url
        url = addresses.base_url(base_url)
        return url, url

    def get(self, base_url: str, path: str, journal_path: Path) -> Any:
        """The JSON that the server gives at `path`, free of charge. Raises RequestFailed and NoKey."""
        return self.runner(journal_path).get(self.server(base_url)[1], path, self._key().text)

    def runner(self, journal_path: Path) -> Runner:
        """The runner of this journal; one of another journal finishes what it has and ends."""
        journal = journal_at(journal_path)
        if self._runner is None or self._runner.journal is not journal:
            self.close()
            self._runner = Runner(journal)
            self._conversations, self._at_risk = {}, {}  # they hold numbers of rows
        return self._runner

    def close(self, patience: float = 0.0) -> None:
        if self._runner is not None:
            self._runner.close(patience)
            self._runner = None

    def head(self, chat: str, journal: Journal) -> int | None:
        """The journal id of the last answer of a chat: of this session, else of this notebook."""
        conversation = self._conversations.get(chat)
        head = conversation.head(journal) if conversation else None
        if head is not None:
            return head
        return next((row.id for row in reversed(journal.turns(self.notebook, chat)) if row.advances), None)

    def chats(self, journal_path: Path) -> list[str]:
        """The names of the conversations of this notebook; those of earlier sessions only if the journal can be read."""
        earlier: list[str] = []
        if journal_path.exists():
            with contextlib.suppress(errors.JournalError):
                earlier = self.runner(journal_path).journal.chats(self.notebook)
        return list(dict.fromkeys(["main", *self._conversations, *earlier]))

    def resume(self, journal: Journal) -> dict[str, int]:
        """Takes up the conversations of this notebook where they were; gives the number of answers of each chat."""
        chats = {chat: journal.turns(self.notebook, chat) for chat in journal.chats(self.notebook)}
        for chat, rows in chats.items():
            self._conversations[chat] = Conversation()
            self._conversations[chat].restore(rows)
        return {chat: sum(row.advances for row in rows) for chat, rows in chats.items()}

    def unfinished(self, base_url: str, journal_path: Path, timeout: float, max_concurrency: int) -> list[Job]:
        """Takes up the questions of this notebook that have no answer yet: sends those that were not sent, follows the others.

        One that was to go to another server than the one in use is left alone.
        """
        runner = self.runner(journal_path)
        found = (row for row in runner.journal.unfinished(self.notebook) if row.is_alive or row.state == "queued")
        return [
            self._recorded(runner.send(row, Secrets(self._key_for(row, base_url)), timeout, max_concurrency), runner.journal)
            for row in found
            if self._is_here(row, base_url)
        ]

    def decide(self, row: Row, question: Question, base_url: str, journal_path: Path, *, is_approved: bool) -> Job:
        """Answers the approvals that a response waits for, with the settings of its request. Raises BadInput without any."""
        wanted = Response(row.response).of_type("mcp_approval_request")
        if not wanted:
            raise errors.BadInput(f"Answer {row.id} waits for no approval. Nothing was sent.", "%aiml history lists the answers.")
        items = [approval(request, is_approved=is_approved) for request in wanted]
        settings = {name: value for name, value in row.request.items() if name != "input"}
        follow_up = replace(
            question, items=items, continues=row.id, chat=row.chat, cell=row.cell or question.cell, params=settings
        )
        return self.ask(follow_up, base_url, journal_path)

    def cancel(self, row: Row, runner: Runner) -> bool:
        """Stops a question that is not answered yet; `False` if another kernel's runner will, within seconds. Raises BadInput."""
        if row.id in runner.jobs:
            runner.jobs[row.id].cancel(patience=2.0)
            return True
        if row.state == "queued" and runner.journal.withdraw(row.id):
            return True
        if not row.is_alive:
            what = "is over" if row.is_over else "is in nobody's hands any more, and may have been charged"
            raise errors.BadInput(f"Question {row.id} {what}; nothing was cancelled.", "%aiml jobs lists what can be.")
        runner.journal.note_unwanted(row.id)
        return False

    def record(self, path: Path) -> int:
        """Writes every answer from now on to a file too; gives the number of those that it holds. Raises BadInput."""
        records = recording.read(path) if path.exists() else {}
        recording.write(path, records)
        self._recording = path
        return len(records)

    def keep(self, answer: Answer, journal: Journal) -> None:
        """Adds an answer to the recording, if one is being made. Says so if that fails: the answer is in the journal."""
        is_kept = answer.status == "completed" and answer.journal_id is not None and "not_in_journal" not in answer.notices
        if self._recording is None or not is_kept:
            return
        row = journal.row(answer.journal_id or 0)
        parent = None if row.parent is None else journal.row(row.parent)
        if parent is not None and parent.state == "forgotten":
            return  # what it continues cannot be told any more
        record = Record(
            server=row.server,
            request=row.request,
            parent=None if parent is None else parent.link,
            response=row.response,
            notices=row.notices,
            cost_usd=row.cost_usd,
            seconds=row.seconds,
            asked_at=row.asked_at,
        )
        with self._lock:  # answers of background jobs come in a thread
            try:
                others = recording.read(self._recording) if self._recording.exists() else {}  # another kernel may write there too
                recording.write(self._recording, others | {record.key: record})
            except errors.BadInput as error:
                errors.say(error)

    def replay_file(self, path: Path, journal: Journal) -> int:
        """Takes the answers of a recording into the journal, from where they are replayed; gives their number."""
        records = recording.read(path)
        for key, record in records.items():
            new = NewRow(
                base_url=record.server, server=record.server, request=record.request, client_request_id=uuid.uuid4().hex,
                parent=None, chain=None, session="recording", notebook="", chat=None, cell=None, before=None, key=key,
                asked_at=record.asked_at,
            )  # fmt: skip
            journal.take(
                new, record.parent, {name: getattr(record, name) for name in ("response", "notices", "cost_usd", "seconds")}
            )
        return len(records)

    def forget(self, row: Row, journal: Journal) -> None:
        """Removes the texts of a row from the disk; no conversation goes on from it."""
        for conversation in self._conversations.values():
            conversation.forget(row.id)
        journal.forget(row.id)

    def check(self, row: Row, base_url: str, journal_path: Path) -> Finding:
        """Asks the server what became of a request; keeps the answer, if the server gives it, and what it cost.

        Raises RequestFailed if the server keeps no log, and BadInput for a row of another server than the one in use.
        """
        runner, key = self.runner(journal_path), self._key_for(row, base_url)
        journal, get = runner.journal, partial(runner.get, row.base_url, key=key)
        raw = _kept_response(row, get)
        if raw is not None:
            spent = cost(raw, {})
            if spent is None:
                with contextlib.suppress(errors.RequestFailed):  # not every server keeps a log
                    spent = logged_cost(_log_entry(row, get))
            journal.recover(row.id, raw, spent)
            return Finding("answered", spent.usd if spent else None)
        entry = _log_entry(row, get)
        if entry is None:
            return Finding("unknown", None)
        spent = logged_cost(entry)
        if entry.get("status") == "failed":
            journal.note_free(row.id)
            return Finding("failed", 0.0)
        if spent is not None:
            journal.note_cost(row.id, spent)
        return Finding("charged", spent.usd if spent else None)

    def price(self, base_url: str, model: str, journal_path: Path) -> Price | None:
        """The price that the server lists for this model, asked for once; `None` if it lists none or does not answer."""
        known = (self.server(base_url)[1], model)
        if known not in self._prices:
            try:
                path = f"/v1/models?id={urllib.parse.quote(model)}&include=pricing"
                key = self._key().text if self.sandbox_url else _NO_KEY
                price = price_of(self.runner(journal_path).get(known[0], path, key), model)
            except errors.AimlMagicError:
                return None
            if price is None:
                return None
            self._prices[known] = price
        return self._prices[known]

    def _key(self) -> Key:
        """The API key; the sandbox never gets a real one, but its own token. Raises NoKey."""
        return credentials.need_key() if self.sandbox_url is None else _sandbox_key(self.sandbox_url)

    def _secret(self) -> Key | None:
        """The API key that no question may hold, whoever is asked. The sandbox is asked also where no key can be read."""
        if self.sandbox_url is None:
            return credentials.find_key()
        from aiml_magic import sandbox

        if sandbox.is_in_this_process(self.sandbox_url):
            return None
        with contextlib.suppress(errors.BadInput):
            return credentials.find_key()
        return None

    def _is_here(self, row: Row, base_url: str) -> bool:
        """The row is of the server in use, or of the sandbox of this home."""
        if row.server == SANDBOX:
            return _sandbox_token(row.base_url) is not None
        return row.base_url == addresses.base_url(base_url)

    def _key_for(self, row: Row, base_url: str) -> str:
        """The key that goes to the server of a row: a journal says where a question was asked, not where a key may go."""
        if not self._is_here(row, base_url):
            raise errors.BadInput(
                f"Question {row.id} was asked at {row.base_url[:80]}, which is not the server in use. Nothing was sent.",
                "Name that server with %config O3Pro.base_url, then try again.",
            )
        return (_sandbox_key(row.base_url) if row.server == SANDBOX else credentials.need_key()).text

    def _conversation(self, question: Question) -> Conversation | None:
        return None if question.chat is None else self._conversations.setdefault(question.chat, Conversation())

    def _parent(self, question: Question, journal: Journal) -> Row | None:
        conversation = self._conversation(question)
        if conversation and not conversation.has(cell := question.cell) and journal.has_cell(self.notebook, question.chat, cell):
            conversation.restore(journal.turns(self.notebook, question.chat))  # it keeps its place over a restart
        if question.continues is not None:
            return journal.row(question.continues)
        if question.after is not None:
            return journal.row(journal.find_id(question.after))
        if conversation is None or question.is_new:
            return None
        parent = conversation.parent(question.cell, journal)
        return None if parent is None else journal.row(parent)

    def _before(self, question: Question, journal: Journal) -> str | None:
        conversation = self._conversation(question)
        if conversation is None or question.is_new or question.after is not None:
            return None
        return conversation.before(question.cell, journal)

    def _note(self, question: Question, plan: Plan, row_id: int, journal: Journal) -> tuple[str, ...]:
        """Gives the answer its place; tells what that means for the cells behind it."""
        conversation = self._conversation(question)
        if conversation is None:
            return ()
        if question.after is not None and plan.parent is not None:
            conversation.fork(question.cell, plan.parent.id)
        elif question.is_new:
            conversation.start_afresh(question.cell)
        conversation.note(question.cell, row_id, journal)
        if question.background:
            conversation.expect(row_id)
        return ("later_cells_stale",) if conversation.later_cells(question.cell, row_id, journal) else ()

    def _miss(self, plan: Plan, journal: Journal) -> errors.ReplayMiss:
        """The error that names the nearest recorded request, and what differs."""
        recorded = [row for row in journal.history() if row.state == "done" and row.server == plan.server]
        position = nearest(plan.request, [row.request for row in recorded])
        lines = ['No answer to this question is recorded, and replay is "only", so nothing was sent.']
        if position is not None:
            row = recorded[position]
            lines.append(f"The nearest is answer {row.id} of {_day(row.asked_at)}:")
            lines += differences(plan.request, row.request)[:4] or ["the same question, behind another answer"]
        return errors.ReplayMiss("\n".join(lines), 'Ask it with %config O3Pro.replay = "auto", or mend what differs.')

    def _keep_to_budget(self, question: Question, plan: Plan, sender: Sender) -> float:
        """What the question may cost at most. Raises BudgetExceeded if that, and what is on its way, passes the budget."""
        budget = question.budget_usd or 0.0
        price = self.price(plan.base_url, question.model, sender.journal.path)
        if price is None:
            raise errors.BudgetExceeded(
                f"The server lists no price for {question.model}, so a budget cannot be kept. Nothing was sent.",
                "%config O3Pro.budget_usd = None asks without one.",
            )
        jobs, journal = sender.jobs, sender.journal
        self._at_risk = {
            row_id: worst for row_id, worst in self._at_risk.items() if row_id in jobs or journal.row(row_id).has_unknown_cost
        }
        spent = journal.spent(plan.server, session=self.id)[0] + sum(self._at_risk.values())
        worst = self.worst_case(plan, question.max_output_tokens, price, journal)
        if spent + worst > budget:
            raise errors.BudgetExceeded(
                f"It may cost up to ${worst:,.2f}; with ${spent:,.2f} spent, that passes the budget of ${budget:,.2f}. "
                "Nothing was sent.",
                "Lower --max-output-tokens, or raise the budget with %config O3Pro.budget_usd.",
            )
        return worst

    def worst_case(self, plan: Plan, max_output_tokens: int | None, price: Price, journal: Journal) -> float:
        """Dollars that the request costs at most: the conversation counts as input, however it is sent."""
        told = sum(len(row.question) + len(row.answer().text) for row in journal.ancestors(plan.parent.id)) if plan.parent else 0
        return price.worst_case(characters(plan.request) + told, max_output_tokens)


def _sandbox_token(url: str) -> str | None:
    from aiml_magic import sandbox

    return sandbox.token(url)


def _sandbox_key(url: str) -> Key:
    """What the sandbox at `url` is asked with. Raises NoKey if it is not the one of this home."""
    if (token := _sandbox_token(url)) is None:
        raise errors.NoKey(f"The sandbox is gone. {errors.NOTHING_SENT}", "%aiml sandbox starts it again.")
    return Key("the sandbox", token)


def _is_settled(row: Row, sender: Sender) -> bool:
    """Nothing is to be done for the row. One in our own hands is not, though a sleep of the machine hid its signs of life."""
    return row.is_settled and not sender.holds(row)


def _known(keys: Sequence[str], base_url: str, journal: Journal) -> Row | None:
    """The whole answer to the request of these keys, else the row that awaits it, or may have been charged in vain."""
    asked = journal.find_open(*keys)  # looked for first: what is answered between the two is then found by the second
    if (answered := journal.find(*keys)) is not None:
        return answered
    if asked is not None and asked.state == "queued" and asked.base_url != base_url:
        return None  # it would be sent elsewhere: to a sandbox that is gone, or wherever a journal of somebody else says
    return asked


def _check(question: Question, sent: str, key: Key | None) -> None:
    if not question.text.strip() and not question.items:
        raise errors.BadInput("The question is empty, so nothing was sent.", "Write it below the %%o3pro line.")
    if key is not None and key.is_in(sent):
        raise errors.BadInput(
            "The API key is part of what would be sent, so nothing was sent.",
            "Remove it from the question, the options, the values and the server's address.",
        )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


def _kept_response(row: Row, get: Callable[[str], Any]) -> Raw | None:
    """The whole response to a request, if the server gives it out by its id."""
    if row.response_id is None:
        return None
    try:
        raw = get("responses/" + urllib.parse.quote(row.response_id, safe=""))
    except errors.RequestFailed:
        return None
    return raw if isinstance(raw, Mapping) and Response(raw).status == "completed" else None


def _log_entry(row: Row, get: Callable[[str], Any]) -> Raw | None:
    """The server's log entry of a request, found by the id that we gave it; `None` if there is none (yet)."""
    hours = min(max(0, int((time.time() - row.asked_at) / 3600)) + 2, 92 * 24)  # a clock may have been set back
    model = urllib.parse.quote(str(row.request.get("model", "")))
    for offset in range(0, _MAX_LOG, 100):
        entries, more = log_entries(get(f"/v2/logs?period={hours}h&model={model}&limit=100&offset={offset}"))
        for entry in entries:
            if entry.get("client_request_id") == row.client_request_id:
                return entry
        if not more:
            break
    return None
