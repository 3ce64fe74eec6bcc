"""Functions of the notebook as tools: description, calls, display and replay; MCP servers and their secrets."""

from __future__ import annotations

import ast
import datetime as dt
import json
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import pytest
import wire
from asking import Asker, question
from calls import price, wanting
from hypothesis import given
from hypothesis import strategies as st
from kernels import kernel

from aiml_magic import errors
from aiml_magic.api.responses import Response, ToolCall
from aiml_magic.journal import recording
from aiml_magic.question import tools
from aiml_magic.question.tools import confirm, tools_of
from aiml_magic.session import conversation


async def later(seconds: float) -> str:
    """Waits a little."""
    import asyncio

    await asyncio.sleep(seconds)
    return "waited"


def printing() -> None:
    """Prints."""
    print("heard")


@confirm
def dangerous(path: str) -> str:
    """Deletes."""
    return f"deleted {path}"


VARIABLES = {"price": price, "later": later, "printing": printing, "dangerous": dangerous}


def call(name: str, **arguments) -> ToolCall:
    return ToolCall("call_1", name, json.dumps(arguments))


def in_turn(*replies: wire.Reply):
    turns = iter(replies)
    return lambda _: next(turns)


def test_specification():
    """A function is a strict tool with its name, its docstring, and its parameters, all required."""
    (tool,) = tools_of(["price"], VARIABLES).specifications
    assert ("function", "price", True, "The price of `count` items.") == (
        tool["type"],
        tool["name"],
        tool["strict"],
        tool["description"],
    )
    assert ["item", "count"] == tool["parameters"]["required"]


class Scaled:
    """A scale."""

    __doc__ = 7  # type: ignore[assignment]  # a class may have any

    def __init__(self, by: Iterable[float]) -> None:
        self.total = sum(by) / len(list(by))

    def __str__(self) -> str:
        return f"{self.total:g}"


def test_class_as_tool():
    """A class is called with the parameters of its `__init__`; `*` parameters are a list."""
    known = tools_of(["Scaled", "Scaled"], {"Scaled": Scaled})
    (tool,) = known.specifications
    assert {"type": "array", "items": {"type": "number"}} == tool["parameters"]["properties"]["by"]
    assert '"1.5"' == tools.run(call("Scaled", by=[1, 2]), known.functions)


def test_two_functions_of_one_name():
    """Two functions of one name are refused: a call would be ambiguous."""
    with pytest.raises(errors.BadInput, match="second is the second function called price"):
        tools_of(["price", "second"], {"price": price, "second": twin()})


def twin():
    def price(item: str) -> float:
        return 0.0

    return price


def test_run():
    """The result of a call is the function's value as text; null stands for a default; an async function is awaited."""
    functions = tools_of(["price", "later", "printing"], VARIABLES).functions
    assert "1.5" == tools.run(call("price", item="pear", count=2), functions)
    assert "0.5" == tools.run(call("price", item="apple", count=None), functions)
    assert "waited" == tools.run(call("later", seconds=0.01), functions)
    assert "null" == tools.run(call("printing"), functions)


@pytest.mark.parametrize(
    "wrong", [call("price", item="plum"), call("price"), call("price", item=1), call("price", item="pear", more=1), call("nothing"), ToolCall("c", "price", "{"), ToolCall("c", "price", "[]")]
)  # fmt: skip
def test_errors_go_back(wrong):
    """An error in a call is sent to the model, and does not end the question."""
    assert json.loads(tools.run(wrong, VARIABLES))["error"]


