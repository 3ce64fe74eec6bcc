"""A job: the kernel's view of a question that is being answered.

A thread calls `on_event` with the events of the runner. The caller waits in its own thread, mostly
the main thread, where an interrupt is raised at once. The result is read from the journal.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from aiml_magic.api.masking import Secrets
from aiml_magic.errors import (
    AimlMagicError,
    Interrupted,
    JournalError,
    RunnerDied,
    SchemaMismatch,
    error_from_dict,
    hint_to_check,
)
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.rows import Result, Row, row_of
from aiml_magic.journal.store import Journal
from aiml_magic.text import encodable, one_line, plain, printable, say

Event = dict[str, Any]  # of a runner; also a command to one
_LONGEST_STATE = 100  # characters
_Error = TypeVar("_Error", bound=AimlMagicError)
HOLD = 2.0  # seconds between an interrupt and the cancellation: a restart begins with an interrupt


@dataclass(frozen=True)
class Progress:
    """The progress of a job.

    `tail` is the newest text, `characters` the length of all text. `state` is queued, waiting (for
    `parent`, else for a free slot), connecting, sent, reasoning, writing, retry, or the server's
    own word; `worst_usd` is the highest possible cost, if known. Control characters in texts are
    made visible.
    """

    seconds: float = 0.0
    state: str = "queued"
    tail: str = ""
    characters: int = 0
    parent: int | None = None
    retry_at: float | None = None  # on the clock of `seconds`
    why: str = ""
    worst_usd: float | None = None

    def __post_init__(self) -> None:
        made = {
            "state": one_line(self.state, _LONGEST_STATE),
            "tail": plain(self.tail),
            "why": one_line(self.why),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)


class Sender(Protocol):
    """Sends the rows of a journal: a runner process, or a cluster, whose workers have the key."""

    has_keys: bool

    @property
    def journal(self) -> Journal: ...

    @property
    def jobs(self) -> dict[int, Job]: ...

    def holds(self, row: Row) -> bool: ...

    def send(
        self,
        row: Row,
        secrets: Secrets,
        timeout: float,
        max_concurrency: int,
        notices: tuple[str, ...] = (),
    ) -> Job: ...

    def tell(self, command: Event) -> None: ...


class Job:
    """A question that is being answered: `await` it, `job.wait()`, or read `job.answer`."""

    is_cancelled = False
    _is_ours = False
    _is_held = False  # the runner holds its cancellation
    _last_line = ""
    _warning = ""  # printed with the answer, by its reader
    _outcome: Answer | AimlMagicError | None = None
    parse: Callable[[str], Any] | None = None  # makes `answer.parsed` of the text
    record: Callable[[Answer], None] | None = None  # called with the answer

    def __init__(
        self,
        row: Row,
        journal: Journal,
        runner: Sender | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        """Follows `row` by the events of `runner`; without a runner its answer is replayed."""
        self.id = row.id
        self._row: Row | None = row if row.is_over and runner is None else None
        self._is_replay = runner is None
        # On the monotonic clock, which is never set back.
        self._asked_at = time.monotonic() - max(0.0, time.time() - row.asked_at)
        self._notices = notices
        self._journal = journal
        self._runner = runner
        self._progress = Progress(worst_usd=row.worst_usd)
        self._changed = threading.Condition()
        self._is_over = runner is None
        # Called with the error, whose hint it may change.
        self.explain: Callable[[AimlMagicError], None] = lambda _: None

    @property
    def done(self) -> bool:
        """It is over: answered, failed or cancelled."""
        return self._is_over

    @property
    def status(self) -> str:
        """The state of its progress, finally completed, failed or cancelled."""
        if not self.done:
            return self.progress.state
        with suppress(AimlMagicError):
            return one_line(self.outcome().status or "completed", _LONGEST_STATE)
        return "cancelled" if isinstance(self._outcome, Interrupted) else "failed"

    @property
    def answer(self) -> Answer | None:
        """The answer, or `None` until it is over. Raises the error of a question that failed."""
        return self.outcome() if self.done else None

    def wait(self, timeout: float | None = None) -> Answer:
        """Waits for the answer.

        Raises the error of a question that failed, and TimeoutError after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for _ in self.follow():
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Job {self.id} is not done after {timeout:g} s; it goes on.")
        return self.outcome()

    def __await__(self) -> Generator[Any, None, Answer]:
        return self._awaited().__await__()

    def __repr__(self) -> str:
        return encodable(f"<Job {self.id}: {self.status}>")

    @property
    def progress(self) -> Progress:
        return replace(self._progress, seconds=time.monotonic() - self._asked_at)

    @property
    def retry_in(self) -> float:
        """Seconds until the next attempt; 0 if none is waited for."""
        retry_at = self._progress.retry_at
        return 0.0 if retry_at is None else max(0.0, self._asked_at + retry_at - time.monotonic())

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        """The progress, at each change and at least every `tick` seconds, until the job is over."""
        while not self._is_over:
            seen = self._progress
            yield self.progress
            with self._changed:
                if not self._is_over and self._progress is seen:
                    self._changed.wait(tick)

    def step(self) -> bool:
        """Runs steps that need this thread, such as functions, without waiting; `True` if over."""
        return self._is_over

    def withdraw(self) -> None:
        """Cancels a question that was not sent yet; one that was sent goes on."""
        if self._runner is not None and not self._is_over:
            do = "cancel" if self._withdraw_row() else "withdraw"
            self._runner.tell({"do": do, "row": self.id})

    def cancel(self, timeout: float = 1.0) -> None:
        """Closes the connection and keeps the text received; waits `timeout` seconds for that.

        An unsent question is never sent. A question of another kernel's runner goes on there.
        """
        self._stop({"do": "cancel", "row": self.id}, timeout)

    def interrupt(self, timeout: float = 1.0) -> None:
        """Stops waiting and cancels the question: at once if it was not sent, else after `HOLD`.

        A front end interrupts the kernel before it restarts it or shuts it down. If the kernel ends
        within `HOLD`, or the question is asked again, the request goes on.
        """
        self._stop({"do": "cancel", "row": self.id, "hold": HOLD}, timeout)

    def _stop(self, command: Event, timeout: float) -> None:
        if self._runner is None or self._is_over:
            return
        self.is_cancelled = True
        if timeout:
            self._withdraw_row()
        self._runner.tell(command)
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, timeout)

    def _withdraw_row(self) -> bool:
        """Cancels the row in the journal, which needs no runner; `False` if it was sent."""
        with suppress(JournalError):
            if self._journal.withdraw(self.id):
                self._is_over = True
                return True
        return False

    def on_event(self, event: Event) -> None:
        """Applies an event; called by the thread that reads them."""
        with self._changed:
            match event["event"]:
                case "over":
                    self._is_over = True
                case "held":
                    self._is_over = self._is_held = True
                case "gone":
                    self._last_line = event["words"]
                    self._is_over = True
                case "stuck":
                    self._outcome = JournalError(event["why"], event["hint"])
                case "unkept":
                    self._row = row_of(event["came"])
                    self._warning = _warning_of_unkept(event)
                case _:
                    self._progress = self._after(event)
            self._changed.notify_all()

    def outcome(self) -> Answer:
        """The answer of a job that is over.

        Raises the error of a question that failed; its `answer` is the part received.
        """
        if self._outcome is None:
            try:
                self._outcome = self._read()
            except JournalError:
                raise  # not cached: the next call may succeed
            except AimlMagicError as error:
                self.explain(error)
                error.row_id = self.id
                self._outcome = error
        if isinstance(self._outcome, AimlMagicError):
            raise self._outcome
        return self._outcome

    def _read(self) -> Answer:
        row = self._row or self._journal.row(self.id)
        if self._warning:
            say(self._warning)
        if row.is_over:
            answer = _answer_of(row, self._journal)
            answer = replace(
                answer, replayed=self._is_replay, notices=(*answer.notices, *self._notices)
            )
            if self.record:
                self.record(answer)
            return self._parsed(answer) if answer.response.outcome == "answer" else answer
        if self.is_cancelled:
            is_ours = self._is_ours or row.state == "queued"
            error = _interrupted(row, is_held=self._is_held) if is_ours else _left_running()
            raise _with_partial_answer(error, row, self._journal)
        raise self._abandon(row)

    def _parsed(self, answer: Answer) -> Answer:
        try:
            return replace(answer, parsed=self.parse(answer.text)) if self.parse else answer
        except SchemaMismatch as error:
            error.answer = answer
            raise

    def _abandon(self, row: Row) -> RunnerDied:
        """The error for a row whose runner ended; a row that was sent is marked as failed."""
        if row.cluster is not None:
            return left_at_cluster(row)
        was_sent = row.state == "sent"
        words = f" ({self._last_line})" if self._last_line else ""
        cost = "The request was sent, and may be charged." if was_sent else "Nothing was sent."
        is_accepted = row.is_accepted
        go_on = "Run the cell again to go on: the server has the question. " if is_accepted else ""
        error = RunnerDied(
            f"The process that held the connection ended{words}. {cost}",
            go_on + hint_to_check(row.id) if was_sent else "Run the cell again.",
            retry=("resume" if is_accepted else "ask") if was_sent else "auto",
            may_cost=was_sent,
        )
        if was_sent and self._is_ours:  # a runner of another kernel may only be asleep
            self._journal.finish(
                row.id, Result("failed", seconds=self.progress.seconds, error=error)
            )
            row = self._journal.row(row.id)
        return _with_partial_answer(error, row, self._journal)

    async def _awaited(self) -> Answer:
        while not self.done:  # noqa: ASYNC110  # an asyncio.Event belongs to one loop
            await asyncio.sleep(0.05)
        return self.outcome()

    def _after(self, event: Event) -> Progress:
        known = replace(self._progress, retry_at=None)
        match event["event"]:
            case "claimed":
                self._is_ours = True
                return replace(known, state="connecting")
            case "sent":
                return replace(known, state="sent")
            case "waiting":
                return replace(known, state="waiting", parent=event["parent"])
            case "thinking":
                return replace(known, state=event["what"] or "sent")
            case "text":
                return replace(
                    known, state="writing", tail=event["tail"], characters=event["characters"]
                )
            case "poll":
                return replace(
                    known,
                    state="queued at the server"
                    if event["status"] == "queued"
                    else event["status"],
                )
            case "retry":
                again = time.monotonic() - self._asked_at + event["seconds"]
                return replace(known, state="retry", retry_at=again, why=event["why"])
        return known


