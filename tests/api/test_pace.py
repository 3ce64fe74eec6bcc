"""At a server with a rate limit requests wait, and no question fails."""

from __future__ import annotations

import asyncio
import time

import pytest
import wire
from limits import Limit, limited

from aiml_magic import ask, errors
from aiml_magic.api import pace

pytestmark = pytest.mark.usefixtures("plain_script")


def test_map_waits(monkeypatch):
    """Each row is answered once, with few requests more than rows, in little more time than the limit takes."""
    with wire.serve(limited(Limit(10, 0.5), **{"retry-after-ms": "200"})) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        began = time.monotonic()
        answers = ask.map("{{x}}", range(40), progress=False)
        assert [f"On {number}" for number in range(40)] == [answer.text for answer in answers]
        assert len(server.posts) <= 80
        assert time.monotonic() - began < 15
        again = ask.map("{{x}}", range(40), progress=False)
        assert all(answer.replayed for answer in again)


@pytest.mark.parametrize(("retry_after", "least"), [("0", 3), ("0.1", 3), ("30", 1)])
def test_timeout_ends_it(monkeypatch, retry_after, least):
    """A question to a server that never accepts it ends after the timeout, for free, for any Retry-After."""
    with wire.serve(limited(Limit(0, 1), **{"Retry-After": retry_after})) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        began = time.monotonic()
        with pytest.raises(errors.RateLimited) as failed:
            ask("Why?", timeout=0.7)
        assert not failed.value.may_cost
        assert least <= len(server.posts) <= 6, "it is asked again ever more rarely"
        assert time.monotonic() - began < 20


def test_quota_ends_it(monkeypatch):
    """A used-up quota ends the question at once."""

    def answer(_):
        return wire.json_reply({"error": {"code": "insufficient_quota"}}, status=429)

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        with pytest.raises(errors.QuotaExceeded):
            ask.map("{{x}}", ["a"], progress=False)
        assert 1 == len(server.posts)


async def _posts(rows: int, limit: Limit, retry_after: float | None) -> int:
    learned, posts = pace.Pace(), 0

    async def row() -> None:
        nonlocal posts
        while True:
            burst = await learned.turn(lambda _: None, 0.0, 1e9)
            assert burst is not None
            posts += 1
            is_taken = limit.takes()
            await asyncio.sleep(0.01)
            if is_taken:
                return learned.accepted(burst)
            learned.refused(burst, retry_after)

    await asyncio.gather(*(row() for _ in range(rows)))
    return posts


@pytest.mark.parametrize("retry_after", [None, 0.1])
def test_few_are_refused(monkeypatch, retry_after):
    """After the first burst few requests are refused, with and without Retry-After."""
    monkeypatch.setattr(pace, "_FIRST", 0.1)
    posts = asyncio.run(_posts(60, Limit(10, 0.3), retry_after))
    assert 60 <= posts <= 125


@pytest.mark.parametrize("accepted", [0, 7])
def test_outage(monkeypatch, accepted):
    """After an outage the server has no limit: the remaining requests are sent at once."""
    monkeypatch.setattr(pace, "_FIRST", 0.1)

    async def ask_all() -> None:
        learned, ends, count = pace.Pace(), time.monotonic() + 0.5, 0

        async def row() -> None:
            nonlocal count
            burst = await learned.turn(lambda _: None, 0.0, 1e9)
            count += 1
            is_taken = count <= accepted or time.monotonic() > ends
            await asyncio.sleep(0.01)
            if is_taken:
                return learned.accepted(burst)
            learned.refused(burst, None, is_outage=accepted > 0)
            await row()

        await asyncio.gather(*(row() for _ in range(60)))

    began = time.monotonic()
    asyncio.run(ask_all())
    assert time.monotonic() - began < 3


def test_no_limit():
    """Without a refusal nothing waits."""
    began = time.monotonic()
    assert 500 == asyncio.run(_posts(500, Limit(1000, 1), None))
    assert time.monotonic() - began < 5
