"""The kernel's end of the pipe: starts the runner, tells it what to send, follows a job by its events.

A thread reads the events and hands each to its job. Whoever waits for a job waits in a thread of
their own, in the main thread as a rule, where an interrupt is felt at once. What came of a job is
read from the journal, never from the pipe.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from aiml_magic import errors
from aiml_magic.addresses import network
from aiml_magic.api.responses import Raw, ToolCall, call_result, sum_of
from aiml_magic.credentials import Secrets, environment
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.rows import Result, Row
from aiml_magic.journal.store import Journal
from aiml_magic.question import tools
from aiml_magic.text import encodable, one_line, plain, printable, say

Event = dict[str, Any]  # of a runner, or a command to one
_LONGEST_STATE = 100  # characters
HOLD = 2.0  # seconds for which a request goes on after an interrupt: a front end interrupts before it restarts the kernel


@dataclass(frozen=True)
class Progress:
    """What is known of a job that is being answered.

    `tail` is the newest text, `characters` the length of all of it.

    `state` is queued, waiting (for `parent`, else for a free place), connecting, sent, reasoning,
    writing, retry, or the server's own word. What a server or a model wrote is made plain.
    """

    seconds: float = 0.0
    state: str = "queued"
    tail: str = ""
    characters: int = 0
    parent: int | None = None
    retry_at: float | None = None  # on the clock of `seconds`
    why: str = ""

    def __post_init__(self) -> None:
        made = {
            "state": one_line(self.state, _LONGEST_STATE),
            "tail": plain(self.tail),
            "why": one_line(self.why),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)


class Sender(Protocol):
    """What sends the rows of a journal: a runner, as a rule.

    `has_keys` says that it needs none from here.
    """

    has_keys: bool

    @property
    def journal(self) -> Journal: ...

    @property
    def jobs(self) -> dict[int, Job]: ...

    def holds(self, row: Row) -> bool: ...

    def send(
        self, row: Row, secrets: Secrets, silence: float, limit: int, notices: tuple[str, ...] = ()
    ) -> Job: ...

    def tell(self, command: Event) -> None: ...


class Job:
    """A question that is being answered: `await job`, `job.wait()` or just go on; `job.answer` is `None` until it is there."""

    def __init__(
        self,
        row: Row,
        journal: Journal,
        runner: Sender | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        """Follows `row` by the events of `runner`; without one the row is over, and its answer is replayed."""
        self.id = row.id
        self._row: Row | None = row if row.is_over and runner is None else None
        self._is_replay = runner is None
        self._asked_at = row.asked_at
        self._notices = notices
        self._journal = journal
        self._runner = runner
        self._progress = Progress()
        self._changed = threading.Condition()
        self._is_over = runner is None
        self._is_ours = False
        self.is_cancelled = False
        self._is_held = False  # its cancel is held by the runner
        self._last_words = ""
        self._warning = ""  # told with what came: the thread that reads events prints nothing
        self._came: Answer | errors.AimlMagicError | None = None
        self.parse: Callable[[str], Any] | None = None  # makes `answer.parsed` of the text
        self.record: Callable[[Answer], None] | None = None  # is told of the answer
        self.explain: Callable[[errors.AimlMagicError], None] = _as_it_is  # is told of the error

    @property
    def done(self) -> bool:
        """It is over: answered, failed or cancelled."""
        return self._is_over

    @property
    def status(self) -> str:
        """How it stands, in a word: as the state of its progress, then completed, failed or cancelled."""
        if not self.done:
            return self._progress.state
        with contextlib.suppress(errors.AimlMagicError):
            return one_line(self.outcome().status or "completed", _LONGEST_STATE)
        return "cancelled" if isinstance(self._came, errors.Interrupted) else "failed"

    @property
    def answer(self) -> Answer | None:
        """The answer, or `None` until it is there. Raises what went wrong."""
        return self.outcome() if self.done else None

    def wait(self, timeout: float | None = None) -> Answer:
        """The answer, once it is there.

        Raises what went wrong, and TimeoutError after `timeout` seconds, if given.
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
        return replace(self._progress, seconds=max(0.0, time.time() - self._asked_at))

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        """What is known, at every change and at least every `tick` seconds, until the job is over."""
        while not self._is_over:
            seen = self._progress
            yield self.progress
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._progress is not seen, tick)  # noqa: B023  # called at once

    def step(self) -> bool:
        """Does what is to be done for it in this thread, without waiting; `True` once it is over."""
        return self._is_over

    def withdraw(self) -> None:
        """Has it taken back if it was not sent yet; else it goes on."""
        if self._runner is not None and not self._is_over:
            self._runner.tell({"do": "cancel" if self._take_back() else "withdraw", "row": self.id})

    def cancel(self, patience: float = 1.0) -> None:
        """Stops it: closes the connection and keeps what came.

        Waits up to `patience` seconds for that to have happened.

        One that was not sent yet never is, which needs no waiting; one that another kernel's runner
        has sent goes on there.
        """
        self._stop({"do": "cancel", "row": self.id}, patience)

    def interrupt(self, patience: float = 1.0) -> None:
        """Stops waiting for it, and stops it too: what was not sent at once, what was sent if the kernel still lives then.

        A front end interrupts the kernel before it restarts it or shuts it down, so the request
        goes on for `HOLD` seconds. If the kernel ends meanwhile, it is answered; if it is asked
        again meanwhile, it is taken up again.
        """
        self._stop({"do": "cancel", "row": self.id, "hold": HOLD}, patience)

    def _stop(self, command: Event, patience: float) -> None:
        if self._runner is None or self._is_over:
            return
        self.is_cancelled = True
        if patience:
            self._take_back()
        self._runner.tell(command)
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, patience)

    def _take_back(self) -> bool:
        """Sees to it that what was not sent yet never is, however long the runner takes to hear of it; `False` if it was."""
        with contextlib.suppress(errors.JournalError):
            if self._journal.withdraw(self.id):
                self._is_over = True
                return True
        return False

    def take(self, event: Event) -> None:
        """Hears of an event; called by the thread that reads them."""
        with self._changed:
            match event["event"]:
                case "over":
                    self._is_over = True
                case "held":
                    self._is_over = self._is_held = True
                case "gone":
                    self._last_words = event["words"]
                    self._is_over = True
                case "stuck":
                    self._came = errors.JournalError(event["why"], event["hint"])
                case "unkept":
                    self._row = Row(**{**event["came"], "notices": tuple(event["came"]["notices"])})
                    self._warning = _warning_of_unkept(event)
                case _:
                    self._progress = self._after(event)
            self._changed.notify_all()

    def outcome(self) -> Answer:
        """What came of it, once it is over.

        Raises the error if it failed, with what had come before as its `answer`.
        """
        if self._came is None:
            try:
                self._came = self._read()
            except errors.JournalError:
                raise  # it may be readable a moment later
            except errors.AimlMagicError as error:
                self.explain(error)
                self._came = error
        if isinstance(self._came, errors.AimlMagicError):
            raise self._came
        return self._came

    def _read(self) -> Answer:
        row = self._row or self._journal.row(self.id)
        if self._warning:
            say(self._warning)
        if row.is_over:
            answer = _answer_of(row)
            answer = dataclasses.replace(
                answer, replayed=self._is_replay, notices=(*answer.notices, *self._notices)
            )
            if self.record:
                self.record(answer)
            return self._parsed(answer) if row.can_continue else answer
        if self.is_cancelled:
            is_ours = self._is_ours or row.state == "queued"
            error = _interrupted(row, is_held=self._is_held) if is_ours else _left_alone()
            raise _with_partial_answer(error, row)
        raise self._bury(row)

    def _parsed(self, answer: Answer) -> Answer:
        try:
            return (
                dataclasses.replace(answer, parsed=self.parse(answer.text))
                if self.parse
                else answer
            )
        except errors.SchemaMismatch as error:
            error.answer = answer
            raise

    def _bury(self, row: Row) -> errors.RunnerDied:
        """The error for a row that nobody works on any more; one that was sent is over by that."""
        if row.cluster is not None:
            return left_at_cluster(row)
        was_sent = row.state == "sent"
        cost = "The request was sent, and may be charged." if was_sent else "Nothing was sent."
        go_on = "Run the cell again to go on: the server has the question. " if row.is_taken else ""
        error = errors.RunnerDied(
            f"The process that held the connection ended{f' ({self._last_words})' if self._last_words else ''}. {cost}",
            go_on + errors.check(row.id) if was_sent else "Run the cell again.",
            retry=("resume" if row.is_taken else "ask") if was_sent else "auto",
            may_cost=was_sent,
        )
        if was_sent and self._is_ours:  # else its runner may be only asleep, and finish it yet
            self._journal.finish(
                row.id, Result("failed", seconds=time.time() - row.asked_at, error=error)
            )
            row = self._journal.row(row.id)
        error.answer = row.answer() if row.text else None
        return error

    async def _awaited(self) -> Answer:
        while not self.done:  # noqa: ASYNC110  # an Event belongs to one loop, and any may wait here
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
                again = time.time() - self._asked_at + event["seconds"]
                return replace(known, state="retry", retry_at=again, why=event["why"])
        return known