def _answer_of(row: Row, journal: Journal) -> Answer:
    """The answer of a row that is over. Raises the error of one that failed."""
    if row.state == "done":
        return journal.answers([row])[0]
    error = _interrupted(row) if row.error is None else error_from_dict(row.error)
    raise _with_partial_answer(error, row, journal)


def _with_partial_answer(error: _Error, row: Row, journal: Journal) -> _Error:
    error.answer = journal.answers([row])[0] if row.text or row.response else None
    return error


def left_at_cluster(row: Row) -> RunnerDied:
    """The error for a row that a Dask cluster sent, and that no kernel waits for."""
    where = printable(row.cluster).split(" ")[0]
    return RunnerDied(
        f"Question {row.id} was sent from the Dask cluster at {where}, which may have its answer. "
        "It may be charged.",
        f"ask.map with a client= of that cluster fetches the answer; else {hint_to_check(row.id)}",
        retry="ask",
        may_cost=True,
    )


def _warning_of_unkept(event: Event) -> str:
    copy = "No file could be written either: copy the answer from here."
    if event["copy"]:
        copy = f"It is in {event['copy']} until the journal can be written."
    return f"The answer could not be written to the journal yet: {event['why']}\n{copy}"


def _interrupted(row: Row, *, is_held: bool = False) -> AimlMagicError:
    cost = "nothing was charged"
    if not (row.is_over or is_held):  # its runner has not written the outcome yet
        cost = "the request may have been sent, and may be charged"
    elif is_held or row.seconds is not None:
        cost = "the request was sent, and may be charged"
    received = "no text had come"
    if row.text:
        received = f"{len(row.text):,} characters of the answer are kept"
    return Interrupted(f"Interrupted: {cost}; {received}.", "Run the cell again to ask once more.")


def _left_running() -> AimlMagicError:
    return Interrupted(
        "You stopped waiting; the question is still being answered.",
        "Run the cell again to see it.",
    )
