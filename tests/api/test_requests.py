"""Every field of a request, through a real socket: the requests are valid by the API's description, and by a stricter schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import wire

from aiml_magic import ask
from aiml_magic.notebook import script as asking

OURS = json.loads((Path(__file__).parents[1] / "data" / "request.schema.json").read_text())
VENDORS = Path(__file__).parents[3] / "shared" / "contract" / "o3-pro-responses.openapi.json"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass
class Rating:
    score: int
    why: str


def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://example.org/mcp", "headers": {"Authorization": "Bearer secret-of-docs"},
       "require_approval": "never", "allowed_tools": ["search"]}  # fmt: skip

# The question's options, and the field of the request with its value; `...` is any.
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({"model": "openai/o3-pro"}, {"model": "openai/o3-pro"}),
    "input": ({}, {"input": "Why?"}),
    "instructions": ({"instructions": "Be brief."}, {"instructions": "Be brief."}),
    "effort": ({"effort": "high"}, {"reasoning": {"effort": "high"}}),
    "summary": (
        {"effort": "low", "summary": "auto"},
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    "max_output_tokens": ({"max_output_tokens": 16}, {"max_output_tokens": 16}),
    "stream": ({}, {"stream": True}),
    "no store": ({"no_store": True}, {"store": False}),
    "image": ({"attach": PNG}, {"input": ...}),
    "image by its address": ({"attach": "https://example.org/cell.png"}, {"input": ...}),
    "text file": ({"attach": b"a,b\n1,2\n"}, {"input": ...}),
    "PDF": ({"attach": b"%PDF-1.4\n%%EOF\n"}, {"input": ...}),
    "schema": ({"schema": Rating}, {"text": ...}),
    "text": (
        {"param": {"text": {"format": {"type": "json_object"}}}},
        {"text": {"format": {"type": "json_object"}}},
    ),
    "function": ({"tool": add}, {"tools": ...}),
    "web_search": (
        {"tool": "web_search", "tool_choice": "required"},
        {"tools": [{"type": "web_search_preview"}], "tool_choice": "required"},
    ),
    "MCP": ({"tool": MCP}, {"tools": [MCP]}),
    "choice of a function": (
        {"tool": add, "tool_choice": "add"},
        {"tool_choice": {"type": "function", "name": "add"}},
    ),
    "choice of web_search": (
        {"tool": "web_search", "tool_choice": "web_search"},
        {"tool_choice": {"type": "web_search_preview"}},
    ),
    "background": ({"param": {"background": True}}, {"background": True}),
    "include": (
        {"param": {"include": ["reasoning.encrypted_content"]}},
        {"include": ["reasoning.encrypted_content"]},
    ),
    "truncation": ({"param": {"truncation": "auto"}}, {"truncation": "auto"}),
    "parallel_tool_calls": (
        {"param": {"parallel_tool_calls": False}},
        {"parallel_tool_calls": False},
    ),
    "prompt": (
        {"param": {"prompt": {"id": "pmpt_1", "variables": {"x": "1"}}}},
        {"prompt": {"id": "pmpt_1", "variables": {"x": "1"}}},
    ),
}


def vendors() -> dict[str, Any]:
    """The vendor's description of a request, as a JSON Schema."""
    if not VENDORS.exists():
        pytest.skip("the vendor's OpenAPI is not on this machine")
    described = json.loads(VENDORS.read_text())
    return without_nullable(
        described["paths"]["/v1/responses"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
    )


def without_nullable(schema: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where a JSON Schema says `null`."""
    if isinstance(schema, list):
        return [without_nullable(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: without_nullable(entry) for name, entry in schema.items() if name != "nullable"}
    return {"anyOf": [{"type": "null"}, plain]} if schema.get("nullable") is True else plain


def judge(*bodies: dict[str, Any]) -> None:
    """Checks that both schemas accept these requests."""
    schemas = [OURS, *([vendors()] if VENDORS.exists() else [])]
    for body in bodies:
        for schema in schemas:
            jsonschema.Draft202012Validator(schema).validate(body)


@pytest.fixture
def replies():
    """The replies of the server, in order; later ones are successful."""
    return []


@pytest.fixture
def server(plain_script, monkeypatch, replies):
    def answer(request: wire.Request) -> wire.Reply:
        number = len(server.posts)
        told = replies.pop(0) if replies else {"text": "Fine."}
        return wire.json_reply(
            wire.response(
                id=f"resp_{number}",
                previous_response_id=request.body.get("previous_response_id"),
                **told,
            )
        )

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


def test_fields(server, replies):
    """Each field arrives unchanged, in a request that both schemas accept."""
    for name, (given, expected) in FIELDS.items():
        if name == "schema":
            replies.append({"text": '{"score": 1, "why": "so"}'})
        ask("Why?", alone=True, fresh=True, **given)
        body = server.posts[-1].body
        judge(body)
        for field, value in expected.items():
            assert field in body, name
            assert value is ... or value == body[field], name
    assert len(FIELDS) == len(server.posts)


def test_fields_are_all():
    """The cases above cover every field of the API, and our schema has no other."""
    tested = {field for _, expected in FIELDS.values() for field in expected} | {
        "previous_response_id"
    }
    assert tested == set(OURS["properties"])
    assert tested == set(vendors()["properties"])


def test_schemas_see():
    """Both schemas refuse invalid requests."""
    good = {"model": "openai/o3-pro", "input": "Why?", "store": True}
    judge(good)
    for wrong in (
        {"max_output_tokens": 15},
        {"input": [{"type": "message"}]},
        {"reasoning": {"effort": "most"}},
        {"tools": [{"type": "x"}]},
    ):
        for schema in (OURS, vendors()):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.Draft202012Validator(schema).validate(good | wrong)


@pytest.mark.parametrize("chain", ["id", "transcript"])
def test_conversation(server, replies, chain):
    """The turn after a question, a refusal, an image and a file is a valid request, by id and as a transcript."""
    asking.loaded_or_new().chain = chain
    replies += [{"text": "One."}, {"text": "Two."}, {"text": "Three."}]
    for question in ({"attach": PNG}, {"attach": b"x"}, {}, {"instructions": "Be brief."}):
        ask("Why?", chat="c", **question)
    judge(*(post.body for post in server.posts))
    last = server.posts[-1].body
    assert ("previous_response_id" in last) is (chain == "id")
    assert (chain == "id") is isinstance(last["input"], str)


@pytest.mark.parametrize("chain", ["id", "transcript"])
def test_rounds_of_tools(server, replies, chain):
    """Results of functions and answers to approvals are sent as items that both schemas accept."""
    asking.loaded_or_new().chain = chain
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "add",
        "arguments": '{"a": 1, "b": 2}',
        "status": "completed",
    }
    replies.append({"output": [{"type": "reasoning", "id": "rs_1", "summary": []}, call]})
    answer = ask("Add.", tool=add)
    assert "3" == answer.calls[0].result
    assert {"type": "function_call_output", "call_id": "call_1", "output": "3"} == server.posts[
        1
    ].body["input"][-1]
    judge(*(post.body for post in server.posts))


def test_approval(server, replies):
    """An approval is sent as an item that both schemas accept."""
    replies.append(
        {
            "output": [
                {
                    "type": "mcp_approval_request",
                    "id": "mcpr_1",
                    "name": "drop",
                    "arguments": "{}",
                    "server_label": "docs",
                }
            ]
        }
    )
    asked = ask("Do it.", tool=MCP)
    magics = asking.loaded_or_new()
    journal = magics.asking.journal
    question = magics.question({"tool": ["docs"]}, "", {"docs": MCP})
    magics.asking.decide(journal.row(asked.journal_id), question, is_approved=True).wait()
    judge(*(post.body for post in server.posts))
    assert [
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    ] == server.posts[1].body["input"]
