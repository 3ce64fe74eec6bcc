"""Secrets in tools and fields: they are sent, and in no row, page, recording, export and error."""

from __future__ import annotations

import json

import pytest
import wire
from hypothesis import example, given
from hypothesis import strategies as st

from aiml_magic import errors
from aiml_magic.api import hidden
from aiml_magic.journal.replay import request_key
from aiml_magic.question.tools import tools_of
from aiml_magic.show import details, export

SECRET = "s3cret-of-the-tool-42"
MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://tools.example"}

TOOLS = {
    "headers": MCP | {"headers": {"X-Any": SECRET}},
    "authorization": {"type": "mcp", "server_label": "d", "connector_id": "c", "authorization": SECRET},
    "password of an address": MCP | {"server_url": f"https://me:{SECRET}@tools.example/sse"},
    "token of an address": MCP | {"server_url": f"https://tools.example/sse?a=1&access_token={SECRET}&b=2"},
    **{f"{name} of an address": MCP | {"server_url": f"https://tools.example/sse?a=1&{name}={SECRET}#b"} for name in ("code", "token", "sig", "sas", "pat", "auth_code")},
    "names that are short": {"type": "x", "sas": SECRET, "pat": SECRET, "sig": SECRET, "github_pat": SECRET},
    "text of another header": {"type": "x", "args": ["--header", f"X-Api-Key: {SECRET}"]},
    "text of a cloud": {"type": "x", "dsn": f"Endpoint=sb://e.example/;SharedAccessKey={SECRET}"},
    "deep": {"type": "x", "container": [{"env": {"OPENAI_API_KEY": SECRET}}]},
    "list": {"type": "x", "api-keys": [SECRET]},
    "object": {"type": "x", "credentials": {"user": "me", "word": SECRET}},
    "camel case": {"type": "x", "accessToken": SECRET},
    "headers inside": {"type": "x", "transport": {"http_headers": {"A": SECRET}}},
    "domain secrets": {"type": "shell", "network_policy": {"domain_secrets": [{"name": "A", "value": SECRET}]}},
    "name and value": {"type": "x", "env": [{"name": "API_KEY", "value": SECRET}]},
    "key and value": {"type": "x", "env": [{"key": "Authorization", "value": SECRET}]},
    "text of a header": {"type": "x", "args": ["--header", f"Authorization: Bearer {SECRET}"]},
    "bearer": {"type": "x", "bearer": SECRET, "oauth": SECRET, "jwt": SECRET, "passcode": SECRET},
    "header": {"type": "x", "request_header": {"A": SECRET}},
    "text of a connection": {"type": "x", "dsn": f"Server=e.example;Password={SECRET};"},
    "parameters of an unknown tool": {"type": "x", "parameters": {"api_key": SECRET}},
}  # fmt: skip
FIELDS = {
    "metadata": {"metadata": {"apiKey": SECRET}},
    "field of its own": {"gateway_token": SECRET},
    "headers": {"extra_headers": {"A": SECRET}},
    "prompt": {"prompt": {"id": "p", "variables": {"password": SECRET}}},
    "address": {"webhook": {"url": f"https://u:{SECRET}@e.example/?sig={SECRET}"}},
    "list": {"servers": [{"a": [{"Authorization": f"Bearer {SECRET}"}]}]},
}


@pytest.mark.parametrize(
    "options",
    [*({"tools": tools_of(["t"], {"t": tool})} for tool in TOOLS.values()), *({"params": field} for field in FIELDS.values())],
    ids=[*(f"tool: {name}" for name in TOOLS), *(f"field: {name}" for name in FIELDS)],
)  # fmt: skip
def test_secrets_are_sent_and_nowhere(module_asker, tmp_path, options):
    """A secret is sent unchanged, in its field; no file, page or answer has it, even if the server echoes it; a replay ignores it."""
    asker = module_asker
    kept_in = asker.path.parent

    def answer(request):
        kept = {name: request.body[name] for name in ("tools", "metadata") if name in request.body}
        return wire.json_reply(wire.response(f"You sent {SECRET}", **kept))

    with wire.serve(answer) as server:
        asker.session.recordings.start(kept_in / "a.jsonl")
        got = asker.ask(server.url, chat=None, **options)
        again = asker.ask(server.url, chat=None, replay="auto", **options)
    sent = server.posts[0].body
    expected = (
        [dict(tool) for tool in options["tools"].specifications] if "tools" in options else None
    )
    assert expected == sent.get("tools")
    assert all(value == sent[name] for name, value in options.get("params", {}).items())
    assert again.replayed
    assert 1 == len(server.posts)
    export.write(tmp_path / "a.md", [got])
    export.write(tmp_path / "a.html", [got])
    assert SECRET not in json.dumps([got.request, got.raw]) + got.text + repr(got)
    assert SECRET not in "".join([*details.details(got), details.opened(got)])
    files = [*tmp_path.rglob("*"), *kept_in.rglob("*")]
    assert {"a.md", "a.html", "a.jsonl", "journal.sqlite3"} <= {file.name for file in files}
    assert not any(SECRET.encode() in file.read_bytes() for file in files if file.is_file())