class Rounds(Job):
    """A question whose functions the notebook runs: one job after the other, until the model wants no more of them.

    `ask_on` sends what came of the calls of an answer; `limit` is the number of times that it may.
    """

    def __init__(
        self,
        job: Job,
        ask_on: Callable[[Answer, Sequence[Raw]], Job],
        functions: Mapping[str, Callable[..., Any]],
        limit: int,
    ) -> None:
        self.id = job.id
        self._job = job
        self._ask_on = ask_on
        self._functions = functions
        self._left = limit
        self._earlier: list[Answer] = []
        self._calls: list[ToolCall] = []
        self._steps: Iterator[Progress] | None = None
        self._is_over = False
        self._came = None

    @property
    def progress(self) -> Progress:
        return self._job.progress

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        """As of a job; runs the functions meanwhile, in the thread that follows."""
        while not self._is_over:
            yield from self._job.follow(tick)
            answer = self._outcome_of_round()
            if answer is None or answer.response.outcome != "tool_calls" or not self._left:
                self._is_over = True
                return
            results = []
            for call in answer.response.calls:
                yield replace(self._job.progress, state=f"running {call.name}", retry_at=None)
                result = tools.run(call, self._functions)
                self._calls.append(replace(call, result=result))
                results.append(call_result(call, result))
            self._left -= 1
            self._earlier.append(answer)
            try:
                self._job = self._ask_on(answer, results)
            except errors.AimlMagicError as error:
                self._came, self._is_over = error, True

    def step(self) -> bool:
        self._steps = self._steps or self.follow(0.0)
        return next(self._steps, None) is None

    def withdraw(self) -> None:
        """Takes back the round that is on its way, if it was not sent yet."""
        self._job.withdraw()

    def _stop(self, command: Event, patience: float) -> None:
        """Stops the round that is on its way; what came in earlier ones is in the journal."""
        self._job._stop(command, patience)  # noqa: SLF001  # a job too
        if not self._is_over and self._job.done:
            self._came = errors.Interrupted(
                "Interrupted between two rounds of functions; what was answered is kept.",
                "Run the cell again: it goes on from there.",
            )
        self._is_over = True

    def outcome(self) -> Answer:
        """The last answer, with the tokens, the dollars and the seconds of all rounds, and with every call."""
        if isinstance(self._came, errors.AimlMagicError):
            raise self._came
        last = self._job.outcome()
        rounds = [*self._earlier, last]
        known = [answer.cost_usd for answer in rounds if answer.cost_usd is not None]
        return dataclasses.replace(
            last,
            usage=sum_of([answer.usage for answer in rounds]),
            cost_usd=sum(known) if len(known) == len(rounds) else None,
            seconds=sum(answer.seconds or 0.0 for answer in rounds),
            replayed=all(answer.replayed for answer in rounds),
            recorded=any(answer.recorded for answer in rounds),
            request=rounds[0].request,
            calls=tuple(self._calls),
        )

    def _outcome_of_round(self) -> Answer | None:
        with contextlib.suppress(errors.AimlMagicError):
            return self._job.outcome()
        return None


