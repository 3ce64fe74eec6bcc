"""A runner on a Dask cluster: the journal is here, and the workers send its rows.

A row is claimed in the journal when a worker asks for permission to send it. So a row that waits
for a worker stays queued, even if this process or the cluster ends, and only one run of a task gets
permission: Dask restarts the tasks of a dead worker, and a question must not be paid for twice. A
worker uses the API key of its own machine; the task graph has none.

The scheduler stores the result of a row, which survives kernel and worker. The tasks of a dead
kernel go on: the next kernel that asks the same takes the result, or waits for the same task.
Another scheduler has no such result: the row may have been charged, and is not sent again.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiml_magic.api.masking import Secrets
from aiml_magic.errors import NOTHING_SENT, BadInput, JournalError, RunnerDied, hint_to_check
from aiml_magic.journal.replay import sendable
from aiml_magic.journal.rows import HEARTBEAT, Result, Row
from aiml_magic.journal.store import Journal
from aiml_magic.journal.unkept import Unkept
from aiml_magic.runner.jobs import Event, Job
from aiml_magic.runner.worker import TOPIC, NotAllowed, answer_there, result_from, task_name

_POLL_EVERY = (
    0.5  # seconds between two polls of other runners' rows, and to wait for a Dask variable
)


@dataclass
class _Task:
    """A row with the future of its task, which is `None` while another runner has the row."""

    row: Row
    key: str
    timeout: float
    future: Any = None


class Cluster:
    """The cluster of a `distributed.Client`, which sends rows of a journal.

    `capacity` is the number of rows that the workers can answer at once. `__init__` writes all
    results that the scheduler still stores to the journal, also those of other kernels.
    """

    has_keys = True

    _is_closed = False
    _name = ""

    def __init__(self, client: Any, journal: Journal) -> None:
        self.journal = journal
        self._client = client
        self._jobs: dict[int, Job] = {}
        self._tasks: dict[str, _Task] = {}  # by the client request id of the row
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._unkept = Unkept(journal)
        # Before the thread starts: if one of these fails, no thread is left.
        self.capacity = self._count_threads()
        self._subscribe()
        for row in journal.sent_by(self._name):
            self._collect(row)
        # Not a daemon: a script waits at its end for the answers that it paid for.
        threading.Thread(target=self._work, name="aiml_magic-cluster").start()

    def close(self) -> None:
        """Ends the thread after the last answer in flight was written."""
        self._is_closed = True
        self._queue.put(lambda: None)

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that are not over, by the id of their row."""
        return dict(self._jobs)

    def holds(self, row: Row) -> bool:
        """Whether the row has a job here, or was sent from this cluster."""
        return row.id in self._jobs or self._is_here(row)

    def send(
        self,
        row: Row,
        secrets: Secrets,
        timeout: float,
        max_concurrency: int,  # noqa: ARG002  # here it is the number of threads of the workers
        notices: tuple[str, ...] = (),
    ) -> Job:
        """Starts a job for a row, which a worker sends.

        The only secret in the task graph is the token of a sandbox, which is the `key` then.
        """
        if row.id in self._jobs:
            return self._jobs[row.id]
        job = self._jobs[row.id] = Job(row, self.journal, self, notices)
        task = self._tasks[row.client_request_id] = _Task(row, secrets.key, timeout)
        if row.state == "queued":
            job.on_event({"event": "waiting", "parent": None})
            try:
                self._submit(task)
            except BaseException as error:  # an interrupt, or the scheduler is gone
                self.tell({"do": "cancel", "row": row.id})
                if isinstance(error, Exception):
                    raise _unreachable(error) from error
                raise
        return job

    def tell(self, command: Event) -> None:
        """Cancels a row that no worker has sent: the thread of a worker cannot be stopped."""
        job = self._jobs.get(command["row"])
        with suppress(JournalError):
            if job is not None and (
                self.journal.withdraw(job.id) or self.journal.row(job.id).is_over
            ):
                self._leave(self.journal.row(job.id), "over")

    def _work(self) -> None:
        """Runs the queued steps until it is closed and no answer is missing; in a thread."""
        polled = alive = time.monotonic()
        while not self._is_closed or self._has_tasks() or self._unkept.need_time(math.inf):
            with suppress(queue.Empty):
                self._queue.get(timeout=_POLL_EVERY)()
            if time.monotonic() - polled >= _POLL_EVERY:
                self._poll_other_runners()
                polled = time.monotonic()
            if time.monotonic() - alive >= HEARTBEAT:
                alive = time.monotonic()
                self._send_heartbeats()

    def _has_tasks(self) -> bool:
        return any(task.future for task in list(self._tasks.values()))

    def _send_heartbeats(self) -> None:
        ours = {task.row.id for task in list(self._tasks.values()) if task.future}
        with suppress(JournalError):
            self.journal.note_alive(ours | self._unkept.rows)
        if self._unkept.rows:
            self._unkept.try_again()
        with suppress(Exception):  # the scheduler is gone
            self.capacity = self._count_threads()

    def _count_threads(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def _subscribe(self) -> None:
        """Reads the name of the scheduler, and subscribes to the messages of its workers."""
        scheduler = self._client.scheduler_info()
        self._name = f"{scheduler['address']} {scheduler['id']}"
        _subscribed.add(self)
        self._client.subscribe_topic(TOPIC, _on_message)

    def _is_here(self, row: Row) -> bool:
        """Whether the row was sent from this cluster: the scheduler may have its result."""
        return row.state == "sent" and row.cluster == self._name

    def _submit(self, task: _Task) -> None:
        """Submits the task of a row, or joins it: all kernels share the one task of a row."""
        row = task.row
        args = row.base_url, sendable(row.request), row.client_request_id, task.key, task.timeout
        task.future = self._client.submit(
            answer_there, *args, key=task_name(row.client_request_id), retries=0
        )
        step = partial(self._on_end, row.client_request_id)
        task.future.add_done_callback(lambda _: self._queue.put(step))

    def on_message(self, name: str, run: str) -> None:
        """Called when a run asks for permission to send the row of this client request id."""
        self._queue.put(partial(self._allow, name, run))

    def _allow(self, name: str, run: str) -> None:
        """Permits a run to send its row, if the row can be claimed."""
        task = self._tasks.get(name)
        if task is None or task.future is None or task.future.done():
            return
        try:
            claimed = self.journal.claim(task.row.id, self._name)
            task.row = claimed or self.journal.row(task.row.id)
        except JournalError as error:
            words = f"{error.message} {NOTHING_SENT}"
            self._tell(task.row, {"event": "stuck", "why": words, "hint": error.hint})
            return self._leave(task.row, "over")
        if claimed:
            self._tell(task.row, {"event": "claimed"})
            with suppress(Exception):  # the scheduler is gone, and the task ends
                self._variable(task.row).set({"run": run})
        elif not self._is_here(task.row):
            task.future.cancel(force=True)
            task.future = None

    def _on_end(self, name: str) -> None:
        """Called when a task ends: runs it again, writes its result, or gives the row up."""
        task = self._tasks.get(name)
        if task is None or task.future is None or not task.future.done():
            return
        why = _failure(task.future)
        try:
            if self._may_run_again(task, why):
                self._run_again(task)
            else:
                self._end(task, self._result(task.row, why))
        except Exception as error:  # noqa: BLE001  # nothing may end this thread
            self._give_up(task.row, f"{type(error).__name__}: {error}")

    def _may_run_again(self, task: _Task, why: BaseException | None) -> bool:
        """Whether the task ended before its row: by a lost connection, worker or permission."""
        while self._client.status == "connecting":
            time.sleep(_POLL_EVERY)
        if self._client.status != "running":
            return False
        self._subscribe()
        if (
            isinstance(why, NotAllowed)
            and self._is_here(task.row)
            and self._stored(task.row) is None
        ):
            self.journal.release(task.row.id)  # the kernel that claimed it permitted no run
            task.row = self.journal.row(task.row.id)
        is_to_be_sent = task.row.state == "queued" and isinstance(why, NotAllowed)
        return is_to_be_sent or (
            task.future.cancelled() and (task.row.state == "queued" or self._is_here(task.row))
        )

    def _run_again(self, task: _Task) -> None:
        task.future.release()
        until = time.monotonic() + 10 * _POLL_EVERY
        while (
            task_name(task.row.client_request_id) in self._client.futures
            and time.monotonic() < until
        ):
            time.sleep(0.01)  # else Dask returns the same future
        self._submit(task)

    def _result(self, row: Row, why: BaseException | None) -> Result | None:
        """The result of a row whose task is over; `None` if it is lost."""
        if row.state == "sent":
            match self._stored(row) if self._is_here(row) else None:
                case None:
                    return None
                case {"came": str(text)}:
                    return result_from(text)
        was_sent = row.state == "sent" and not isinstance(why, NotAllowed)
        words = f"{type(why).__name__}: {why}".split("\n")[0][:200]
        cost = "The request may have been sent, and may be charged." if was_sent else NOTHING_SENT
        hint = hint_to_check(row.id) if was_sent else "Solve this problem, then ask again."
        lost = RunnerDied(
            f"No worker answered ({words}). {cost}", hint, retry="ask", may_cost=was_sent
        )
        return Result("failed", error=lost)

    def _end(self, task: _Task, result: Result | None) -> None:
        """Stores the result of a row, and then deletes it at the scheduler."""
        row = task.row
        if row.state == "queued" and self.journal.claim(row.id) is None:
            task.future = None  # another runner was faster
        elif result is None:
            self._give_up(row, "the Dask scheduler has no result for it")
        else:
            try:
                self._finish(row, result)
            except JournalError as error:
                self._tell(row, self._unkept.add(row, result, error.message))
            self._leave(row, "over")

    def _finish(self, row: Row, result: Result) -> None:
        if result.error is not None:
            result.error.name_row(row.id)
        self.journal.finish(row.id, result)
        with suppress(Exception):  # the scheduler is gone
            self._variable(row).delete()

    def _give_up(self, row: Row, why: str) -> None:
        """Drops a row without a result: another kernel may get it from the scheduler."""
        with suppress(JournalError):
            self.journal.end_heartbeat(row.id)
        self._leave(row, "gone", words=why)

    def _leave(self, row: Row, event: str, **facts: Any) -> None:
        """Drops a row, and ends its job with an event."""
        task = self._tasks.pop(row.client_request_id, None)
        if task is not None and task.future is not None and not task.future.done():
            with suppress(Exception):  # the scheduler is gone
                task.future.cancel(force=True)
        # Removed before its readers see that it is over: a new question starts a new job.
        if job := self._jobs.pop(row.id, None):
            job.on_event({"event": event, **facts})

    def _tell(self, row: Row, event: Event) -> None:
        if job := self._jobs.get(row.id):
            job.on_event(event)

    def _poll_other_runners(self) -> None:
        """Polls the rows of other runners, and takes over those of a dead kernel."""
        for task in [task for task in list(self._tasks.values()) if task.future is None]:
            with suppress(JournalError):
                task.row = self.journal.row(task.row.id)
                if task.row.is_over or self._collect(task.row):
                    self._leave(task.row, "over")
                elif task.row.state == "queued" or (
                    self._is_here(task.row) and self.journal.take_over(task.row)
                ):
                    self._submit(task)
                elif not (task.row.is_alive or self._is_here(task.row)):
                    self._leave(task.row, "gone", words="")

    def _collect(self, row: Row) -> bool:
        """Writes the result that the scheduler stores for a row; `False` if there is none."""
        match self._stored(row) if self._is_here(row) else None:
            case {"came": str(text)}:
                self._finish(row, result_from(text))
                return True
        return False

    def _stored(self, row: Row) -> Any:
        """The value that the scheduler stores for a row, or `None`."""
        try:
            return self._variable(row).get(timeout=_POLL_EVERY)
        except Exception:  # noqa: BLE001  # whatever Dask raises
            return None

    def _variable(self, row: Row) -> Any:
        from distributed import Variable

        return Variable(row.client_request_id, client=self._client)


_subscribed: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _on_message(event: Any) -> None:
    """Called by Dask, in its own thread, when a worker asks for permission."""
    _, (name, run) = event
    for cluster in list(_subscribed):
        cluster.on_message(name, run)


def _unreachable(error: Exception) -> BadInput:
    why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return BadInput(
        f"The Dask scheduler cannot be reached ({why}). {NOTHING_SENT}",
        "Connect client= anew, then ask again.",
    )


def _failure(future: Any) -> BaseException | None:
    """The exception that ended a task, if any."""
    try:
        future.result()
    except Exception as error:  # noqa: BLE001  # whatever Dask or the task raises
        return error
    return None
