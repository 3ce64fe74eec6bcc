"""Exports: every parameter of each turn, whole or not at all, and in LaTeX no command but ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import payloads
import pytest
from asking import ANSWER
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.errors import BadInput
from aiml_magic.journal.replay import request_key
from aiml_magic.show import details, export, latex

REQUEST = {
    "model": "openai/o3-pro",
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Which star?"},
                {
                    "type": "input_text",
                    "text": "Attachment stars.csv (text, 9 B):\n\n```\na,b\n```",
                },
                {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="},
            ],
        }
    ],
    "instructions": "Be brief.",
    "reasoning": {"effort": "high"},
    "max_output_tokens": 5000,
    "text": {"format": {"type": "json_schema", "name": "Star", "schema": {}}},
    "tools": [{"type": "web_search"}],
    "seed": 7,
    "store": True,
}
TURN = replace(
    ANSWER,
    text="Vega, at $25.04$ light years.",
    request=REQUEST,
    journal_id=7,
    chat="main",
    key=request_key(ANSWER.server, REQUEST, "resp_0"),
    continues="resp_0",
)
ALONE = replace(TURN, chat=None, journal_id=8, text="Alone.")
HOSTILE = list(payloads.each("http://evil.invalid").values())
# The beginnings of our commands; a document has no other backslash.
OURS = re.compile(
    r"\\(?:[$&%#_\\ ]|[*]?section|sub(?:sub)?section|text\w+|emph|par|newline|leavevmode|llap|advance|"
    r"leftskip|relax|hrulefill|ttfamily|raggedright|arraybackslash|linewidth|mbox|itshape|"
    r"allowbreak|char34|(?:begin|end)\{longtable\})"
)


@pytest.mark.parametrize("ending", ["md", "html", "tex"])
def test_every_parameter(tmp_path, ending):
    """Each turn has all its parameters: models, instructions, effort, limit, schema, tools, params, hashes, server, key, cost."""
    path = tmp_path / f"talk.{ending}"
    export.write(path, [TURN])
    told = re.sub(r"\\allowbreak\{\}|[\\{}]", "", unescape(path.read_text()))
    for word in (
        "openai/o3-pro", "2025-06-10", "Be brief.", "high", "5000", "json", "Star", "web", "seed",
        "api.aimlapi.com", "2026-11-26 10:30:00 UTC", "resp", TURN.key[:8], "0.012500", "61.5",
        "stars.csv", "reasoning 20", "0.1.0",
    ):  # fmt: skip
        assert word in told, word
    assert 2 == len(re.findall(r"[0-9a-f]{64}", told)) - told.count(TURN.key)


def test_line_builds_the_request_again(tmp_path):
    """From a line of `.jsonl` the request can be built again, and has the key of its row."""
    export.write(tmp_path / "talk.jsonl", [TURN])
    line = json.loads((tmp_path / "talk.jsonl").read_text())
    assert TURN.key == line["key"] == request_key(line["server"], line["request"], line["parent"])
    assert "aGVsbG8=" not in json.dumps(line)


def test_chats_are_apart(tmp_path):
    """Turns of several chats are below the titles of their chats, and single questions are separate."""
    for ending in ("md", "html", "tex"):
        export.write(tmp_path / f"all.{ending}", [TURN, ALONE])
        told = (tmp_path / f"all.{ending}").read_text()
        assert -1 < told.find("Conversation main") < told.find("Alone.")


@pytest.mark.parametrize("ending", ["md", "html", "jsonl", "tex", "bib"])
def test_other_files_stay(tmp_path, ending):
    """An export is replaced by the next; another file stays unchanged, unless it may be replaced."""
    path = tmp_path / f"talk.{ending}"
    signs = "".join(map(chr, range(0x4E00, 0x4F00)))
    export.write(path, [TURN, replace(ALONE, text=signs)])
    export.write(path, [TURN])
    own = "My own notes on aiml_magic."
    path.write_text(own)
    with pytest.raises(BadInput, match="is there already"):
        export.write(path, [TURN])
    assert own == path.read_text()
    export.write(path, [TURN], may_replace=True)
    assert "Vega" in path.read_text() or ending == "bib"


OBSTACLES = {
    "folder": ("is a folder, a device or a pipe", Path.mkdir),
    "pipe": ("is a folder, a device or a pipe", lambda path: os.mkfifo(path, 0o600)),
    "link": ("is a symbolic link", lambda path: path.symlink_to("elsewhere")),
    "read-only": ("is read-only", lambda path: (export.write(path, [TURN]), path.chmod(0o444))),
    "another user's": ("is another user's", lambda path: (export.write(path, [TURN]), os.chown(path, 12345, 0))),
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="these are of POSIX")
@pytest.mark.parametrize("what", OBSTACLES)
def test_obstacles(tmp_path, what):
    """A link, a protected file and another user's are replaced only on demand; a folder and a pipe never."""
    words, make = OBSTACLES[what]
    path = tmp_path / "talk.md"
    try:
        make(path)
    except PermissionError:
        pytest.skip("only root gives files away")
    before = path.lstat()
    with pytest.raises(BadInput, match=words) as refused:
        export.write(path, [TURN])
    assert 2 == len(str(refused.value).splitlines())
    assert before == path.lstat()
    is_replaced = what not in ("folder", "pipe")
    with contextlib.nullcontext() if is_replaced else pytest.raises(BadInput, match=words):
        export.write(path, [TURN], may_replace=True)
    assert is_replaced == (path.lstat() != before)


