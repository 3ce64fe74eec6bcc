"""Asks a question: replays its answer, follows it where it is being answered, or has it sent.

A `Session` is that of one kernel; `Session.on` binds it to a server and a journal. IPython is not
used here.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aiml_magic import addresses, errors
from aiml_magic.api import hidden
from aiml_magic.api.masking import Secrets
from aiml_magic.api.models import Catalogue
from aiml_magic.api.responses import Raw, Response, approval
from aiml_magic.credentials import Key
from aiml_magic.files import raise_open_limit
from aiml_magic.journal import offers, recording
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.replay import request_keys
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal, journal_at
from aiml_magic.runner.child import RunnerProcess
from aiml_magic.runner.jobs import Job, Sender
from aiml_magic.runner.tool_loop import ToolLoop
from aiml_magic.session import advice, check, keys
from aiml_magic.session.budget import Price, WorstCase
from aiml_magic.session.chats import Chats
from aiml_magic.session.misses import check_recorded, check_server
from aiml_magic.session.prices import Prices
from aiml_magic.session.question import SANDBOX, Plan, Question
from aiml_magic.session.recordings import Recordings
from aiml_magic.session.spending import Spending, Terms, asks_first, confirm, needs_price

_MOST_JOURNALS = 4  # whose runners are kept for the next question


class Session:
    """The questions of one kernel.

    `replay` gives the mode that holds now: with "only" nothing is sent, whatever is asked for.
    """

    def __init__(self, replay: Callable[[], str] = lambda: "auto") -> None:
        raise_open_limit()
        self.id = uuid.uuid4().hex
        self.notebook = addresses.notebook()
        self.replay = replay
        self.sandbox_url: str | None = None
        self.lock = threading.RLock()  # threads ask one after the other: each changes the places
        self.recordings = Recordings(self.lock)
        self.prices = Prices()
        self.lookout = advice.Lookout()
        self.hidden: dict[str, Any] = {}  # sent, and in no journal: see `hidden`
        self._askings: dict[Journal, Asking] = {}  # the one used last is the last

    def on(self, base_url: str, journal_path: Path) -> Asking:
        """The session at a server, with a journal.

        In another journal ids mean other rows, so it has other conversations and another runner,
        which ends after its last answer when other journals are in use.
        """
        journal = journal_at(journal_path)
        with self.lock:
            if (asking := self._askings.pop(journal, None)) is None:
                chats = Chats(self.id, self.notebook, journal)
                spending = Spending(self.id, self.notebook, journal, self.prices)
                asking = Asking(self, base_url, RunnerProcess(journal), chats, spending, {})
            self._askings[journal] = asking = replace(asking, base_url=base_url)
            for other in list(self._askings.values())[:-_MOST_JOURNALS]:
                if not other.runner.jobs:
                    self._askings.pop(other.journal).runner.close()
            return asking

    def close(self, timeout: float = 0.0) -> None:
        """Closes the pipes to the runners, and waits for each end for `timeout` seconds."""
        self.lookout.end()
        with self.lock:
            while self._askings:
                self._askings.popitem()[1].runner.close(timeout)


class _Decision(NamedTuple):
    """The row of a question, new or known; without a key it needs no more work."""

    plan: Plan
    row: Row
    key: Key | None = None
    is_moved: bool = False  # it was answered before, behind another answer


@dataclass(frozen=True)
class Asking:
    """A session at one server, with one journal.

    `replayed` are the rows of recordings that were replayed in this session, by their keys. A call
    may have a `replay` mode of its own, and name a server, which `is_elsewhere` than the sandbox.
    """

    session: Session
    base_url: str
    runner: RunnerProcess
    chats: Chats
    spending: Spending
    replayed: dict[str, int]
    replay: str | None = None
    is_elsewhere: bool = False

    @property
    def journal(self) -> Journal:
        return self.runner.journal

    @property
    def sandbox_url(self) -> str | None:
        return None if self.is_elsewhere else self.session.sandbox_url

    @property
    def is_replay_only(self) -> bool:
        return (self.replay or self.session.replay()) == "only"

    @property
    def server(self) -> tuple[str, str]:
        """The server's name and address: the sandbox while it is in use. Raises BadInput."""
        if self.sandbox_url is not None:
            return SANDBOX, self.sandbox_url
        url = addresses.base_url(self.base_url)
        return url, url

    def ask(self, question: Question, sender: Sender | None = None) -> Job:
        """Replays the answer, follows the row that awaits it, or adds a row and has it sent.

        By `sender`, if given, else by this session's runner. Raises BadInput and JournalError, and
        then nothing is sent.
        """
        functions = question.tools.functions
        if question.background and functions:
            raise errors.BadInput(
                "A function of the notebook cannot be called in the background. Nothing was sent.",
                "Ask without -b, or without the function.",
            )
        job = self._ask(question, sender or self.runner)
        if not functions:
            return job
        ask_on = partial(self._next_round, question)
        return ToolLoop(job, ask_on, functions, question.max_tool_rounds)

    def plan(self, question: Question) -> Plan:
        """The question before it is sent, for a dry run. Raises BadInput."""
        self._check(question)
        return self.journal.decide(partial(self._plan, question))

    def worst_case(self, question: Question) -> WorstCase | None:
        """The most that a question may cost; `None` if it would not be sent. Raises BadInput."""
        plan = self.plan(question)
        is_known = plan.known is not None and plan.known.state != "queued"
        if is_known or question.replay == "only":
            return None
        price = self.price(str(plan.request["model"]))
        return self.spending.worst_case(plan.request, plan.parent_id, price)

    def get(self, path: str) -> Any:
        """The JSON at `path` of the server, free. Raises RequestFailed, NoKey and ReplayMiss."""
        return self._get(path, keys.key_of)

    def price(self, model: str, *, is_needed: bool = True) -> Price | None:
        """The price that the server lists for a model, `None` without one; asked for if needed."""
        server, prices = self.server[0], self.session.prices
        get = partial(self._get, key=keys.key_for_prices)
        return prices.price(server, model, get) if is_needed else prices.known(server, model)

    def models(self, *, is_wanted: bool = False) -> Catalogue:
        """What the server says of its models; with replay "only" what is kept of it.

        Raises RequestFailed, and ReplayMiss, for a list that `is_wanted` and cannot be had.
        """
        server, _ = self.server
        if self.is_replay_only and not is_wanted:
            return offers.kept(server)
        return advice.catalogue(server, self._get_of_models, is_wanted=is_wanted)

    def explain(self, model: str, error: errors.AimlMagicError) -> None:
        """Says in an error of the server which model, or which effort, to ask instead."""
        if isinstance(error, errors.RequestFailed):
            with contextlib.suppress(errors.AimlMagicError):
                advice.explain(error, model, self.models)

    def unfinished(
        self, timeout: float, max_concurrency: int, question: Question | None = None
    ) -> list[Job]:
        """Has the queued rows of this notebook sent, and follows those that are on their way.

        A row for another server than the one in use is left alone, and with replay "only" all that
        were not sent; so is a queued row without room in the limits of `question`.
        """
        server, is_only = self.server, self.is_replay_only
        jobs = []
        for row in self.journal.unfinished(self.session.notebook):
            is_asked = row.state == "sent" and row.is_alive and row.server == server[0]
            may_ask = (row.server, row.base_url) == server and not is_only
            is_open = may_ask and (row.state == "queued" or row.can_go_on)
            if question and is_open and row.state == "queued":
                price = self.price(str(row.request.get("model")), is_needed=needs_price(question))
                held = self.runner.jobs
                is_open = self.spending.reserve_again(row, question, Terms(price), held)
            if is_asked or is_open:
                # With a key, a followed row can be resumed if its runner dies.
                key = self._key_for(self.runner, is_needed=is_open).text if may_ask else ""
                job = self.runner.send(
                    row, Secrets(key, self.session.hidden), timeout, max_concurrency
                )
                jobs.append(self._recorded(job))
        return jobs

    def decide(self, row: Row, question: Question, *, is_approved: bool) -> Job:
        """Answers the approvals that a response waits for, with the settings of its request.

        Raises BadInput without any.
        """
        wanted = Response(row.response).of_type("mcp_approval_request")
        if not wanted:
            raise errors.BadInput(
                f"Answer {row.id} waits for no approval. Nothing was sent.",
                "%aiml history lists the answers.",
            )
        follow_up = replace(
            question,
            items=[approval(request, is_approved=is_approved) for request in wanted],
            continues=row.id,
            chat=row.chat,
            cell=row.cell or question.cell,
            params={name: value for name, value in row.request.items() if name != "input"},
        )
        return self.ask(follow_up)

    def cancel(self, row: Row) -> bool:
        """Stops a question; `False` if another kernel's runner will, within seconds.

        Raises BadInput for one that is over.
        """
        if row.id in self.runner.jobs:
            self.runner.jobs[row.id].cancel(2.0)
            return True
        if row.state == "queued" and self.journal.withdraw(row.id):
            return True
        if not row.is_alive:
            what = "is in nobody's hands any more, and may have been charged"
            if row.is_over and not row.is_doubtful:
                what = "is over"
            raise errors.BadInput(
                f"Question {row.id} {what}; nothing was cancelled.", "%aiml jobs lists what can be."
            )
        self.journal.note_unwanted(row.id)
        return False

    def replay_file(self, path: Path) -> int:
        """Imports the answers of a recording, which this session then replays; gives their number.

        Raises BadInput.
        """
        records = recording.read(path)
        for key, record in records.items():
            self.replayed[key] = self.journal.import_recorded(
                key, record.server, record.request, record.parent, vars(record)
            )
        return len(records)

    def forget(self, row: Row) -> list[Path]:
        """Removes the texts of a row from the journal, and from the recordings of this session.

        Gives the recordings that had them. No conversation continues from the row. Raises BadInput
        if a recording cannot be changed; then the journal is as it was.
        """
        self.chats.forget(row.id)
        with self.session.lock:
            rows = [] if row.is_alive else self.journal.with_rounds(row.id)
            changed = self.session.recordings.remove(rows)
            self.journal.forget(row.id)
        return changed

    def check(self, row: Row) -> check.Finding:
        """Asks the server for the fate of a request; see `check.check`."""
        return check.check(row, self.journal, self.server[0], self.get)

    def _next_round(self, question: Question, answer: Answer, results: Sequence[Raw]) -> Job:
        """Sends the results of the calls that an answer asked for."""
        # A choice that forces a call would force one in every round.
        choice = "auto" if question.tool_choice is not None else None
        follow_up = replace(
            question,
            items=results,
            continues=answer.journal_id,
            after=None,
            is_new=False,
            tool_choice=choice,
        )
        return self._ask(follow_up, self.runner)

    def _ask(self, question: Question, sender: Sender) -> Job:
        model = str(question.request()["model"])
        terms = Terms(self.price(model, is_needed=False))
        while not isinstance(job := self._job(question, sender, terms), Job):
            # Outside of the transaction, which other kernels wait for, and of the lock.
            if job is None:
                terms = Terms(self.price(model), is_final=True)
            else:
                terms = confirm(question, job, terms)
        job.parse = question.schema.parse if question.schema else None
        job.explain = partial(self.explain, model)
        return self._recorded(job)

    def _look_out(self) -> None:
        """Has the server asked about its models once a day, when no question is on its way."""
        if not offers.is_of_today(offers.kept(server := self.server[0])):
            self.session.lookout.begin(server, self._get_of_models, lambda: bool(self.runner.jobs))

    def _get_of_models(self, path: str) -> Any:
        return self._get(path, keys.key_for_prices if path == advice.FEED else keys.key_if_any)

    def _recorded(self, job: Job) -> Job:
        job.record = partial(self.session.recordings.keep, journal=self.journal)
        return job

    def _job(self, question: Question, sender: Sender, terms: Terms) -> Job | WorstCase | None:
        """The job of a question, or the worst case that lacks a yes; `None` without a price."""
        self._check(question)
        with self.session.lock:
            decision = self.journal.decide(partial(self._decide, question, sender, terms))
            if not isinstance(decision, _Decision):
                return decision
            plan, row, key, is_moved = decision
            notices = self.chats.note(question, plan.parent, row.id)
            if key is None:
                return Job(row, self.journal, notices=notices)
            if is_moved:
                notices += ("parent_changed",)
            self.session.hidden |= plan.hidden
            secrets = Secrets(key.text, self.session.hidden)
            job = sender.send(row, secrets, question.timeout, question.max_concurrency, notices)
            if sender is self.runner and not job.done:
                self._look_out()
        return job

    def _decide(
        self, question: Question, sender: Sender, terms: Terms
    ) -> _Decision | WorstCase | None:
        """Finds or adds the row of a question, or says what is lacking, as `_job` does.

        Within one transaction: no other kernel asks the same, or spends the same, meanwhile.
        """
        plan = self._plan(question)
        row, is_only = plan.known, question.replay == "only"
        will_be_sent = row is None or row.state == "queued"
        if will_be_sent:
            check_recorded(question, plan, self.journal, self.replayed.values())
        # Only this server may be asked for a response that it took: a sandbox may be gone, and a
        # journal may name any address.
        may_fetch = None if is_only or sender.has_keys else plan.base_url
        if row is not None and _needs_nothing(row, sender, may_fetch):
            return _Decision(plan, row)
        if row is None:
            self.chats.check_not_lost(question, plan.parent)
        key = self._key_for(sender, is_needed=row is None or will_be_sent or row.can_go_on)
        if will_be_sent:
            if needs_price(question) and not terms.is_final:
                return None
            about = plan.server, plan.request, plan.parent_id, terms
            worst = self.spending.worst_within(question, *about, row=row, held=sender.jobs)
            if asks_first(question, worst, terms):
                return worst
            row = self._reserved(question, plan, worst)
        assert row is not None
        if not will_be_sent and row.base_url != may_fetch:
            key = replace(key, text="")  # it is followed, which needs none
        is_moved = (
            plan.parent is not None
            and question.replay == "auto"
            and self.journal.has_answered(self.session.notebook, plan.request, plan.key)
        )
        return _Decision(plan, row, key, is_moved)

    def _plan(self, question: Question) -> Plan:
        """The question before it is sent; writes at most a former name of the notebook."""
        server, url = self.server
        whole, parent = question.request(), self.chats.parent(question)
        request, secrets = hidden.split(whole)
        identity = parent.identity if parent else None
        known_as = request_keys(server, request, identity)
        plan = Plan(server, url, request, secrets, parent, known_as[0], None)
        if question.replay == "off":
            return plan
        if secrets:  # earlier versions kept all but the headers of tools
            known_as += request_keys(server, hidden.with_bare_tools(whole), identity)
        known = self.journal.known(known_as, url, self.replayed)
        if known is None and parent is not None and parent.is_over:
            # Asked before that answer was there, and not sent since.
            waiting = request_keys(server, request, f"row {parent.id}")
            known = self.journal.known(waiting, url, self.replayed)
        return replace(plan, known=known)

    def _reserved(self, question: Question, plan: Plan, worst: WorstCase) -> Row:
        """The row of a question that is to be sent: the queued one, else a new one."""
        if plan.known is not None:
            return self.journal.reserve(plan.known.id, self.session.id, worst.usd)
        return self.journal.add(
            base_url=plan.base_url,
            server=plan.server,
            request=plan.request,
            client_request_id=f"aiml-magic-{uuid.uuid4().hex}",
            parent=plan.parent_id,
            chain=self.chats.chain(question, plan),
            session=self.session.id,
            notebook=self.session.notebook,
            chat=question.chat,
            cell=question.cell,
            before=self.chats.before(question),
            key=plan.key,
            asked_at=time.time(),
            worst_usd=worst.usd,
        )

    def _check(self, question: Question) -> None:
        """Raises BadInput for an empty question, and for one that holds the API key."""
        question.check_not_empty()
        keys.check_absent(f"{self.server[1]} {question.request()}", self.sandbox_url)

    def _key_for(self, sender: Sender, *, is_needed: bool) -> Key:
        return keys.key_for_sender(self.sandbox_url, sender, is_needed=is_needed)

    def _get(self, path: str, key: Callable[[str | None], Key]) -> Any:
        check_server(is_replay_only=self.is_replay_only)
        return self.runner.get(self.server[1], path, key(self.sandbox_url).text)


def _needs_nothing(row: Row, sender: Sender, may_fetch: str | None) -> bool:
    """The row needs no more work: it is over, or nobody is sending it.

    A row that our own sender holds always does, even if its heartbeat is stale because the machine
    slept; so does one that can be fetched from the address `may_fetch`.
    """
    is_left = row.needs_nothing and not (row.can_go_on and row.base_url == may_fetch)
    return is_left and not sender.holds(row)
