"""The official client of the API as a judge of our requests and of the sandbox, and as a client of the sandbox.

It knows OpenAI's API, to which AI/ML API's is similar: the vendor's additions are named here, and nothing else may be unknown to it.
"""

from __future__ import annotations

import json
import os
import typing

import pytest
import wire
from asking import KEY

if "referee" not in os.environ.get("AIML_TEST_REQUIRE", ""):
    pytest.importorskip(
        "openai", reason='the official client is not installed: pip install ".[referee]"'
    )

from calls import price, wanting
from openai import APIStatusError, BaseModel, OpenAI
from openai.types.responses import Response, ResponseCreateParams, ResponseStreamEvent
from pydantic import BaseModel as Model
from pydantic import TypeAdapter
from variables import PNG

from aiml_magic.question.attachments import parts
from aiml_magic.question.schemas import of_value
from aiml_magic.question.tools import tools_of
from aiml_magic.sandbox import rules
from aiml_magic.sandbox.events import events
from aiml_magic.sandbox.memory import Memory

# Fields of a response that OpenAI's types lack; its servers send the penalties.
OF_THE_VENDOR = {"meta", "store", "frequency_penalty", "presence_penalty"}
REQUEST = TypeAdapter(ResponseCreateParams)
EVENTS = {
    typing.get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in typing.get_args(typing.get_args(ResponseStreamEvent)[0])
}


def known(value: object) -> object:
    """A value as the referee's types keep it: lazy parts are read, which validates them, and unknown fields are dropped."""
    if isinstance(value, dict):
        return {name: known(entry) for name, entry in value.items()}
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [known(entry) for entry in value]


def unknown(value: object) -> set[str]:
    """Names of the fields that the judge's types do not have, at any depth."""
    if isinstance(value, list):
        return set().union(*map(unknown, value))
    if not isinstance(value, BaseModel):
        return set()
    return set(value.model_extra or ()).union(
        *(unknown(getattr(value, name)) for name in type(value).model_fields)
    )


class Capital(Model):
    city: str
    inhabitants: int


MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://e.org/mcp", "require_approval": "never", "headers": {"X-Team": "secret-of-the-team"}}  # fmt: skip
REQUESTS = {
    "plain": {},
    "told how": {"instructions": "Be brief.", "effort": "high", "summary": "detailed", "max_output_tokens": 4000},
    "in one piece, not kept": {"stream": False, "store": False},
    "in the background": {"stream": False, "params": {"background": True}},
    "any other field": {"params": {"include": ["reasoning.encrypted_content"], "truncation": "auto", "parallel_tool_calls": False,
                                   "prompt": {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada"}}}},
    "with a picture": {"attached": parts(PNG, "dot")},
    "with a PDF": {"attached": parts(b"%PDF-1.7 words", "paper")},
    "with a table": {"attached": parts(b"a,b\n1,2\n", "table.csv")},
    "as a type": {"schema": of_value(Capital, "Capital")},
    "with tools": {"tools": tools_of(["price", "web_search", "docs"], {"price": price, "docs": MCP})},
    "with one tool": {"tools": tools_of(["price"], {"price": price}), "tool_choice": {"type": "function", "name": "price"}},
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(asker, name):
    """Every request has the official client's types, and no field that it does not know."""
    with wire.serve(
        lambda _: wire.json_reply(wire.response('{"city":"Ur","inhabitants":1}'))
    ) as server:
        asker.ask(server.url, **REQUESTS[name])
    assert server.posts[0].body == known(REQUEST.validate_python(server.posts[0].body))


@pytest.mark.parametrize("chain", ["id", "transcript"])
def test_conversations(asker, chain):
    """The turns of a conversation with calls have the official types, by id and as a transcript."""
    replies = iter([wanting(("call_1", "price", {"item": "pear", "count": 2})), *(wire.json_reply(wire.response(id=f"r{n}")) for n in range(2))])  # fmt: skip
    with wire.serve(lambda _: next(replies)) as server:
        for cell in ("one", "two"):
            asker.ask(
                server.url,
                cell,
                cell=cell,
                tools=tools_of(["price"], {"price": price}),
                chain=chain,
            )
    assert 3 == len(server.posts)
    for request in server.posts:
        assert request.body == known(REQUEST.validate_python(request.body))
    assert ("previous_response_id" in server.posts[-1].body) == (chain == "id")


def test_the_judge_sees():
    """The judge reports an unknown field, and one of a wrong type, also inside the input."""
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}
    for wrong in (
        {"modell_": "x"},
        {"input": [message | {"text": "?"}]},
        {"input": [message | {"role": "robot"}]},
        {"store": "maybe"},
    ):
        body = {"model": "m", "input": "?"} | wrong
        try:
            assert body != known(REQUEST.validate_python(body))
        except ValueError:
            continue


ASKED = [
    {"input": "Why is the sky dark?"},
    {
        "input": "Why?",
        "reasoning": {"effort": "low", "summary": "auto"},
        "instructions": "Be brief.",
        "max_output_tokens": 20_000,
    },
    {"input": "Why?", "max_output_tokens": 100},
    {
        "input": "Call price.",
        "tools": list(tools_of(["price"], {"price": price}).specifications),
        "tool_choice": "auto",
    },
    {"input": "The largest?", "text": {"format": of_value(Capital, "Capital").format}},
    {"input": "Why?", "background": True},
    {
        "input": "Why?\nsandbox: phase=commentary",
        "model": "openai/gpt-5.6-sol",
        "reasoning": {"mode": "pro", "effort": "max"},
    },
    {"input": "Why?", "reasoning": {"effort": "none"}},
    {"input": "Why?", "tools": [{"type": "web_search_preview"}], "tool_choice": "required"},
    {
        "input": "Why?",
        "tools": [{"type": "mcp", "server_label": "docs", "server_url": "https://e.org"}],
        "tool_choice": {"type": "mcp", "server_label": "docs"},
    },
    {
        "input": "Why?",
        "temperature": 0.5,
        "metadata": {"project": "cells"},
        "max_tool_calls": 3,
        "service_tier": "flex",
    },
    *({"input": f"Why?\nsandbox: fault={fault}"} for fault in ("incomplete", "refusal", "failed")),
]


@pytest.mark.parametrize("body", ASKED, ids=str)
def test_sandbox_answers(body):
    """Every response and event of the sandbox has all required fields of the official types, and no unknown ones."""
    body = {"model": "openai/o3-pro", "store": True} | body
    response = Memory().respond(body, rules.orders(body["input"]))
    assert unknown(Response.model_validate(response)) <= OF_THE_VENDOR
    told = events(response)
    assert list(range(len(told))) == [event["sequence_number"] for event in told]
    for event in told:
        assert unknown(EVENTS[event["type"]].model_validate(event)) <= OF_THE_VENDOR


@pytest.fixture
def client(sandbox_url):
    with OpenAI(api_key=KEY, base_url=sandbox_url, max_retries=0) as client:
        yield client


def test_create_and_go_on(client):
    """The official client asks the sandbox, continues, fetches and deletes."""
    first = client.responses.create(model="openai/o3-pro", input="Why is the sky dark?", store=True)
    second = client.responses.create(
        model="openai/o3-pro", input="And the sea?", previous_response_id=first.id, store=True
    )
    assert "1. Why is the sky dark?" in second.output_text
    assert second.output_text == client.responses.retrieve(second.id).output_text
    client.responses.delete(second.id)
    with pytest.raises(APIStatusError) as gone:
        client.responses.retrieve(second.id)
    assert 404 == gone.value.status_code


def test_stream(client):
    """The official client assembles the same answer from a stream, event by event."""
    asked = {
        "model": "openai/o3-pro",
        "input": "Why is the sky dark?",
        "reasoning": {"summary": "auto"},
    }
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        # The vendor's last chunk has none.
        seen = [event for event in stream if getattr(event, "type", None)]
        assert whole.output_text == stream.get_final_response().output_text
    assert whole.output_text == "".join(
        event.delta for event in seen if event.type == "response.output_text.delta"
    )


def test_background_stream(client):
    """The official client follows the stream of a background response, and resumes it after any event."""
    asked = {"model": "openai/o3-pro", "input": "Later?\nsandbox: delay=0.3", "background": True}
    # The vendor's last chunk has no type.
    seen = list(client.responses.create(**asked, stream=True))[:-1]
    assert ["response.created", "response.queued", "response.in_progress"] == [
        event.type for event in seen[:3]
    ]
    assert ["queued", "queued", "in_progress"] == [event.response.status for event in seen[:3]]
    assert "completed" == seen[-1].response.status
    again = client.responses.retrieve(seen[0].response.id, stream=True, starting_after=4)
    assert [event.sequence_number for event in seen[5:]] == [
        event.sequence_number for event in again
    ][:-1]


def test_parse(client):
    """The official client gets an instance of the requested type."""
    parsed = client.responses.parse(
        model="openai/o3-pro", input="The largest?", text_format=Capital
    )
    assert Capital(city="sandbox", inhabitants=1) == parsed.output_parsed


def test_tools(client):
    """The official client gets a function call, and sends its result back."""
    (tool,) = tools_of(["price"], {"price": price}).specifications
    first = client.responses.create(
        model="openai/o3-pro", input="Call price.", tools=[tool], store=True
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert {"item", "count"} == set(json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "7.5"}
    second = client.responses.create(
        model="openai/o3-pro", input=[result], previous_response_id=first.id
    )
    assert "7.5" in second.output_text


def test_background_and_cancel(client):
    """The official client starts a background response, polls it, and cancels it."""
    queued = client.responses.create(
        model="openai/o3-pro", input="Later?\nsandbox: delay=60", background=True, store=True
    )
    assert ["queued"] * 2 == [queued.status, client.responses.retrieve(queued.id).status]
    assert ["cancelled"] * 2 == [
        client.responses.cancel(queued.id).status,
        client.responses.retrieve(queued.id).status,
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_errors(client, status):
    """The official client raises the right class for each refusal of the sandbox."""
    with pytest.raises(APIStatusError) as refused:
        client.responses.create(model="openai/o3-pro", input=f"Why?\nsandbox: fault={status}")
    assert status == refused.value.status_code
