"""The same as a runner, on a Dask cluster: a row is claimed here, sent by a worker, and kept here.

A worker finds the API key where it runs; none is ever in the graph. Dask starts the tasks of a dead worker anew, and a question
must not be paid for twice: so there is one token for each row, at the scheduler, and only who takes it may send.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from dataclasses import asdict
from typing import Any

from aiml_magic import credentials, errors
from aiml_magic.credentials import Secrets
from aiml_magic.jobs import Event, Job, Runner
from aiml_magic.journal import HEARTBEAT, Came, Journal, Row, Unkept


class Cluster:
    """The cluster of a `distributed.Client`. Rows that somebody else has sent are left to `runner` to follow.

    `places` says how many rows the workers can answer at once.
    """

    has_keys = True

    def __init__(self, client: Any, runner: Runner) -> None:
        self._client = client
        self._runner = runner
        self._jobs: dict[int, Job] = {}
        self._tasks: dict[int, tuple[Row, Any]] = {}  # the row as it was claimed, and the future of its answer
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._unkept = Unkept(runner.journal)
        self._is_closed = False
        self._deciding = threading.Lock()  # what becomes of a row: it is taken back, or its answer is kept
        self.places = max(1, sum(client.nthreads().values()))  # before the thread is there: what fails here leaves none behind
        # No daemon: a script that ends waits for what it paid for.
        threading.Thread(target=self._keep_what_comes, name="aiml_magic-cluster").start()

    def close(self) -> None:
        """No more rows will be sent; what is on its way is kept when it comes."""
        self._is_closed = True
        self._ended.put(0)

    @property
    def journal(self) -> Journal:
        return self._runner.journal

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that are not over, by the id of their row."""
        return dict(self._jobs)

    def send(self, row: Row, secrets: Secrets, silence: float, limit: int, notices: tuple[str, ...] = ()) -> Job:
        """Has a queued row sent by a worker. Of the secrets only the key goes with it: the sandbox's, which is none."""
        if row.id in self._jobs:
            return self._jobs[row.id]
        claimed = self.journal.claim(row.id)
        if claimed is None:
            return self._runner.send(row, secrets, silence, limit, notices)
        job = self._jobs[row.id] = Job(row, self.journal, self, notices)
        job.take({"event": "claimed"})
        is_out = False
        try:
            self._token(row).put(row.id)
            is_out = True
            # Impure: the same question twice is two tasks.
            future = self._client.submit(
                answer_there, row.base_url, dict(row.request), row.client_request_id, secrets.key, silence, pure=False, retries=0
            )
        except BaseException:  # an interrupt, or no scheduler any more
            if is_out and not self._takes_token(row):
                del self._jobs[row.id]  # a worker has it
            else:
                self._end(claimed, Came("cancelled"))
            raise
        self._tasks[row.id] = claimed, future
        future.add_done_callback(lambda _: self._ended.put(row.id))
        return job

    def tell(self, command: Event) -> None:
        """Cancels or withdraws a row, if no worker has begun with it: a thread of a worker cannot be stopped."""
        with self._deciding:
            row, future = self._tasks.get(command["row"], (None, None))
            if row is not None and future is not None and self._takes_token(row):
                del self._tasks[row.id]
                future.cancel()
                self._end(row, Came("cancelled"))

    def _keep_what_comes(self) -> None:
        """Keeps answers as long as any can come, with a sign of life every few seconds; the work of a thread."""
        shown = time.monotonic()
        while self._tasks or not self._is_closed or self._unkept.need_time(math.inf):
            if time.monotonic() - shown >= HEARTBEAT:
                shown = time.monotonic()
                with contextlib.suppress(errors.JournalError):
                    self.journal.note_alive({*self._tasks, *self._unkept.rows})
                if self._unkept.rows:
                    self._unkept.try_again()
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=HEARTBEAT)
                with self._deciding:
                    if ended in self._tasks:  # else it was withdrawn, or there will be no more
                        row, future = self._tasks[ended]
                        self._end(row, self._came(row, future))
                        del self._tasks[ended]

    def _came(self, row: Row, future: Any) -> Came:
        try:
            came: Came = future.result()
        except Exception as error:  # noqa: BLE001  # whatever Dask raises: a worker died, has no key, or cannot run us
            why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            was_sent = not self._takes_token(row)
            cost = "The request may have been sent, and may be charged." if was_sent else errors.NOTHING_SENT
            hint = errors.check(row.id) if was_sent else "Mend that, then ask again."
            lost = errors.RunnerDied(f"No worker answered ({why}). {cost}", hint, retry="ask", may_cost=was_sent)
            return Came("failed", error=lost)
        if came.error is not None:
            came.error.name_row(row.id)
        return came

    def _end(self, row: Row, came: Came) -> None:
        job = self._jobs.pop(row.id)
        try:
            self.journal.finish(row.id, came)
        except errors.JournalError as error:
            unkept, copy = self._unkept.add(row, came)
            job.take({"event": "unkept", "came": asdict(unkept), "copy": copy, "why": error.message})
        with contextlib.suppress(Exception):  # there is no scheduler any more
            self._token(row).close()
        job.take({"event": "over"})

    def _token(self, row: Row) -> Any:
        from distributed import Queue

        return Queue(row.client_request_id, client=self._client)

    def _takes_token(self, row: Row) -> bool:
        """Takes the token of a row; `False` if a worker has it, or nobody can tell."""
        try:
            return bool(self._token(row).get(batch=True))
        except Exception:  # noqa: BLE001  # there is no scheduler any more
            return False


def answer_there(base_url: str, request: dict[str, Any], client_request_id: str, key: str, silence: float) -> Came:
    """What comes of a request, sent by this worker with the key that it finds: the work of a task. Raises NoKey."""
    from distributed import Queue

    from aiml_magic.client import Client, Deaf, Reply
    from aiml_magic.runner import came_of

    async def ask() -> Reply:
        client = Client(base_url, secrets, silence)
        try:
            return await client.ask(request, client_request_id, Deaf())
        finally:
            await client.aclose()

    secrets = Secrets(key or credentials.need_key().text)
    token = Queue(client_request_id)
    if not token.get(batch=True):
        raise RuntimeError("the one that began died")
    token.close()
    started = time.monotonic()
    reply = asyncio.run(ask())
    return came_of(reply, "done" if reply.error is None else "failed", time.monotonic() - started)