@pytest.mark.parametrize(
    ("said", "told"), [("y", "deleted x"), ("n", "not allow"), ("", "not allow")]
)
def test_confirm(said, told, monkeypatch):
    """A function marked by `confirm` runs only after a confirmation of this call; without a person it does not run."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or said)
    assert told in tools.run(call("dangerous", path="x"), VARIABLES)
    assert ["Run dangerous(path='x')? [y/N] "] == asked

    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert "not allow" in tools.run(call("dangerous", path="x"), VARIABLES)


def asked_for(function, arguments: str) -> tuple[list[str], str]:
    """The question to the person before a function runs, and the result for the model."""
    asked: list[str] = []
    with patch("builtins.input", lambda prompt: asked.append(prompt) or "y"):
        told = tools.run(ToolCall("c", "f", arguments), {"f": confirm(function)})
    return asked, told


@given(
    st.text(max_size=40)
    | st.sampled_from(
        ["a" * 600 + "/etc", "x\r/etc", "a\u202eb", "\u200b\u2066", "\x9b2J", "\u3164\ufe0f"]
    )
)
def test_confirm_shows_what_is_run(path):
    """The question before a call shows every argument completely, by name, on one line without invisible characters."""

    def f(path: str, much: int = 1) -> str:
        return "".join(f"{ord(sign):x} " for sign in path)

    asked, told = asked_for(f, json.dumps({"much": 7, "path": path}))
    assert told == f(path)
    (prompt,) = asked
    assert prompt.isprintable()
    assert not set(prompt) & set("\u3164\ufe0f")
    shown = ast.parse(prompt.removeprefix("Run ").removesuffix("? [y/N] "), mode="eval").body
    assert {"path": path, "much": 7} == {
        word.arg: ast.literal_eval(word.value) for word in shown.keywords
    }


ODD_ARGUMENTS = [
    '{"path": "a", "path": "/etc"}',
    '{"path": {"a": 1, "a": 2}}',
    '{"path": NaN}',
    '{"path": -Infinity}',
    f'{{"path": {"9" * 5000}}}',
    f'{{"path": {"[" * 100_000}',
    f'{{"path": "{"x" * 30_000}"}}',
]


@pytest.mark.parametrize("arguments", ODD_ARGUMENTS, ids=[text[:24] for text in ODD_ARGUMENTS])
def test_what_nobody_can_judge(arguments):
    """Ambiguous arguments, and those too long to be read, are refused without a question or a call."""
    ran = []

    def f(path: Any) -> None:
        ran.append(path)

    asked, told = asked_for(f, arguments)
    assert json.loads(told)["error"]
    assert ([], []) == (asked, ran)


def wanting_approval(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {
        "type": "mcp_approval_request",
        "id": "m",
        "name": "rm",
        "arguments": arguments,
        "server_label": "docs",
    } | fields


def test_requests_for_approval_are_shown_whole():
    """A call to an MCP server is shown like one of a function: its name and all arguments, with invisible characters escaped."""
    assert r"rm(path='a\u202eb', __proto__={'x': [1, None]}) of docs" == tools.shown_request(
        wanting_approval('{"path": "a\u202eb", "__proto__": {"x": [1, null]}}')
    )
    assert "rm(n=9007199254740993) of docs" == tools.shown_request(
        wanting_approval('{"n": 9007199254740993}')
    )
    assert "rm() of docs" == tools.shown_request(wanting_approval(""))
    assert "rm(arguments=[1]) of docs" == tools.shown_request(wanting_approval("[1]"))
    assert r"'r\x1bm'('a b'='\ud800') of 'docs\r'" == tools.shown_request(
        wanting_approval({"a b": "\ud800"}, name="r\x1bm", server_label="docs\r")
    )
    for arguments in (*ODD_ARGUMENTS, "{", "rm -r"):
        with pytest.raises(ValueError, match=r"."):
            tools.shown_request(wanting_approval(arguments))


def test_long_and_odd_results():
    """A table is sent back as CSV, an object as text, and a text that is too long is cut, with a remark."""

    class Table:
        shape = (1, 1)

        def to_csv(self, *, index: bool) -> str:
            return "a\n1\n"

    results = {"table": Table, "odd": object, "long": lambda: "x" * 300_000, "set": lambda: {1}}
    assert "a\n1\n" == tools.run(call("table"), {"table": Table})
    assert "object" in tools.run(call("odd"), {"odd": object})
    assert {"error"} == json.loads(tools.run(call("odd"), {"odd": object})).keys(), (
        "a name and an address tell the model nothing"
    )
    np = pytest.importorskip("numpy")
    assert "4999" in tools.run(call("many"), {"many": lambda: {"a": np.arange(5000)}})
    assert '"[0 1 2]"' == tools.run(call("few"), {"few": lambda: np.arange(3)})
    assert "cut off; it has 300,000" in tools.run(call("long"), results)
    assert "{1}" in tools.run(call("set"), results)
    keys = {np.int64(1): {(1, "a"): 2}, dt.date(2026, 1, 2): [{None: 3}]}
    assert '{"1": {"(1, \'a\')": 2}, "2026-01-02": [{"null": 3}]}' == tools.run(
        call("keys"), {"keys": lambda: keys}
    )


@pytest.mark.parametrize("given", ["", None, "null", " ", "{}", {}])
def test_no_arguments(given):
    """A call without arguments runs in every form that servers send."""
    item = {"type": "function_call", "call_id": "c", "name": "printing", "arguments": given}
    (wanted,) = Response({"output": [item]}).calls
    assert "null" == tools.run(wanted, VARIABLES)


def test_arguments_as_an_object():
    """Arguments sent as an object instead of a text are read."""
    item = {
        "type": "function_call",
        "call_id": "c",
        "name": "price",
        "arguments": {"item": "pear", "count": 2},
    }
    (wanted,) = Response({"output": [item]}).calls
    assert "1.5" == tools.run(wanted, VARIABLES)
    assert json.loads(wanted.arguments) == item["arguments"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("int64(7)", "7"),
        ("float32(0.5)", "0.5"),
        ("bool_(True)", "true"),
        ("array(3)", "3"),
        ("longdouble(0.5)", "0.5"),
        ("clongdouble(2j)", '"2j"'),
        ("ma.masked", '"--"'),
        ("datetime64(1, 'ns')", '"1970-01-01T00:00:00.000000001"'),
    ],
)
def test_scalars_of_numpy(value, told):
    """A scalar of NumPy is a number, or a date, in what goes back to the model, alone and in a dict."""
    numpy = pytest.importorskip("numpy")
    made = eval(f"numpy.{value}", {"numpy": numpy})
    assert told == tools.run(call("give"), {"give": lambda: made})
    assert f'{{"x": {told}}}' == tools.run(call("give"), {"give": lambda: {"x": made}})


@pytest.mark.parametrize("name", ["prise", "_hidden", "7", "x y"])
def test_unknown_tool(name):
    """A name without a tool is an error of two lines with the nearest name."""
    with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
        tools_of([name], VARIABLES)
    assert ("price" in refused.value.hint) == (name == "prise")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "mcp"},
        {"type": "function", "name": "f"},
        {"type": 3},
        {},
        {"type": "mcp", "server_label": "a", "server_url": object()},
        7,
        "text",
        lambda x: x,
    ],
)
def test_what_is_no_tool(value):
    """An incomplete dict, another type, and a function without hints are errors of two lines before anything is sent."""
    with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
        tools_of(["thing"], {"thing": value})
    assert 2 == len(str(refused.value).splitlines())


def test_choice():
    """A tool is chosen by the name that the person uses."""
    known = tools_of(
        ["price", "web_search", "mcp"],
        {**VARIABLES, "mcp": {"type": "mcp", "server_label": "docs", "server_url": "https://x"}},
    )
    assert "required" == tools.choice("required", known)
    assert {"type": "function", "name": "price"} == tools.choice("price", known)
    assert {"type": "web_search_preview"} == tools.choice("web_search", known)
    assert {"type": "mcp", "server_label": "docs"} == tools.choice("docs", known)
    assert {"type": "mcp", "server_label": "docs"} == tools.choice("mcp", known)
    with pytest.raises(errors.BadInput, match="Nothing was sent"):
        tools.choice("prise", known)


OF_THE_API = [
    {"type": "web_search_preview_2025_03_11", "search_context_size": "low"},
    {"type": "x_search"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "local_shell"},
    {"type": "file_search", "vector_store_ids": ["vs_1"], "filters": {"type": "eq", "key": "region", "value": "eu"}},
    {"type": "image_generation", "size": "1024x1024"},
    {"type": "custom", "name": "grammar"},
    {"type": "of next year", "depth": {"n": [1, None]}},
]  # fmt: skip


@pytest.mark.parametrize("tool", OF_THE_API, ids=lambda tool: tool["type"])
def test_any_tool_of_the_api(asker, tool):
    """A dict of any type is sent and stored unchanged, and can be chosen."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        known = tools_of(["it"], {"it": tool})
        chosen = tools.choice(tool.get("name", tool["type"]), known)
        answer = asker.ask(server.url, tools=known, tool_choice=chosen)
    assert [tool] == server.posts[0].body["tools"] == answer.request["tools"]
    assert chosen == {name: tool[name] for name in ("type", "name") if name in tool}


