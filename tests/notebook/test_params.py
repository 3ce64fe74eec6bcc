"""Any reasoning model from the same cell: efforts, modes, and fields of the API that have no option."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import wire
from shells import run

from aiml_magic import errors
from aiml_magic.notebook.options import read_line


@dataclass
class Rating:
    score: int


def add(a: int) -> int:
    """Adds."""
    return a


@pytest.fixture
def server(shell):
    def answer(_):
        return wire.json_reply(wire.response('{"score": 1}'))

    with wire.serve(answer) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        shell.user_ns.update(Rating=Rating, add=add, search={"type": "web_search_preview"})
        yield server


SEARCH = {"type": "x_search"}
FORMAT = {"type": "json_schema"}


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        *((f"-e {level}", "reasoning", {"effort": level}) for level in ("none", "minimal", "low", "xhigh", "max")),
        ("--mode pro", "reasoning", {"mode": "pro"}),
        ("--mode standard -e max --summary auto", "reasoning", {"effort": "max", "mode": "standard", "summary": "auto"}),
        ('--param reasoning={"context":"all_turns"} -e low', "reasoning", {"effort": "low", "context": "all_turns"}),
        ('--param reasoning={"effort":"xhigh"} --mode pro', "reasoning", {"effort": "xhigh", "mode": "pro"}),
        ('--param reasoning={"mode":"pro"} --param reasoning={"effort":"max"}', "reasoning", {"effort": "max", "mode": "pro"}),
        ('--param text={"verbosity":"low"}', "text", {"verbosity": "low"}),
        ('--param tools=[{"type":"x_search"}]', "tools", [SEARCH]),
        ('--param tools=[{"type":"x_search"}] -f search', "tools", [{"type": "web_search_preview"}, SEARCH]),
        ('--param tools=[{"type":"x_search"}] --tool-choice x_search', "tool_choice", SEARCH),
        ("--param max_tool_calls=3", "max_tool_calls", 3),
        ('--param moderation={"model":"omni"}', "moderation", {"model": "omni"}),
        ("--param background_options={}", "background_options", {}),
        ('--param include=["file_search_call.results","of.next.year"]', "include", ["file_search_call.results", "of.next.year"]),
        ('--param metadata={"a":"b"}', "metadata", {"a": "b"}), ("--param top_k=3", "top_k", 3),
        ("--param something_new=null", "something_new", None),
    ],
)  # fmt: skip
def test_sent(shell, server, options, field, expected):
    """A field from --param is sent unchanged, merged with those of the options."""
    assert run(shell, f"%o3pro -q {options} Why?") is None
    assert expected == server.posts[0].body[field]


def test_schema_and_function_stay(shell, server):
    """A field from --param leaves a schema and a function in the request."""
    line = '%o3pro -q -s Rating -f add --param text={"verbosity":"low"} --param tools=[{"type":"x_search"}] Why?'
    assert run(shell, line) is None
    body = server.posts[0].body
    assert "low" == body["text"]["verbosity"]
    assert "Rating" == body["text"]["format"]["name"]
    assert ["function", "x_search"] == [tool["type"] for tool in body["tools"]]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ('-e high --param reasoning={"effort":"low"}', ("reasoning.effort", "--effort", "--param")),
        ('-e low --param reasoning={"effort":"low"}', ("reasoning.effort", "--effort", "--param")),
        ('--param reasoning={"mode":"pro"} --mode pro', ("reasoning.mode", "--mode", "--param")),
        ('--summary auto --param reasoning={"summary":"detailed"}', ("reasoning.summary", "--summary", "--param")),
        ('-s Rating --param text={"format":{"type":"text"}}', ("text.format", "--schema", "--param")),
        ('--tool-choice auto --param tool_choice="none"', ("tool_choice", "--tool-choice", "--param")),
        ('--param truncation="auto" --param truncation="disabled"', ("truncation", "--param twice")),
        ("--param max_output_tokens=99", ("max_output_tokens", "--max-output-tokens", "--param")),
        ("--mode fast", ("--mode", "standard, pro")), ("--mode por", ("Did you mean pro?",)), ("-e higher", ("Did you mean high?",)),
        ("--param tols=[]", ("Did you mean tools?",)), ("--param metdata={}", ("Did you mean metadata?",)),
        ("--param resoning={}", ("Did you mean reasoning?",)), ("--param reasoning=3", ("reasoning={",)),
        ("--param tools={}", ("tools=[",)), ('--param tools=[{"x":1}]', ("has no type",)), ('--param modle="x"', ("Did you mean model?",)),
    ],
)  # fmt: skip
def test_refused(shell, server, options, named):
    """A field that is set twice or misspelt is an error with both settings or the right name; nothing is sent."""
    error = run(shell, f"%o3pro {options} Why?")
    assert isinstance(error, errors.BadInput)
    assert all(words in str(error) for words in (*named, "Nothing was sent"))
    assert 2 == len(str(error).splitlines())
    assert [] == server.requests


def test_settings_give_way(shell, server):
    """The setting of a mode holds for all cells; an option and --param take precedence, as over any setting."""
    run(shell, '%config O3Pro.mode = "pro"\n%config O3Pro.effort = "high"')
    assert run(shell, "%o3pro -q --alone Why?") is None
    assert run(shell, "%o3pro -q --alone --mode standard Why?") is None
    for options in (
        '--param reasoning={"mode":"standard"}',
        '--param reasoning={"effort":"max","x":1}',
    ):
        assert run(shell, f"%o3pro -q --alone {options} Why?") is None
    assert [
        {"effort": "high", "mode": "pro"},
        {"effort": "high", "mode": "standard"},  # sent once: the third asks the same
        {"effort": "max", "mode": "pro", "x": 1},
    ] == [post.body["reasoning"] for post in server.posts]
    run(shell, '%config O3Pro.mode = "fast"')
    assert "pro" == shell.find_line_magic("aiml").__self__.mode


def test_dry_run_tells_what_nobody_describes(shell, server, capsys):
    """A dry run names each field that the vendor's description lacks."""
    assert run(shell, "%o3pro --dry-run --param include=[] --param something_new=1 Why?") is None
    out = capsys.readouterr().out
    assert "no field something_new" in out
    assert "no field include" not in out
    assert run(shell, '%o3pro --dry-run --param metadata={"token":"s3cret-of-mine"} Why?') is None
    out = capsys.readouterr().out
    assert "s3cret" not in out
    assert "would be sent, but are not shown" in out
    assert [] == server.posts


def test_wrong_json_shows_no_secret():
    """The error of a value that cannot be parsed as JSON does not quote it: it may hold a secret."""
    with pytest.raises(errors.BadInput) as refused:
        read_line('--param metadata={"token":"s3cret-of-mine" Why?')
    assert "s3cret" not in str(refused.value)
    assert "metadata=" in str(refused.value)
