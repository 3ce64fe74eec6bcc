"""The process that holds the wire: jobs in, events out.

    python -m aiml_magic.runner JOURNAL

One child process of a kernel, in a session of its own, so that neither an interrupt nor the end of
the kernel reaches it. It lives while its standard input is open, a request is in flight, or an
answer is not on the disk: one that nobody keeps is paid and lost. Commands and events are JSON, one
a line. The API key and other secrets come with a command, and are written nowhere.

    {"do": "send", "row": 7, "parent": 3, "key": …, "hidden": {…}, "silence": 3600, "limit": 64}
    {"do": "cancel", "row": 7, "hold": 2.0}
    {"do": "get", "call": 1, "base_url": …, "path": "/v2/billing", "key": …}

A cancel may be held for some seconds: a front end interrupts the kernel just before it restarts it
or shuts it down. If the pipe closes meanwhile, the request goes on, as if nobody had interrupted;
so it does if it is to be sent once more. A command that is not one of these is ignored, and harms
nothing that is in flight.

Each says also how the network is reached from the kernel by then: "network": {"HTTPS_PROXY": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from aiml_magic import errors
from aiml_magic.addresses import use_network
from aiml_magic.api import failures
from aiml_magic.api.client import Client, settings_of_network
from aiml_magic.api.replies import Listener, Reply
from aiml_magic.api.responses import Raw, Response, transcript
from aiml_magic.api.stream import Created, Event, TextDelta, Thinking, add_piece
from aiml_magic.credentials import Secrets
from aiml_magic.files import connections_within, limit_for, raise_open_limit
from aiml_magic.journal.replay import request_key, request_keys, without_hashed
from aiml_magic.journal.rows import HEARTBEAT, TAIL, Result, Row
from aiml_magic.journal.store import Journal
from aiml_magic.journal.unkept import Unkept
from aiml_magic.text import dump

_TELL_EVERY = 0.1  # seconds
_KEEP_EVERY = 2.0  # seconds
_KEEP_AT_MOST = (
    2**21
)  # characters that are kept while more come: several times what a model writes; the end keeps all
_LOOK_EVERY = 0.5  # seconds between two looks at a row that another runner has sent
_HOLD_STEP = 0.05  # seconds between two looks at a request whose cancel is held
_TRY_EVERY = 2.0  # seconds between two attempts to have the journal take an answer

Command = dict[str, Any]


class Runner:
    """Answers rows of one journal, each in a task: sends those that are queued, follows those that another runner has sent."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox
        self._clients: dict[tuple[Any, ...], Client] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._recorders: dict[int, Recorder] = {}  # of the rows that are being asked
        self._holds: dict[int, asyncio.Task[None]] = {}  # of the rows whose cancel is held
        self._followed: set[int] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._places = Places()
        self._steps = Steps(journal)
        self._unkept = Unkept(journal)

    async def run(self, commands: asyncio.Queue[Command | None]) -> None:
        """Does what is asked until there is nobody to ask, then finishes what is in flight."""
        meanwhile = [
            asyncio.create_task(self._show_life()),
            asyncio.create_task(self._keep_trying()),
        ]
        while (command := await commands.get()) is not None:
            self._obey(command)
        for hold in self._holds.values():
            hold.cancel()  # the kernel was interrupted because it was to end
        await asyncio.gather(*self._tasks.values(), *self._calls, return_exceptions=True)
        await self._steps.done()
        await self._stay()
        for task in meanwhile:
            task.cancel()
        for client in self._clients.values():
            await client.aclose()

    def _obey(self, command: Command) -> None:
        if isinstance(variables := command.get("network"), dict):
            with contextlib.suppress(TypeError, ValueError):  # no variables of an environment
                use_network(variables)
        if command.get("headers") == {}:  # of a kernel that has an older version imported
            command = {"hidden": {}, **command}
        match command:
            case {
                "do": "send", "row": int(row), "parent": int() | None as parent, "key": str(key), "hidden": dict(hidden),
                "silence": int() | float() as silence, "limit": int(limit),
            }:  # fmt: skip
                raise_open_limit(limit_for(limit))
                self._places.limit = connections_within(limit)
                if row in self._tasks:
                    self._take_up_again(row)
                else:
                    task = asyncio.create_task(
                        self._answer(row, parent, Secrets(key, hidden), silence)
                    )
                    task.add_done_callback(
                        partial(self._end, row)
                    )  # called even for one that is stopped before it began
                    self._tasks[row] = task
            case {"do": "cancel", "row": int(row)} if row in self._tasks:
                self._cancel(row, command.get("hold"))
            case {
                "do": "get",
                "call": int(number),
                "base_url": str(base_url),
                "path": str(path),
                "key": str(key),
            }:
                call = asyncio.create_task(self._get(number, base_url, path, key))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            case {"do": "send", "row": int(row)} if row not in self._tasks:
                self._outbox.put(
                    {"row": row, "event": "over"}
                )  # who waits for it need not wait for ever

    def _cancel(self, row: int, hold: Any) -> None:
        """Stops a request: at once if it is not on its way, or if no hold is asked for."""
        recorder = self._recorders.get(row)
        if recorder is None or not recorder.is_out or not isinstance(hold, int | float):
            self._tasks[row].cancel()
        elif row not in self._holds:
            self._holds[row] = asyncio.create_task(self._hold(row, recorder, hold))

    async def _hold(self, row: int, recorder: Recorder, seconds: float) -> None:
        """Cancels a request that is on its way, but only after some seconds, and not before its text is on disk."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(errors.JournalError):
            await recorder.keep_text()
        self._outbox.put({"row": row, "event": "held"})
        while recorder.is_out and time.monotonic() < deadline:  # noqa: ASYNC110  # a retry would be a new question
            await asyncio.sleep(_HOLD_STEP)
        self._tasks[row].cancel()

    def _take_up_again(self, row: int) -> None:
        """Drops the cancel that is held for a row, and tells whoever asks for it now how far it came."""
        if hold := self._holds.pop(row, None):
            hold.cancel()
        if recorder := self._recorders.get(row):
            recorder.tell_all()

    async def _show_life(self) -> None:
        """Tells other kernels, by the journal, that somebody works on these rows, and hears which of them are unwanted."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            if ours := (self._tasks.keys() - self._followed) | self._unkept.rows:
                with contextlib.suppress(errors.JournalError):
                    for row_id in await self._steps.take(partial(self._journal.note_alive, ours)):
                        if row_id in self._tasks:
                            self._tasks[row_id].cancel()

    async def _keep_trying(self) -> None:
        """Has the journal take what it could not take when it came."""
        while True:
            await asyncio.sleep(_TRY_EVERY)
            if self._unkept.rows:
                await asyncio.get_running_loop().run_in_executor(None, self._unkept.try_again)

    async def _stay(self) -> None:
        """Waits until the journal has every answer, or will have."""
        since = time.monotonic()
        while self._unkept.need_time(time.monotonic() - since):  # noqa: ASYNC110  # it ends by the clock, too
            await asyncio.sleep(_LOOK_EVERY)

    async def _answer(self, row: int, parent: int | None, secrets: Secrets, silence: float) -> None:
        """Sees to it that the row is answered, when what it continues is: sent once, by whichever runner."""
        try:
            if parent is not None and not await self._is_continued(row, parent):
                return
            if await self._send(row, secrets, silence):
                return
            # One look decides: between two of them the last sign of life of another runner may run
            # out.
            while (known := self._journal.row(row)).is_alive or (secrets.key and known.can_go_on):
                await self._follow(row)
                if await self._fetch(row, secrets, silence):
                    return
        except errors.JournalError as error:
            cost = "" if row in self._followed else f" {errors.NOTHING_SENT}"
            self._outbox.put(
                {"row": row, "event": "stuck", "why": error.message + cost, "hint": error.hint}
            )

    def _end(self, row: int, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            with contextlib.suppress(errors.JournalError):  # it was never sent all the same
                self._journal.withdraw(row)
        self._followed.discard(row)
        if hold := self._holds.pop(row, None):
            hold.cancel()
        del self._tasks[row]
        self._outbox.put({"row": row, "event": "over"})

    async def _send(self, row_id: int, secrets: Secrets, silence: float) -> bool:
        """Sends the row when there is a place; `False` if it may not be sent."""
        if self._places.are_taken:
            self._outbox.put({"row": row_id, "event": "waiting", "parent": None})
        async with self._places:
            row = await self._steps.take(partial(self._journal.claim, row_id))
            if row is None:
                return False
            came = await self._ask(row, secrets, silence)
        await self._keep(row, came)
        return True

    async def _fetch(self, row_id: int, secrets: Secrets, silence: float) -> bool:
        """Goes on with a row that the server took, by its response's id; `False` if it is none, or somebody works on it.

        Without a key it may only be followed.
        """
        row = (
            await self._steps.take(partial(self._journal.take_up, row_id)) if secrets.key else None
        )
        if row is None:
            return False
        self._followed.discard(row_id)
        await self._keep(row, await self._ask(row, secrets, silence))
        return True

    async def _is_continued(self, row_id: int, parent_id: int) -> bool:
        """Waits for the answer that the row continues; `False` if there is none, and then the row has failed."""
        while (parent := self._journal.row(parent_id)).is_alive:
            self._outbox.put({"row": row_id, "event": "waiting", "parent": parent_id})
            if parent_id in self._tasks:
                await asyncio.wait([self._tasks[parent_id]])
            else:
                await asyncio.sleep(_LOOK_EVERY)
        row = self._journal.row(row_id)
        if row.state != "queued" or row.key not in request_keys(
            row.server, row.request, f"row {parent_id}"
        ):
            return True  # somebody else has sent it, or it was asked when that answer was there, whatever it is
        if parent.can_continue:
            self._journal.note_key(row.id, request_key(row.server, row.request, parent.identity))
            return True
        error = errors.ParentFailed(
            f"Answer {parent.id}, which this question continues, did not come. Nothing was sent.",
            "Run the cell of that answer again, then this one.",
        )
        self._journal.finish(
            row.id, Result("failed", seconds=time.time() - row.asked_at, error=error)
        )
        return False

    async def _follow(self, row_id: int) -> None:
        """Tells of a row that another kernel's runner has sent."""
        self._followed.add(row_id)
        while (row := self._journal.row(row_id)).is_alive:
            if row.text:
                self._outbox.put(
                    {
                        "row": row_id,
                        "event": "text",
                        "tail": row.text[-TAIL:],
                        "characters": len(row.text),
                    }
                )
            else:
                self._outbox.put({"row": row_id, "event": "thinking", "what": "in_progress"})
            await asyncio.sleep(_LOOK_EVERY)

    async def _ask(self, row: Row, secrets: Secrets, silence: float) -> Result:
        """What comes of a row that is claimed."""
        recorder = self._recorders[row.id] = Recorder(
            row.id, self._journal, self._steps, self._outbox, secrets
        )
        recorder.is_out = row.can_go_on
        started = time.monotonic() - (row.seconds or 0.0)
        try:
            await asyncio.sleep(
                0
            )  # who was told to stop while the row was claimed hears of it here, with nothing sent
            client = self._client(row.base_url, secrets, silence)
            reply, state = await self._reply(row, secrets, client, recorder), "done"
        except asyncio.CancelledError:
            reply, state = Reply({}), "cancelled"
        except Exception as error:  # noqa: BLE001  # settings that cannot be used, a conversation that cannot be read
            why = secrets.mask(f"{type(error).__name__}: {error}")
            lost: errors.RequestFailed = failures.not_connected(why, is_final=True)
            if recorder.is_out:
                lost = failures.connection_lost(why)
            if row.can_go_on:
                lost = failures.not_fetched(row.response_id or "", failures.of_get(lost))
            reply, state = Reply({}, error=lost), "failed"
        del self._recorders[row.id]
        recorder.close()
        if reply.error is not None:
            state = "failed"
            reply.error.name_row(row.id)
        seconds = (
            None if state == "cancelled" and not recorder.is_out else time.monotonic() - started
        )
        came = result_of(reply, state, seconds)
        is_whole = state == "done" or bool(
            Response(reply.response).text
        )  # else it would be kept twice, however long it is
        return replace(
            came, response_id=recorder.response_id, text=None if is_whole else recorder.text
        )

    async def _keep(self, row: Row, came: Result) -> None:
        """Writes down what came.

        Where the journal fails now, it is tried again, and the kernel is told all meanwhile.
        """
        try:
            await self._steps.take(partial(self._journal.finish, row.id, came))
        except errors.JournalError as error:
            unkept, copy = self._unkept.add(row, came)
            self._outbox.put(
                {
                    "row": row.id,
                    "event": "unkept",
                    "came": asdict(unkept),
                    "copy": copy,
                    "why": error.message,
                }
            )

    async def _reply(self, row: Row, secrets: Secrets, client: Client, recorder: Recorder) -> Reply:
        """What comes of a row: it is sent, or what the server took before is fetched by its response's id."""
        if row.can_go_on and row.response_id is not None:
            return await client.fetch(row.response_id, Reply(row.response), recorder)
        return await self._converse(row, secrets, client, recorder)

    async def _converse(
        self, row: Row, secrets: Secrets, client: Client, recorder: Recorder
    ) -> Reply:
        """Asks in the planned form; a chain that the server refuses was not executed, so it is sent again as a transcript."""
        body = secrets.added_to(self._body(row, row.chain))
        reply = await client.ask(body, row.client_request_id, recorder)
        if "previous_response_id" not in body:
            return reply
        field = "previous_response_id"
        if reply.is_refusal and reply.error and failures.refuses(reply.error, field, body[field]):
            with contextlib.suppress(errors.JournalError):  # it is told with the answer, too
                self._journal.note_chain(row.id, "transcript", "chain_refused")
            told = secrets.added_to(self._body(row, "transcript"))
            reply = await client.ask(told, row.client_request_id, recorder, attempts=reply.attempts)
            return replace(reply, notices=("chain_refused", *reply.notices))
        if reply.error is None and not reply.response.get("previous_response_id"):
            return replace(reply, notices=(*reply.notices, "chain_ignored"))
        return reply

    def _body(self, row: Row, chain: str | None) -> dict[str, Any]:
        """The request with its conversation, by the parent's response id or as a transcript."""
        body = dict(row.request)
        if row.parent is None:
            return body
        turns = self._journal.ancestors(row.parent)
        if chain == "id" and turns[-1].response_id is not None:
            return body | {"previous_response_id": turns[-1].response_id}
        told = (
            (without_hashed(turn.request.get("input", "")), Response(turn.response))
            for turn in turns
        )
        return body | {"input": transcript(told, body["input"])}

    async def _get(self, call: int, base_url: str, path: str, key: str) -> None:
        told: dict[str, Any] = {"call": call, "event": "over"}
        try:
            told["value"] = await self._client(base_url, Secrets(key), 30.0).get(path)
        except Exception as error:  # noqa: BLE001  # settings that cannot be used
            failed = (
                error
                if isinstance(error, errors.RequestFailed)
                else failures.not_connected(f"{type(error).__name__}: {error}")
            )
            told["error"] = failed.as_dict()
        self._outbox.put(told)

    def _client(self, base_url: str, secrets: Secrets, silence: float) -> Client:
        """The client for these settings; one that was used before has a warm connection."""
        settings = (base_url, dump(asdict(secrets)), silence, *settings_of_network())
        if settings not in self._clients:
            self._clients[settings] = Client(base_url, secrets, silence)
        return self._clients[settings]


class Steps:
    """Steps of the journal, in their order: those that gather while the disk is busy are one transaction, synced once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(
            1
        )  # not the loop's, in which names of hosts are looked up
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._work: asyncio.Task[None] | None = None

    async def take(self, step: Callable[[], Any]) -> Any:
        """What `step` returns.

        No step is taken by half: a cancellation that comes meanwhile is felt after it.
        """
        taken = self.begin(step)
        is_cancelled = False
        while not taken.done():
            try:
                await asyncio.wait([taken])
            except asyncio.CancelledError:
                is_cancelled = True
        if is_cancelled and (task := asyncio.current_task()):
            task.cancel()
        return taken.result()

    def begin(self, step: Callable[[], Any]) -> asyncio.Future[Any]:
        """Has `step` taken; its error is for those who ask for the result."""
        taken = asyncio.get_running_loop().create_future()
        taken.add_done_callback(asyncio.Future.exception)
        self._waiting.append((step, taken))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._take_those_waiting())
        return taken

    async def done(self) -> None:
        """Waits until nothing waits."""
        if self._work is not None:
            await self._work

    async def _take_those_waiting(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            steps = [step for step, _ in waiting]
            results = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._taken, steps
            )
            for (_, taken), (result, error) in zip(waiting, results, strict=True):
                if error is None:
                    taken.set_result(result)
                else:
                    taken.set_exception(error)

    def _taken(self, steps: list[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
        has_begun = False
        try:
            with self._journal.together():
                has_begun = True
                return [_tried(step) for step in steps]
        except errors.JournalError as error:
            if len(steps) == 1 or not has_begun:
                return [(None, error)] * len(steps)
            return [result for step in steps for result in self._taken([step])]


def _tried(step: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return step(), None
    except errors.JournalError:
        raise
    except Exception as error:  # noqa: BLE001  # it goes to who asked for the step
        return None, error


class Places:
    """How many requests may be on their way at once; the rest wait their turn."""

    def __init__(self) -> None:
        self.limit = 1
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        return self._taken >= self.limit

    async def __aenter__(self) -> None:
        while self.are_taken:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._call_next()  # the call may have come at this very moment
                raise
        self._taken += 1
        self._call_next()  # the limit may have been raised

    async def __aexit__(self, *_: object) -> None:
        self._taken -= 1
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and not self.are_taken:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn.set_result(None)


class Recorder(Listener):
    """Keeps what happens to one request in the journal, and tells the kernel."""

    def __init__(
        self, row_id: int, journal: Journal, steps: Steps, outbox: Outbox, secrets: Secrets
    ) -> None:
        self._row_id = row_id
        self._journal = journal
        self._steps = steps
        self._outbox = outbox
        self._secrets = secrets
        self._pieces: list[str] = []  # which may make up a secret only together
        self._characters = 0
        self._tail = ""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._kept: asyncio.Future[Any] | None = (
            None  # the latest text that was given to the journal
        )
        self._is_closed = False
        self._pending: Raw = {}
        self.is_out = False  # the request is on its way: what happens from now on may be charged
        self.response_id: str | None = None
        self._tell(event="claimed")

    async def on_attempt(self, attempt: int) -> None:
        self.is_out = False  # what was sent before was refused
        await self._steps.take(partial(self._journal.note_attempts, self._row_id, attempt))

    def on_sent(self) -> None:
        self.is_out = True
        self._tell(event="sent")

    def on_event(self, event: Event) -> None:
        match event:
            case Created(response_id):
                self.response_id = response_id
                self._keep_id()
                self._tell(event="thinking", what="")
            case Thinking(what):
                self._tell(event="thinking", what=what)
            case TextDelta(text):
                add_piece(self._pieces, text)
                self._characters += len(text)
                self._tail = (self._tail + text)[-2 * TAIL :]
                self._later("tell", _TELL_EVERY, self._tell_text)
                if self._characters <= _KEEP_AT_MOST:
                    self._later("keep", _KEEP_EVERY, self._keep_text)

    def on_retry(self, error: errors.RequestFailed, seconds: float) -> None:
        self.is_out = False
        self._pieces.clear()  # the answer begins anew
        self._characters, self._tail = 0, ""
        self._tell(event="retry", seconds=seconds, why=error.message)

    def on_poll(self, response: Raw) -> None:
        if response != self._pending:
            self._pending = response
            self._steps.begin(partial(self._journal.note_pending, self._row_id, response))
        self._tell(event="poll", status=Response(response).status or "in_progress")

    def close(self) -> None:
        """Keeps no more: what came is kept as a whole now."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()

    @property
    def text(self) -> str | None:
        """What was streamed so far."""
        return self._secrets.mask("".join(self._pieces)) if self._pieces else None

    async def keep_text(self) -> None:
        """Has the text that came so far on disk. Raises JournalError."""
        if self._pieces:
            await self._begin_keeping()

    def tell_all(self) -> None:
        """Tells a kernel that did not hear of the request before how far it came."""
        self._tell(event="claimed")
        if self.is_out:
            self._tell(event="sent")
        if self._pieces:
            self._tell_text()

    def _later(self, name: str, delay: float, action: Any) -> None:
        if name not in self._timers and not self._is_closed:
            self._timers[name] = asyncio.get_running_loop().call_later(delay, action)

    def _tell_text(self) -> None:
        if timer := self._timers.pop("tell", None):
            timer.cancel()
        self._tell(
            event="text", tail=self._secrets.mask(self._tail)[-TAIL:], characters=self._characters
        )

    def _keep_text(self) -> None:
        self._timers.pop("keep", None)
        if self._kept is None or self._kept.done():
            self._begin_keeping()
        else:  # texts that gather behind a slow disk would each hold the whole answer so far
            self._later("keep", _KEEP_EVERY, self._keep_text)

    def _begin_keeping(self) -> asyncio.Future[Any]:
        self._kept = self._steps.begin(
            partial(self._journal.note_text, self._row_id, self.text or "")
        )
        return self._kept

    def _keep_id(self) -> None:
        """Keeps by what name the server knows the response; tries again where that fails, since it may be all that is left."""
        self._timers.pop("id", None)
        noted = self._steps.begin(
            partial(self._journal.note_response_id, self._row_id, self.response_id or "")
        )
        noted.add_done_callback(
            lambda done: self._later("id", _KEEP_EVERY, self._keep_id) if done.exception() else None
        )

    def _tell(self, **event: Any) -> None:
        self._outbox.put({"row": self._row_id} | event)


class Outbox:
    """Events on their way to the kernel.

    A kernel that is gone, or does not read, stops nothing here.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, Any]) -> None:
        self._queue.put(dump(event).encode("ascii") + b"\n")

    def close(self) -> None:
        """Gives the last events two seconds to leave."""
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


def result_of(reply: Reply, state: str, seconds: float | None) -> Result:
    """What came of a request, as it is kept."""
    return Result(
        state,
        reply.response,
        seconds,
        reply.notices,
        reply.cost,
        reply.error,
        attempts=reply.attempts or None,
    )


def _read_commands(
    loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[Command | None]
) -> None:
    """Hands on the lines of standard input, then `None`: in a thread, since no loop waits for a pipe on Windows."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(
            ValueError, RecursionError
        ):  # half a line of a kernel that was killed
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
    """Runs until its standard input is closed and nothing is in flight; its one argument is the journal's file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(Journal(Path(sys.argv[1]))))
