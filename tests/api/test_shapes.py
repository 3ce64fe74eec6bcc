"""Answers in every shape of servers: the result for the person, and the number of attempts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import pytest
import wire

from aiml_magic import errors
from aiml_magic.question.schemas import of_value
from aiml_magic.show import answers, details

STREAM = "text/event-stream"
FINE = wire.json_reply(wire.response())
PAID = {"usage": {"usd_spent": 0.25, "credits_used": 500_000}}


def event(kind: str | None, **fields) -> bytes:
    """One event; without a type if `kind` is `None`."""
    told = fields if kind is None else {"type": kind, **fields}
    return f"data: {json.dumps(told)}\n\n".encode()


def stream(*chunks: bytes, end: str = "clean") -> wire.Reply:
    return wire.Reply(200, {"Content-Type": STREAM}, list(chunks), end)


def message(*content, **fields) -> dict:
    return {"type": "message", "role": "assistant", "content": list(content), **fields}


def text(said: str, *annotations: dict) -> dict:
    return {"type": "output_text", "text": said, "annotations": list(annotations)}


def output(*items, **fields) -> wire.Reply:
    return wire.json_reply(wire.response(output=list(items), **fields))


def asked(asker, *replies: wire.Reply, **options):
    """The answer, or the error, and the bodies of the questions that were sent; the last reply is repeated."""
    turns = chain(replies, repeat(replies[-1]))
    with wire.serve(lambda _: next(turns)) as server:
        try:
            came = asker.ask(server.url, **{"chat": None} | options)
        except errors.AimlMagicError as error:
            came = error
        return came, [post.body for post in server.posts]


CREATED = event("response.created", response={"id": "resp_1", "status": "in_progress"})
DELTA = event("response.output_text.delta", output_index=0, content_index=0, delta="Fine.")
COMPLETED = event("response.completed", response=wire.response())


# ---- the end of an answer


def test_documented_sample_in_a_stream(module_asker):
    """A terminal event decides, even if its response has no status and an earlier one was in progress."""
    whole = {name: value for name, value in wire.response().items() if name != "status"}
    told = stream(CREATED, DELTA, event("response.completed", response=whole))
    answer, posts = asked(module_asker, told)
    assert ("Fine.", "completed", 1) == (answer.text, answer.status, len(posts))


ENDS = [
    ("response.completed", {"status": "in_progress"}, "completed"),
    ("response.completed", {"status": "queued"}, "completed"),
    ("response.completed", {"status": "incomplete"}, "incomplete"),
    ("response.completed", {"status": None, "incomplete_details": {"reason": "steered"}}, "incomplete"),
    ("response.completed", {"incomplete_details": {"reason": "max_output_tokens"}}, "incomplete"),
    ("response.completed", {"status": "cancelled"}, "cancelled"),
    ("response.completed", {"status": "moderated"}, "moderated"),
    ("response.incomplete", {"status": "completed"}, "incomplete"),
    ("response.incomplete", {"status": "in_progress"}, "incomplete"),
    ("response.cancelled", {"status": "completed"}, "cancelled"),
    ("response.done", {"status": "incomplete"}, "incomplete"),
    ("response.expired", {"status": "completed"}, "expired"),
    ("response.finalized", {"status": "completed"}, "completed"),
    ("response.failed", {"status": "completed"}, "failed"),
    ("response.completed", {"status": "failed"}, "failed"),
    ("response.completed", {"error": {"code": "server_error", "message": "Broken."}}, "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inside", "status"), ENDS)
def test_the_worse_end_counts(module_asker, kind, inside, status):
    """The final status is the worse one of the event and of its response; an unfinished status does not count."""
    came, posts = asked(
        module_asker, stream(CREATED, DELTA, event(kind, response=wire.response(**inside)))
    )
    answer = came.answer if status == "failed" else came
    assert isinstance(came, errors.ResponseFailed) == (status == "failed")
    assert ("Fine.", status, 1) == (answer.text, answer.status, len(posts))


@pytest.mark.parametrize(
    "fields",
    [{"incomplete_details": {"reason": "max_messages"}}, {"incomplete_details": "max_messages"}],
)
def test_incomplete_without_a_stream(module_asker, fields):
    """A response with the status completed and a reason why it is incomplete is incomplete."""
    answer, _ = asked(module_asker, wire.json_reply(wire.response(**fields)))
    assert "incomplete" == answer.status
    assert "limit of messages" in answers.banner(answer)


@pytest.mark.parametrize(
    "word", ["scheduled", "IN_QUEUE", "generating", "inProgress", "Waiting", "telepathising"]
)
def test_what_is_unfinished_is_polled(module_asker, word):
    """A response with an id and without output is polled under any status, and never sent again."""
    unfinished = wire.json_reply(wire.response(status=word, output=[], usage=None))
    answer, posts = asked(module_asker, unfinished, FINE)
    assert ("Fine.", "completed", 1) == (answer.text, answer.status, len(posts))


REASONS = {
    "max_output_tokens": "--max-output-tokens",
    "content_filter": "content filter",
    "steered": "steered",
    "max_messages": "limit of messages",
    "max_tool_calls": "limit of tool calls",
    "moon_phase": "`moon_phase`",
    None: "does not say why",
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_of_incompleteness(module_asker, reason):
    """The reason of an incomplete answer is named, and only a token limit as a token limit."""
    reply = wire.response(status="incomplete", incomplete_details={"reason": reason})
    told = answers.banner(asked(module_asker, wire.json_reply(reply))[0])
    assert REASONS[reason] in told
    assert (reason == "max_output_tokens") == ("output tokens" in told)


# ---- streamed content

CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c_1",
    "name": "add",
    "arguments": '{"a":1}',
}
LINK = {
    "type": "url_citation",
    "title": "T",
    "url": "https://example.org/",
    "start_index": 0,
    "end_index": 4,
}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "I weighed it."}],
}
SAID = {"id": "msg_1", **message(text("Fine.", LINK))}
TEXT_PIECES = [
    event("response.output_item.added", output_index=0, item=message(id="msg_1")),
    event(
        "response.output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="Fi"
    ),
    event(
        "response.output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="ne."
    ),
    event(
        "response.output_text.annotation.added",
        output_index=0,
        item_id="msg_1",
        content_index=0,
        annotation=LINK,
    ),
]
CALL_PIECES = [
    event("response.output_item.added", output_index=0, item=CALL | {"arguments": ""}),
    event("response.function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a"'),
    event("response.function_call_arguments.delta", output_index=0, item_id="fc_1", delta=":1}"),
]
THOUGHT_PIECES = [
    event("response.output_item.added", output_index=0, item=THOUGHT | {"summary": []}),
    event(
        "response.reasoning_summary_text.delta",
        output_index=0,
        summary_index=0,
        delta="I weighed it.",
    ),
]


def done(item: dict) -> list[bytes]:
    return [event("response.output_item.done", output_index=0, item=item)]


STREAMED = {
    "text in pieces": TEXT_PIECES,
    "text, then an empty done": [*TEXT_PIECES, event("response.output_text.done", output_index=0, content_index=0, text="")],
    "text, then an empty item": [*TEXT_PIECES, *done(message(id="msg_1"))],
    "text of a part": [
        event("response.content_part.done", output_index=0, content_index=0, part=text("Fine.", LINK))
    ],
    "text of an item": done(SAID),
    "call in pieces": CALL_PIECES,
    "call, then an empty item": [*CALL_PIECES, *done(CALL | {"arguments": ""})],
    "call of an item": done(CALL),
    "summary in pieces": THOUGHT_PIECES,
    "summary of an item": done(THOUGHT),
}  # fmt: skip
FINALS = {
    "none": [],
    "null": None,
    "reasoning alone": [{"type": "reasoning", "id": "rs_9", "summary": []}],
    "no content": [message(id="msg_1")],
    "empty text": [message(text(""))],
    "blank text": [message(text(" \n"))],
    "null text": [message({"type": "output_text", "text": None})],
    "empty call": [{"type": "function_call", "id": "fc_1", "call_id": "c_1", "name": "add", "arguments": ""}],
    "nameless call": [{"type": "function_call", "arguments": "", "name": ""}],
}  # fmt: skip


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize("streamed", STREAMED)
def test_nothing_empty_overrides_what_was_streamed(module_asker, streamed, final):
    """Streamed text, citations, calls and summaries fill an empty final response, with a remark."""
    if "call" in final and "call" not in streamed:
        return
    told = event("response.completed", response=wire.response(output=FINALS[final]))
    answer, posts = asked(module_asker, stream(CREATED, *STREAMED[streamed], told))
    assert 1 == len(posts)
    match streamed.split()[0].strip(","):
        case "text":
            assert "Fine." == answer.text
            assert ["https://example.org/"] == [one.url for one in answer.citations]
        case "call":
            calls = [(call.id, call.name, call.arguments) for call in answer.response.calls]
            assert [("c_1", "add", '{"a":1}')] == calls
        case "summary":
            assert "I weighed it." == answer.reasoning
    assert (final != "null") == ("final_left_out" in answer.notices)


def test_what_is_whole_is_not_doubled(module_asker):
    """A final response with the streamed text under other ids, or as one message, is used unchanged."""
    first, second = message(text("One. "), id="a"), message(text("Two."), id="b")
    pieces = [
        event("response.output_item.done", output_index=place, item=item)
        for place, item in enumerate([first, second])
    ]
    for final in (
        [first | {"id": "x"}, second | {"id": "y"}],
        [message(text("One. Two."))],
        [message(text("One. "), text("Two."))],
    ):
        told = event("response.completed", response=wire.response(output=final))
        answer, _ = asked(module_asker, stream(CREATED, *pieces, told))
        assert "One. Two." == answer.text
        assert "final_left_out" not in answer.notices


def test_polled_answer_that_is_empty(module_asker):
    """Content of an earlier poll is kept if the last one lacks it."""
    begun = wire.json_reply(wire.response(status="in_progress"))
    answer, posts = asked(module_asker, begun, output(message(text(""))))
    assert ("Fine.", 1) == (answer.text, len(posts))
    assert "final_left_out" in answer.notices


def test_fields_that_are_empty_at_the_end(module_asker):
    """An id, a model or a count of an earlier event is kept if the terminal event has none."""
    told = event("response.created", response=wire.response(status="in_progress", output=[]))
    end = event(
        "response.completed", response={"id": None, "model": "", "usage": None, "output": []}
    )
    answer, _ = asked(module_asker, stream(told, DELTA, end))
    assert ("resp_1", "o3-pro-2025-06-10", 12) == (
        answer.id,
        answer.model,
        answer.usage.total_tokens,
    )


def test_many_deltas_are_an_answer(asker):
    """Only the size of one event and of the text is bounded, not the envelopes: 60,000 deltas of 282 bytes are an answer."""
    fields = {
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "word ",
        "logprobs": [],
    }
    padding = 282 - len(event("response.output_text.delta", obfuscation="", **fields))
    delta = event("response.output_text.delta", obfuscation="x" * padding, **fields)
    assert 282 == len(delta)
    whole = event("response.completed", response=wire.response("word " * 60_000))
    answer, _ = asked(asker, stream(*[delta * 1000] * 60, whole))
    assert "word " * 60_000 == answer.text
    runner = asker.asking.runner._child.process.pid
    status = Path(f"/proc/{runner}/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0 kB"]
    assert 300_000 > next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# ---- the content

TEXTS = {
    "a part of type text": [message({"type": "text", "text": "Fine."})],
    "content as a string": [message() | {"content": "Fine."}],
    "content as an object": [message() | {"content": {"type": "output_text", "text": "Fine."}}],
    "a list of strings": [message("Fi", "ne.")],
    "a text with a value": [message({"type": "text", "text": {"value": "Fine.", "annotations": []}})],
    "a part without a type": [message({"text": "Fine."})],
    "a message without a type": [{"role": "assistant", "content": "Fine."}],
    "a part instead of an item": [{"type": "output_text", "text": "Fine."}],
    "a string instead of an item": ["Fine."],
    "an unknown part with a text": [message({"type": "soliloquy", "text": "Fine."})],
}  # fmt: skip


@pytest.mark.parametrize("shape", TEXTS)
def test_text_of_every_shape(module_asker, shape):
    """Text is read in every shape that servers send, so that the answer is not empty."""
    answer, _ = asked(module_asker, output(*TEXTS[shape]))
    assert "Fine." == answer.text
    assert "" == answers.banner(answer)
    assert ("unknown to this version: soliloquy" in details.opened(answer)) == ("unknown" in shape)


def test_text_beside_an_empty_output(module_asker):
    """`output_text` is the answer where the items hold none."""
    for items in ([], [{"type": "reasoning", "summary": []}], [message()]):
        assert "Fine." == asked(module_asker, output(*items, output_text="Fine."))[0].text


REFUSALS = [
    [message({"type": "refusal", "refusal": "I may not."})],
    [message({"type": "refusal", "text": "I may not."})],
    [message() | {"refusal": "I may not.", "content": None}],
    [{"type": "refusal", "refusal": "I may not."}],
]


@pytest.mark.parametrize("items", REFUSALS)
def test_refusal_of_every_shape(module_asker, items):
    """A refusal is shown as one."""
    answer, _ = asked(module_asker, output(*items))
    assert "Refused" in answers.banner(answer)
    assert "I may not." in answers.banner(answer)


FUNCTION = {"name": "add", "arguments": '{"a":1}'}
CALLS = [
    [message() | {"content": None, "tool_calls": [{"id": "c_1", "type": "function", "function": FUNCTION}]}],
    [{"role": "assistant", "tool_calls": [{"id": "c_1", "function": FUNCTION}]}],
    [{"type": "function", "id": "c_1", "function": FUNCTION}],
    [{"type": "function_call", "call_id": "c_1", "function": FUNCTION}],
    [{"type": "function_call", "call_id": "c_1", "name": "add", "arguments": {"a": 1}}],
]  # fmt: skip


@pytest.mark.parametrize("items", CALLS)
def test_calls_of_every_shape(module_asker, items):
    """A call in the form of chat completions is read as a call."""
    answer, _ = asked(module_asker, output(*items))
    calls = [(call.id, call.name, call.arguments) for call in answer.response.calls]
    assert [("c_1", "add", '{"a":1}')] == calls
    assert "Waiting for tools" in answers.banner(answer)


@pytest.mark.parametrize(
    "items", [[{"type": "telepathy", "thought": 7}], [message({"type": "telepathy", "thought": 7})]]
)
def test_unknown_shapes_are_named(module_asker, items):
    """An answer of unknown items is named by their types, not called empty."""
    answer, _ = asked(module_asker, output(*items))
    assert "`telepathy`" in answers.banner(answer)
    assert "unknown to this version: telepathy" in details.opened(answer)


OPEN_REASONING = [
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "I weighed it."}]},
    {"type": "reasoning", "content": "I weighed it."},
    {"type": "reasoning", "summary": "I weighed it."},
    message({"type": "reasoning_text", "text": "I weighed it."}),
    message() | {"content": [], "reasoning_content": "I weighed it."},
]  # fmt: skip


@pytest.mark.parametrize("item", OPEN_REASONING)
def test_open_reasoning(module_asker, item):
    """The reasoning of an open model is shown in the details, not in the answer."""
    answer, _ = asked(module_asker, output(item, message(text("Fine."))))
    assert ("Fine.", "I weighed it.") == (answer.text, answer.reasoning)
    assert "I weighed it." in "".join(details.details(answer))


def test_open_reasoning_in_a_stream(module_asker):
    """Streamed reasoning of an open model is shown in the details, not in the answer."""
    pieces = event(
        "response.reasoning_text.delta", output_index=3, content_index=0, delta="I weighed it."
    )
    told = event("response.completed", response={"output": []})
    answer, _ = asked(module_asker, stream(CREATED, pieces, DELTA, told))
    assert ("Fine.", "I weighed it.") == (answer.text, answer.reasoning)


PLACES = {
    "file_citation": ({"type": "file_citation", "file_id": "f", "index": 400}, True),
    "file_path": ({"type": "file_path", "file_id": "f", "index": 400}, True),
    "no place": ({"type": "url_citation", "url": "https://example.org/"}, True),
    "below its type": ({"type": "url_citation", "url_citation": {"url": "https://example.org/", "start_index": 0, "end_index": 2}}, True),
    "outside": ({"type": "url_citation", "url": "https://example.org/", "start_index": 0, "end_index": 900}, False),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_places_of_citations(module_asker, place):
    """Only a range that ends after the text is out of range; `index` is the position of a file."""
    note, is_inside = PLACES[place]
    answer, _ = asked(module_asker, output(message(text("Fine.", note))))
    assert is_inside == ("citation_out_of_range" not in answer.notices)
    assert answer.citations[0].url or answer.citations[0].file_id


# ---- phases

PHASES = [
    message(text("Let me look."), id="m1", phase="commentary"),
    message(text('{"n": 7}'), id="m2", phase="final_answer"),
]


def phased(first: dict = PHASES[0]) -> wire.Reply:
    phases, pieces = [first, PHASES[1]], []
    for place, item in enumerate(phases):
        pieces.append(
            event("response.output_item.added", output_index=place, item=item | {"content": []})
        )
        pieces += [
            event("response.output_text.delta", output_index=place, content_index=0, delta=item["content"][0]["text"])
        ]  # fmt: skip
    return stream(
        CREATED, *pieces, event("response.completed", response=wire.response(output=phases))
    )


@pytest.mark.parametrize("is_streamed", [True, False])
def test_phases(module_asker, is_streamed):
    """The answer is the final one, commentary is in the details; both go back in a transcript with their phases."""
    reply = phased() if is_streamed else output(*PHASES)
    with wire.serve(lambda _: reply) as server:
        options = {"chat": f"phases {is_streamed}", "store": False}
        answer = module_asker.ask(server.url, "One?", cell="1", **options)
        module_asker.ask(server.url, "Two?", cell="2", **options)
        told = server.posts[1].body["input"]
    assert '{"n": 7}' == answer.text
    assert "Let me look." in "".join(details.details(answer))
    said = [
        (item["phase"], item["content"][0]["text"]) for item in told if item["role"] == "assistant"
    ]
    assert [("commentary", "Let me look."), ("final_answer", '{"n": 7}')] == said


@pytest.mark.parametrize("is_streamed", [True, False])
def test_schema_is_of_the_final_answer(module_asker, is_streamed):
    """Only the final answer is parsed, even if commentary is JSON that would fit the schema."""
    first = message(text('{"n": 1}'), id="m1", phase="commentary")
    reply = phased(first) if is_streamed else output(first, PHASES[1])
    with wire.serve(lambda _: reply) as server:
        schema = of_value({"type": "object", "properties": {"n": {"type": "integer"}}}, "N")
        answer = module_asker.ask(server.url, chat=None, schema=schema)
    assert {"n": 7} == answer.parsed


def test_interrupted_commentary_is_no_answer(module_asker):
    """The stored text of an interrupted stream is that of the answer only."""
    whole = phased()
    came, _ = asked(module_asker, stream(*whole.chunks[:-1], end="reset"))
    assert isinstance(came, errors.StreamInterrupted)
    assert '{"n": 7}' == came.answer.text


def test_commentary_alone(module_asker):
    """If there is only commentary, it is shown as the answer."""
    assert "Let me look." == asked(module_asker, output(PHASES[0]))[0].text


# ---- errors in words

BODIES = {
    "FastAPI": {"detail": [{"type": "missing", "loc": ["body", "input"], "msg": "Say this", "input": {"model": "m"}}]},
    "FastAPI, a text": {"detail": "Say this"},
    "FastAPI, an object": {"detail": {"error": {"message": "Say this"}}},
    "in one another": {"error": {"error": {"message": "Say this", "code": "x"}}},
    "msg": {"code": 1, "msg": "Say this"},
    "title": {"type": "about:blank", "title": "Say this", "status": 400},
    "title and detail": {"title": "Bad", "detail": "Say this"},
    "OAuth": {"error": "invalid_request", "error_description": "Say this"},
    "Apigee": {"fault": {"faultstring": "Say this", "detail": {"errorcode": "x"}}},
    "JSON in a text": {"statusCode": 400, "message": '400 {"error":{"message":"Say this","param":"x"}}'},
    "JSON in an error": {"error": {"message": '{"error": {"message": "Say this"}}'}},
    "a relayed body": {"error": {"message": "Provider error", "metadata": {"raw": '{"message":"Say this"}'}}},
    "JSON in JSON": '{"error":{"message":"Say this"}}',
    "NestJS": {"statusCode": 400, "message": [{"property": "input", "constraints": {"isString": "Say this"}}], "error": "Bad Request"},
    "ASP.NET": {"title": "Bad", "errors": {"input": ["Say this"]}},
    "JSON:API": {"errors": [{"title": "Say this", "status": "400"}]},
    "a list": [{"error": {"message": "Say this"}}],
    "a list of texts": {"errors": ["Say this"]},
    "AWS": {"__type": "ValidationException", "Message": "Say this"},
    "zod": {"success": False, "error": {"name": "ZodError", "issues": [{"path": ["input"], "message": "Say this"}]}},
    "what nobody knows": {"oops": {"deep": ["Say this"]}},
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_errors_in_words(module_asker, body):
    """An error quotes the server's message without Python or JSON around it, and has one sentence on money."""
    error, posts = asked(module_asker, wire.json_reply(BODIES[body], 422))
    assert isinstance(error, errors.InvalidRequest)
    assert 1 == len(posts)
    assert "Say this" in error.message
    assert not re.search(r"[{}\[\]]|'\w+':|None|True|False", error.message)
    assert ("Nothing was charged" in error.message) != ("may have been" in error.message)


