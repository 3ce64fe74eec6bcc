"""The kernel's end of the pipe: starts the runner, tells it what to send, follows a job by its events.

A thread reads the events and sorts them into queues; whoever waits for a job waits at its queue, in the main thread, where an
interrupt is felt at once. What came of a job is read from the journal, never from the pipe.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from aiml_magic import errors
from aiml_magic.answer import Answer
from aiml_magic.journal import TAIL, Journal, Row

_Event = dict[str, Any]
_GONE: _Event = {"event": "gone"}


@dataclass(frozen=True)
class Progress:
    """What is known of a job that is being answered. `tail` is the newest text, `characters` the length of all of it."""

    seconds: float = 0.0
    state: str = "queued"
    tail: str = ""
    characters: int = 0
    retry_at: float | None = None  # on the clock of `seconds`
    why: str = ""


class Job:
    """A question that is being answered: a row of the journal, and the runner that sends it."""

    def __init__(
        self, row_id: int, journal: Journal, runner: Runner, events: queue.SimpleQueue[_Event], notices: tuple[str, ...]
    ) -> None:
        self.id = row_id
        self._notices = notices
        self._journal = journal
        self._runner = runner
        self._events = events
        self._started = time.monotonic()
        self._is_over = False
        self._is_cancelled = False
        self._unkept: _Event | None = None

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        """What is known, at every change and at least every `tick` seconds, until the job is over."""
        progress = Progress()
        while not self._is_over:
            yield replace(progress, seconds=time.monotonic() - self._started)
            try:
                progress = self._after(progress, self._events.get(timeout=tick))
            except queue.Empty:
                continue

    def cancel(self, patience: float = 0.1) -> None:
        """Stops it: closes the connection and keeps what came. Waits `patience` seconds for that to have happened."""
        self._is_cancelled = True
        self._runner.tell({"do": "cancel", "row": self.id})
        deadline = time.monotonic() + patience
        while not self._is_over and (left := deadline - time.monotonic()) > 0:
            try:
                self._after(Progress(), self._events.get(timeout=left))
            except queue.Empty:
                return

    def answer(self) -> Answer:
        """What came of it. Raises the error if it failed, with what had come before as its `answer`."""
        if self._unkept is not None:
            came = self._unkept["came"]
            row = Row(**{**came, "notices": tuple(came["notices"])})
            _warn_of_unkept(self._unkept)
        else:
            row = self._journal.row(self.id)
        if row.state in ("queued", "sent") and not self._is_cancelled:
            row = self._bury(row)
        return _answer_of(row, self._notices)

    def _bury(self, row: Row) -> Row:
        """Notes that nobody works on the row any more."""
        words = self._runner.last_words()
        was_sent = row.state == "sent"
        cost = "The request was sent, and may be charged." if was_sent else "Nothing was sent."
        error = errors.RunnerDied(
            f"The process that held the connection ended{f' ({words})' if words else ''}. {cost}",
            errors.ONLY_FRESH if was_sent else "Run the cell again.",
            retry="ask" if was_sent else "auto",
            may_cost=was_sent,
        )
        self._journal.finish(row.id, "failed", response={}, seconds=time.time() - row.asked_at, error=error)
        return self._journal.row(row.id)

    def _after(self, progress: Progress, event: _Event) -> Progress:
        match event["event"]:
            case "over" | "gone":
                self._is_over = True
            case "unkept":
                self._unkept = event
            case "sent":
                return replace(progress, state="sent", retry_at=None)
            case "thinking":
                return replace(progress, state=event["what"] or "sent", retry_at=None)
            case "text":
                return replace(progress, state="writing", tail=event["tail"], characters=event["characters"], retry_at=None)
            case "poll":
                return replace(progress, state=event["status"], retry_at=None)
            case "retry":
                again = time.monotonic() - self._started + event["seconds"]
                return replace(progress, state="retry", retry_at=again, why=event["why"])
        return progress


class AskedBefore:
    """A question that was sent and not answered yet, or not for sure: it is followed by its row, and not sent a second time.

    Another kernel's runner may still wait for the answer; or the connection was lost, and nobody knows what it cost.
    """

    def __init__(self, row: Row, journal: Journal, notices: tuple[str, ...]) -> None:
        self.id = row.id
        self._row = row
        self._journal = journal
        self._notices = notices

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        while self._row.is_alive:
            text = self._row.text
            state = "writing" if text else "in_progress"
            yield Progress(time.time() - self._row.asked_at, state, text[-TAIL:], len(text))
            time.sleep(tick)
            self._row = self._journal.row(self.id)

    def cancel(self) -> None:
        """The question is another kernel's: who stops waiting does not stop it."""

    def answer(self) -> Answer:
        """What came of it. Raises the error if it failed, or if nobody waits for it any more."""
        if self._row.is_over:
            return _answer_of(self._row, self._notices)
        if self._row.is_alive:
            raise errors.Interrupted(
                "You stopped waiting; the question is still being answered.", "Run the cell again to see it."
            )
        raise errors.RunnerDied(
            "This question was sent before, by a process that has ended; it may have been charged. It was not sent again.",
            errors.ONLY_FRESH,
            retry="ask",
            may_cost=True,
        )