class Runner:
    """The child process, `python -m aiml_magic.runner`, started when it is first needed and again if it died."""

    has_keys = False

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._child: _Child | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that are not over, by the id of their row."""
        return dict(self._child.jobs) if self._child else {}

    def holds(self, row: Row) -> bool:
        """The row is in its hands."""
        return row.id in self.jobs

    def send(
        self, row: Row, secrets: Secrets, silence: float, limit: int, notices: tuple[str, ...] = ()
    ) -> Job:
        """Has a queued row sent, or a row that another runner has sent followed.

        `notices` go with the answer.

        `silence` is the time without a byte, in seconds, after which it is given up; `limit` the
        number of requests at once.
        """
        command = {
            "do": "send",
            "row": row.id,
            "parent": row.parent,
            **asdict(secrets),
            "silence": silence,
            "limit": limit,
        }
        with self._lock:
            child = self._living_child()
            job = child.jobs.get(row.id)
            if job is None or job.is_cancelled:
                job = child.jobs[row.id] = Job(row, self._journal, self, notices)
                try:
                    child.tell(command)
                except BaseException:  # an interrupt: nobody works on it
                    del child.jobs[row.id]
                    raise
        return job

    def get(self, base_url: str, path: str, key: str, patience: float = 15.0) -> Any:
        """The JSON at `path` of the server.

        Raises RequestFailed, or RunnerDied after `patience` seconds.
        """
        call = next(self._numbers)
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with self._lock:
            child = self._living_child()
            child.calls[call] = inbox
            child.tell({"do": "get", "call": call, "base_url": base_url, "path": path, "key": key})
        try:
            event = inbox.get(timeout=patience)
        except queue.Empty:
            event = {}
        finally:
            child.calls.pop(call, None)
        if "error" in event:
            raise errors.from_dict(event["error"])
        if "value" not in event:
            raise errors.RunnerDied(
                "The server did not answer in time. Nothing was charged.", "Try again later."
            )
        return event["value"]

    def tell(self, command: Event) -> None:
        """Writes a command to the runner, if it lives."""
        with self._lock:
            if self._child is not None:
                self._child.tell(command)

    def close(self, patience: float = 0.0) -> None:
        """Closes the pipe: the runner finishes what is in flight, then ends."""
        if self._child is not None:
            self._child.close(patience)

    def _living_child(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:
            try:
                self._child = _Child(self._journal.path, self._lock)
            except OSError as error:
                hint = "Close files that the notebook has open, or end other processes; then ask again."
                why = f"The process that holds the connection did not start ({error}). {errors.NOTHING_SENT}"
                raise errors.RunnerDied(why, hint, retry="auto") from error
        return self._child


class _Child:
    """One process, and those who wait for it.

    `lock` is held by who begins to wait, and while all are told of its end.
    """

    def __init__(self, journal: Path, lock: threading.Lock) -> None:
        self.jobs: dict[int, Job] = {}
        self.calls: dict[int, queue.SimpleQueue[Event]] = {}
        self._lock = lock
        # -P: a json.py or httpx.py beside the notebook is not for us.
        command = [sys.executable, "-P", "-m", "aiml_magic.runner", str(journal)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process does
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment(),
                **_OUT_OF_REACH,
            )
        except OSError:
            self._stderr.close()
            raise
        # A kernel that ends may take its time; what it was interrupted for need not wait for the
        # pipe to break.
        atexit.register(self.close)
        threading.Thread(target=self._hand_out, daemon=True, name="aiml_magic-events").start()

    def tell(self, command: Event) -> None:
        """Writes a command, and how the network is reached from here by now: what starts a process holds only for a while.

        Of a process that is gone, those who wait are told by the thread that reads its events.
        """
        assert self.process.stdin is not None
        told = command | {"network": network()}
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(told).encode() + b"\n")
            self.process.stdin.flush()

    def close(self, patience: float = 0.0) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if patience:
            self.process.wait(patience)

    def _hand_out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as events:
            for line in events:
                # What else is printed there, half a line of one that was killed, or what no runner
                # of ours tells: whatever it is, others are still to be told.
                with contextlib.suppress(Exception):
                    self._hand(json.loads(line))
        self.process.wait()
        atexit.unregister(self.close)
        with self._lock:
            self.close()
            gone = {"event": "gone", "words": self._last_words()}
            for inbox in self.calls.values():
                inbox.put(gone)
            while self.jobs:
                self.jobs.popitem()[1].take(gone)

    def _hand(self, event: Any) -> None:
        match event:
            case {"call": call} if call in self.calls:
                self.calls[call].put(event)
            case {"row": row, "event": "held"} if (
                row in self.jobs and not self.jobs[row].is_cancelled
            ):
                pass  # it was asked again since
            case {"row": row, "event": what} if row in self.jobs:
                # Taken off before it is told to be over: who asks once more then asks anew.
                job = self.jobs.pop(row) if what in ("over", "held") else self.jobs[row]
                job.take(event)

    def _last_words(self) -> str:
        """The last line that the process wrote before it died, if it wrote any."""
        with self._stderr as file:
            file.seek(0)
            lines = file.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


# A session or a process group of its own: Ctrl-C and a kernel that ends its process group do not
# reach it.
_OUT_OF_REACH: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    _OUT_OF_REACH = {
        "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    }


def _as_it_is(_: errors.AimlMagicError) -> None: ...


def _answer_of(row: Row) -> Answer:
    """The answer of a row that is over.

    Raises the error if it failed, with what had come before as its `answer`.
    """
    if row.state == "done":
        return row.answer()
    error = _interrupted(row) if row.error is None else errors.from_dict(row.error)
    raise _with_partial_answer(error, row)


def _with_partial_answer(error: errors.AimlMagicError, row: Row) -> errors.AimlMagicError:
    error.answer = row.answer() if row.text or row.response else None
    return error


def left_at_cluster(row: Row) -> errors.RunnerDied:
    """The error for a row that a Dask cluster has sent, and that nobody here waits for any more."""
    where = printable(row.cluster).split(" ")[0]
    return errors.RunnerDied(
        f"Question {row.id} was sent from the Dask cluster at {where}, which may have its answer. It may be charged.",
        f"ask.map with a client= of that cluster takes the answer up; else {errors.check(row.id)}",
        retry="ask",
        may_cost=True,
    )


def _warning_of_unkept(event: Event) -> str:
    copy = "No file could take it yet: keep what you see."
    if event["copy"]:
        copy = f"It is in {event['copy']} until the journal can."
    return f"The answer could not be written to the journal yet: {event['why']}\n{copy}"


def _interrupted(row: Row, *, is_held: bool = False) -> errors.AimlMagicError:
    cost = (
        "the request was sent, and may be charged"
        if is_held or row.seconds is not None
        else "nothing was charged"
    )
    if not (row.is_over or is_held):  # its runner has not told yet how far it came
        cost = "the request may have been sent, and may be charged"
    kept = (
        f"{len(row.text):,} characters of the answer are kept" if row.text else "no text had come"
    )
    return errors.Interrupted(
        f"Interrupted: {cost}; {kept}.", "Run the cell again to ask once more."
    )


def _left_alone() -> errors.AimlMagicError:
    return errors.Interrupted(
        "You stopped waiting; the question is still being answered.",
        "Run the cell again to see it.",
    )
