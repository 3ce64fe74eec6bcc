"""The progress of a request: written to the journal, and sent to the kernel through the pipe."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from aiml_magic import errors
from aiml_magic.api.masking import Secrets
from aiml_magic.api.replies import Listener
from aiml_magic.api.responses import Raw, Response
from aiml_magic.api.stream import Created, Event, TextDelta, Thinking, add_piece
from aiml_magic.journal.rows import TAIL
from aiml_magic.journal.store import Journal
from aiml_magic.runner.queues import WriteQueue
from aiml_magic.text import dump

_TELL_EVERY = 0.1  # seconds
_KEEP_EVERY = 2.0  # seconds
# Characters: longer texts are only written at the end, with the result. Models write less.
_KEEP_AT_MOST = 2**21


class Outbox:
    """The events for the kernel, written by a thread: a kernel may stop reading them."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def tell(self, row: int, event: str, **facts: Any) -> None:
        """Sends an event of a row."""
        self.put({"row": row, "event": event, **facts})

    def put(self, event: Mapping[str, Any]) -> None:
        self._queue.put(dump(event).encode("ascii") + b"\n")

    def close(self) -> None:
        """Waits at most two seconds for the last events to be written."""
        self._queue.put(None)
        self._thread.join(2)

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._file.write(line)
                if self._queue.empty():
                    self._file.flush()
            except OSError:
                return


class NotQueued(Exception):
    """A row that waited to be sent again was sent by another runner, or withdrawn."""


class ProgressListener(Listener):
    """Writes the progress of one request to the journal and to the kernel."""

    is_in_flight = False  # then it may be charged
    response_id: str | None = None
    _characters = 0
    _tail = ""
    _kept: asyncio.Future[Any] | None = None  # the write of the newest text
    _released: asyncio.Future[Any] | None = None  # the write that queues the row again
    _is_closed = False

    def __init__(
        self, row_id: int, journal: Journal, writes: WriteQueue, outbox: Outbox, secrets: Secrets
    ) -> None:
        self._row_id = row_id
        self._journal = journal
        self._writes = writes
        self._outbox = outbox
        self._secrets = secrets
        self._pieces: list[str] = []  # of text; a secret may be split between them
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._pending: Raw = {}
        self._tell("claimed")

    async def on_attempt(self, attempt: int) -> None:
        """Claims a row that was queued again. Raises NotQueued, and JournalError."""
        released, self._released = self._released, None
        self.is_in_flight = False  # the attempt before was refused
        if released is not None:
            await asyncio.wait([released])
        if released is not None and released.exception() is None:
            claim = partial(self._journal.claim, self._row_id, attempts=attempt)
            if await self._writes.run(claim) is None:
                raise NotQueued
        elif attempt > 1:
            await self._writes.run(partial(self._journal.note_attempts, self._row_id, attempt))

    def on_sent(self) -> None:
        self.is_in_flight = True
        self._tell("sent")

    def on_event(self, event: Event) -> None:
        match event:
            case Created(response_id):
                self.response_id = response_id
                self._keep_id()
                self._tell("thinking", what="")
            case Thinking(what):
                self._tell("thinking", what=what)
            case TextDelta(text):
                add_piece(self._pieces, text)
                self._characters += len(text)
                self._tail = (self._tail + text)[-2 * TAIL :]
                self._later("tell", _TELL_EVERY, self._tell_text)
                if self._characters <= _KEEP_AT_MOST:
                    self._later("keep", _KEEP_EVERY, self._keep_text)

    def on_retry(self, error: errors.RequestFailed, seconds: float) -> None:
        self.is_in_flight = False
        if self._released is None:
            release = partial(self._journal.release, self._row_id)
            self._released = self._writes.put(release)
        self._pieces.clear()  # the answer begins anew
        self._characters, self._tail = 0, ""
        self._tell("retry", seconds=seconds, why=error.message)

    def on_poll(self, response: Raw) -> None:
        if response != self._pending:
            self._pending = response
            self._writes.put(partial(self._journal.note_pending, self._row_id, response))
        self._tell("poll", status=Response(response).status or "in_progress")

    def close(self) -> None:
        """Stops the timers: the result has the whole text."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()

    @property
    def text(self) -> str | None:
        """The text streamed so far, without secrets; `None` if there is none."""
        return self._secrets.mask("".join(self._pieces)) if self._pieces else None

    async def keep_text(self) -> None:
        """Writes the text so far to the disk. Raises JournalError."""
        if self._pieces:
            await self._begin_keeping()

    def tell_all(self) -> None:
        """Sends the state of the request to a kernel that asks for it again."""
        self._tell("claimed")
        if self.is_in_flight:
            self._tell("sent")
        if self._pieces:
            self._tell_text()

    def _later(self, name: str, delay: float, action: Any) -> None:
        if name not in self._timers and not self._is_closed:
            self._timers[name] = asyncio.get_running_loop().call_later(delay, action)

    def _tell_text(self) -> None:
        if timer := self._timers.pop("tell", None):
            timer.cancel()
        self._tell("text", tail=self._secrets.mask(self._tail)[-TAIL:], characters=self._characters)

    def _keep_text(self) -> None:
        self._timers.pop("keep", None)
        if self._kept is None or self._kept.done():
            self._begin_keeping()
        else:  # behind a slow disk, each queued text would hold the whole answer so far
            self._later("keep", _KEEP_EVERY, self._keep_text)

    def _begin_keeping(self) -> asyncio.Future[Any]:
        self._kept = self._writes.put(
            partial(self._journal.note_text, self._row_id, self.text or "")
        )
        return self._kept

    def _keep_id(self) -> None:
        """Writes the response id, by which the response may be fetched; retries a failed write."""
        self._timers.pop("id", None)
        noted = self._writes.put(
            partial(self._journal.note_response_id, self._row_id, self.response_id or "")
        )
        noted.add_done_callback(
            lambda done: self._later("id", _KEEP_EVERY, self._keep_id) if done.exception() else None
        )

    def _tell(self, event: str, **facts: Any) -> None:
        self._outbox.tell(self._row_id, event, **facts)
