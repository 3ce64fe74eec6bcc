"""The sandbox follows the API: a response has every field, and invalid requests are refused."""

from __future__ import annotations

import time
from pathlib import Path

import jsonschema
import pytest
from calling import ask, call, stream, text

from aiml_magic.sandbox import schema
from aiml_magic.text import load

VENDORS = Path(__file__).parents[3] / "shared" / "contract" / "o3-pro-responses.openapi.json"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
PRICE = WEATHER | {"name": "price"}
SEARCH = {"type": "web_search_preview"}
DOCS = {
    "type": "mcp",
    "server_label": "docs",
    "server_url": "https://example.org/mcp",
    "headers": {"Authorization": "secret"},
}


def called(response) -> list[str]:
    """The names of the called functions, or the types of other calls."""
    return [
        item.get("name") if item["type"] == "function_call" else item["type"]
        for item in response["output"]
        if item["type"].endswith("_call")
    ]


def test_fields(sandbox_url):
    """A full response has the API's fields, with its defaults where the request had nothing."""
    _, response = ask(sandbox_url, "Why?", tools=[PRICE])
    expected = {
        "temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "top_logprobs": 0, "max_tool_calls": None,
        "service_tier": "default", "safety_identifier": None, "prompt_cache_key": None, "metadata": {}, "user": None, "store": True,
        "completed_at": response["created_at"], "parallel_tool_calls": True, "truncation": "disabled", "background": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tools": [PRICE | {"description": None}],
    }  # fmt: skip
    assert expected == {name: response[name] for name in expected}
    assert "final_answer" == response["output"][-1]["phase"]


ECHOED = {
    "temperature": 0.5, "top_p": 0.1, "presence_penalty": 1.5, "frequency_penalty": -1, "top_logprobs": 2, "max_tool_calls": 3,
    "service_tier": "flex", "safety_identifier": "ab", "prompt_cache_key": "key", "metadata": {"project": "cells"}, "user": "me",
    "parallel_tool_calls": False, "truncation": "auto", "instructions": "Be brief.", "max_output_tokens": 5000,
    "prompt": {"id": "pmpt_1"},
}  # fmt: skip


@pytest.mark.parametrize("name", ECHOED)
def test_echo(sandbox_url, name):
    """A field of the request is in the response as it was sent."""
    status, response = ask(sandbox_url, "Why?", **{name: ECHOED[name]})
    assert (200, ECHOED[name]) == (status, response[name])


def test_only_what_is_complete_was_completed(sandbox_url):
    """An incomplete, failed or pending response has no time of completion."""
    for orders in ("fault=incomplete", "fault=failed"):
        assert ask(sandbox_url, f"Why?\nsandbox: {orders}")[1]["completed_at"] is None
    _, queued = ask(sandbox_url, "Why?\nsandbox: delay=60", background=True)
    assert ("queued", None, [], None) == tuple(
        queued[name] for name in ("status", "completed_at", "output", "usage")
    )


CHOICES = [
    ("Call price.", "auto", ["price"]), ("Call price.", "none", []), ("Why?", "auto", []), ("Why?", "required", ["get_weather"]),
    ("Call price.", "required", ["price"]), ("What is the weather in Ur?", "auto", ["get_weather"]),
    ("Call price.", {"type": "function", "name": "get_weather"}, ["get_weather"]),
    ("Why?", {"type": "function", "name": "price"}, ["price"]),
    ("Why?", {"type": "web_search_preview"}, ["web_search_call"]), ("Why?", {"type": "mcp", "server_label": "docs"}, ["mcp_call"]),
    ("The price and the weather?", "auto", ["get_weather", "price"]),
    ("Call price.", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]}, []),
    ("Why?", {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "price"}]}, ["price"]),
]  # fmt: skip


@pytest.mark.parametrize(("question", "choice", "expected"), CHOICES)
def test_tool_choice(sandbox_url, question, choice, expected):
    """Tools are called as `tool_choice` says; only a function's call comes without a message."""
    tools = [WEATHER, PRICE, SEARCH, DOCS]
    _, response = ask(sandbox_url, question, tools=tools, tool_choice=choice)
    assert (expected, choice) == (called(response), response["tool_choice"])
    calls_functions = bool({"price", "get_weather"} & set(expected))
    assert calls_functions == (response["output"][-1]["type"] != "message")