def test_choice_of_an_earlier_version(asker):
    """A question that chose an MCP server without its label, as earlier versions sent it, is replayed."""
    known = tools_of(
        ["docs"], {"docs": {"type": "mcp", "server_label": "d", "server_url": "https://x"}}
    )
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.ask(server.url, tools=known, tool_choice={"type": "mcp"}, chat=None)
        again = asker.ask(
            server.url, tools=known, tool_choice=tools.choice("d", known), chat=None, replay="auto"
        )
    assert again.replayed
    assert 1 == len(server.posts)


def ask(asker, server, *names, **options):
    return asker.ask(server.url, cell="a", tools=tools_of(names, VARIABLES), **options)


def test_loop(asker):
    """The calls of a round run in order, their results have their ids, and the answer has the sums of all rounds."""
    replies = (
        wanting(
            ("a", "price", {"item": "pear", "count": 2}),
            ("b", "price", {"item": "plum", "count": 1}),
        ),
        wire.json_reply(wire.response("It is 1.5.", id="resp_2")),
    )
    with wire.serve(in_turn(*replies)) as server:
        answer = ask(asker, server, "price")
    first, second = (request.body for request in server.posts)
    assert "price" == first["tools"][0]["name"]
    assert "resp_1" == second["previous_response_id"]
    assert [("a", "1.5"), ("b", '{"error": "KeyError: \'plum\'"}')] == [
        (item["call_id"], item["output"]) for item in second["input"]
    ]
    assert "It is 1.5." == answer.text
    assert 15 == answer.usage.total_tokens
    assert [("price", "1.5")] == [(done.name, done.result) for done in answer.calls][:1]


