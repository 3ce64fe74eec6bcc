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

from aiml_magic import addresses, credentials, errors, hidden
from aiml_magic.api.responses import (
    Cost,
    Raw,
    Response,
    approval,
    attempt_of,
    cost,
    is_response,
    log_entries,
    logged_cost,
    question_text,
    status_of,
    sum_of_costs,
    user_message,
)
from aiml_magic.credentials import Key, Secrets
from aiml_magic.files import raise_open_limit
from aiml_magic.journal import recording
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.recording import Record
from aiml_magic.journal.replay import differences, nearest, request_keys, short_json, with_hashes
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal, journal_at
from aiml_magic.question.tools import NO_TOOLS, Tools
from aiml_magic.runner.jobs import Job, Rounds, Runner, Sender
from aiml_magic.session.budget import Price, characters, price_of
from aiml_magic.session.conversation import Conversation
from aiml_magic.text import say

if TYPE_CHECKING:
    from aiml_magic.question.schemas import Schema

NO_ID = "run "  # begins a cell whose front end has no ids: it has a place in this session alone
SANDBOX = "sandbox"  # the one server of this name, on whatever port it runs
_MAX_LOG = 2000  # entries of the server's log in which a request is looked for
_NO_KEY = "no-key-is-needed-here"


@dataclass(frozen=True)
class Question:
    """What to ask, and how.

    `text` is filled, `attached` are the parts that go with it, `cell` is its place in the notebook,
    `chat` is `None` for one that stands alone. With `items`, results of tools say, those are sent
    instead of the text, and continue the row `continues`. `settings` are those options that come
    from a setting, by the setting's name: what it is, and what it is if it is not set.
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
    mode: str | None = None
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
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """The body of the POST, without the conversation.

        `store` is always said, since its default differs by server.
        """
        reasoning = {"effort": self.effort, "summary": self.summary, "mode": self.mode}
        body: dict[str, Any] = {
            "model": self.model,
            "input": list(self.items)
            or ([user_message(self.text, self.attached)] if self.attached else self.text),
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
    """What a question comes to before it is sent: its request, what it continues, and the row that has or awaits its answer.

    `hidden` is what the request holds besides, and is kept nowhere.
    """

    server: str
    base_url: str
    request: Mapping[str, Any]
    hidden: Mapping[str, Any]
    parent: Row | None
    key: str
    known: Row | None


class Finding(NamedTuple):
    """What a server says of a request: answered (and the text is kept), pending, charged, failed (and free) or unknown (yet)."""

    fate: str
    cost_usd: float | None


class Session:
    """The questions of one kernel: one runner, and one conversation for each chat.

    `replay` gives the mode that holds now: with "only" nothing is sent, whatever is asked for.
    """

    def __init__(self, replay: Callable[[], str] = lambda: "auto") -> None:
        raise_open_limit()
        self.id = uuid.uuid4().hex
        self.notebook = addresses.notebook()
        self._replay = replay
        self.sandbox_url: str | None = None
        self._runner: Runner | None = None
        self._conversations: dict[str, Conversation] = {}
        self._recordings: list[Path] = []  # to which it wrote; the last is the one in use
        self._recorded: dict[
            str, int
        ] = {}  # rows of recordings that were replayed here, by their keys
        self._lock = (
            threading.RLock()
        )  # questions may come from several threads, and each finds its place alone
        self._at_risk: dict[
            int, float
        ] = {}  # dollars that questions on their way may cost at most, by their rows
        self._prices: dict[tuple[str, str], Price] = {}
        self._hidden: dict[str, Any] = {}  # what is sent, and in no journal: see `hidden`

    def ask(
        self, question: Question, base_url: str, journal_path: Path, sender: Sender | None = None
    ) -> Job:
        """Replays the answer if the journal has it, follows the job if it was asked already; else journals it and has it sent.

        By `sender`, if given, else by this session's runner. Raises BadInput and JournalError, and
        then nothing is sent.
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

    def _next_round(
        self,
        question: Question,
        base_url: str,
        journal_path: Path,
        answer: Answer,
        results: Sequence[Raw],
    ) -> Job:
        """Sends what came of the calls that an answer asked for."""
        choice = (
            "auto" if question.tool_choice is not None else None
        )  # a choice that forces a call would do so for ever
        follow_up = replace(
            question,
            items=results,
            continues=answer.journal_id,
            after=None,
            is_new=False,
            tool_choice=choice,
        )
        return self._ask(follow_up, base_url, journal_path)

    def _ask(
        self, question: Question, base_url: str, journal_path: Path, sender: Sender | None = None
    ) -> Job:
        with self._lock:
            sender = sender or self.runner(journal_path)
            job = self._job(question, base_url, sender)
        job.parse = question.schema.parse if question.schema else None
        return self._recording(job, sender.journal)

    def _recording(self, job: Job, journal: Journal) -> Job:
        job.record = partial(self.keep, journal=journal)
        return job

    def _job(self, question: Question, base_url: str, sender: Sender) -> Job:
        journal = sender.journal
        plan = self.plan(question, base_url, journal)
        row = plan.known
        self._mind_replay_only(question, plan, journal)
        may_fetch = None if question.replay == "only" or sender.has_keys else plan.base_url
        if row is None or not _is_settled(row, sender, may_fetch):
            if row is None:
                self._mind_lost_conversation(question, plan, journal)
            will_be_sent = row is None or row.state == "queued"
            key = self._key_of(
                sender, is_needed=will_be_sent or (row is not None and row.can_go_on)
            )
            worst = (
                self._keep_to_budget(question, plan, sender)
                if will_be_sent and question.budget_usd is not None
                else None
            )
            with journal.together(
                "NORMAL"
            ):  # since the first look another kernel may have asked the same, or been answered
                plan = self.plan(question, base_url, journal)
                self._mind_replay_only(question, plan, journal)
                row = plan.known or self._add(question, plan, journal)
            if worst is not None:
                self._at_risk[row.id] = worst
        if _is_settled(row, sender, may_fetch):
            return Job(row, journal, notices=self._note(question, plan, row.id, journal))
        is_moved = (
            plan.parent is not None
            and question.replay == "auto"
            and journal.has_answered(self.notebook, plan.request, plan.key)
        )
        notices = self._note(question, plan, row.id, journal) + (
            ("parent_changed",) if is_moved else ()
        )
        self._hidden |= plan.hidden
        is_ours = (
            row.state == "queued" or row.base_url == may_fetch
        )  # else it is followed, which needs no key
        secrets = Secrets(key.text if is_ours else "", self._hidden)
        return sender.send(row, secrets, question.timeout, question.max_concurrency, notices)

    def _add(self, question: Question, plan: Plan, journal: Journal) -> Row:
        return journal.add(
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

    def plan(self, question: Question, base_url: str, journal: Journal) -> Plan:
        """What the question comes to.

        Raises BadInput; sends nothing, and writes no more than what the notebook was called.
        """
        server, url = self.server(base_url)
        whole = question.request()
        _check(question, f"{url} {whole}", self._secret())
        request, secrets = hidden.split(whole)
        parent = self._parent(question, journal)
        link = parent.link if parent else None
        keys = request_keys(server, request, link)
        if secrets:  # earlier versions kept all but the headers of tools
            keys += request_keys(server, hidden.with_bare_tools(whole), link)
        known = None if question.replay == "off" else self._known(keys, url, journal)
        if known is None and parent is not None and parent.is_over and question.replay != "off":
            # Asked before that answer was there, and not taken up since.
            known = self._known(request_keys(server, request, f"row {parent.id}"), url, journal)
        return Plan(server, url, request, secrets, parent, keys[0], known)

    def _known(self, keys: Sequence[str], base_url: str, journal: Journal) -> Row | None:
        """The whole answer to the request of these keys, else the row that awaits it, or may have been charged in vain.

        An answer that was recorded elsewhere stands in where the recording was replayed in this
        session.
        """
        asked = journal.find_open(
            *keys
        )  # looked for first: what is answered between the two is then found by the second
        if (answered := journal.find(*keys)) is not None:
            return answered
        recorded = [journal.row(self._recorded[key]) for key in keys if key in self._recorded]
        if answered := next((row for row in recorded if row.state == "done"), None):
            return answered
        if (
            asked is not None
            and asked.state == "queued"
            and not _may_be_sent(asked, keys, base_url, journal)
        ):
            return None
        return asked

    def chain(self, question: Question, plan: Plan, journal: Journal) -> str | None:
        """How the conversation is sent: by the parent's id where this server is known to have it, else as a transcript."""
        parent = plan.parent
        if parent is None:
            return None
        has_id = (
            parent.response_id is not None or not parent.is_over
        )  # one that is not over may get one yet
        is_kept = (
            parent.server == plan.server and has_id and bool(parent.request.get("store", True))
        )
        if question.chain == "auto":
            return (
                "id"
                if is_kept and not journal.has_lost_chain(self.id, plan.server)
                else "transcript"
            )
        return "id" if question.chain == "id" and has_id else "transcript"

    def server(self, base_url: str) -> tuple[str, str]:
        """The server's name and address: the sandbox while it is in use. Raises BadInput."""
        if self.sandbox_url is not None:
            return SANDBOX, self.sandbox_url
        url = addresses.base_url(base_url)
        return url, url

    def get(self, base_url: str, path: str, journal_path: Path) -> Any:
        """The JSON that the server gives at `path`, free of charge.

        Raises RequestFailed, NoKey and ReplayMiss.
        """
        return self._get(journal_path, base_url, path, self._key)

    def _get(self, journal_path: Path, base_url: str, path: str, key: Callable[[], Key]) -> Any:
        if self._replay() == "only":
            raise errors.ReplayMiss(
                'Replay is "only", so the server was not asked. Nothing was sent.',
                '%config O3Pro.replay = "auto" lets it be.',
            )
        return self.runner(journal_path).get(self.server(base_url)[1], path, key().text)

    def runner(self, journal_path: Path) -> Runner:
        """The runner of this journal; one of another journal finishes what it has and ends."""
        journal = journal_at(journal_path)
        with self._lock:
            if self._runner is None or self._runner.journal is not journal:
                self.close()
                self._runner = Runner(journal)
                self._conversations, self._at_risk, self._recorded = (
                    {},
                    {},
                    {},
                )  # they hold numbers of rows
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
        return next(
            (row.id for row in reversed(journal.turns(self.notebook, chat)) if row.advances), None
        )

    def chats(self, journal_path: Path) -> list[str]:
        """The names of the conversations of this notebook; those of earlier sessions only if the journal can be read."""
        earlier: list[str] = []
        if journal_path.exists():
            with contextlib.suppress(errors.JournalError):
                earlier = self.runner(journal_path).journal.chats(self.notebook)
        return list(dict.fromkeys(["main", *self._conversations, *earlier]))

    def resume(self, journal: Journal, earlier: str = "") -> dict[str, int]:
        """Takes up the conversations of this notebook where they were; gives the number of answers of each chat.

        `earlier` is what the notebook was called before, if it was. Raises BadInput if nothing was
        asked in that.
        """
        if earlier and not journal.chats(earlier):
            raise errors.BadInput(
                f"Nothing was asked in a notebook {earlier[:200]}.",
                "Name it as the journal does, by its whole path as a rule.",
            )
        if earlier and earlier != self.notebook:
            journal.note_past(self.notebook, earlier)
        chats = {chat: journal.turns(self.notebook, chat) for chat in journal.chats(self.notebook)}
        for chat, rows in chats.items():
            self._conversations[chat] = Conversation()
            self._conversations[chat].restore(rows)
        return {chat: sum(row.advances for row in rows) for chat, rows in chats.items()}

    def unfinished(
        self, base_url: str, journal_path: Path, timeout: float, max_concurrency: int
    ) -> list[Job]:
        """Takes up the questions of this notebook that have no answer yet: sends those that were not sent, follows the others.

        One that was to go to another server than the one in use is left alone, and with replay
        "only" all that were not sent.
        """
        runner, here, is_only = (
            self.runner(journal_path),
            self.server(base_url),
            self._replay() == "only",
        )
        jobs = []
        for row in runner.journal.unfinished(self.notebook):
            is_asked = row.state == "sent" and row.is_alive and row.server == here[0]
            may_ask = (row.server, row.base_url) == here and not is_only
            is_open = may_ask and (row.state == "queued" or row.can_go_on)
            if is_asked or is_open:
                # With a key one that is followed can be gone on with, should its runner die.
                key = self._key_of(runner, is_needed=is_open).text if may_ask else ""
                job = runner.send(row, Secrets(key, self._hidden), timeout, max_concurrency)
                jobs.append(self._recording(job, runner.journal))
        return jobs

    def decide(
        self, row: Row, question: Question, base_url: str, journal_path: Path, *, is_approved: bool
    ) -> Job:
        """Answers the approvals that a response waits for, with the settings of its request.

        Raises BadInput without any.
        """
        wanted = Response(row.response).of_type("mcp_approval_request")
        if not wanted:
            raise errors.BadInput(
                f"Answer {row.id} waits for no approval. Nothing was sent.",
                "%aiml history lists the answers.",
            )
        items = [approval(request, is_approved=is_approved) for request in wanted]
        settings = {name: value for name, value in row.request.items() if name != "input"}
        follow_up = replace(
            question,
            items=items,
            continues=row.id,
            chat=row.chat,
            cell=row.cell or question.cell,
            params=settings,
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
            is_free = row.is_over and not row.is_doubtful
            what = (
                "is over" if is_free else "is in nobody's hands any more, and may have been charged"
            )
            raise errors.BadInput(
                f"Question {row.id} {what}; nothing was cancelled.", "%aiml jobs lists what can be."
            )
        runner.journal.note_unwanted(row.id)
        return False

    def record(self, path: Path) -> int:
        """Writes every answer from now on to a file too; gives the number of those that it holds.

        Raises BadInput.
        """
        records = recording.read(path) if path.exists() else {}
        recording.write(path, records)
        self._recordings = [*(other for other in self._recordings if other != path), path]
        return len(records)

    def keep(self, answer: Answer, journal: Journal) -> None:
        """Adds an answer to the recording, if one is being made.

        Says so if that fails: the answer is in the journal.
        """
        is_kept = (
            answer.status == "completed"
            and answer.journal_id is not None
            and "not_in_journal" not in answer.notices
        )
        if not self._recordings or not is_kept:
            return
        with self._lock:  # answers of background jobs come in a thread
            record = _record_of(journal.row(answer.journal_id or 0), journal)
            if record is None:
                return
            path = self._recordings[-1]
            try:
                others = (
                    recording.read(path) if path.exists() else {}
                )  # another kernel may write there too
                recording.write(path, others | {record.key: record})
            except errors.BadInput as error:
                say(error)

    def replay_file(self, path: Path, journal: Journal) -> int:
        """Takes the answers of a recording into the journal, from where this session replays them; gives their number."""
        records = recording.read(path)
        for key, record in records.items():
            self._recorded[key] = journal.import_recorded(
                key, record.server, record.request, record.parent, vars(record)
            )
        return len(records)

    def forget(self, row: Row, journal: Journal) -> list[Path]:
        """Removes the texts of a row from the journal, and from the recordings that this session wrote, which it gives.

        No conversation goes on from it. Raises BadInput if a recording cannot be changed; then the
        journal is as it was.
        """
        for conversation in self._conversations.values():
            conversation.forget(row.id)
        with self._lock:
            changed = [] if row.is_alive else self._leave_out(journal.with_rounds(row.id))
            journal.forget(row.id)
        return changed

    def _leave_out(self, rows: Sequence[Row]) -> list[Path]:
        """Removes the answers of these rows from the recordings that this session wrote; gives those that held any."""
        answers = [(with_hashes(row.request), row.response) for row in rows]
        try:
            held = {path: recording.read(path) for path in self._recordings if path.exists()}
            left = {
                path: {
                    key: one
                    for key, one in records.items()
                    if (with_hashes(one.request), one.response) not in answers
                }
                for path, records in held.items()
            }
            changed = [path for path in held if len(left[path]) < len(held[path])]
            for path in changed:
                recording.write(path, left[path])
        except errors.BadInput as error:
            hint = "Mend or remove that recording, then try again."
            raise errors.BadInput(f"Nothing was forgotten: {error.message}", hint) from error
        return changed

    def check(self, row: Row, base_url: str, journal_path: Path) -> Finding:
        """Asks the server what became of a request; keeps the answer, if the server gives it, and what it cost.

        Raises RequestFailed if the server keeps no log, and BadInput for a row of another server
        than the one in use: a journal says where a question was asked, not whom to ask, nor where a
        key may go.
        """
        if row.server != self.server(base_url)[0]:
            raise errors.BadInput(
                f"Question {row.id} was asked at {row.server[:80]}, which is not the server in use. Nothing was sent.",
                f"{_way_to(row.server)}, then try again.",
            )
        journal, get = (
            self.runner(journal_path).journal,
            partial(self.get, base_url, journal_path=journal_path),
        )
        try:
            return _found(row, journal, get)
        except errors.RequestFailed as error:
            error.message += f" Question {row.id} stays as it was: it may have been charged."
            raise

    def price(self, base_url: str, model: str, journal_path: Path) -> Price | None:
        """The price that the server lists for this model, asked for once; `None` if it lists none or does not answer."""
        known = (self.server(base_url)[1], model)
        if known not in self._prices:
            try:
                path = f"/v1/models?id={urllib.parse.quote(model)}&include=pricing"
                price = price_of(
                    self._get(journal_path, base_url, path, self._key_for_prices), model
                )
            except errors.AimlMagicError:
                return None
            if price is None:
                return None
            self._prices[known] = price
        return self._prices[known]

    def _key(self) -> Key:
        """The API key; the sandbox never gets a real one, but its own token. Raises NoKey."""
        return (
            credentials.need_key() if self.sandbox_url is None else _sandbox_key(self.sandbox_url)
        )

    def _key_for_prices(self) -> Key:
        """A price list is for everybody, and gets no key; the sandbox shows none without its token."""
        return Key("nobody", _NO_KEY) if self.sandbox_url is None else self._key()

    def _key_of(self, sender: Sender, *, is_needed: bool) -> Key:
        """The key that goes to a sender, if it has none; raises NoKey if it is needed.

        Who only follows a question needs none.
        """
        if sender.has_keys and self.sandbox_url is None:
            return Key("where it is sent", "")
        try:
            return self._key()
        except errors.NoKey:
            if is_needed:
                raise
            return Key("nowhere", "")

    def _secret(self) -> Key | None:
        """The API key that no question may hold, whoever is asked.

        The sandbox is asked also where no key can be read.
        """
        if self.sandbox_url is None:
            return credentials.find_key()
        from aiml_magic.sandbox import start as sandbox

        if sandbox.is_in_this_process(self.sandbox_url):
            return None
        with contextlib.suppress(errors.BadInput):
            return credentials.find_key()
        return None

    def _conversation(self, question: Question) -> Conversation | None:
        return (
            None
            if question.chat is None
            else self._conversations.setdefault(question.chat, Conversation())
        )

    def _parent(self, question: Question, journal: Journal) -> Row | None:
        conversation = self._conversation(question)
        if (
            conversation is not None
            and not conversation.has(question.cell)
            and not question.cell.startswith(NO_ID)
        ):
            self._take_up(question, conversation, journal)
        if question.continues is not None:
            return journal.row(question.continues)
        if question.after is not None:
            return journal.row(journal.find_id(question.after))
        if conversation is None or question.is_new:
            return None
        parent = conversation.parent(question.cell, journal)
        return None if parent is None else journal.row(parent)

    def _take_up(self, question: Question, conversation: Conversation, journal: Journal) -> None:
        """Takes up the place that a cell had before: before a restart, under another name of its notebook, by another id."""
        cell, chat = question.cell, question.chat
        asked = None if question.items else question_text(question.request())
        is_known = journal.has_cell(self.notebook, chat, cell)
        if not is_known:
            elsewhere = journal.elsewhere(self.notebook, chat, cell)
            if (row := next((row for row in elsewhere if row.question == asked), None)) is not None:
                journal.note_past(self.notebook, row.notebook)
                is_known = True
        if not is_known and not conversation.may_have_new_ids:
            return
        turns = journal.turns(self.notebook, chat)
        same = {
            row.id: row.cell
            for row in turns
            if row.question == asked and _may_be_renamed(row.cell, cell)
        }
        same = same if conversation.may_have_new_ids else {}
        if is_known or same:
            conversation.restore(turns)
        if cell not in same.values() and (former := conversation.find(same.keys())) is not None:
            conversation.rename(former, cell)

    def _mind_lost_conversation(self, question: Question, plan: Plan, journal: Journal) -> None:
        """Raises BadInput if a question would begin a conversation, though its cell went on with one in another notebook.

        The notebook may have been renamed and the cell changed, or it may be another one: that is
        not for us to say, unless the other is still there. Cells of two notebooks may have one id
        where one is a copy, and where a program made both.
        """
        conversation = self._conversation(question)
        if (
            conversation is None
            or conversation.has_begun
            or plan.parent is not None
            or question.is_new
        ):
            return
        row = next(
            iter(journal.elsewhere(self.notebook, question.chat, question.cell, limit=1)), None
        )
        if row is not None and row.parent is not None and not _is_there(row.notebook):
            raise errors.BadInput(
                f"This cell went on with the conversation of {row.notebook}; here it would begin one. Nothing was sent.",
                f"%aiml resume {row.notebook} takes that up, if it is this notebook's earlier name; --new begins one.",
            )

    def _before(self, question: Question, journal: Journal) -> str | None:
        conversation = self._conversation(question)
        if conversation is None or question.is_new or question.after is not None:
            return None
        return conversation.before(question.cell, journal)

    def _note(
        self, question: Question, plan: Plan, row_id: int, journal: Journal
    ) -> tuple[str, ...]:
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
        return (
            ("later_cells_stale",)
            if conversation.later_cells(question.cell, row_id, journal)
            else ()
        )

    def _mind_replay_only(self, question: Question, plan: Plan, journal: Journal) -> None:
        """Raises ReplayMiss if the question would be sent, and nothing may be."""
        if question.replay == "only" and (plan.known is None or plan.known.state == "queued"):
            raise self._miss(question, plan, journal)

    def _miss(self, question: Question, plan: Plan, journal: Journal) -> errors.ReplayMiss:
        """The error that names the nearest recorded request, what differs, and the setting that makes it differ."""
        recorded = [row for row in journal.history() if row.state == "done"]
        ours, others = (
            {"server": plan.server, **plan.request},
            [{"server": row.server, **row.request} for row in recorded],
        )
        position = nearest(ours, others)
        lines = [
            'No answer to this question is recorded, and replay is "only", so nothing was sent.'
        ]
        hint = 'Ask it with %config O3Pro.replay = "auto", or mend what differs.'
        if position is not None:
            row, other = recorded[position], others[position]
            lines.append(f"The nearest is answer {row.id} of {_day(row.asked_at)}:")
            changed = differences(ours, other)[:4]
            hint = _unset(question.settings, ours, other) or hint
            if not changed and row.origin == "recording" and row.id not in self._recorded.values():
                changed = [
                    "the same question, in a recording that was not replayed in this session"
                ]
                hint = "Run %aiml replay FILE with that recording first."
            lines += changed or ["the same question, behind another answer"]
        return errors.ReplayMiss("\n".join(lines), hint)

    def _keep_to_budget(self, question: Question, plan: Plan, sender: Sender) -> float:
        """What the question may cost at most.

        Raises BudgetExceeded if that, and what is on its way, passes the budget.
        """
        budget = question.budget_usd or 0.0
        price = self.price(plan.base_url, question.model, sender.journal.path)
        if price is None:
            raise errors.BudgetExceeded(
                f"The server lists no price for {question.model}, so a budget cannot be kept. Nothing was sent.",
                "%config O3Pro.budget_usd = None asks without one.",
            )
        jobs, journal = sender.jobs, sender.journal
        self._at_risk = {
            row_id: worst
            for row_id, worst in self._at_risk.items()
            if row_id in jobs or journal.row(row_id).has_unknown_cost
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

    def worst_case(
        self, plan: Plan, max_output_tokens: int | None, price: Price, journal: Journal
    ) -> float:
        """Dollars that the request costs at most: the conversation counts as input, however it is sent."""
        told = (
            sum(
                len(row.question) + len(row.answer().text)
                for row in journal.ancestors(plan.parent.id)
            )
            if plan.parent
            else 0
        )
        return price.worst_case(characters(plan.request) + told, max_output_tokens)


def _sandbox_token(url: str) -> str | None:
    from aiml_magic.sandbox import start as sandbox

    return sandbox.token(url)


def _sandbox_key(url: str) -> Key:
    """What the sandbox at `url` is asked with. Raises NoKey if it is not the one of this home."""
    if (token := _sandbox_token(url)) is None:
        raise errors.NoKey(
            f"The sandbox is gone. {errors.NOTHING_SENT}", "%aiml sandbox starts it again."
        )
    return Key("the sandbox", token)


def _may_be_renamed(cell: str | None, name: str) -> bool:
    """A cell may have this id by now.

    VS Code's ids say of which notebook a cell is: one that is still there keeps its own.
    """
    notebook = (cell or "").rpartition("#")[0]
    return notebook in ("", name.rpartition("#")[0]) or not _is_there(
        urllib.parse.unquote(notebook.partition(":")[2])
    )


def _is_there(notebook: str) -> bool:
    """A file has this path: it was not renamed."""
    return os.path.isfile(notebook)  # noqa: PTH113  # of any text, where Path may raise


def _is_settled(row: Row, sender: Sender, may_fetch: str | None) -> bool:
    """Nothing is to be done for the row.

    One in our own hands is not, though a sleep of the machine hid its signs of life.

    What the server took is fetched from the address `may_fetch` alone: a sandbox may be gone, and a
    journal say anything.
    """
    is_left = row.is_settled and not (row.can_go_on and row.base_url == may_fetch)
    return is_left and not sender.holds(row)


def _may_be_sent(row: Row, keys: Sequence[str], base_url: str, journal: Journal) -> bool:
    """A queued row asks what its key says, where the person asks: a journal of somebody else may say otherwise."""
    links = [None] if row.parent is None else [f"row {row.parent}", journal.row(row.parent).link]
    return row.base_url == base_url and any(
        key in keys for link in links for key in request_keys(row.server, row.request, link)
    )


def _record_of(row: Row, journal: Journal) -> Record | None:
    """An answer as a recording holds it; `None` if its texts are gone, or what it continues cannot be told any more."""
    parent = None if row.parent is None else journal.row(row.parent)
    if row.state != "done" or (parent is not None and parent.state == "forgotten"):
        return None
    return Record(
        server=row.server,
        request=row.request,
        parent=None if parent is None else parent.link,
        response=row.response,
        notices=row.notices,
        cost_usd=row.cost_usd,
        seconds=row.seconds,
        asked_at=row.asked_at,
    )


def _unset(
    settings: Mapping[str, tuple[Any, Any]], ours: Mapping[str, Any], recorded: Mapping[str, Any]
) -> str | None:
    """Which settings to unset, since a request differs by them from the recorded one; `None` if it does not."""
    causes = [name for name in settings if _field(name, ours) != _field(name, recorded)]
    if not causes:
        return None
    told = " and ".join(
        f"O3Pro.{name} is set to {short_json(settings[name][0])}" for name in causes
    )
    ways = " and ".join(f"%config O3Pro.{name} = {settings[name][1]!r}" for name in causes)
    return f"{told} in your configuration; {ways} asks without."


def _field(setting: str, request: Mapping[str, Any]) -> Any:
    """What a request says of a setting."""
    if setting == "base_url":
        return request.get("server")
    if setting in ("effort", "summary", "mode"):
        reasoning = request.get("reasoning")
        return reasoning.get(setting) if isinstance(reasoning, Mapping) else None
    return request.get(setting)


def _way_to(server: str) -> str:
    return (
        "Use it with %aiml sandbox"
        if server == SANDBOX
        else "Name that server with %config O3Pro.base_url"
    )


def _check(question: Question, sent: str, key: Key | None) -> None:
    if not question.text.strip() and not question.items:
        raise errors.BadInput(
            "The question is empty, so nothing was sent.", "Write it below the %%o3pro line."
        )
    if key is not None and key.is_in(sent):
        raise errors.BadInput(
            "The API key is part of what would be sent, so nothing was sent.",
            "Remove it from the question, the options, the values and the server's address.",
        )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


def _found(row: Row, journal: Journal, get: Callable[[str], Any]) -> Finding:
    """What the server says of a request by its response's id, else by its log; the journal keeps it. Raises RequestFailed."""
    raw = _kept_response(row, get)
    response = Response(raw)
    if response.outcome == "pending":
        journal.note_pending(row.id, row.response or raw)
        return Finding("pending", None)
    if response.outcome != "failed" and (response.has_begun or response.status == "completed"):
        spent = cost(raw, {})
        if spent is None:
            with contextlib.suppress(errors.RequestFailed):  # not every server keeps a log
                spent = _logged(row, get)[1]
        journal.recover(row.id, raw, spent)
        return Finding("answered", spent.usd if spent else None)
    try:
        fate, spent = _logged(row, get)
    except errors.RequestFailed:
        if response.outcome != "failed" or response.has_output:
            raise
        fate, spent = "failed", None
    if fate == "failed" and row.cost_usd:  # it told what it charged, and a log says less
        return Finding("charged", row.cost_usd)
    if fate == "failed":
        journal.note_free(row.id)
    elif spent is not None:
        journal.note_cost(row.id, spent)
    return Finding(fate, spent.usd if spent else None)


def _kept_response(row: Row, get: Callable[[str], Any]) -> Raw:
    """The response to a request, if the server gives it out by its id; else an empty one."""
    if row.response_id is None:
        return {}
    try:
        raw = get("responses/" + urllib.parse.quote(row.response_id, safe=""))
    except errors.RequestFailed:
        return {}
    return raw if isinstance(raw, Mapping) and is_response(raw) else {}


def _logged(row: Row, get: Callable[[str], Any]) -> tuple[str, Cost | None]:
    """What the server's log says of a request, and what all attempts to send it have cost.

    It was charged if one of them was. It failed, and is free, only if the last failed too: an
    attempt that is not in the log was refused if another followed, and may yet come if none did.
    """
    entries = _log_entries(row, get)
    costs = [logged_cost(entry) for _, entry in entries]
    known = [spent for spent in costs if spent is not None]
    has_failed = [status_of(entry.get("status")) == "failed" for _, entry in entries]
    total = sum_of_costs(known)
    if not all(has_failed) or (total is not None and total.usd > 0):
        is_whole = all(
            spent is not None for spent, failed in zip(costs, has_failed, strict=True) if not failed
        )
        return "charged", total if is_whole else None
    if row.attempts in [attempt for attempt, _ in entries]:
        return "failed", Cost(0.0, None, "log")
    return "unknown", None


def _log_entries(row: Row, get: Callable[[str], Any]) -> list[tuple[int, Raw]]:
    """The entries of the server's log of each attempt to send a request that is over, found by the ids that we gave them."""
    hours = min(
        max(0, int((time.time() - row.asked_at) / 3600)) + 2, 92 * 24
    )  # a clock may have been set back
    model = urllib.parse.quote(str(row.request.get("model", "")))
    found: list[tuple[int, Raw]] = []
    for offset in range(0, _MAX_LOG, 100):
        entries, more = log_entries(
            get(f"/v2/logs?period={hours}h&model={model}&limit=100&offset={offset}")
        )
        for entry in entries:
            attempt = attempt_of(row.client_request_id, entry)
            if attempt is not None and Response(entry).outcome != "pending":
                found.append((attempt, entry))
        if not more or len({attempt for attempt, _ in found}) == row.attempts:
            break
    return found
