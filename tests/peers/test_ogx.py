"""OGX keeps responses: the chain by id, storing, background, polling and cancelling, against a server with real state."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass

import pytest

from aiml_magic import errors
from aiml_magic.question.schemas import of_value
from aiml_magic.question.tools import tools_of

MODEL = {"model": "llama/gpt-4o"}


def get(url: str):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def told(llmock) -> list[str]:
    """The conversation as the model behind OGX got it, in its last request."""
    messages = [
        asked["body"]["messages"]
        for asked in llmock.asked
        if asked["path"].endswith("/chat/completions")
    ][-1]
    return [
        message["content"] if isinstance(message["content"], str) else message["content"][0]["text"]
        for message in messages
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_conversation(ogx, llmock, asker, stream):
    """Three turns by response id: the model gets exactly the conversation so far."""
    llmock.will(
        {"type": "reply", "text": "One.", "times": 1},
        {"type": "reply", "text": "Two.", "times": 1},
        {"type": "reply", "text": "Three."},
    )
    texts = [
        asker.ask(ogx, question, stream=stream, **MODEL).text
        for question in ("First?", "Second?", "Third?")
    ]
    assert ["One.", "Two.", "Three."] == texts
    assert ["First?", "One.", "Second?", "Two.", "Third?"] == told(llmock)
    assert ["id", "id"] == [asker.journal.row(number).chain for number in (2, 3)]


def test_fork(ogx, llmock, asker):
    """--after continues from an earlier answer, and the server knows no more than that."""
    llmock.will({"type": "reply", "text": "Yes.", "times": None})
    first = asker.ask(ogx, "First?", **MODEL)
    asker.ask(ogx, "Second?", **MODEL)
    asker.ask(ogx, "A fork?", after=str(first.journal_id), **MODEL)
    assert ["First?", "Yes.", "A fork?"] == told(llmock)


def test_unknown_parent(ogx, llmock, asker):
    """After the server has lost a response, the conversation is sent as a transcript."""
    llmock.will({"type": "reply", "text": "Yes.", "times": None})
    first = asker.ask(ogx, "First?", **MODEL)
    request = urllib.request.Request(f"{ogx}/responses/{first.id}", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()
    second = asker.ask(ogx, "Second?", **MODEL)
    assert "chain_refused" in second.notices
    assert ["First?", "Yes.", "Second?"] == told(llmock)


def test_not_stored(ogx, llmock, asker):
    """An answer that was not stored is continued by transcript at once."""
    llmock.will({"type": "reply", "text": "Yes.", "times": None})
    asker.ask(ogx, "First?", store=False, **MODEL)
    second = asker.ask(ogx, "Second?", **MODEL)
    assert "chain_refused" not in second.notices
    assert ["First?", "Yes.", "Second?"] == told(llmock)


def test_background_response(ogx, llmock, asker):
    """A response that the server works on is polled until it is there, by GET alone; its id is in the journal before."""
    llmock.will({"type": "delay", "seconds": 3.0}, {"type": "reply", "text": "At last."})
    job = asker.start(ogx, stream=False, params={"background": True}, **MODEL)
    while not asker.journal.row(job.id).response_id:
        assert not job.done
        time.sleep(0.05)
    assert "At last." == job.wait(30).text
    assert 1 == len(
        [asked for asked in llmock.asked if asked["path"].endswith("/chat/completions")]
    )


def test_cancel_of_a_background_response(ogx, llmock, asker):
    """Cancelling a background response stops it at the server as well."""
    llmock.will({"type": "delay", "seconds": 20.0})
    job = asker.start(ogx, stream=False, params={"background": True}, **MODEL)
    while job.status not in ("queued", "in_progress") or not asker.journal.row(job.id).response_id:
        time.sleep(0.05)
    job.cancel(2)
    with pytest.raises(errors.Interrupted):
        job.wait()
    deadline = time.monotonic() + 10
    while (
        status := get(f"{ogx}/responses/{asker.journal.row(job.id).response_id}")["status"]
    ) != "cancelled":
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


def test_check_recovers_an_answer(ogx, llmock, asker):
    """An answer whose connection was lost is fetched from the server that still has it."""
    llmock.will({"type": "reply", "text": "Still here."})
    answer = asker.ask(ogx, "Why?", **MODEL)
    with asker.journal._transaction() as db:
        db.execute(
            "UPDATE requests SET state = 'failed', response = NULL, status = NULL WHERE id = 1"
        )
    assert "answered" == asker.on(ogx).check(asker.journal.row(1)).fate
    assert ("Still here.", answer.id) == (
        asker.journal.row(1).answer().text,
        asker.journal.row(1).response_id,
    )


def test_small_limit(ogx, asker):
    """A refusal of the server is shown in its own words."""
    with pytest.raises(errors.InvalidRequest, match="max_output_tokens"):
        asker.ask(ogx, params={"max_output_tokens": 3}, **MODEL)


def price(item: str) -> float:
    """What an item costs."""
    return {"pear": 0.75}[item]


def test_tools(ogx, llmock, asker):
    """A round of tools by the response's id, and a turn after it: the model gets the call, its result and the answer."""
    wanted = {"type": "reply", "tool_calls": [{"name": "price", "arguments": {"item": "pear"}}]}
    llmock.will(wanted, {"type": "reply", "text": "It is 0.75."}, {"type": "reply", "text": "Yes."})
    answer = asker.ask(
        ogx, "What is a pear?", cell="a", tools=tools_of(["price"], {"price": price}), **MODEL
    )
    assert ("It is 0.75.", ["0.75"]) == (answer.text, [call.result for call in answer.calls])
    asker.ask(ogx, "Sure?", cell="b", **MODEL)
    messages = [
        asked["body"]["messages"]
        for asked in llmock.asked
        if asked["path"].endswith("/chat/completions")
    ][-1]
    assert ["user", "assistant", "tool", "assistant", "user"] == [
        message["role"] for message in messages
    ]


@dataclass
class Rating:
    score: int


def test_schema(ogx, llmock, asker):
    """A schema reaches the model behind the server as it was sent, and the reply that fits it is an instance."""
    schema = of_value(Rating, "Rating")
    llmock.will({"type": "reply", "text": '{"score": 7}'})
    assert Rating(7) == asker.ask(ogx, schema=schema, **MODEL).parsed
    asked = [
        asked["body"] for asked in llmock.asked if asked["path"].endswith("/chat/completions")
    ][-1]
    assert schema.format["schema"] == asked["response_format"]["json_schema"]["schema"]