def test_loop_by_transcript(asker):
    """If the server stores nothing, the next round repeats the calls before their results."""
    replies = wanting(("a", "price", {"item": "pear"})), wire.json_reply(wire.response("Done."))
    with wire.serve(in_turn(*replies)) as server:
        ask(asker, server, "price", store=False)
    kinds = [item["type"] for item in server.posts[1].body["input"]]
    assert ["message", "function_call", "function_call_output"] == kinds


def test_loop_is_replayed(asker):
    """Asked again in the same place, nothing is sent with the same results; with other results only the later rounds are."""
    replies = (
        wanting(("a", "price", {"item": "pear"})),
        wire.json_reply(wire.response("Done.", id="resp_2", previous_response_id="resp_1")),
        wire.json_reply(wire.response("Now?", id="resp_3")),
        wire.json_reply(wire.response("Other.", id="resp_4")),
    )
    with wire.serve(in_turn(*replies)) as server:
        first = ask(asker, server, "price", replay="auto")
        again = ask(asker, server, "price", replay="auto")
        assert (first.text, True) == (again.text, again.replayed)
        assert 2 == len(server.posts)
        asker.ask(server.url, "And?", cell="b")
        assert "resp_2" == server.posts[2].body["previous_response_id"], (
            "the conversation goes on from the last round"
        )
        price.__globals__["price"], kept = price, price
        changed = tools.Tools(
            tools_of(["price"], VARIABLES).specifications, {"price": lambda item, count=1: 9.0}
        )
        changed.functions["price"].__annotations__ = kept.__annotations__
        assert "Other." == asker.ask(server.url, cell="a", tools=changed, replay="auto").text
        assert 4 == len(server.posts)


def test_limit(asker):
    """A model that never stops calling is stopped at the limit, and its last call is shown."""
    with wire.serve(lambda _: wanting(("a", "price", {"item": "pear"}))) as server:
        answer = ask(asker, server, "price", max_tool_rounds=3)
    assert 4 == len(server.posts)
    assert "tool_calls" == answer.response.outcome


def test_forced_choice_is_for_one_round(asker):
    """A forced choice is for the first round only."""
    replies = wanting(("a", "price", {"item": "pear"})), wire.json_reply(wire.response("Done."))
    with wire.serve(in_turn(*replies)) as server:
        ask(asker, server, "price", tool_choice="required")
    assert ["required", "auto"] == [request.body["tool_choice"] for request in server.posts]


def test_background_is_refused(asker):
    """A question with a function of the notebook is refused in the background."""
    with wire.serve(lambda _: wanting()) as server:
        with pytest.raises(errors.BadInput, match="Nothing was sent"):
            ask(asker, server, "price", background=True)
        assert not server.posts


SECRET = "a-secret-of-the-tool-server"


