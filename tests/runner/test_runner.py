"""Inside the runner: grouped steps of the journal, and slots for requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import pytest
import wire
from hypothesis import example, given
from hypothesis import strategies as st
from rows import new

from aiml_magic import errors
from aiml_magic.api.masking import Secrets
from aiml_magic.api.stream import TextDelta
from aiml_magic.journal.store import Journal
from aiml_magic.runner.listener import Outbox, ProgressListener
from aiml_magic.runner.process import Runner
from aiml_magic.runner.queues import Slots, WriteQueue


class Told(Outbox):
    """The events for a kernel, in a list."""

    def __init__(self) -> None:
        self.events: list = []

    def put(self, event):
        self.events.append(event)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.sqlite3")


def statements(journal) -> list[str]:
    """The statements that the journal executes from now on."""
    journal.row(journal.add(**new()).id)
    made: list[str] = []
    journal._db.set_trace_callback(made.append)
    return made


def test_steps_that_gather_are_synced_once(journal):
    """Steps queued while the disk is busy are one transaction, synced in full; each sees the ones before it."""
    rows = [journal.add(**new()).id for _ in range(20)]
    made = statements(journal)

    async def claim_all():
        steps = WriteQueue(journal)
        return await asyncio.gather(
            *(steps.run(partial(journal.claim, row)) for row in [*rows, rows[0]])
        )

    *claimed, again = asyncio.run(claim_all())
    assert rows == [row.id for row in claimed]
    assert again is None
    assert 2 >= sum(statement.startswith("COMMIT") for statement in made)
    assert "PRAGMA synchronous = FULL" in made
    assert not any("NORMAL" in statement for statement in made)


def test_question_is_synced_with_its_claim(journal):
    """A question alone needs no sync of its own: it is not sent before its claim, which is synced."""
    made = statements(journal)
    row = journal.add(**new()).id
    assert "PRAGMA synchronous = NORMAL" in made
    made.clear()
    journal.claim(row)
    assert made.index("PRAGMA synchronous = FULL") < next(
        i for i, told in enumerate(made) if told.lstrip().startswith("UPDATE")
    )


@pytest.mark.parametrize("order", ["1x23", "1!23", "1x2!3", "1!2x3"])
def test_step_that_fails_harms_no_other(journal, order):
    """The error of a step is raised for its caller only; the other steps are executed once, in order."""

    def full():
        raise errors.JournalError("The disk is full.", "Make room.")

    steps = {"!": full, "x": {}.popitem} | {
        name: partial(journal.claim, journal.add(**new()).id) for name in "123"
    }

    async def take():
        queue = WriteQueue(journal)
        return await asyncio.gather(
            *(queue.run(steps[name]) for name in order), return_exceptions=True
        )

    told = dict(zip(order, asyncio.run(take()), strict=True))
    assert ["sent"] * 3 == [told[name].state for name in "123"]
    assert {"!": errors.JournalError, "x": KeyError}.items() >= {
        name: type(told[name]) for name in order if name in "!x"
    }.items()


def test_cancellation_is_felt_after_the_step(journal):
    """A step is completed before a cancellation takes effect, and its result is reported."""
    is_free, heard = threading.Event(), []

    async def wait_for_a_step():
        heard.append(await WriteQueue(journal).run(lambda: is_free.wait(10)))
        await asyncio.sleep(0)
        heard.append("went on")

    async def cancel():
        task = asyncio.create_task(wait_for_a_step())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        is_free.set()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(cancel())
    assert [True] == heard


def test_one_text_waits_for_a_slow_disk(journal, monkeypatch):
    """On a slow disk at most one text of an answer is queued, however much is received meanwhile; in the end all of it is stored."""
    monkeypatch.setattr("aiml_magic.runner.listener._KEEP_EVERY", 0.01)
    row, is_free, texts = journal.add(**new()).id, threading.Event(), []
    note_text = journal.note_text
    monkeypatch.setattr(
        journal, "note_text", lambda row_id, text: (texts.append(text), note_text(row_id, text))
    )

    async def play():
        steps = WriteQueue(journal)
        listener = ProgressListener(row, journal, steps, Told(), Secrets("k" * 20))
        steps.put(lambda: is_free.wait(20))
        for _ in range(30):
            listener.on_event(TextDelta("word "))
            await asyncio.sleep(0.01)
        is_free.set()
        await listener.keep_text()
        listener.close()
        await steps.done()

    asyncio.run(play())
    assert 2 >= len(texts)
    assert "word " * 30 == journal.row(row).text


@example(3, ["come"] * 13 + ["go"] * 13)
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["come", "go", "cancel", "raise the limit"]), max_size=30),
)
def test_slots(limit, moves):
    """For any order of arrivals, departures and cancellations, slots are used up to the limit, and every waiting request gets one."""

    async def play():
        slots, inside, tasks = Slots(), set(), []
        slots.limit = limit

        async def stay(leave):
            async with slots:
                inside.add(leave)
                try:
                    await leave.wait()
                finally:
                    inside.discard(leave)

        waiting: dict = {}
        for move in moves:
            if move == "come":
                leave = asyncio.Event()
                waiting[leave] = asyncio.create_task(stay(leave))
                tasks.append(waiting[leave])
            elif move == "raise the limit":
                slots.limit += 1
                await asyncio.sleep(0)
            elif waiting:
                leave, task = waiting.popitem()
                leave.set() if move == "go" else task.cancel()
            if move != "raise the limit":  # seen at the next step
                for _ in range(10 * (1 + len(tasks))):  # one may let in another, and so on
                    await asyncio.sleep(0)
                staying = sum(not task.done() for task in tasks)
                assert len(inside) <= slots.limit
                assert len(inside) >= min(limit, staying)
        for leave in list(waiting):
            leave.set()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    asyncio.run(play())


def test_question_that_is_cancelled_before_it_begins(journal):
    """A question may be cancelled while the runner starts: it is withdrawn, and reported as over."""
    row, told = journal.add(**new()).id, Told()

    async def play():
        commands: asyncio.Queue = asyncio.Queue()
        send = {
            "do": "send",
            "row": row,
            "parent": None,
            "key": "k",
            "hidden": {},
            "silence": 1.0,
            "limit": 1,
        }
        for command in (send, {"do": "cancel", "row": row}, None):
            commands.put_nowait(command)
        await Runner(journal, told).run(commands)

    asyncio.run(play())
    assert "cancelled" == journal.row(row).state
    assert [{"row": row, "event": "over"}] == told.events


def play(journal, rows) -> list:
    """The events of a runner that sends these rows, and then loses its kernel."""
    told = Told()

    async def run():
        commands: asyncio.Queue = asyncio.Queue()
        for row in rows:
            commands.put_nowait(
                {
                    "do": "send",
                    "row": row,
                    "parent": None,
                    "key": "k",
                    "headers": {},
                    "silence": 5.0,
                    "limit": 9,
                }
            )
        commands.put_nowait(None)
        await Runner(journal, told).run(commands)

    asyncio.run(run())
    return told.events


def test_question_that_cannot_be_claimed(journal):
    """If the journal fails before a question is sent, its error is reported, and nothing is sent."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        row = journal.add(**new(base_url=server.url)).id
        journal.path.rename(journal.path.with_name("elsewhere"))
        told = play(journal, [row])
        assert [] == server.posts
    assert ["stuck", "over"] == [event["event"] for event in told]
    assert "Nothing was sent." in told[0]["why"]


