"""The queues of a runner: writes to the journal, and slots for requests in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiml_magic import errors
from aiml_magic.journal.store import Journal

Step = Callable[[], Any]  # of the journal
# Seconds between two transactions while many requests are answered: fewer syncs of the disk, and
# the kernel can lock the journal in between.
_GATHER = 0.01


class WriteQueue:
    """Steps of the journal in order; those queued while the disk is busy share a transaction."""

    _work: asyncio.Task[None] | None = None

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1)  # not the loop's executor, which DNS lookups occupy
        self._thread.submit(int)  # starts the thread, or fails before the first request
        self._waiting: list[tuple[Step, asyncio.Future[Any]]] = []

    async def run(self, step: Step) -> Any:
        """The result of a step; a cancellation takes effect after the step."""
        written = self.put(step)
        is_cancelled = False
        while not written.done():
            try:
                await asyncio.wait([written])
            except asyncio.CancelledError:
                is_cancelled = True
        if is_cancelled and (task := asyncio.current_task()):
            task.cancel()
        return written.result()

    def put(self, step: Step) -> asyncio.Future[Any]:
        """Queues a step; its error is raised by the returned future."""
        written = asyncio.get_running_loop().create_future()
        written.add_done_callback(asyncio.Future.exception)  # an unread error is not logged
        self._waiting.append((step, written))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return written

    async def done(self) -> None:
        """Waits until the queue is empty."""
        if self._work is not None:
            await self._work

    async def _write_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            steps = [step for step, _ in waiting]
            results = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._write, steps
            )
            for (_, written), (result, error) in zip(waiting, results, strict=True):
                if error is None:
                    written.set_result(result)
                else:
                    written.set_exception(error)
            if len(steps) > 1:
                await asyncio.sleep(_GATHER)

    def _write(self, steps: list[Step]) -> list[tuple[Any, Exception | None]]:
        has_begun = False
        try:
            with self._journal.together():
                has_begun = True
                return [_try(step) for step in steps]
        except errors.JournalError as error:
            if len(steps) == 1 or not has_begun:
                return [(None, error)] * len(steps)
            return [result for step in steps for result in self._write([step])]


def _try(step: Step) -> tuple[Any, Exception | None]:
    try:
        return step(), None
    except errors.JournalError:
        raise
    except Exception as error:  # noqa: BLE001  # raised by the future
        return None, error


class Slots:
    """A semaphore for requests in flight, whose limit can change.

    AnyIO's CapacityLimiter has faults: releases before 4.10 lose a slot if a request is cancelled
    just when it gets one, and later releases grant too many.
    """

    limit = 1
    _used = 0

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_used(self) -> bool:
        return self._used >= self.limit

    async def __aenter__(self) -> None:
        while self.are_used:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._call_next()  # the slot that was granted just now goes to the next
                raise
        self._used += 1
        self._call_next()  # the limit may have been raised

    async def __aexit__(self, *_: object) -> None:
        self._used -= 1
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and not self.are_used:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn.set_result(None)
