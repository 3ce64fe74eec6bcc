"""The sandbox as a server of the Open Responses specification, by the requests and checks of its public compliance suite.

The suite sends each of these requests, checks the response and every event against the
specification's schemas, and looks for the expected output.
"""

from __future__ import annotations

import subprocess
import sys

import jsonschema
import pytest
from calling import call, stream

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "Such as Ur, Iraq"}},
        "required": ["location"],
    },
}
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR4nGNgAAIAAAUAAXpeqz8AAAAASUVORK5CYII="
PDF = "data:application/pdf;base64,JVBERi0xLjQKJSVFT0YK"


def said(role: str, content: object, **fields: object) -> dict[str, object]:
    return {"type": "message", "role": role, "content": content} | fields


REQUESTS = {
    "basic response": {"input": [said("user", "Say hello in three words.")]},
    "a string": {"input": "Say hello."},
    "system prompt": {"input": [said("system", "You are a pirate."), said("user", "Say hello.")]},
    "multi-turn": {"input": [said("user", "I am Ada."), said("assistant", "Hello Ada!"), said("user", "Who am I?")]},
    "phase": {"input": [said("assistant", "I look.", phase="commentary"), said("assistant", "Four.", phase="final_answer"), said("user", "Again.")]},
    "output as input": {"input": [said("user", "Hi"), said("assistant", [{"type": "output_text", "text": "Yes?"}]), said("user", "Why?")]},
    "image input": {"input": [said("user", [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": PNG}])]},
    "image by its address": {"input": [said("user", [{"type": "input_text", "text": "?"}, {"type": "input_image", "image_url": "https://example.org/x.png", "detail": "auto"}])]},
    "file input": {"input": [said("user", [{"type": "input_text", "text": "Sum it up."}, {"type": "input_file", "filename": "x.pdf", "file_data": PDF}])]},
    "file by its address": {"input": [said("user", [{"type": "input_file", "file_url": "https://example.org/x.pdf"}, {"type": "input_text", "text": "Sum it up."}])]},
    "tool calling": {"input": [said("user", "What's the weather like in San Francisco?")], "tools": [WEATHER]},
    "required": {"input": "Hello", "tools": [WEATHER], "tool_choice": "required"},
    "forced": {"input": "Hello", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
    "function round trip": {
        "input": [
            said("user", "What's the weather in Ur?"),
            {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"location":"Ur"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "hot"}]},
        ],
        "tools": [WEATHER],
    },
    "a schema": {"input": "A city?", "text": {"format": {"type": "json_schema", "name": "city", "schema": {"type": "object", "properties": {}}}}},
    "reasoning": {"input": "Why?", "reasoning": {"effort": "low", "summary": "auto"}},
    "cut off": {"input": "Why?", "max_output_tokens": 16},
    "refused": {"input": "Why?\nsandbox: fault=refusal"},
    "failed": {"input": "Why?\nsandbox: fault=failed"},
    "commentary": {"input": "Why?\nsandbox: phase=commentary"},
    "metadata": {"input": "Why?", "metadata": {"a": "b"}, "temperature": 0.3, "top_p": 0.9, "store": False},
}  # fmt: skip
CALLS = ("tool calling", "required", "forced")
NOT_COMPLETE = ("cut off", "failed")


@pytest.fixture(scope="module")
def plain_url():
    """A sandbox that adds nothing of AI/ML API's own."""
    command = [sys.executable, "-m", "aiml_magic.sandbox", "--no-meta"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


def of(required: str, **fields: object) -> dict[str, object]:
    return {"type": "object", "required": required.split(), "properties": fields}


def by_type(**kinds: object) -> dict[str, object]:
    return {
        "properties": {"type": {"enum": list(kinds)}},
        "allOf": [
            {"if": {"properties": {"type": {"const": kind}}}, "then": schema}
            for kind, schema in kinds.items()
        ],
    }


TEXT, WHOLE, NUMBER, FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
OR_NULL = {"type": ["string", "null"]}
STATUS = {"enum": ["in_progress", "completed", "incomplete"]}
PARTS = {
    "type": "array",
    "items": by_type(
        output_text=of("type text annotations", text=TEXT, annotations={"type": "array"}, logprobs={"type": ["array", "null"]}),
        refusal=of("type refusal", refusal=TEXT),
        summary_text=of("type text", text=TEXT),
    ),
}  # fmt: skip
ITEM = by_type(
    message=of("type id status role content", id=TEXT, status=STATUS, role={"const": "assistant"}, content=PARTS, phase={"enum": ["commentary", "final_answer", None]}),
    function_call=of("type id call_id name arguments status", id=TEXT, call_id=TEXT, name=TEXT, arguments=TEXT, status=STATUS),
    reasoning=of("type id summary", id=TEXT, summary=PARTS, content={"type": ["array", "null"]}, encrypted_content=OR_NULL),
)  # fmt: skip
TOOL = of("type name description parameters strict", description=OR_NULL, parameters={"type": ["object", "null"]}, strict={"type": ["boolean", "null"]})  # fmt: skip
USAGE = of(
    "input_tokens output_tokens total_tokens input_tokens_details output_tokens_details",
    input_tokens=WHOLE, output_tokens=WHOLE, total_tokens=WHOLE,
    input_tokens_details=of("cached_tokens", cached_tokens=WHOLE), output_tokens_details=of("reasoning_tokens", reasoning_tokens=WHOLE),
) | {"type": ["object", "null"]}  # fmt: skip
FORMAT = by_type(
    text=of("type"),
    json_object=of("type"),
    json_schema=of("type name description schema strict", description=OR_NULL, strict=FLAG),
)
RESPONSE = of(
    "id object created_at completed_at status incomplete_details model previous_response_id instructions output error tools"
    " tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs temperature reasoning"
    " user usage max_output_tokens max_tool_calls store background service_tier metadata safety_identifier prompt_cache_key",
    id=TEXT, object={"const": "response"}, created_at=WHOLE, completed_at={"type": ["integer", "null"]}, status=TEXT, model=TEXT,
    incomplete_details=of("reason", reason=TEXT) | {"type": ["object", "null"]}, previous_response_id=OR_NULL, instructions=OR_NULL,
    output={"type": "array", "items": ITEM}, error=of("code message", code=TEXT, message=TEXT) | {"type": ["object", "null"]},
    tools={"type": "array", "items": TOOL}, truncation={"enum": ["auto", "disabled"]}, parallel_tool_calls=FLAG,
    tool_choice={"anyOf": [{"enum": ["none", "auto", "required"]}, of("type name", type={"const": "function"})]},
    text=of("format", format=FORMAT, verbosity={"enum": ["low", "medium", "high"]}), top_p=NUMBER, presence_penalty=NUMBER,
    frequency_penalty=NUMBER, top_logprobs=WHOLE, temperature=NUMBER, reasoning=of("effort summary") | {"type": ["object", "null"]},
    user=OR_NULL, usage=USAGE, max_output_tokens={"type": ["integer", "null"]}, max_tool_calls={"type": ["integer", "null"]},
    store=FLAG, background=FLAG, service_tier=TEXT, metadata={"type": "object"}, safety_identifier=OR_NULL, prompt_cache_key=OR_NULL,
)  # fmt: skip
WITH_RESPONSE = of("response", response=RESPONSE)
PLACED = {"item_id": TEXT, "output_index": WHOLE}
IN_CONTENT, IN_SUMMARY = ({**PLACED, index: WHOLE} for index in ("content_index", "summary_index"))
EVENTS = {
    **dict.fromkeys(("created", "queued", "in_progress", "completed", "failed", "incomplete"), WITH_RESPONSE),
    **dict.fromkeys(("output_item.added", "output_item.done"), of("output_index item", output_index=WHOLE, item=ITEM)),
    **dict.fromkeys(("content_part.added", "content_part.done"), of("item_id output_index content_index part", **IN_CONTENT, part=PARTS["items"])),
    "output_text.delta": of("item_id output_index content_index delta logprobs", **IN_CONTENT, delta=TEXT, logprobs={"type": "array"}),
    "output_text.done": of("item_id output_index content_index text logprobs", **IN_CONTENT, text=TEXT, logprobs={"type": "array"}),
    "refusal.delta": of("item_id output_index content_index delta", **IN_CONTENT, delta=TEXT),
    "refusal.done": of("item_id output_index content_index refusal", **IN_CONTENT, refusal=TEXT),
    "function_call_arguments.delta": of("item_id output_index delta", **PLACED, delta=TEXT),
    "function_call_arguments.done": of("item_id output_index arguments", **PLACED, arguments=TEXT),
    **dict.fromkeys(("reasoning_summary_part.added", "reasoning_summary_part.done"), of("item_id output_index summary_index part", **IN_SUMMARY, part=PARTS["items"])),
    "reasoning_summary_text.delta": of("item_id output_index summary_index delta", **IN_SUMMARY, delta=TEXT),
    "reasoning_summary_text.done": of("item_id output_index summary_index text", **IN_SUMMARY, text=TEXT),
}  # fmt: skip


def check(name: str, response: object) -> None:
    """Checks that a response has the specification's schema and the expected output."""
    jsonschema.validate(response, RESPONSE)
    assert "meta" not in response
    if name in NOT_COMPLETE:
        assert response["status"] in ("incomplete", "failed")
        return
    assert "completed" == response["status"]
    kinds = [item["type"] for item in response["output"]]
    assert (name in CALLS) == ("function_call" in kinds)
    assert (name in CALLS) != ("message" in kinds)


@pytest.mark.parametrize("name", REQUESTS)
def test_whole(plain_url, name):
    """Every response has all that the specification requires."""
    status, response = call(f"{plain_url}/responses", {"model": "any", **REQUESTS[name]})
    assert 200 == status
    check(name, response)


@pytest.mark.parametrize("name", REQUESTS)
def test_streamed(plain_url, name):
    """Every stream has all that the specification requires, event by event, up to [DONE]."""
    body = {"model": "any", **REQUESTS[name], "stream": True}
    *told, last = stream(f"{plain_url}/responses", body)
    assert "[DONE]" == last
    for number, event in enumerate(told):
        assert number == event["sequence_number"]
        jsonschema.validate(event, EVENTS[event["type"].removeprefix("response.")])
    check(name, told[-1]["response"])
    if name in CALLS:
        seen = {event["type"].removeprefix("response.") for event in told}
        assert {
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        } <= seen


def test_previous_response(plain_url):
    """A stored response is continued by its id; an unknown one is refused with a code."""
    body = {"model": "any", "input": "The word is cobalt.", "store": True}
    _, first = call(f"{plain_url}/responses", body)
    _, second = call(
        f"{plain_url}/responses", body | {"input": "Which?", "previous_response_id": first["id"]}
    )
    jsonschema.validate(second, RESPONSE)
    assert first["id"] == second["previous_response_id"]
    assert "cobalt" in second["output"][-1]["content"][0]["text"]
    status, gone = call(f"{plain_url}/responses", body | {"previous_response_id": "resp_missing"})
    assert (400, "previous_response_not_found") == (status, gone["error"]["code"])


# The specification has no schema but null there.
@pytest.mark.parametrize("name", sorted(REQUESTS.keys() - {"a schema"}))
def test_judged_by_others(plain_url, name):
    """Other authors' types of the specification accept every response."""
    types = pytest.importorskip("openresponses_types", reason="those types are not installed")
    _, response = call(f"{plain_url}/responses", {"model": "any", **REQUESTS[name]})
    types.ResponseResource.model_validate(response)