@pytest.mark.parametrize("has_copy", [True, False])
def test_answer_is_kept_when_the_journal_takes_it(journal, has_copy):
    """An answer that cannot be written goes to the kernel at once, and its runner stays until it is on the disk.

    Meanwhile a rescue file holds it, if one can be written, and is removed afterwards.
    """
    other, held = sqlite3.connect(journal.path, isolation_level=None, check_same_thread=False), []

    def answer(request):
        copy = journal.path.with_name(f"answer-{request.headers['x-client-request-id'][-8:]}.json")
        if not has_copy:
            copy.mkdir()
        other.execute("BEGIN EXCLUSIVE")

        def let_go():
            held.append(copy.is_file())
            other.rollback()
            if not has_copy:
                copy.rmdir()

        threading.Timer(1.0, let_go).start()
        return wire.json_reply(wire.response("Worth four dollars."))

    with wire.serve(answer) as server, closing(other):
        row = journal.add(**new(base_url=server.url, request={"model": "m", "input": "Why?"})).id
        with journal._transaction() as db:
            db.execute("PRAGMA busy_timeout = 100")  # instead of five seconds
        told = play(journal, [row])
        assert 1 == len(server.posts)
    assert ["unkept", "over"] == [event["event"] for event in told][-2:]
    assert "Worth four dollars." in str(told[-2]["came"])
    assert [has_copy] == held == [told[-2]["copy"] is not None]
    assert "Worth four dollars." == journal.row(row).answer().text
    assert [] == list(journal.path.parent.glob("answer-*"))