def test_words_that_are_no_secrets():
    """Limits, attribute names in filters, keywords and parameters of functions do not count as secrets."""
    request = {
        "model": "m",
        "input": "my token is https://u:p@example.org",
        "max_output_tokens": 99,
        "prompt_cache_key": "notebook-7",
        "stop_token_ids": [1, 2],
        "logit": {"max_tokens": 5, "token_limits": {"a": 7}, "logprobs": True, "pinned": "a", "spin": 3},
        "animals": {"monkey": "a", "hotkeys": "b", "keyboard": "c", "secretary": "d", "author": "e", "pattern": "f", "SAS_HOME": "g", "signal": "h", "code": "i", "compat": "j"},
        "notes": "Basic understanding; the bearer of it is authorized. Key=value.",
        "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"api_key": {"type": "string"}}, "required": ["api_key"], "dependentRequired": {"api_key": ["b"]}}},
            {"type": "file_search", "filters": {"type": "eq", "key": "region", "value": "eu"}, "token_limit": 5},
            {"type": "x", "keywords": ["a"], "server_url": "https://e.example/a?page=2", "secret": None, "token": ""},
        ],
    }  # fmt: skip
    assert (request, {}) == hidden.split(request)


def test_words_of_the_api_are_read(asker):
    """A secret that is a word of the API itself does not make the answers of a session unreadable."""
    with wire.serve(lambda _: wire.json_reply(wire.response(created_at=1))) as server:
        field = {"metadata": {"sort_key": "created_at", "state_token": "completed"}}
        answer = asker.ask(server.url, params=field)
    assert ("completed", "Fine.", 1) == (answer.status, answer.text, answer.raw["created_at"])


def test_api_key_in_a_hidden_place(asker):
    """The API key itself is refused everywhere, also in a field for a tool's secret."""
    from asking import KEY

    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        with pytest.raises(errors.BadInput, match="API key"):
            asker.ask(server.url, tools=tools_of(["t"], {"t": MCP | {"headers": {"A": KEY}}}))
        assert [] == server.requests


def test_one_label_of_two_servers(asker):
    """A server of tools gets no headers of another one that has the same label."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        for tool in (
            MCP | {"headers": {"A": SECRET}},
            MCP | {"server_url": "https://other.example"},
        ):
            asker.ask(server.url, tools=tools_of(["t"], {"t": tool}))
    assert "headers" in server.posts[0].body["tools"][0]
    assert "headers" not in server.posts[1].body["tools"][0]


def test_what_an_earlier_version_kept_is_replayed(asker):
    """A row of an earlier version whose key covers stored secrets is found."""
    field = {"metadata": {"note_key": SECRET}}
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.ask(server.url, chat=None, params=field)
        row = asker.journal.row(1)
        earlier = {**row.request, **field}
        with asker.journal._transaction() as db:
            key = request_key(row.server, earlier, None)
            db.execute("UPDATE requests SET key = ?, request = ?", (key, json.dumps(earlier)))
        assert asker.ask(server.url, chat=None, params=field, replay="auto").replayed
        assert 1 == len(server.posts)


names = st.sampled_from(
    ["a", "key", "headers", "api_token", "url", "properties", "password", "type", "value"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["https://u:pw@e.example/?token=abc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@example({"a": None, "key": [None]}, [{"key": "0"}])  # a field and a tool that look alike
@example({"key": {"password": 0}}, [])  # the public form has no secret, also below such a name
@example({"pin": [4711, None], "env": {"name": "token", "value": "x"}}, [])
@given(st.dictionaries(names, values), st.lists(st.dictionaries(names, values)))
def test_split_and_restored(fields, tools):
    """Any request is restored from its public form and its secrets, also after JSON, and the public form has no secret."""
    request = {"input": "x", **fields, "tools": tools}
    kept, secrets = json.loads(json.dumps(hidden.split(request)))
    assert request == hidden.restored(kept, secrets) or _has_two_secrets_in_one_place(request)
    assert "u:pw@" not in json.dumps(kept)
    assert (kept, {}) == hidden.split(kept) or not secrets


def _has_two_secrets_in_one_place(request) -> bool:
    """Whether two tools have the same public form."""
    kept = [json.dumps(tool, sort_keys=True) for tool in hidden.split(request)[0]["tools"]]
    return len(set(kept)) < len(kept)
