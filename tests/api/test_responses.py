"""Responses and streams as values: the laws, and cases beyond the vectors."""

from __future__ import annotations

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from json_values import KINDS, objects, values

from aiml_magic.api.responses import Cost, Response, Usage, cost, turn_items
from aiml_magic.api.stream import Created, Stream, TextDelta
from aiml_magic.sandbox.events import events
from aiml_magic.text import MAX_JSON, dump, load


@given(objects, objects)
def test_reading_never_raises(raw, request):
    """Every property of a response can be read for any JSON object."""
    response = Response(raw)
    for name in ("id", "model", "text", "refusal", "summaries", "error", "incomplete_reason", "status", "outcome", "usage",
                 "citations", "unknown_types", "images"):  # fmt: skip
        getattr(response, name)
    response.warnings(request)
    cost(raw, {}, raw)


@given(st.lists(objects, max_size=8))
def test_folding_never_raises(stream_of_events):
    """Any events fold into a readable response."""
    stream = Stream()
    for event in stream_of_events:
        stream.add(event)
    Response(stream.whole().response).outcome  # noqa: B018


@given(st.text(max_size=200), st.booleans())
def test_stream_says_what_the_response_says(text, is_cut):
    """The deltas of a stream make up the text of its response; cut off before the end, they still do."""
    told = events(wire.response(text, output=[{"id": "m", "type": "message", "role": "assistant",
                                               "content": [{"type": "output_text", "text": text}]}]))  # fmt: skip
    stream = Stream()
    seen = [stream.add(event) for event in (told[:-2] if is_cut else told)]
    assert text == "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert text == Response(stream.whole().response).text
    assert is_cut != stream.has_ended
    assert Created("resp_1") == seen[0]


@given(objects, st.text(min_size=1, max_size=8).filter(lambda kind: kind not in KINDS))
def test_what_is_unknown_is_kept(item, kind):
    """An item of an unknown type, and unknown fields, pass a stream unchanged, and the type is named."""
    novel = item | {"type": kind, "novel": item}
    stream = Stream()
    stream.add({"type": f"response.{kind}.novel", "item": item})
    stream.add({"type": "response.output_item.done", "output_index": 0, "item": novel})
    stream.add({"type": "response.completed", "response": {"novel": item}})
    response = Response(stream.whole().response)
    assert ([novel], item, (kind,)) == (
        response.raw["output"],
        response.raw["novel"],
        response.unknown_types,
    )


def test_items_named_by_id_alone():
    """llama.cpp names items by id, without an index: the text is not doubled."""
    item = {"type": "message", "id": "msg_9", "content": [{"type": "output_text", "text": "Hello"}]}
    stream = Stream()
    for event in (
        {"type": "response.output_item.added", "item": {"type": "message", "id": "msg_9"}},
        {"type": "response.output_text.delta", "item_id": "msg_9", "delta": "Hel"},
        {"type": "response.output_text.delta", "item_id": "msg_9", "delta": "lo"},
        {"type": "response.output_item.done", "item": item},
    ):
        stream.add(event)
    assert [item] == stream.whole().response["output"]


@given(values)
def test_dump_and_load(value):
    """A written value is read back unchanged, including lone surrogates."""
    text = dump(value)
    assert text.isascii()
    assert dump(load(text)) == text


def test_lone_surrogate():
    """A lone surrogate in an answer is kept."""
    assert "\ud800" == load(dump("\ud800"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" + b"{}," * 1_000_000 + b"{}]",
        b'"' + b"x" * MAX_JSON + b'"',
        b"",
        b"{",
        b"1" * 5000,
    ],
)
def test_load_is_bounded(body):
    """JSON that is too large, too deep or invalid raises ValueError, without a crash or much memory."""
    with pytest.raises(ValueError):
        load(body)


@pytest.mark.parametrize("spent", [None, True, "", "abc", "nan", "inf", -1, [], {}])
def test_cost_is_never_made_up(spent):
    """A cost other than a valid amount counts as unknown, not as $0.00."""
    assert (
        cost({"meta": {"usage": {"usd_spent": spent}}}, {"x-aimlapi-usd-spent": str(spent)}) is None
    )


def test_cost_in_credits():
    """If a server reports credits only, dollars are computed at the vendor's rate."""
    assert Cost(0.5, 1_000_000, "meta.usage") == cost(
        {"meta": {"usage": {"credits_used": 1_000_000}}}, {}
    )
    assert Cost(0.001, 2_000, "headers") == cost({}, {"x-aimlapi-credits-used": "2000"})


def said(text: str) -> Response:
    return Response({"output_text": text})


def test_transcript():
    """A transcript has every turn with typed parts, the assistant's with an id and a status, as the vendor's schema requires."""
    two = [{"role": "user", "content": "Two?"}]
    items = turn_items(1, "One?", said("1")) + turn_items(2, two, said("2"))
    assert ["user", "assistant", "user", "assistant"] == [item["role"] for item in items]
    assert {"type": "message", "role": "assistant", "id": "msg_2", "status": "completed",
            "content": [{"type": "output_text", "text": "2", "annotations": []}]} == items[3]  # fmt: skip


def test_usage_without_details():
    """A count that the server did not report is `None`; only a missing total is computed."""
    assert (
        Usage(3, None, 4, None, 7)
        == Response({"usage": {"input_tokens": 3, "output_tokens": 4}}).usage
    )
    assert Response({"usage": "none"}).usage is None


PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["output_text", "output_text", "refusal", "reasoning_text", None])},
    optional={"text": st.sampled_from(["", "a", "b", {"value": "c"}, 7])},
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "message", "reasoning", "function_call", None])},
    optional={
        "content": st.lists(PARTS, max_size=3) | st.just("d"),
        "phase": st.sampled_from(["commentary", "final_answer", [], None]),
        "refusal": st.just("No."),
    },
)


@given(st.lists(ITEMS, max_size=4))
def test_either_way_to_the_text(items):
    """The fast path for an output in the API's own form gives the same text as the general one."""
    unknown = {"type": "unheard_of"}
    short, long = (Response({"output": output}) for output in (items, [*items, unknown]))
    assert short.text == long.text


@given(st.fixed_dictionaries({}, optional={"error": values, "incomplete_details": values}))
def test_completed_is_believed_alone(fields):
    """A status with any word for completed is completed, unless there is an error or incomplete details."""
    own, other = (
        Response({"status": word, **fields}).status for word in ("completed", "Completed")
    )
    assert own == other