def test_runner_does_not_wait_for_what_is_safe(journal):
    """A runner without a kernel and a journal ends when a rescue file has the answer; the next journal imports it."""
    away = journal.path.with_name("elsewhere")

    def answer(_):
        journal.path.rename(away)
        return wire.json_reply(wire.response("Worth it."))

    with wire.serve(answer) as server:
        row = journal.add(**new(base_url=server.url, request={"model": "m", "input": "Why?"})).id
        play(journal, [row])
    away.rename(journal.path)
    assert "Worth it." == Journal(journal.path).row(row).answer().text


@pytest.mark.parametrize("reply", ["cut off", "refused"])
def test_what_had_come_is_kept_at_once(journal, reply):
    """The part of an interrupted response and its id are stored in one step with its end, by the journal and by a rescue file."""
    created = {"type": "response.created", "response": {"id": "resp_7", "status": "in_progress"}}
    delta = {"type": "response.output_text.delta", "delta": "Half of"}
    chunks = [f"data: {json.dumps(event)}\n\n".encode() for event in (created, delta)]
    away = journal.path.with_name("elsewhere")

    def answer(_):
        if reply == "refused":
            journal.path.rename(away)
        return wire.Reply(200, {"Content-Type": "text/event-stream"}, chunks, end="reset")

    with wire.serve(answer) as server:
        row = journal.add(
            **new(base_url=server.url, request={"model": "m", "input": "Why?", "stream": True})
        ).id
        play(journal, [row])
    if reply == "refused":
        away.rename(journal.path)
    kept = Journal(journal.path).row(row)
    assert ("failed", "resp_7", "Half of") == (kept.state, kept.response_id, kept.answer().text)


@pytest.mark.parametrize("looks", range(8))
def test_last_sign_of_life_runs_out_at_any_moment(journal, monkeypatch, looks):
    """A row of another runner is resumed by its response id, even if that runner's heartbeat expires between two checks."""
    monkeypatch.setattr("aiml_magic.api.client._POLL_FIRST", 0.01)
    monkeypatch.setattr("aiml_magic.runner.process._LOOK_EVERY", 0.01)
    with wire.serve(lambda _: wire.json_reply(wire.response("Worth it.", id="resp_7"))) as server:
        request = {"model": "m", "input": "Why?", "background": True, "store": True}
        row = journal.add(**new(base_url=server.url, request=request)).id
        journal.claim(row)
        journal.note_response_id(row, "resp_7")
        clock = itertools.chain(
            itertools.repeat(time.time(), looks), itertools.repeat(time.time() + 60)
        )
        monkeypatch.setattr(
            "aiml_magic.journal.rows.time",
            SimpleNamespace(time=clock.__next__, monotonic=time.monotonic),
        )
        play(journal, [row])
        assert ("done", "Worth it.") == (journal.row(row).state, journal.row(row).answer().text)
        assert ["GET"] == [request.method for request in server.requests]


def test_one_lock_is_waited_for_once(journal):
    """Steps queued while another process has the lock of the journal fail together, not one after the other."""
    rows = [journal.add(**new()).id for _ in range(3)]
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with journal._transaction() as db:
            db.execute("PRAGMA busy_timeout = 200")
        started = time.monotonic()
        taken = WriteQueue(journal)._write([partial(journal.claim, row) for row in rows])
        assert time.monotonic() - started < 0.4
    assert [errors.JournalError] * 3 == [type(error) for _, error in taken]