def _commands(tex: str) -> list[str]:
    return [found[0] for found in re.finditer(r"\\.{0,12}", OURS.sub("", tex))]


@given(st.text() | st.sampled_from(HOSTILE))
def test_no_command_survives(text):
    """For any text, each backslash belongs to a command of ours, and braces are balanced."""
    for tex in (latex.escape(text), latex.markdown(text), latex.preformatted(text)):
        assert [] == _commands(tex)
    plain = re.sub(r"\\[{}]", "", latex.escape(text))
    assert plain.count("{") == plain.count("}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CO<sub>2</sub>, e<sup>x<sup>2</sup></sup>", r"CO\textsubscript{2}, e\textsuperscript{x\textsuperscript{2}}\par"),
        ("<sub>2 <b>", r"\textless{}sub\textgreater{}2 \textless{}b\textgreater{}\par"),
        ("| a<br>b | c |\n|---|---|\n| d<br>e | f |", "{}\\textbf{a\\newline{}b} & {}\\textbf{c} \\\\\n{}d\\newline{}e & {}f \\\\"),
    ],
)  # fmt: skip
def test_places_of_text(text, shown):
    """In LaTeX subscripts are set low, table heads bold, and a line break in a cell does not end the row."""
    assert shown in latex.markdown(text)


def test_hostile_texts_as_entries():
    """In BibTeX no text ends an entry or a field."""
    for text in [*HOSTILE, "}", "{", '"', "@misc{x,", "a\n}\n@comment{"]:
        entry = latex.entry("key", {"title": text})
        depth = 0
        for position, sign in enumerate(entry):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            assert depth > 0 or position in range(len("@misc")) or position >= len(entry) - 2, text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_compiles(tmp_path):
    """The hostile texts make a document that LaTeX compiles without an error."""
    turns = [replace(TURN, text=text, journal_id=n) for n, text in enumerate(HOSTILE[::6])]
    export.write(tmp_path / "all.tex", turns)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert 0 == ran.returncode, ran.stdout[-2000:]


def test_without_nh3(monkeypatch, tmp_path):
    """Without nh3 the reasoning is shown as text, and the export of a page is an error that names it."""
    monkeypatch.setitem(sys.modules, "nh3", None)
    monkeypatch.delitem(sys.modules, "aiml_magic.show.pages", raising=False)
    monkeypatch.delattr("aiml_magic.show.pages", raising=False)
    thought = {"type": "summary_text", "text": "*Is* it <b>2 < 3</b>?\n\nYes."}
    turn = replace(TURN, raw={"output": [{"type": "reasoning", "summary": [thought]}]})
    for shown in details.details(turn):
        assert "*Is* it &lt;b&gt;2 &lt; 3&lt;/b&gt;?" in shown
        assert "Yes." in shown
    with pytest.raises(BadInput, match="A page needs nh3, which is not installed"):
        export.write(tmp_path / "talk.html", [turn], may_replace=False)
    assert not list(tmp_path.iterdir())
    export.write(tmp_path / "talk.md", [turn], may_replace=False)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_entries_in_any_document(tmp_path):
    """A `.bib` file needs no package and no font encoding: every ASCII character works in a plain document."""
    signs = latex.escape("".join(map(chr, range(33, 127))))
    document = f"\\documentclass{{article}}\\begin{{document}}{signs}\\end{{document}}"
    (tmp_path / "plain.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "plain.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert 0 == ran.returncode, ran.stdout[-2000:]
