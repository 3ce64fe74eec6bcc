"""Inside the process that holds the wire: steps of the journal that are taken together, and places that are handed on."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_journal import new

from aiml_magic import errors
from aiml_magic.journal import Journal
from aiml_magic.runner import Places, Runner, Steps


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.sqlite3")


def statements(journal) -> list[str]:
    """The statements that the journal makes from now on."""
    journal.row(journal.add(new()).id)
    made: list[str] = []
    journal._db.set_trace_callback(made.append)
    return made


def test_steps_that_gather_are_synced_once(journal):
    """What waits while the disk is busy is one transaction, synced in full, in which each step sees those before it."""
    rows = [journal.add(new()).id for _ in range(20)]
    made = statements(journal)

    async def claim_all():
        steps = Steps(journal)
        return await asyncio.gather(*(steps.take(partial(journal.claim, row)) for row in [*rows, rows[0]]))

    *claimed, again = asyncio.run(claim_all())
    assert rows == [row.id for row in claimed]
    assert again is None
    assert 2 >= sum(statement.startswith("COMMIT") for statement in made)
    assert "PRAGMA synchronous = FULL" in made
    assert not any("NORMAL" in statement for statement in made)


def test_question_is_synced_with_its_claim(journal):
    """A question alone needs no sync of its own: it is not sent before its claim, which is synced."""
    made = statements(journal)
    row = journal.add(new()).id
    assert "PRAGMA synchronous = NORMAL" in made
    made.clear()
    journal.claim(row)
    assert made.index("PRAGMA synchronous = FULL") < next(i for i, told in enumerate(made) if told.lstrip().startswith("UPDATE"))


@pytest.mark.parametrize("order", ["1x23", "1!23", "1x2!3", "1!2x3"])
def test_step_that_fails_harms_no_other(journal, order):
    """The error of a step goes to who asked for it; the others are taken all the same, once, in their order."""

    def full():
        raise errors.JournalError("The disk is full.", "Make room.")

    steps = {"!": full, "x": {}.popitem} | {name: partial(journal.claim, journal.add(new()).id) for name in "123"}

    async def take():
        queue = Steps(journal)
        return await asyncio.gather(*(queue.take(steps[name]) for name in order), return_exceptions=True)

    told = dict(zip(order, asyncio.run(take()), strict=True))
    assert ["sent"] * 3 == [told[name].state for name in "123"]
    assert {"!": errors.JournalError, "x": KeyError}.items() >= {name: type(told[name]) for name in order if name in "!x"}.items()


def test_cancellation_is_felt_after_the_step(journal):
    """A step is not taken by half: who is cancelled meanwhile hears what came of it first."""
    is_free, heard = threading.Event(), []

    async def wait_for_a_step():
        heard.append(await Steps(journal).take(lambda: is_free.wait(10)))
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


@example(3, ["come"] * 13 + ["go"] * 13)
@given(st.integers(1, 4), st.lists(st.sampled_from(["come", "go", "cancel", "raise the limit"]), max_size=30))
def test_places(limit, moves):
    """Whoever comes, goes, or gives up waiting: as many are in as may be, or as there are, and nobody is forgotten."""

    async def play():
        places, inside, tasks = Places(), set(), []
        places.limit = limit

        async def stay(leave):
            async with places:
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
                places.limit += 1
                await asyncio.sleep(0)
            elif waiting:
                leave, task = waiting.popitem()
                leave.set() if move == "go" else task.cancel()
            if move != "raise the limit":  # it is heard of at the next move
                for _ in range(10 * (1 + len(tasks))):  # one may let another in, and so on
                    await asyncio.sleep(0)
                staying = sum(not task.done() for task in tasks)
                assert len(inside) <= places.limit
                assert len(inside) >= min(limit, staying)
        for leave in list(waiting):
            leave.set()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    asyncio.run(play())


def test_question_that_is_cancelled_before_it_begins(journal):
    """A question and its end may come in one breath, while the runner starts: it is taken back, and told to be over."""
    row, told = journal.add(new()).id, []

    async def play():
        commands: asyncio.Queue = asyncio.Queue()
        send = {"do": "send", "row": row, "parent": None, "key": "k", "headers": {}, "silence": 1.0, "limit": 1}
        for command in (send, {"do": "cancel", "row": row}, None):
            commands.put_nowait(command)
        await Runner(journal, SimpleNamespace(put=told.append)).run(commands)

    asyncio.run(play())
    assert "cancelled" == journal.row(row).state
    assert [{"row": row, "event": "over"}] == told
