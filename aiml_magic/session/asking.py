"""Asking a question: its answer is replayed, its running request followed, or a new one sent.

A kernel has one `Session`; `Session.on` binds it to a server and a journal. Without IPython.
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
from aiml_magic.session.question import SANDBOX, Delivery, Place, Plan, Question
from aiml_magic.session.recordings import Recordings
from aiml_magic.session.spending import Spending, Terms, asks_first, confirm, needs_price

_MOST_JOURNALS = 4  # journals with a running runner


class Session:
    """The questions of one kernel.

    `replay` returns the current mode: with "only" nothing is sent, whatever the options.
    """

    sandbox_url: str | None = None

    def __init__(self, replay: Callable[[], str] = lambda: "auto") -> None:
        raise_open_limit()
        self.id = uuid.uuid4().hex
        self.notebook = addresses.notebook()
        self.replay = replay
        self.lock = threading.RLock()  # threads ask in turn, since each changes the conversation
        self.recordings = Recordings(self.lock)
        self.prices = Prices()
        self.updates = advice.Updates()
        self.hidden: dict[str, Any] = {}  # secrets of requests, see `api.hidden`
        self._askings: dict[Journal, Asking] = {}  # in the order of their last use

    def on(self, base_url: str, journal_path: Path) -> Asking:
        """The session at a server, with a journal.

        Each journal has its own rows, so it has its own conversations and runner. The runner is
        closed after its last answer if other journals are in use.
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
        """Closes the pipes to the runners, and waits `timeout` seconds for each to end."""
        self.updates.end()
        with self.lock:
            while self._askings:
                self._askings.popitem()[1].runner.close(timeout)


class _Decision(NamedTuple):
    """The row of a question, new or known; with a key it is sent or followed."""

    plan: Plan
    row: Row
    key: Key | None = None
    is_moved: bool = False  # the same question was answered before, but with another parent