def test_headers_of_an_mcp_server(asker, home):
    """The headers are sent, and in no journal and no message, even if the server echoes them."""
    variables = {
        "docs": {
            "type": "mcp",
            "server_label": "docs",
            "server_url": "https://tools.example",
            "headers": {"Authorization": f"Bearer {SECRET}"},
        }
    }

    def answer(request):
        return wire.json_reply(wire.response(f"You sent {SECRET}", tools=request.body.get("tools")))

    with wire.serve(answer) as server:
        answer = asker.ask(server.url, tools=tools_of(["docs"], variables))
        asker.ask(server.url, "And without?")
    assert "tools" not in server.posts[1].body, "a question without tools stays one"
    assert f"Bearer {SECRET}" == server.posts[0].body["tools"][0]["headers"]["Authorization"]
    assert SECRET not in json.dumps([answer.request, answer.raw]) + answer.text
    assert not any(
        SECRET.encode() in file.read_bytes() for file in home.rglob("*") if file.is_file()
    )


def test_approval(home):
    """A request for approval ends the question; %aiml approve and %aiml deny continue it with the same settings."""
    request = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "name": "delete",
        "arguments": "{}",
        "server_label": "docs",
    }
    replies = [
        wire.json_reply(wire.response(id="resp_1", output=[request])),
        wire.json_reply(wire.response("Deleted.", id="resp_2", previous_response_id="resp_1")),
        wire.json_reply(wire.response("And on.", id="resp_3")),
    ]
    with wire.serve(in_turn(*replies)) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        running.run(
            f"docs = {{'type': 'mcp', 'server_label': 'docs', 'server_url': 'https://t', 'headers': {{'X': '{SECRET}'}}}}"
        )
        asked = running.run("%%o3pro -f docs -e high\nDelete it.", "a")
        assert "Waiting for approval" in asked.of_type("text/markdown")[0]
        assert "%aiml approve resp_1" in asked.of_type("text/markdown")[0].replace("&#37;", "%")
        assert "delete({})" in asked.of_type("text/html")[-1], "with which arguments"
        assert "> delete() of docs" in asked.of_type("text/plain")[1].replace("```", "")
        approved = running.run("%aiml approve resp_1")
        assert "Allowed: delete() of docs" in approved.stream
        assert "Deleted." in approved.of_type("text/markdown")[0]
        assert "does not wait for an approval" in running.run("%aiml deny 2").error["evalue"]
        assert "And on." in running.run("%%o3pro\nGo on.", "b").of_type("text/markdown")[0]
    second, third = (post.body for post in server.posts[1:])
    assert [
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    ] == second["input"]
    assert ("resp_1", {"effort": "high"}) == (second["previous_response_id"], second["reasoning"])
    assert SECRET == second["tools"][0]["headers"]["X"]
    assert "resp_2" == third["previous_response_id"]


