"""IPython in real terminals, wide and narrow, with and without colours, and into a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import wire
from asking import ANSWER
from document import DOCUMENT, streamed
from environment import IS_ASCII

from aiml_magic.show import follow, terminal

if sys.platform == "win32":
    pytest.skip("there are no such terminals here", allow_module_level=True)

from terminals import TERMINALS, Terminal, typed

IPYTHON = [
    sys.executable,
    "-m",
    "IPython",
    "--no-banner",
    "--simple-prompt",
    "--no-term-title",
    "--colors=NoColor",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with wire.serve(lambda _: streamed(DOCUMENT, chunks=4, pace=0.1)) as server:
        folder = tmp_path_factory.mktemp("terminal")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        yield kept | {
            "AIML_API_URL": server.url,
            "AIML_API_KEY": "test-key-0123456789abcdef",
            "AIML_MAGIC_HOME": str(folder),
            "IPYTHONDIR": str(folder / "ipython"),
        }


@pytest.fixture(scope="module")
def screens(environment, tmp_path_factory):
    """The output of each terminal for an answer; they run at once, since starting takes longest."""
    without_rich = tmp_path_factory.mktemp("without-rich")
    (without_rich / "rich.py").write_text("raise ImportError")
    lines = [
        "%load_ext aiml_magic",
        "%config O3Pro.replay = 'off'",
        "%o3pro --alone Is it finite?",
        "%o3pro {{nothing}}",
        "exit",
    ]

    def screen(terminal: Terminal) -> str:
        path = {} if terminal.is_rich else {"PYTHONPATH": str(without_rich)}
        return typed(IPYTHON, lines, terminal, environment | path)

    with ThreadPoolExecutor() as pool:
        return dict(zip(TERMINALS, pool.map(screen, TERMINALS.values()), strict=True))


def width(line: str) -> int:
    """The number of columns of a line."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in line)
    return len(line) + wide


@pytest.mark.parametrize("name", TERMINALS)
def test_screen(screens, name):
    """The whole answer is shown once with its details on a line; no line is too long for the terminal, and the only escapes are colours."""
    terminal, screen = TERMINALS[name], screens[name]
    shown = screen[screen.index("In [3]: ") : screen.index("Out[3]: <Answer")]
    is_coloured = (
        terminal.is_rich
        and terminal.environment.get("TERM") != "dumb"
        and "NO_COLOR" not in terminal.environment
    )
    assert is_coloured == ("\x1b" in shown)
    shown = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "\x1b" not in shown
    words = " ".join(shown.replace("▌", " ").split())
    for part in ("The series converges, ", r"\frac{1}{n^2}", "is $5, two are $10;", "Euler–Maclaurin", "def zeta(", "[x] checked by hand",
                 "<script>window.__pwned = 1</script>", "https://example.org/plot.png", "漢字", "שלום", "[^1]: The note", r"\begin{pmatrix}"):  # fmt: skip
        assert part in words
    assert 1 == words.count(
        "[6,912 tokens (4,321 reasoning) · $0.4832 · under 10 s · o3-pro-2025-06-10]"
    )
    lines = shown[shown.index("zeta(2)") :].replace("\r", "").split("\n")
    prose = [line for line in lines if terminal.is_rich or re.match(r"[A-Z]|>|\[[6^]", line)]
    assert [] == [
        line for line in prose if width(line) > terminal.columns and "\u200d" not in line
    ], "joined emoji: who knows"
    assert "There is no variable nothing" in screen


def test_panel_is_one_line(screens):
    """While a question waits, one line is overwritten, without an escape, and removed at the end."""
    screen = screens["dumb"]
    *steps, _ = screen[screen.index("In [3]: ") : screen.index("Why $\\zeta(2)$")].split("\r")
    assert any("Writing: " in step for step in steps)
    assert not any("\x1b" in step for step in steps)
    assert "" == steps[-1].strip(), "it is wiped out"
    assert max(map(len, steps)) < 40
    assert all(step.rstrip().endswith((" s", "stops it)")) for step in steps[1:-1]), (
        "no word is cut"
    )


def test_pipe(environment):
    """A pipe gets the answer as text, the details on a line and IPython's value, without control characters, and nothing else."""
    command = [*IPYTHON, "--ext=aiml_magic", "-c", "%o3pro --alone Is it finite?"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    *answer, line, value = done.stdout.splitlines()
    assert DOCUMENT.strip() == "\n".join(answer).strip()
    assert line.startswith("[6,912 tokens")
    assert re.match(r"Out\[\d\]: <Answer", value)
    assert "" == done.stderr
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f]*", done.stdout)


def test_no_standard_streams(monkeypatch):
    """A program without standard streams prints no answer, and continues."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.print_answer(ANSWER)
    terminal.TerminalPanel().close()


def test_no_meaning_by_signs_alone():
    """The state of a job is shown in words."""
    assert all(re.fullmatch(r"[A-Z][a-z ;]+", state) for state in follow._STATES.values())


NOT_UTF8 = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "Windows": {"PYTHONIOENCODING": "cp1252"},
}
if IS_ASCII:
    NOT_UTF8["C"] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def poor_screens(environment, tmp_path_factory):
    """The output of terminals without UTF-8 for an answer, lists and errors; they run at once, since starting takes longest."""
    lines = [
        "%load_ext aiml_magic", "q = 'Is \\u6f22 finite?'", "%o3pro --alone {{q}}", "%aiml history", "%aiml search finite", "%aiml show 1",
        "%aiml tree", "%aiml help", "%o3pro --dry-run {{q}}", "%o3pro?", "from aiml_magic import ask", "ask(q, effort='h\\u00f6ch')",
        "print([_3])", "print('o' + 'ver')", "exit",
    ]  # fmt: skip

    def screen(encoding: dict[str, str]) -> str:
        home = {"AIML_MAGIC_HOME": str(tmp_path_factory.mktemp("poor")), "PAGER": "cat"}
        return typed(
            IPYTHON, lines, Terminal(200, {"TERM": "xterm-256color"}), environment | home | encoding
        )

    with ThreadPoolExecutor() as pool:
        return dict(zip(NOT_UTF8, pool.map(screen, NOT_UTF8.values()), strict=True))


@pytest.mark.parametrize("name", NOT_UTF8)
def test_terminals_that_are_not_utf8(poor_screens, name):
    """In every encoding of a terminal, answers, lists, help and errors are printed; a missing character is shown by its number."""
    screen = re.sub(r"\x1b\[[\d;]*m", "", poor_screens[name])
    assert "Unicode" not in screen
    assert "over" in screen[screen.rindex("ver')") + 5 :], "it came to the end"
    accent, dot = (
        (r"caf\xe9", "|")
        if name != "Windows"
        else ("caf\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}")
    )
    assert 2 == screen.count(accent), "asked and shown again"
    assert 2 == screen.count(f"[6,912 tokens (4,321 reasoning) {dot} $0.4832")
    assert screen.count(r"Is \u6f22 finite?") >= 5
    assert "It takes one of none, minimal, low, medium, high, xhigh, max." in screen
    assert "[<Answer 1: completed, " in screen
