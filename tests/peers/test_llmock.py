"""llmock fails on demand, and judges the reaction of the client."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from aiml_magic import errors
from aiml_magic.question.schemas import of_value
from aiml_magic.question.tools import tools_of

MODEL = {"model": "gpt-4o"}


@dataclass
class Rating:
    score: int


def test_ask(llmock, asker):
    """A plain answer, streamed and not, and a conversation by the id that it echoes."""
    llmock.will({"type": "reply", "text": "Six times seven is 42.", "times": None})
    assert "Six times seven is 42." == asker.ask(llmock.url, "What is 6*7?", **MODEL).text
    second = asker.ask(llmock.url, "Are you sure?", stream=False, **MODEL)
    assert "Six times seven is 42." == second.text
    first, last = (asked["body"] for asked in llmock.asked)
    assert first["stream"] is True
    assert "stream" not in last
    assert asker.journal.row(1).response_id == last["previous_response_id"]
    assert llmock.verdict["passed"]


@pytest.mark.parametrize(
    ("faults", "posts"),
    [
        ([{"type": "fail", "status": 429, "retry_after": 1.0}], 2),
        ([{"type": "fail", "status": 429, "times": 2}], 3),
        ([{"type": "fail", "status": 503}], 2),
        ([{"type": "fail", "status": 500}], 2),
        ([{"type": "fail", "status": 502}, {"type": "fail", "status": 503}], 3),
    ],
)
def test_what_passes(llmock, asker, faults, posts):
    """A refused request is sent again after the time that the server names, and answered; llmock finds no fault."""
    llmock.will(*faults)
    assert asker.ask(llmock.url, **MODEL).text
    assert posts == len(llmock.asked)
    assert [] == llmock.verdict["findings"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_pass(llmock, asker, status):
    """A request with a final refusal is not sent again."""
    llmock.will({"type": "fail", "status": status, "times": None})
    with pytest.raises(errors.RequestFailed) as failed:
        asker.ask(llmock.url, **MODEL)
    assert "never" == failed.value.retry
    assert 1 == len(llmock.asked)
    assert [] == llmock.verdict["findings"]


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
def test_broken_stream(llmock, asker, kind):
    """A stream that breaks, or ends early in good order, is an error: its text is kept, and it is not sent again automatically.

    llmock sees no second request, and takes that for acceptance or for giving up; the person saw an error.
    """
    llmock.will(
        {"type": "stream_fault", "kind": kind, "after_chunks": 6},
        {"type": "reply", "text": "one two three four five " * 9},
    )
    with pytest.raises(errors.StreamInterrupted, match="may have been executed and charged"):
        asker.ask(llmock.url, **MODEL)
    row = asker.journal.row(1)
    assert row.answer().text.startswith("one")
    assert not row.answer().text.endswith("five ")
    assert 1 == len(llmock.asked)
    assert [{"truncate": "truncated_stream_accepted", "disconnect": "gave_up"}[kind]] == [
        finding["code"] for finding in llmock.verdict["findings"]
    ]


def test_stall(llmock, asker):
    """A stream that pauses longer than --timeout is given up; one that pauses less is waited for."""
    llmock.will({"type": "stream_fault", "kind": "stall", "stall_seconds": 1.0, "times": 2})
    assert asker.ask(llmock.url, timeout=5.0, **MODEL).text
    with pytest.raises(errors.ConnectionLost):
        asker.ask(llmock.url, timeout=0.3, **MODEL)


def test_malformed_chunk(llmock, asker):
    """An invalid JSON chunk does not lose the rest of the answer."""
    llmock.will({"type": "stream_fault", "kind": "malformed", "after_chunks": 4})
    answer = asker.ask(llmock.url, **MODEL)
    assert "event_not_json" in answer.notices


def test_background_job(llmock, asker):
    """A job goes on while other code runs."""
    llmock.will({"type": "delay", "seconds": 1.0})
    job = asker.start(llmock.url, background=True, **MODEL)
    time.sleep(0.5)
    assert (False, "sent") == (job.done, job.status)
    assert job.wait(10).text


def test_replay(llmock, asker):
    """The same question in the same place sends nothing."""
    llmock.will()
    first = asker.ask(llmock.url, cell="a", replay="auto", **MODEL)
    again = asker.ask(llmock.url, cell="a", replay="auto", **MODEL)
    assert (first.text, True) == (again.text, again.replayed)
    assert 1 == len(llmock.asked)


def price(item: str) -> float:
    """What an item costs."""
    return {"pear": 0.75}[item]


def test_tools(llmock, asker):
    """A call of the server is run, and its result is sent with its id."""
    wanted = {"type": "reply", "tool_calls": [{"name": "price", "arguments": {"item": "pear"}}]}
    llmock.will(wanted, {"type": "reply", "text": "It is 0.75."})
    answer = asker.ask(
        llmock.url, "What is a pear?", tools=tools_of(["price"], {"price": price}), **MODEL
    )
    assert ("It is 0.75.", ["0.75"]) == (answer.text, [call.result for call in answer.calls])
    (result,) = llmock.asked[-1]["body"]["input"]
    assert ("function_call_output", "0.75") == (result["type"], result["output"])


def test_schema(llmock, asker):
    """A reply that fits is an instance; one that does not is an error that keeps it."""
    schema = of_value(Rating, "Rating")
    llmock.will({"type": "reply", "text": '{"score": 7}'}, {"type": "reply", "text": "seven"})
    assert Rating(7) == asker.ask(llmock.url, schema=schema, **MODEL).parsed
    with pytest.raises(errors.SchemaMismatch):
        asker.ask(llmock.url, schema=schema, chat=None, **MODEL)
    assert "Rating" == llmock.asked[0]["body"]["text"]["format"]["name"]