@dataclass(frozen=True)
class Asking:
    """A session at one server, with one journal.

    `replayed` are the rows of the recordings replayed in this session, by key. A call of `ask` may
    have its own `replay` mode and server; then it `is_elsewhere`, not at the sandbox.
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
        """The name and the address of the server in use, maybe the sandbox. Raises BadInput."""
        if self.sandbox_url is not None:
            return SANDBOX, self.sandbox_url
        url = addresses.base_url(self.base_url)
        return url, url

    def ask(self, question: Question, sender: Sender | None = None) -> Job:
        """The job of a question: it replays an answer, follows a running row, or sends a new one.

        `sender` is by default the runner of this session. Raises BadInput and JournalError; then
        nothing is sent.
        """
        functions = question.tools.functions
        if question.delivery.background and functions:
            raise errors.BadInput(
                "A function of the notebook cannot be called in the background. Nothing was sent.",
                "Ask without -b, or without the function.",
            )
        try:
            job = self._ask(question, sender or self.runner)
        except errors.JournalError as error:
            error.message += f" {errors.NOTHING_SENT}"
            raise
        if not functions:
            return job
        ask_on = partial(self._next_round, question)
        return ToolLoop(job, ask_on, functions, question.delivery.max_tool_rounds)

    def plan(self, question: Question) -> Plan:
        """The question before it is sent, for a dry run. Raises BadInput."""
        self._check(question)
        return self.journal.decide(partial(self._plan, question))

    def worst_case(self, question: Question) -> WorstCase | None:
        """The most that a question may cost; `None` if it would not be sent. Raises BadInput."""
        plan = self.plan(question)
        is_known = plan.known is not None and plan.known.state != "queued"
        if is_known or question.delivery.replay == "only":
            return None
        price = self.price(str(plan.request["model"]))
        return self.spending.worst_case(plan.request, plan.parent_id, price)

    def get(self, path: str) -> Any:
        """The JSON at `path` of the server, free. Raises RequestFailed, NoKey and ReplayMiss."""
        return self._get(path, keys.key_of)

    def price(self, model: str, *, is_needed: bool = True) -> Price | None:
        """The price that the server lists for a model, if any; requested only if `is_needed`."""
        server, prices = self.server[0], self.session.prices
        get = partial(self._get, key=keys.key_for_prices)
        return prices.price(server, model, get) if is_needed else prices.known(server, model)

    def models(self, *, is_wanted: bool = False) -> Catalogue:
        """The models of the server; with replay "only" those in the cache.

        Raises RequestFailed and ReplayMiss if the list `is_wanted` and cannot be requested.
        """
        server, _ = self.server
        if self.is_replay_only and not is_wanted:
            return offers.cached(server)
        get = partial(self._get_of_models, timeout=15.0 if is_wanted else 2.0)
        return self.session.updates.catalogue(server, get, is_wanted=is_wanted)

    def explain(self, model: str, error: errors.AimlMagicError) -> None:
        """Adds the model or effort to use instead to the hint of a server's error."""
        if isinstance(error, errors.RequestFailed):
            with contextlib.suppress(errors.AimlMagicError):
                advice.explain(error, model, self.models)

    def unfinished(self, delivery: Delivery) -> list[Job]:
        """The jobs of this notebook's unfinished rows: queued ones are sent, others followed.

        Left out are rows of another server, and queued rows if replay is "only" or the limits
        have no room for them.
        """
        server, is_only = self.server, self.is_replay_only
        jobs = []
        for row in self.journal.unfinished(self.session.notebook):
            is_asked = row.state == "sent" and row.is_alive and row.server == server[0]
            may_ask = (row.server, row.base_url) == server and not is_only
            is_open = may_ask and (row.state == "queued" or row.can_go_on)
            if is_open and row.state == "queued":
                price = self.price(str(row.request.get("model")), is_needed=needs_price(delivery))
                held = self.runner.jobs
                is_open = self.spending.reserve_again(row, delivery, Terms(price), held)
            if is_asked or is_open:
                # With a key, a followed row can be resumed if its runner dies.
                key = self._key_for(self.runner, is_needed=is_open).text if may_ask else ""
                secrets = Secrets(key, self.session.hidden)
                job = self.runner.send(row, secrets, delivery.timeout, delivery.max_concurrency)
                jobs.append(self._recorded(job))
        return jobs

    def decide(self, row: Row, question: Question, *, is_approved: bool) -> Job:
        """Approves or denies the calls that a response waits for, with its request's settings.

        Raises BadInput if it waits for none.
        """
        wanted = Response(row.response).of_type("mcp_approval_request")
        if not wanted:
            raise errors.BadInput(
                f"Answer {row.id} does not wait for an approval. Nothing was sent.",
                "%aiml history lists the answers.",
            )
        follow_up = question.as_asked(
            row.request,
            items=[approval(request, is_approved=is_approved) for request in wanted],
            place=Place(row.cell or question.place.cell, row.chat, continues=row.id),
        )
        return self.ask(follow_up)

    def cancel(self, row: Row) -> bool:
        """Cancels a question; `False` if another kernel's runner will do so within seconds.

        Raises BadInput for one that is over.
        """
        if row.id in self.runner.jobs:
            self.runner.jobs[row.id].cancel(2.0)
            return True
        if row.state == "queued" and self.journal.withdraw(row.id):
            return True
        if not row.is_alive:
            what = "has no runner any more, and may have been charged"
            if row.is_over and not row.is_doubtful:
                what = "is over"
            raise errors.BadInput(
                f"Question {row.id} {what}; nothing was cancelled.",
                "%aiml jobs lists what can be cancelled.",
            )
        self.journal.note_unwanted(row.id)
        return False

    def replay_file(self, path: Path) -> int:
        """Imports the answers of a recording for replay in this session; returns their number.

        Raises BadInput.
        """
        records = recording.read(path)
        for key, record in records.items():
            self.replayed[key] = self.journal.import_recorded(key, record)
        return len(records)

    def forget(self, row: Row) -> list[Path]:
        """Removes the texts of a row from the journal, and from the recordings of this session.

        Returns the recordings that had them. No conversation continues from the row any more.
        Raises BadInput if a recording cannot be changed; then the journal is not changed either.
        """
        self.chats.forget(row.id)
        with self.session.lock:
            rows = [] if row.is_alive else self.journal.with_rounds(row.id)
            changed = self.session.recordings.remove(rows)
            self.journal.forget(row.id)
        return changed

    def check(self, row: Row) -> check.Finding:
        """The fate of a request according to the server; see `check.check`."""
        return check.check(row, self.journal, self.server[0], self.get)

    def _next_round(self, question: Question, answer: Answer, results: Sequence[Raw]) -> Job:
        """Sends the results of an answer's calls."""
        # A forced call would be forced in every round.
        choice = "auto" if question.tool_choice is not None else None
        follow_up = replace(
            question,
            items=results,
            place=Place(question.place.cell, question.place.chat, continues=answer.journal_id),
            tool_choice=choice,
        )
        return self._ask(follow_up, self.runner)

    def _ask(self, question: Question, sender: Sender) -> Job:
        model = str(question.request()["model"])
        terms = Terms(self.price(model, is_needed=False))
        while not isinstance(job := self._job(question, sender, terms), Job):
            # Outside the lock and the transaction, since both make others wait.
            if job is None:
                terms = Terms(self.price(model), is_final=True)
            else:
                terms = confirm(question.delivery, job, terms)
        job.parse = question.schema.parse if question.schema else None
        job.explain = partial(self.explain, model)
        return self._recorded(job)

    def _begin_update(self) -> None:
        """Requests the server's models in the background if the cache is a day old."""
        if not offers.is_of_today(offers.cached(server := self.server[0])):
            self.session.updates.begin(server, self._get_of_models, lambda: bool(self.runner.jobs))

    def _get_of_models(self, path: str, timeout: float = 15.0) -> Any:
        key = keys.key_for_prices if path == advice.FEED else keys.key_if_any
        return self._get(path, key, timeout)

    def _recorded(self, job: Job) -> Job:
        job.record = partial(self.session.recordings.keep, journal=self.journal)
        return job

    def _job(self, question: Question, sender: Sender, terms: Terms) -> Job | WorstCase | None:
        """The job of a question; else the highest cost to confirm, or `None` to get a price."""
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
            job = sender.send(
                row, secrets, question.delivery.timeout, question.delivery.max_concurrency, notices
            )
            if sender is self.runner and not job.done:
                self._begin_update()
        return job

    def _decide(
        self, question: Question, sender: Sender, terms: Terms
    ) -> _Decision | WorstCase | None:
        """Finds or adds the row of a question; else returns as `_job`.

        In one transaction: no other kernel asks the same, or spends the same, meanwhile.
        """
        plan = self._plan(question)
        row, is_only = plan.known, question.delivery.replay == "only"
        will_be_sent = row is None or row.state == "queued"
        if will_be_sent:
            check_recorded(question, plan, self.journal, self.replayed.values())
        # A response is fetched only from the server in use: a forged journal may name any address,
        # and a sandbox may have ended.
        may_fetch = None if is_only or sender.has_keys else plan.base_url
        if row is not None and _needs_nothing(row, sender, may_fetch):
            return _Decision(plan, row)
        if row is None:
            self.chats.check_not_lost(question, plan.parent)
        key = self._key_for(sender, is_needed=row is None or will_be_sent or row.can_go_on)
        if will_be_sent:
            if needs_price(question.delivery) and not terms.is_final:
                return None
            about = plan.server, plan.request, plan.parent_id, terms
            worst = self.spending.worst_within(question.delivery, *about, row=row, held=sender.jobs)
            if asks_first(question.delivery, worst, terms):
                return worst
            row = self._reserved(question, plan, worst)
        assert row is not None
        if not will_be_sent and row.base_url != may_fetch:
            key = replace(key, text="")  # the row is followed, which needs no key
        is_moved = (
            plan.parent is not None
            and question.delivery.replay == "auto"
            and self.journal.has_answered(self.session.notebook, plan.request, plan.key)
        )
        return _Decision(plan, row, key, is_moved)

    def _plan(self, question: Question) -> Plan:
        """The plan of a question; writes to the journal only former names of the notebook."""
        server, url = self.server
        whole, parent = question.request(), self.chats.parent(question)
        request, secrets = hidden.split(whole)
        identity = parent.identity if parent else None
        known_as = request_keys(server, request, identity)
        plan = Plan(server, url, request, secrets, parent, known_as[0], None)
        if question.delivery.replay == "off":
            return plan
        if secrets:  # earlier versions stored all secrets but the headers of tools
            known_as += request_keys(server, hidden.with_bare_tools(whole), identity)
        known = self.journal.known(known_as, url, self.replayed)
        if known is None and parent is not None and parent.is_over:
            # It may have been queued while its parent was unfinished.
            waiting = request_keys(server, request, f"row {parent.id}")
            known = self.journal.known(waiting, url, self.replayed)
        return replace(plan, known=known)

    def _reserved(self, question: Question, plan: Plan, worst: WorstCase) -> Row:
        """The row of a question that is about to be sent: the queued one, else a new one."""
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
            chat=question.place.chat,
            cell=question.place.cell,
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

    def _get(self, path: str, key: Callable[[str | None], Key], timeout: float = 15.0) -> Any:
        check_server(is_replay_only=self.is_replay_only)
        return self.runner.get(self.server[1], path, key(self.sandbox_url).text, timeout)


def _needs_nothing(row: Row, sender: Sender, may_fetch: str | None) -> bool:
    """Whether the row needs no more work: it is over, or no sender has it.

    A row that our own sender holds needs more, even if its heartbeat is stale because the machine
    slept; so does a row whose response can be fetched from the address `may_fetch`.
    """
    is_left = not (row.state == "queued" or row.is_alive)
    can_be_fetched = row.can_go_on and row.base_url == may_fetch
    return is_left and not can_be_fetched and not sender.holds(row)
