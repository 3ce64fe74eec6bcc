"""The process with the connections: commands come in, events go out.

    python -m aiml_magic.runner JOURNAL

A kernel has one such child process, in a session of its own, so that neither an interrupt nor the
end of the kernel reaches it. It lives while its standard input is open, a request is in flight, or
an answer is not on the disk. Commands and events are JSON, one per line. The API key and other
secrets come with a command and are never written.

    {"do": "send", "row": 7, "parent": 3, "key": …, "hidden": {…}, "silence": 3600, "limit": 64}
    {"do": "cancel", "row": 7, "hold": 2.0}
    {"do": "get", "call": 1, "base_url": …, "path": "/v2/billing", "key": …}

A cancellation may be held for some seconds: a front end interrupts the kernel just before it
restarts it or shuts it down. If the pipe closes meanwhile, or the row is sent again, the request
goes on. Unknown commands are ignored.

Each command has the kernel's network variables: "network": {"HTTPS_PROXY": …}.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiml_magic.addresses import network, use_network
from aiml_magic.api import failures
from aiml_magic.api.client import Client
from aiml_magic.api.masking import Secrets
from aiml_magic.api.network import settings_of_network
from aiml_magic.api.replies import Reply
from aiml_magic.api.responses import Response
from aiml_magic.errors import NOTHING_SENT, JournalError, ParentFailed, RequestFailed
from aiml_magic.files import connections_within, limit_for, raise_open_limit
from aiml_magic.journal.replay import request_key, request_keys
from aiml_magic.journal.rows import HEARTBEAT, TAIL, Result, Row
from aiml_magic.journal.store import Journal
from aiml_magic.journal.unkept import Unkept
from aiml_magic.runner.listener import NotQueued, Outbox, ProgressListener
from aiml_magic.runner.queues import Slots, WriteQueue
from aiml_magic.runner.sending import Conversations, reply_to, result_of
from aiml_magic.text import dump

_LOOK_EVERY = 0.5  # seconds between two polls of another runner's row
_WARM_CLIENTS = 8  # clients with different settings that keep idle connections
_HOLD_STEP = 0.05  # seconds between two polls of a request whose cancellation is held
_TRY_EVERY = 2.0  # seconds between two attempts to write an answer to the journal

Command = dict[str, Any]


class Runner:
    """Answers rows of one journal, each in a task: sends them, or follows another runner's."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox
        self._clients: dict[tuple[Any, ...], Client] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._listeners: dict[int, ProgressListener] = {}  # of the rows being sent
        self._holds: dict[int, asyncio.Task[None]] = {}  # of the rows with a held cancellation
        self._followed: set[int] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._slots: defaultdict[int, Slots] = defaultdict(Slots)  # by the limit of a request
        self._writes = WriteQueue(journal)
        self._conversations = Conversations(journal)
        self._unkept = Unkept(journal)
        self._network = network()

    async def run(self, commands: asyncio.Queue[Command | None]) -> None:
        """Runs commands until the pipe is closed, then finishes the requests in flight."""
        meanwhile = [
            asyncio.create_task(self._send_heartbeats()),
            asyncio.create_task(self._keep_trying()),
        ]
        while (command := await commands.get()) is not None:
            self._execute(command)
        for hold in self._holds.values():
            hold.cancel()  # the interrupt was the beginning of a restart
        await asyncio.gather(*self._tasks.values(), *self._calls, return_exceptions=True)
        await self._writes.done()
        await self._wait_for_journal()
        for task in meanwhile:
            task.cancel()
        for client in self._clients.values():
            await client.aclose()

    def _execute(self, command: Command) -> None:
        variables = command.get("network")
        if isinstance(variables, dict) and variables != self._network:
            with suppress(TypeError, ValueError):  # invalid names or values
                use_network(variables)
                self._network = variables
        if command.get("headers") == {}:  # from a kernel with an older version
            command = {"hidden": {}, **command}
        match command:
            case {
                "do": "send", "row": int(row), "parent": int() | None as parent, "key": str(key),
                "hidden": dict(hidden), "silence": int() | float() as timeout,
                "limit": int(max_concurrency),
            }:  # fmt: skip
                raise_open_limit(limit_for(max_concurrency))
                slots = self._slots[max_concurrency]
                slots.limit = connections_within(max_concurrency)
                if row in self._tasks:
                    self._resume(row)
                else:
                    answering = self._answer(row, parent, Secrets(key, hidden), timeout, slots)
                    self._tasks[row] = asyncio.create_task(answering)
                    # A callback runs even if the task is cancelled before it begins.
                    self._tasks[row].add_done_callback(partial(self._end, row))
            case {"do": "cancel", "row": int(row)} if row in self._tasks:
                self._cancel(row, command.get("hold"))
            case {
                "do": "get",
                "call": int(number),
                "base_url": str(base_url),
                "path": str(path),
                "key": str(key),
            }:
                self._call(self._get(number, base_url, path, key))
            case {"do": "send", "row": int(row)} if row not in self._tasks:
                self._outbox.tell(row, "over")  # else the kernel would wait

    def _cancel(self, row: int, hold: Any) -> None:
        """Cancels a request: at once if it is not in flight, or without a hold."""
        listener = self._listeners.get(row)
        if listener is None or not listener.is_in_flight or not isinstance(hold, int | float):
            self._tasks[row].cancel()
        elif row not in self._holds:
            self._holds[row] = asyncio.create_task(self._hold(row, listener, hold))

    async def _hold(self, row: int, listener: ProgressListener, seconds: float) -> None:
        """Cancels a request in flight after some seconds, once its text is on the disk."""
        deadline = time.monotonic() + seconds
        with suppress(JournalError):
            await listener.keep_text()
        self._outbox.tell(row, "held")
        while listener.is_in_flight and time.monotonic() < deadline:  # noqa: ASYNC110  # by the clock
            await asyncio.sleep(_HOLD_STEP)
        self._tasks[row].cancel()

    def _resume(self, row: int) -> None:
        """Drops the held cancellation of a row, and sends its state to the kernel."""
        if hold := self._holds.pop(row, None):
            hold.cancel()
        if listener := self._listeners.get(row):
            listener.tell_all()

    async def _send_heartbeats(self) -> None:
        """Writes the heartbeats of the rows, and cancels those that other kernels cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            if ours := (self._tasks.keys() - self._followed) | self._unkept.rows:
                with suppress(JournalError):
                    for row_id in await self._writes.run(partial(self._journal.note_alive, ours)):
                        if row_id in self._tasks:
                            self._tasks[row_id].cancel()

    async def _keep_trying(self) -> None:
        """Retries to write the answers that the journal could not take."""
        while True:
            await asyncio.sleep(_TRY_EVERY)
            if self._unkept.rows:
                await asyncio.get_running_loop().run_in_executor(None, self._unkept.try_again)

    async def _wait_for_journal(self) -> None:
        """Waits for the journal to store every answer; see `Unkept.need_time`."""
        since = time.monotonic()
        while self._unkept.need_time(time.monotonic() - since):  # noqa: ASYNC110  # by the clock
            await asyncio.sleep(_LOOK_EVERY)

    async def _answer(
        self, row: int, parent: int | None, secrets: Secrets, timeout: float, slots: Slots
    ) -> None:
        """Answers a row after its parent: sends it, or follows the runner that did."""
        if (unkept := self._unkept.event(row)) is not None:
            self._outbox.put({"row": row, **unkept})
            return
        try:
            if parent is not None and not await self._wait_for_parent(row, parent):
                return
            if await self._send(row, secrets, timeout, slots):
                return
            # One read for both: between two, another runner's heartbeat may become stale.
            while (known := self._journal.row(row)).is_alive or (secrets.key and known.can_go_on):
                await self._follow(row)
                if await self._fetch(row, secrets, timeout):
                    return
        except JournalError as error:
            cost = "" if row in self._followed else f" {NOTHING_SENT}"
            self._outbox.tell(row, "stuck", why=error.message + cost, hint=error.hint)

    def _end(self, row: int, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            with suppress(JournalError):  # an unclaimed row is never sent anyway
                self._journal.withdraw(row)
        self._followed.discard(row)
        if hold := self._holds.pop(row, None):
            hold.cancel()
        del self._tasks[row]
        self._outbox.tell(row, "over")

    async def _send(self, row_id: int, secrets: Secrets, timeout: float, slots: Slots) -> bool:
        """Sends the row when a slot is free; `False` if it may not be sent."""
        if slots.are_used:
            self._outbox.tell(row_id, "waiting", parent=None)
        async with slots:
            row = await self._writes.run(partial(self._journal.claim, row_id))
            if row is None:
                return False
            try:
                result = await self._ask(row, secrets, timeout)
            except NotQueued:
                return False
        await self._keep(row, result)
        return True

    async def _fetch(self, row_id: int, secrets: Secrets, timeout: float) -> bool:
        """Resumes a row by its response id; `False` without a key, or if another runner does."""
        if not secrets.key:
            return False
        row = await self._writes.run(partial(self._journal.take_over_accepted, row_id))
        if row is None:
            return False
        self._followed.discard(row_id)
        await self._keep(row, await self._ask(row, secrets, timeout))
        return True

    async def _wait_for_parent(self, row_id: int, parent_id: int) -> bool:
        """Waits for the parent's answer; `False` if it failed, which fails the row as well."""
        while (parent := self._journal.row(parent_id)).is_alive:
            self._outbox.tell(row_id, "waiting", parent=parent_id)
            if parent_id in self._tasks:
                await asyncio.wait([self._tasks[parent_id]])
            else:
                await asyncio.sleep(_LOOK_EVERY)
        row = self._journal.row(row_id)
        if row.state != "queued" or row.key not in request_keys(
            row.server, row.request, f"row {parent_id}"
        ):
            return True  # another runner sent it, or its parent was over when it was asked
        if parent.can_continue:
            self._journal.note_key(row.id, request_key(row.server, row.request, parent.identity))
            return True
        error = ParentFailed(
            f"Question {parent.id}, which this one continues, was not answered. Nothing was sent.",
            "Run the cell of that question again, then this one.",
        )
        self._journal.finish(
            row.id, Result("failed", seconds=max(0.0, time.time() - row.asked_at), error=error)
        )
        return False

    async def _follow(self, row_id: int) -> None:
        """Sends the progress of another runner's row to the kernel."""
        self._followed.add(row_id)
        while (row := self._journal.row(row_id)).is_alive:
            if row.text:
                self._outbox.tell(row_id, "text", tail=row.text[-TAIL:], characters=len(row.text))
            else:
                self._outbox.tell(row_id, "thinking", what="in_progress")
            await asyncio.sleep(_LOOK_EVERY)

    async def _ask(self, row: Row, secrets: Secrets, timeout: float) -> Result:
        """Sends a claimed row and returns its result. Raises NotQueued."""
        listener = self._listeners[row.id] = ProgressListener(
            row.id, self._journal, self._writes, self._outbox, secrets
        )
        listener.is_in_flight = row.can_go_on
        started = time.monotonic() - (row.seconds or 0.0)
        try:
            # Raises a cancellation during the claim, before anything is sent.
            await asyncio.sleep(0)
            client = self._client(row.base_url, secrets, timeout)
            reply = await reply_to(row, self._conversations, secrets, client, listener)
            state = "done"
        except asyncio.CancelledError:
            reply, state = Reply({}), "cancelled"
        except NotQueued:
            raise
        except Exception as error:  # noqa: BLE001  # unusable settings, a damaged conversation
            why = secrets.mask(f"{type(error).__name__}: {error}")
            reply, state = (
                Reply({}, error=_failure(row, why, is_in_flight=listener.is_in_flight)),
                "failed",
            )
        finally:
            del self._listeners[row.id]
            listener.close()
        if reply.error is not None:
            state = "failed"
            reply.error.name_row(row.id)
        was_sent = state != "cancelled" or listener.is_in_flight
        result = result_of(reply, state, time.monotonic() - started if was_sent else None)
        # The response has the text already.
        is_whole = state == "done" or Response(reply.response).text
        return replace(
            result, response_id=listener.response_id, text=None if is_whole else listener.text
        )

    async def _keep(self, row: Row, result: Result) -> None:
        """Stores a result; if the journal fails, sends it to the kernel and retries."""
        try:
            await self._writes.run(partial(self._journal.finish, row.id, result))
        except JournalError as error:
            self._outbox.put({"row": row.id, **self._unkept.add(row, result, error.message)})

    async def _get(self, call: int, base_url: str, path: str, key: str) -> None:
        event: dict[str, Any] = {"call": call, "event": "over"}
        try:
            event["value"] = await self._client(base_url, Secrets(key), 30.0).get(path)
        except Exception as error:  # noqa: BLE001  # unusable settings
            failed = (
                error
                if isinstance(error, RequestFailed)
                else failures.not_connected(f"{type(error).__name__}: {error}")
            )
            event["error"] = failed.as_dict()
        self._outbox.put(event)

    def _client(self, base_url: str, secrets: Secrets, timeout: float) -> Client:
        """The client for these settings, with the idle connections of its earlier requests."""
        known = base_url, secrets.key, dump(secrets.hidden), timeout
        settings = (*known, *settings_of_network(self._network))
        if settings not in self._clients:
            if len(self._clients) >= _WARM_CLIENTS:
                self._drop_idle()
            self._clients[settings] = Client(base_url, secrets, timeout)
        return self._clients[settings]

    def _drop_idle(self) -> None:
        """Closes idle connections: many servers would use up the limit of open files."""
        for client in self._clients.values():
            self._call(client.drop_idle())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine as a task that the runner waits for at its end."""
        call = asyncio.create_task(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)


def _failure(row: Row, why: str, *, is_in_flight: bool) -> RequestFailed:
    """The error of a request that an exception here ended; `is_in_flight` if it was in flight."""
    lost = (
        failures.connection_lost(why)
        if is_in_flight
        else failures.not_connected(why, is_final=True)
    )
    if row.can_go_on:
        return failures.not_fetched(row.response_id or "", failures.of_get(lost))
    return lost


def _read_commands(
    loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[Command | None]
) -> None:
    """Queues the commands of standard input, then `None`; in a thread, which Windows needs."""
    for line in sys.stdin.buffer:
        # A killed kernel may leave half a line.
        with suppress(ValueError, RecursionError):
            if isinstance(command := json.loads(line), dict):
                loop.call_soon_threadsafe(commands.put_nowait, command)
    loop.call_soon_threadsafe(commands.put_nowait, None)


async def _main(journal: Journal) -> None:
    commands: asyncio.Queue[Command | None] = asyncio.Queue()
    outbox = Outbox(sys.stdout.buffer)
    threading.Thread(
        target=_read_commands, args=(asyncio.get_running_loop(), commands), daemon=True
    ).start()
    await Runner(journal, outbox).run(commands)
    outbox.close()


def main() -> None:
    """Runs until standard input is closed and all answers are on the disk."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(Journal(Path(sys.argv[1]))))
