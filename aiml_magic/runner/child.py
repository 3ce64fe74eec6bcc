"""The kernel's client of its runner process, which sends commands and reads events.

A thread reads the events and passes each to its job. The result of a job is read from the journal,
never from the pipe.
"""

from __future__ import annotations

import atexit
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiml_magic.addresses import child_command, network
from aiml_magic.api.masking import Secrets
from aiml_magic.credentials import environment
from aiml_magic.errors import NOTHING_SENT, RunnerDied, error_from_dict
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.runner.jobs import Event, Job

# Its own session or process group: no signal to the kernel's process group reaches it.
_OWN_GROUP: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    _OWN_GROUP = {
        "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    }


class RunnerProcess:
    """The child process `python -m aiml_magic.runner`, started when needed, also after a crash."""

    has_keys = False

    _child: _Child | None = None

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that are not over, by the id of their row."""
        return dict(self._child.jobs) if self._child else {}

    def holds(self, row: Row) -> bool:
        """Whether the process works on the row, or has its answer, which the journal may lack."""
        child = self._child
        return child is not None and (
            row.id in child.jobs or (row.id in child.unkept and not row.is_over)
        )

    def send(
        self,
        row: Row,
        secrets: Secrets,
        timeout: float,
        max_concurrency: int,
        notices: tuple[str, ...] = (),
    ) -> Job:
        """Starts a job for a row: a queued row is sent, a row of another runner is followed.

        `timeout` is in seconds without a byte; `max_concurrency` limits the requests in flight;
        `notices` are added to the answer.
        """
        command = {
            "do": "send",
            "row": row.id,
            "parent": row.parent,
            **asdict(secrets),
            "silence": timeout,
            "limit": max_concurrency,
        }
        with self._lock:
            child = self._living_child()
            job = child.jobs.get(row.id)
            if job is None or job.is_cancelled:
                job = child.jobs[row.id] = Job(row, self.journal, self, notices)
                try:
                    child.tell(command)
                except BaseException:  # an interrupt, before the process has the row
                    del child.jobs[row.id]
                    raise
        return job

    def get(self, base_url: str, path: str, key: str, timeout: float = 15.0) -> Any:
        """The JSON at `path` of the server.

        Raises RequestFailed, or RunnerDied after `timeout` seconds.
        """
        call = next(self._numbers)
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with self._lock:
            child = self._living_child()
            child.calls[call] = inbox
            child.tell({"do": "get", "call": call, "base_url": base_url, "path": path, "key": key})
        try:
            event = inbox.get(timeout=timeout)
        except queue.Empty:
            event = {}
        finally:
            child.calls.pop(call, None)
        if "error" in event:
            raise error_from_dict(event["error"])
        if "value" not in event:
            raise RunnerDied(
                "The server did not answer in time. Nothing was charged.", "Try again later."
            )
        return event["value"]

    def tell(self, command: Event) -> None:
        """Writes a command to the runner, if there is one."""
        with self._lock:
            if self._child is not None:
                self._child.tell(command)

    def close(self, timeout: float = 0.0) -> None:
        """Closes the pipe: the process finishes the requests in flight, then ends."""
        if self._child is not None:
            self._child.close(timeout)

    def _living_child(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:
            try:
                self._child = _Child(self.journal.path, self._lock)
            except (OSError, RuntimeError) as error:
                raise RunnerDied(
                    f"The process that holds the connection did not start ({error}). "
                    f"{NOTHING_SENT}",
                    "Close files that the notebook has open, or end other processes; "
                    "then ask again.",
                    retry="auto",
                ) from error
        return self._child


class _Child:
    """A process with the jobs and calls that wait for it.

    `lock` is held while one is added, and while all of them learn that the process ended.
    """

    def __init__(self, journal: Path, lock: threading.Lock) -> None:
        self.jobs: dict[int, Job] = {}
        self.calls: dict[int, queue.SimpleQueue[Event]] = {}
        self.unkept: set[int] = set()  # rows whose answers the journal did not take at first
        self._lock = lock
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed after the process ends
        try:
            self.process = subprocess.Popen(
                child_command("aiml_magic.runner", str(journal)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment(),
                **_OWN_GROUP,
            )
        except OSError:
            self._stderr.close()
            raise
        # Closed early, since a kernel may take long to end: a held cancellation would take effect.
        atexit.register(self.close)
        reader = threading.Thread(target=self._read_events, daemon=True, name="aiml_magic-events")
        try:
            reader.start()
        except RuntimeError:  # the system allows no more threads
            atexit.unregister(self.close)
            with self._stderr, self.process:
                self.process.kill()
            raise

    def tell(self, command: Event) -> None:
        """Writes a command with the current network variables.

        If the process has ended, the thread that reads its events ends the jobs.
        """
        assert self.process.stdin is not None
        line = json.dumps(command | {"network": network()})
        with suppress(OSError, ValueError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def close(self, timeout: float = 0.0) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        if timeout:
            self.process.wait(timeout)

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as events:
            for line in events:
                # Half a line of a killed process, or a line that a library printed, is skipped.
                with suppress(Exception):
                    self._pass_on(json.loads(line))
        self.process.wait()
        atexit.unregister(self.close)
        with self._lock:
            self.close()
            gone = {"event": "gone", "words": self._last_line()}
            for inbox in self.calls.values():
                inbox.put(gone)
            while self.jobs:
                self.jobs.popitem()[1].on_event(gone)

    def _pass_on(self, event: Any) -> None:
        match event:
            case {"call": call} if call in self.calls:
                self.calls[call].put(event)
            case {"row": row, "event": "held"} if (
                row in self.jobs and not self.jobs[row].is_cancelled
            ):
                pass  # it was asked again
            case {"row": row, "event": kind} if row in self.jobs:
                if kind == "unkept":
                    self.unkept.add(row)
                # Removed before its readers see that it is over: a new question starts a new job.
                job = self.jobs.pop(row) if kind in ("over", "held") else self.jobs[row]
                job.on_event(event)

    def _last_line(self) -> str:
        """The last line that the process wrote to its standard error."""
        with self._stderr as file:
            file.seek(0)
            lines = file.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")