def test_choices_are_other_responses(sandbox_url):
    """Two choices of tools are two responses, each stored under an id of its own."""
    chosen = [
        ask(sandbox_url, "Which?", tools=[PRICE], tool_choice=choice)[1]
        for choice in ("none", "required")
    ]
    again = [call(f"{sandbox_url}/responses/{response['id']}")[1] for response in chosen]
    assert [[], ["price"]] == [called(response) for response in again]


def test_one_call_at_a_time(sandbox_url):
    """Without parallel calls there is one call."""
    asked = {"tools": [WEATHER, PRICE], "parallel_tool_calls": False}
    assert ["get_weather"] == called(ask(sandbox_url, "The price and the weather?", **asked)[1])


@pytest.mark.parametrize(
    "wrong",
    [{"tool_choice": "required"}, {"tool_choice": {"type": "function", "name": "x"}, "tools": [PRICE]}],
)  # fmt: skip
def test_choice_without_its_tool(sandbox_url, wrong):
    """A choice of a tool that the request does not have is refused, as by OpenAI."""
    status, body = ask(sandbox_url, "Why?", **wrong)
    assert (400, "tool_choice") == (status, body["error"]["param"])


def test_round_trip(sandbox_url):
    """A call is answered with its result, as a transcript and by id; a later question is a question again."""
    question = {"role": "user", "content": "Call price."}
    _, first = ask(sandbox_url, [question], tools=[PRICE])
    (made,) = [item for item in first["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": made["call_id"], "output": "7.5"}
    _, by_id = ask(sandbox_url, [result], tools=[PRICE], previous_response_id=first["id"])
    _, whole = ask(sandbox_url, [question, made, result], tools=[PRICE])
    for response in (by_id, whole):
        assert [] == called(response)
        assert "7.5" in text(response)
        assert "1. Call price." in text(response)
    told = [
        question,
        made,
        result,
        whole["output"][-1],
        {"role": "user", "content": "A new price?"},
    ]
    _, later = ask(sandbox_url, told, tools=[PRICE])
    assert ["price"] == called(later)


def test_headers_of_a_server_are_not_told(sandbox_url):
    """The secrets of an MCP server are in no response."""
    _, response = ask(sandbox_url, "Why?", tools=[DOCS | {"authorization": "secret"}])
    assert [{name: DOCS[name] for name in DOCS if name != "headers"}] == response["tools"]


def test_background(sandbox_url):
    """A background response is queued, in progress and then complete, also without a delay."""
    _, queued = ask(sandbox_url, "Now?", background=True)
    one = f"{sandbox_url}/responses/{queued['id']}"
    assert ("queued", "completed") == (queued["status"], call(one)[1]["status"])
    _, slow = ask(sandbox_url, "Later?\nsandbox: delay=1", background=True)
    seen, deadline = [slow["status"]], time.monotonic() + 20
    while seen[-1] != "completed" and time.monotonic() < deadline:
        status = call(f"{sandbox_url}/responses/{slow['id']}")[1]["status"]
        seen += [status] * (status != seen[-1])
        time.sleep(0.02)
    assert ["queued", "in_progress", "completed"] == seen


def test_background_as_a_stream(sandbox_url):
    """The stream of a background response begins with queued; the response can be fetched later, whole and as a stream."""
    asked = {"model": "m", "input": "Why?\nsandbox: delay=0.2", "background": True}
    told = stream(f"{sandbox_url}/responses", asked | {"stream": True})
    one = f"{sandbox_url}/responses/{told[0]['response']['id']}"
    assert ["queued", "queued", "in_progress"] == [
        event["response"]["status"] for event in told[:3]
    ]
    assert told == stream(f"{one}?stream=true")
    assert told[6:] == stream(f"{one}?stream=true&starting_after=5")
    assert "completed" == call(one)[1]["status"]


def test_only_the_background_can_be_cancelled(sandbox_url):
    """Only a background response can be cancelled, as with OpenAI."""
    _, response = ask(sandbox_url, "Why?")
    assert 400 == call(f"{sandbox_url}/responses/{response['id']}/cancel", {})[0]


def test_phase(sandbox_url):
    """With `phase=commentary` there is a commentary before the answer, and a transcript may have phases."""
    _, response = ask(sandbox_url, "Why?\nsandbox: phase=commentary")
    messages = [item for item in response["output"] if item["type"] == "message"]
    assert ["commentary", "final_answer"] == [message["phase"] for message in messages]
    told = [{"role": "user", "content": "Why?"}, *messages, {"role": "user", "content": "And?"}]
    assert "\n1. Why?\n" in text(ask(sandbox_url, told)[1])
    assert 400 == ask(sandbox_url, [messages[0] | {"phase": "middle"}])[0]


def test_successors(sandbox_url):
    """A successor takes any effort and the mode pro; o3-pro the efforts of its description."""
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        reasoning = {"effort": effort, "mode": "pro"}
        _, response = ask(sandbox_url, "Why?", model="openai/gpt-5.6-sol", reasoning=reasoning)
        assert reasoning | {"summary": None} == response["reasoning"]
        assert "| mode | pro |" in text(response)
    status, refused = ask(sandbox_url, "Why?", reasoning={"effort": "xhigh"})
    assert 400 == status
    assert refused["message"].endswith("\nreasoning.effort: Expected 'low' | 'medium' | 'high'")


def test_cost_in_headers(sandbox_url):
    """The cost is in the body and in headers, as the vendor sends it."""
    import urllib.request

    body = b'{"model": "openai/o3-pro", "input": "Why?"}'
    request = urllib.request.Request(
        f"{sandbox_url}/responses", body, {"Authorization": "Bearer x"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        told = load(answer.read())
    assert told["meta"]["usage"]["usd_spent"] == float(answer.headers["x-aimlapi-usd-spent"])
    assert told["id"] == answer.headers["x-inference-id"]


def item(**fields):
    return {"input": [fields]}


def part(**fields):
    return item(role="user", content=[fields])


REFUSED = [
    ({"input": None}, "input: Expected string | array"), ({"model": 7}, "model: Expected string"), ({"background": "yes"}, "background: Expected boolean"),
    ({"store": "yes"}, "store: Expected boolean | null"), ({"stream": 1}, "stream: Expected boolean | null"),
    ({"instructions": ["x"]}, "instructions: Expected string | null"), ({"include": ["everything"]}, "include.0: Expected"),
    ({"include": "x"}, "include: Expected array | null"), ({"max_output_tokens": 15}, "max_output_tokens: Number must be greater than or equal to 16"),
    ({"max_output_tokens": "99"}, "max_output_tokens: Expected integer"), ({"max_output_tokens": 20.5}, "max_output_tokens: Expected integer"),
    ({"prompt": {}}, "prompt.id: Required"), ({"prompt": "x"}, "prompt: Expected object | null"),
    ({"previous_response_id": 7}, "previous_response_id: Expected string | null"), ({"truncation": "never"}, "truncation: Expected 'auto' | 'disabled'"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls: Expected"), ({"reasoning": {"effort": "huge"}}, "reasoning.effort: Expected 'low' | 'medium' | 'high'"),
    ({"reasoning": {"summary": "long"}}, "reasoning.summary: Expected"), ({"reasoning": {"mode": "fast"}}, "reasoning.mode: Expected"),
    ({"text": {}}, "text.format: Required"), ({"text": {"format": {"type": "yaml"}}}, "text.format.type: Expected"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name: Required"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema: Required"),
    ({"text": {"format": {"type": "text", "name": "x"}}}, "text.format: Unrecognized key"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": "yes"}}}, "text.format.strict: Expected boolean | null"),
    ({"tools": {}}, "tools: Expected array"), ({"tools": [{"type": "teleport"}]}, "tools.0.type: Expected"), ({"tools": [{}]}, "tools.0.type: Expected"),
    ({"tools": [{"type": "function", "name": "x", "parameters": {}}]}, "tools.0.strict: Required"),
    ({"tools": [{"type": "function", "name": "x", "strict": True}]}, "tools.0.parameters: Required"),
    ({"tools": [{"type": "function", "parameters": {}, "strict": True}]}, "tools.0.name: Required"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools.0.server_url: Required"), ({"tools": [{"type": "mcp", "server_url": "x"}]}, "tools.0.server_label: Required"),
    ({"tools": [DOCS | {"headers": {"a": 1}}]}, "tools.0.headers.a: Expected string"),
    ({"tools": [SEARCH | {"search_context_size": "huge"}]}, "tools.0.search_context_size: Expected"),
    ({"tools": [SEARCH | {"user_location": {"city": "Ur"}}]}, "tools.0.user_location.type: Required"),
    ({"tool_choice": "maybe"}, "tool_choice: Expected 'none' | 'auto' | 'required'"), ({"tool_choice": {"type": "function"}}, "tool_choice.name: Required"),
    ({"tool_choice": {"type": "any"}}, "tool_choice.type: Expected"), ({"tool_choice": 7}, "tool_choice: Expected string | object"),
    (item(role="robot", content="x"), "input.0.role: Expected"), (item(role="user"), "input.0.content: Required"), (item(content="x"), "input.0.type: Expected"),
    (item(role="user", content=7), "input.0.content: Expected string | array"), (item(type="thought", text="x"), "input.0.type: Expected"), ({"input": ["x"]}, "input.0: Expected object"),
    (part(type="input_text"), "input.0.content.0.text: Required"), (part(text="x"), "input.0.content.0.type: Expected"),
    (part(type="input_text", text=7), "input.0.content.0.text: Expected string"), (part(type="input_audio", data="x"), "input.0.content.0.type: Expected"),
    (part(type="input_image", image_url="x", detail="huge"), "input.0.content.0.detail: Expected"),
    (part(type="output_text", text="x", annotations=[]), "input.0.content.0.type: Expected"),
    (item(role="assistant", content=[{"type": "output_text", "text": "x", "annotations": []}]), "input.0.id: Required"),
    (item(type="function_call_output", call_id="x", output={"a": 1}), "input.0.output: Expected string"), (item(type="function_call_output", output="x"), "input.0.call_id: Required"),
    (item(type="function_call", call_id="x", name="x"), "input.0.arguments: Required"), (item(type="reasoning", id="x"), "input.0.summary: Required"),
    (item(type="mcp_approval_response", approval_request_id="x"), "input.0.approve: Required"), (item(type="item_reference"), "input.0.id: Required"),
    ({"metadata": {"a": 1}}, "metadata.a: Expected string"), ({"temperature": "hot"}, "temperature: Expected number | null"),
    ({"temperature": 3}, "temperature: Number must be less than or equal to 2"), ({"top_p": 2}, "top_p: Number"), ({"max_tool_calls": 0}, "max_tool_calls: Number"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=str)
def test_refused(sandbox_url, wrong, message):
    """A request that the API's description does not allow is refused in the vendor's shape, with the field and the expectation."""
    status, body = ask(sandbox_url, "Why?", **wrong)
    assert (400, 400, "/v1/responses") == (status, body["statusCode"], body["path"])
    assert {"message", "path", "requestId", "statusCode", "timestamp"} == body.keys()
    assert body["message"].startswith(f"Body validation error\n{message}")


TAKEN = [
    {}, {"text": {"verbosity": "low"}}, {"text": {"format": {"type": "json_object"}}}, {"tools": [{"type": "web_search"}]}, {"tools": [DOCS, SEARCH]},
    {"tools": [{"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail", "authorization": "x"}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "file_search", "vector_store_ids": ["x"]}, {"type": "x_search"}]},
    {"include": ["web_search_call.action.sources"]}, {"stream_options": {"include_obfuscation": False}}, {"a_field_of_tomorrow": [1]},
    {"previous_response_id": None, "instructions": None, "reasoning": None, "prompt": None, "include": None, "store": None},
    part(type="input_image", image_url="data:image/png;base64,AA=="), part(type="input_file", filename="x.pdf", file_data="data:application/pdf;base64,AA=="),
    item(role="assistant", phase="commentary", content="x"), item(type="message", role="developer", content="x"), item(id="sandbox_1"),
]  # fmt: skip


@pytest.mark.parametrize("body", TAKEN, ids=str)
def test_taken(sandbox_url, body):
    """A request that the API, or a server like it, accepts is answered."""
    assert 200 == ask(sandbox_url, "Why?", **body)[0]


def as_json_schema(value):
    """A schema of OpenAPI 3.0: a nullable one also takes null."""
    if isinstance(value, list):
        return [as_json_schema(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {name: as_json_schema(entry) for name, entry in value.items()}
    return {"anyOf": [found, {"type": "null"}]} if value.get("nullable") is True else found


@pytest.mark.skipif(not VENDORS.exists(), reason="the vendor's description is not here")
@pytest.mark.parametrize(("wrong", "_"), REFUSED, ids=str)
def test_vendors_description_agrees(wrong, _):
    """The vendor's own description refuses the same requests, if it knows the field."""
    path = load(VENDORS.read_bytes())["paths"]["/v1/responses"]["post"]
    described = as_json_schema(path["requestBody"]["content"]["application/json"]["schema"])
    body = {"model": "openai/o3-pro", "input": "Why?"} | wrong
    knows = wrong.keys() <= described["properties"].keys() and "mode" not in wrong.get(
        "reasoning", {}
    )
    assert jsonschema.Draft202012Validator(described).is_valid(body) == (not knows)


def test_long_transcript():
    """A conversation of thousands of turns is validated quickly."""
    turn = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    started = time.process_time()
    assert not schema.wrong({"model": "m", "input": turn * 2000})
    assert time.process_time() - started < 10