@pytest.mark.parametrize(
    "words", ["Nothing was charged.", "It may have been executed and charged."]
)
@pytest.mark.parametrize("status", [200, 400, 504])
def test_one_sentence_on_money(module_asker, words, status):
    """A server's own sentence on charges is replaced by ours."""
    error, _ = asked(
        module_asker, wire.json_reply({"error": {"message": f"Sorry. {words}"}}, status)
    )
    assert ("Nothing was charged" in error.message) != ("may have been" in error.message)


# ---- refusals of a form


@dataclass
class Refusal:
    status: int
    body: object
    kind: str = "application/json"


def vendor(message: str, status: int = 400) -> Refusal:
    return Refusal(status, {"statusCode": status, "message": message, "requestId": "r"})


def detail(field: str, said: str, status: int = 422) -> Refusal:
    return Refusal(
        status, {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": said}]}
    )


def upstream(param: str, said: str) -> str:
    error = {
        "message": said,
        "type": "invalid_request_error",
        "param": param,
        "code": "unsupported_value",
    }
    return f"400 {json.dumps({'error': error})}"


FORMS = {
    "stream": [
        vendor("Unsupported value: 'stream' does not support true with this model."),
        vendor(upstream("stream", "Not here.")),
        vendor("Streaming is not supported for openai/o3-pro"),
        vendor("Your organization must be verified to stream this model."),
        detail("stream", "Extra inputs are not permitted"),
        Refusal(400, {"error": {"message": "No.", "param": "stream", "code": "unsupported_value"}}),
        Refusal(400, {"error": {"error": {"message": "Unknown parameter: 'stream'."}}}),
        vendor("stream must be false", 501),
        Refusal(200, {"error": {"message": "'stream' is not supported.", "param": "stream"}}),
        Refusal(200, {"error": {"message": "Not here.", "param": "stream"}}, STREAM),
    ],
    "store": [
        vendor("Unsupported value: 'store' does not support true with this model."),
        vendor(upstream("store", "Not here.")),
        vendor("Storing responses is not enabled for this organization"),
        detail("store", "Extra inputs are not permitted"),
        Refusal(400, {"error": {"message": "No.", "param": "store"}}),
    ],
}  # fmt: skip


def reply_of(refusal: Refusal) -> wire.Reply:
    return wire.Reply(
        refusal.status, {"Content-Type": refusal.kind}, [json.dumps(refusal.body).encode()]
    )


@pytest.mark.parametrize(
    ("field", "at"), [(field, at) for field in FORMS for at in range(len(FORMS[field]))]
)
def test_refused_form(module_asker, field, at):
    """After a refusal of streaming or storing, in any shape, the request is sent once more without it, and answered."""
    refusal = reply_of(FORMS[field][at])
    turns = []

    def answer(request):
        turns.append(request.body[field])
        return refusal if request.body[field] else FINE

    with wire.serve(answer) as server:
        answered = module_asker.ask(server.url, chat=None)
    assert ("Fine.", [True, False]) == (answered.text, turns)
    assert (field == "store") == ("store_refused" in answered.notices)


@pytest.mark.parametrize("field", FORMS)
def test_refused_for_ever(module_asker, field):
    """A server that refuses the other form as well gets no third request."""
    error, posts = asked(module_asker, reply_of(FORMS[field][0]))
    assert isinstance(error, errors.InvalidRequest)
    assert [True, False] == [body[field] for body in posts]


CHAINS = [
    vendor("Previous response with id 'resp_1' not found."),
    vendor("Previous response resp_1 not found", 404),
    vendor(upstream("previous_response_id", "Gone.")),
    detail("previous_response_id", "Extra inputs are not permitted"),
    vendor("previous_response_id is not supported", 501),
    vendor("Stateful responses are not supported", 501),
    Refusal(400, {"error": {"message": "Gone.", "code": "previous_response_not_found"}}),
    Refusal(410, {"message": "resp_1 has expired"}),
    Refusal(200, {"error": {"message": "Gone.", "param": "previous_response_id"}}, STREAM),
]


@pytest.mark.parametrize("at", range(len(CHAINS)))
def test_refused_chain(module_asker, at):
    """After a refusal of the response id, in any shape, the conversation is sent once more as a transcript."""
    refusal = reply_of(CHAINS[at])

    def answer(request):
        return refusal if "previous_response_id" in request.body else FINE

    with wire.serve(answer) as server:
        # Ports are reused, and the journal knows which server refuses response ids.
        url, options = server.url.replace("/v1", f"/{at}/v1"), {"chat": f"chain {at}"}
        module_asker.ask(url, "One?", cell="1", **options)
        answered = module_asker.ask(url, "Two?", cell="2", **options)
    assert ("Fine.", 3) == (answered.text, len(server.posts))
    assert "chain_refused" in answered.notices


OTHERS = [
    vendor("Unsupported value: 'reasoning.effort' does not support 'max'."),
    vendor("The model is not available."),
    Refusal(
        200, {"error": {"message": "The upstream stream is not available.", "code": "server_error"}}
    ),
    Refusal(504, {"message": "stream is not supported"}),
    Refusal(401, {"message": "stream is not supported with this key"}),
]


@pytest.mark.parametrize("at", range(len(OTHERS)))
def test_other_refusals_are_not_sent_again(module_asker, at):
    """A request is sent in another form only after a refusal of its form that was certainly not executed."""
    came, posts = asked(module_asker, reply_of(OTHERS[at]), FINE)
    assert isinstance(came, errors.RequestFailed)
    assert 1 == len(posts)


@pytest.mark.parametrize(
    "begun",
    [
        event("response.web_search_call.in_progress", output_index=0, item_id="w"),
        event("response.content_part.added", output_index=0, content_index=0, part={}),
        event("response.reasoning_text.delta", output_index=0, content_index=0, delta="I"),
        DELTA,
    ],
)
def test_nothing_is_sent_again_after_output(module_asker, begun):
    """After a part of an answer was received, a refusal of its form is not followed by another request."""
    error = event("error", code="400", message="'stream' is not supported", param="stream")
    came, posts = asked(module_asker, stream(CREATED, begun, error), FINE)
    assert isinstance(came, errors.RequestFailed)
    assert 1 == len(posts)


# ---- another form than the Content-Type's

WHOLE = json.dumps(wire.response()).encode()
LINES = b"".join(
    chunk.removeprefix(b"data: ").removesuffix(b"\n") for chunk in (CREATED, DELTA, COMPLETED)
)
BODIES_AS_EVENTS = {
    "JSON": [WHOLE],
    "JSON over lines": [json.dumps(wire.response(), indent=1).encode()],
    "JSON with a line end": [WHOLE + b"\n"],
    "JSON in pieces": [WHOLE[at : at + 7] for at in range(0, len(WHOLE), 7)],
    "JSON behind white space": [b"\xef\xbb\xbf\r\n\n  " + WHOLE],
    "NDJSON": [LINES],
    "NDJSON in pieces": [LINES[at : at + 7] for at in range(0, len(LINES), 7)],
    "NDJSON without its last line end": [LINES.rstrip()],
    "NDJSON behind a ping": [b'{"type":"ping"}\n' + LINES],
    "a response and its cost": [WHOLE + b"\n" + json.dumps({"meta": PAID}).encode() + b"\n"],
    "a response in an event": [event(None, **wire.response())],
}


@pytest.mark.parametrize("kind", [STREAM, "application/json", "application/x-ndjson", "text/plain"])
@pytest.mark.parametrize("body", BODIES_AS_EVENTS)
def test_form_is_told_by_the_bytes(module_asker, body, kind):
    """JSON, JSON line by line, and events are read under any Content-Type."""
    reply = wire.Reply(200, {"Content-Type": kind}, BODIES_AS_EVENTS[body])
    answer, posts = asked(module_asker, reply)
    assert ("Fine.", "completed", 1) == (answer.text, answer.status, len(posts))


def test_cut_off_under_events(module_asker):
    """Lines received before a connection breaks are kept; complete JSON is an answer."""
    created, delta, _ = LINES.splitlines(keepends=True)
    came, _ = asked(module_asker, stream(created, delta, delta[:20], end="reset"))
    assert isinstance(came, errors.StreamInterrupted)
    assert "Fine." == came.answer.text
    assert "Fine." == asked(module_asker, stream(WHOLE, end="reset"))[0].text


@pytest.mark.parametrize("kind", [STREAM, "application/json"])
def test_error_as_a_whole_under_events(module_asker, kind):
    """A JSON error or a page instead of a stream is quoted."""
    for body in (b'{"error":{"message":"Say this"}}', b'{"detail":"Say this"}', b"<html><title>Say this</title></html>"):  # fmt: skip
        came, posts = asked(module_asker, wire.Reply(200, {"Content-Type": kind}, [body]))
        assert isinstance(came, errors.RequestFailed)
        assert "Say this" in came.message
        assert came.may_cost
        assert 1 == len(posts)


COSTS = {
    "untyped": [COMPLETED, event(None, meta=PAID)],
    "typed": [COMPLETED, event("meta", meta=PAID)],
    "typed and flat": [COMPLETED, event("meta", **PAID)],
    "an event of the response": [COMPLETED, event("response.meta", meta=PAID)],
    "beside the response": [event("response.completed", response=wire.response(), meta=PAID)],
    "in the response": [event("response.completed", response=wire.response(meta=PAID))],
    "before the end": [event(None, meta=PAID), COMPLETED],
    "behind another meta": [event(None, meta={"trace": "x"}), COMPLETED, event(None, meta=PAID)],
}


@pytest.mark.parametrize("place", COSTS)
def test_cost_of_a_stream(module_asker, place):
    """The cost is read from every place in which servers report it."""
    answer, _ = asked(module_asker, stream(CREATED, DELTA, *COSTS[place]))
    assert ("Fine.", 0.25) == (answer.text, answer.cost_usd)