def test_in_a_notebook(home, sandbox_url):
    """In a cell the function runs in the notebook, its prints are shown, and each call is folded into the details."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        running.run(
            'def add(a: int, b: int) -> int:\n    "Adds."\n    print("adding", a, b)\n    return a + b'
        )
        ran = running.run("%%o3pro -o answer -f add\nWhat does add give?", "a")
        assert "adding 1 1" in ran.stream
        assert "what came of the tools: 2" in ran.of_type("text/markdown")[0]
        assert "<summary>Calls</summary>" in ran.of_type("text/html")[-1]
        assert (
            "('add', '2')"
            == running.run("print((answer.calls[0].name, answer.calls[0].result))").stream.strip()
        )
        again = running.run("%%o3pro -o answer -f add\nWhat does add give?", "a")
        assert "True" == running.run("print(answer.replayed)").stream.strip()
        assert ran.of_type("text/html") == again.of_type("text/html")
        assert "background" in running.run("%%o3pro -b -f add\nWhat?").error["evalue"]


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError


def leaving() -> None:
    """Leaves."""
    raise SystemExit(2)


def wordless() -> None:
    """Fails."""
    raise Wordless


@pytest.mark.parametrize("function", [leaving, wordless])
def test_whatever_a_function_raises(function):
    """Only an interrupt ends a question that is paid for: a function that exits, or fails without a message, becomes a result for the model."""
    told = tools.run(call(function.__name__), {function.__name__: function})
    assert {"leaving": "SystemExit", "wordless": "Wordless"}[function.__name__] in told


@pytest.mark.parametrize(
    "headers", [{"Authorization": b"key"}, {"X-Workspace": 42}, "Authorization: x", 5]
)
def test_headers_that_are_no_texts(headers):
    """Headers other than texts are refused before anything is sent."""
    server = {
        "type": "mcp",
        "server_label": "x",
        "server_url": "https://e.example",
        "headers": headers,
    }
    with pytest.raises(errors.BadInput, match="headers of m"):
        tools_of(["m"], {"m": server})


def test_rounds_are_one_turn(asker, tmp_path):
    """A cell with a function keeps its place over a restart, is not stale by its own rounds, and is recorded completely."""
    apple = ("c1", "price", {"item": "apple", "count": 1})

    def answer(request):
        name, previous = f"resp_{len(server.posts)}", request.body.get("previous_response_id")
        if request.body["input"] == "Price?":
            return wanting(apple, id=name)
        return wire.json_reply(wire.response("Fine.", id=name, previous_response_id=previous))

    def run_all(asker):
        asker.ask(
            server.url, "Price?", cell="a", replay="auto", tools=tools_of(["price"], VARIABLES)
        )
        return asker.ask(server.url, "And?", cell="b", replay="auto")

    with wire.serve(answer) as server:
        asker.session.recordings.start(tmp_path / "a.jsonl")
        run_all(asker)
        assert not any(is_stale for _, _, is_stale in conversation.tree(asker.journal.history()))
        again = asker.ask(
            server.url, "Price?", cell="a", replay="auto", tools=tools_of(["price"], VARIABLES)
        )
        assert () == again.notices
        later = Asker(asker.path)
        try:
            assert run_all(later).replayed
        finally:
            later.session.close(10)
        assert 3 == len(server.posts)
    assert 3 == len(recording.read(tmp_path / "a.jsonl"))


def test_approval_after_a_restart(asker):
    """After an approval in another kernel the cell keeps its place: run again, it is replayed."""
    wanted = [
        {
            "type": "mcp_approval_request",
            "id": "appr_1",
            "name": "x",
            "arguments": "{}",
            "server_label": "l",
        }
    ]

    def answer(request):
        name, previous = f"resp_{len(server.posts)}", request.body.get("previous_response_id")
        output = {"output": wanted} if request.body["input"] == "Do it?" else {}
        return wire.json_reply(wire.response(id=name, previous_response_id=previous, **output))

    with wire.serve(answer) as server:
        asker.ask(server.url, "One?", cell="a", replay="auto")
        asker.ask(server.url, "Do it?", cell="b", replay="auto")
        later = Asker(asker.path)
        try:
            later.on(server.url).decide(later.journal.row(2), question(""), is_approved=True).wait(
                10
            )
            later.ask(server.url, "Do it?", cell="b", replay="auto")
        finally:
            later.session.close(10)
        assert [None, "resp_1", "resp_2"] == [
            post.body.get("previous_response_id") for post in server.posts
        ]


def test_interrupt_inside_a_function(home, sandbox_url):
    """An interrupt inside a function stops the question; earlier answers are replayed when the cell is run again."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        running.run(
            "import time\nseconds = 30\ndef slow() -> str:\n    print('begun', flush=True)\n    time.sleep(seconds)\n    return 'slept'"
        )
        request = running.start("%%o3pro -f slow\nUse slow.", "a")
        running.wait_for_words("begun")
        running.manager.interrupt_kernel()
        assert "Interrupted" == running.finish(request).error["ename"]
        running.run("seconds = 0")
        assert "slept" in running.run("%%o3pro -f slow\nUse slow.", "a").of_type("text/markdown")[0]
        assert 2 == len(running.run("%aiml history").stream.splitlines()) - 1


def test_schema_in_a_notebook(home, sandbox_url):
    """A replay with a schema, a tool and an attachment has the parsed value, and shows a table."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        running.run(
            "from dataclasses import dataclass\n@dataclass\nclass Rating:\n    title: str\n    score: int\ndef look() -> str:\n    return 'seen'\nnotes = b'some notes'"
        )
        cell = "%%o3pro -o answer -s Rating -f look -a notes\nRate it, after a look."
        ran = running.run(cell, "a")
        assert "| title | sandbox |" in ran.of_type("text/markdown")[0]
        assert (
            "Rating(title='sandbox', score=1)" == running.run("print(answer.parsed)").stream.strip()
        )
        assert "notes (text, 10 bytes)" in ran.of_type("text/html")[-1]
        running.run(cell, "a")
        assert "True" == running.run("print(answer.replayed)").stream.strip()