class Replay:
    """An answer of the journal, followed like a job that is over."""

    def __init__(self, row: Row, notices: tuple[str, ...]) -> None:
        self.id = row.id
        self._answer = dataclasses.replace(row.answer(), replayed=True, notices=(*row.notices, *notices))

    def follow(self) -> Iterator[Progress]:
        return iter(())

    def cancel(self) -> None: ...

    def answer(self) -> Answer:
        return self._answer


class Runner:
    """The child process, `python -m aiml_magic.runner`, started when it is first needed and again if it died."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self._inboxes: dict[tuple[str, int], queue.SimpleQueue[_Event]] = {}
        self._calls = itertools.count(1)
        self._stderr: Any = None
        self._lock = threading.Lock()

    @property
    def journal(self) -> Journal:
        return self._journal

    def send(self, row_id: int, key: str, silence: float, notices: tuple[str, ...] = ()) -> Job:
        """Has a queued row sent. `notices` are what else a person should know of the answer.

        `silence` is the time without a byte, in seconds, after which it is given up.
        """
        inbox = self._inbox("row", row_id)
        self.tell({"do": "send", "row": row_id, "key": key, "silence": silence})
        return Job(row_id, self._journal, self, inbox, notices)

    def get(self, base_url: str, path: str, key: str, patience: float = 15.0) -> Any:
        """The JSON at `path` of the server. Raises RequestFailed, or RunnerDied after `patience` seconds."""
        call = next(self._calls)
        inbox = self._inbox("call", call)
        self.tell({"do": "get", "call": call, "base_url": base_url, "path": path, "key": key})
        try:
            event = inbox.get(timeout=patience)
        except queue.Empty:
            event = _GONE
        if "error" in event:
            raise errors.from_dict(event["error"])
        if "value" not in event:
            raise errors.RunnerDied("The server did not answer in time.", "Try again later.")
        return event["value"]

    def tell(self, command: _Event) -> None:
        """Writes a command to the runner, which is started if there is none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            except OSError:
                self._hand_out_end()

    def close(self, patience: float = 0.0) -> None:
        """Closes the pipe: the runner finishes what is in flight, then ends."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            if patience:
                process.wait(patience)
            self._stderr.close()

    def last_words(self) -> str:
        """The last line that the runner wrote before it died, if it wrote any."""
        if self._stderr is None or self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def _start(self) -> None:
        if self._stderr is not None:
            self._stderr.close()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process does
        # -P: a json.py or httpx.py beside the notebook is not for us. A session of its own: Ctrl-C and a kernel that ends
        # its process group do not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aiml_magic.runner", str(self._journal.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        threading.Thread(target=self._sort, args=(self._process,), daemon=True, name="aiml_magic-events").start()

    def _sort(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                event = json.loads(line)
                name = "row" if "row" in event else "call"
                inbox = self._inboxes.get((name, event[name]))
                if inbox is not None:
                    inbox.put(event)
                if event["event"] == "over":
                    self._inboxes.pop((name, event[name]), None)
        process.wait()
        if process is self._process:
            self._hand_out_end()

    def _hand_out_end(self) -> None:
        for inbox in list(self._inboxes.values()):
            inbox.put(_GONE)
        self._inboxes.clear()

    def _inbox(self, name: str, number: int) -> queue.SimpleQueue[_Event]:
        inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._inboxes[name, number] = inbox
        return inbox


def _answer_of(row: Row, notices: tuple[str, ...]) -> Answer:
    """The answer of a row that is over. Raises the error if it failed, with what had come before as its `answer`."""
    if row.state == "done":
        answer = row.answer()
        return dataclasses.replace(answer, notices=(*answer.notices, *notices))
    error = _interrupted(row) if row.error is None else errors.from_dict(row.error)
    error.answer = row.answer() if row.text or row.response else None
    raise error


def _warn_of_unkept(event: _Event) -> None:
    copy = f"It is in {event['copy']} instead." if event["copy"] else "No file could take it: keep what you see."
    print(f"The answer could not be written to the journal: {event['why']}\n{copy}")


def _interrupted(row: Row) -> errors.AimlMagicError:
    cost = "nothing was sent" if row.state == "queued" else "the request was sent, and may be charged"
    kept = f"{len(row.text):,} characters of the answer are kept" if row.text else "no text had come"
    return errors.Interrupted(f"Interrupted: {cost}; {kept}.", "Run the cell again to ask once more.")
