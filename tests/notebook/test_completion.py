"""The completions of Tab, in IPython's own completer and in a real kernel."""

from __future__ import annotations

import sys

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from kernels import kernel
from shells import IN_MEMORY

from aiml_magic import load_ipython_extension, unload_ipython_extension
from aiml_magic.notebook.commands import COMMANDS
from aiml_magic.notebook.completion import candidates
from aiml_magic.notebook.options import OPTIONS

LONG = [option.long for option in OPTIONS]
SETUP = """
import os
figure, frame, _hidden = b"", "", 0
class Rating: ...
def distance(): ...
schema = {"type": "object"}
"""


@pytest.fixture
def shell(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").touch()
    shell = InteractiveShell(config=IN_MEMORY)
    load_ipython_extension(shell)
    shell.run_cell(SETUP)
    yield shell
    shell.find_line_magic("aiml").__self__.session.close(10)
    unload_ipython_extension(shell)
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def offered(shell: InteractiveShell, code: str) -> list[str]:
    """The texts that Tab offers at the end of `code`, each as the completed word."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(code, len(code)))
    word = len(code.split("\n")[-1].split(" ")[-1].split("=")[-1].split("{{")[-1])
    return [code[len(code) - word : one.start] + one.text for one in found]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%%o3pro --su", ["--summary"]), ("%%o3pro -q --no", ["--no-stream", "--no-store"]), ("%%o3pro --effort high --fr", ["--fresh"]),
        ("%%o3pro -e ", ["none", "minimal", "low", "medium", "high", "xhigh", "max"]), ("%o3pro -e h", ["high"]), ("a = %o3pro --effort=m", ["minimal", "medium", "max"]),
        ("%%o3pro --summary d", ["detailed"]), ("%%o3pro --tool-choice ", ["auto", "none", "required", "distance"]),
        ("%%o3pro --param tr", ["truncation="]), ("%%o3pro -c ", ["main"]),
        ("%%o3pro -a fi", ["figure"]), ("%%o3pro -q -a f", ["figure", "frame", "folder/"]), ("%%o3pro -a ./ta", ["./table.csv"]),
        ("%%o3pro -s ", ["Rating", "schema"]), ("%%o3pro -f ", ["web_search", "distance", "schema"]), ("%%o3pro -o fr", ["frame"]),
        ("%%o3pro\nWhat is in {{f", ["figure", "frame"]), ("%o3pro --raw What is {{ R", ["Rating"]), ("ask('{{di", ["distance"]),
        ("%aiml ", [*COMMANDS]), ("%aiml hi", ["history"]), ("%aiml sandbox ", ["--if-no-key", "stop"]),
    ],
)  # fmt: skip
def test_offered(shell, code, expected):
    """Tab offers options, their values, chats, fitting variables, files and commands, and nothing else."""
    assert expected == offered(shell, code)


def test_variables_that_bear_no_look(shell):
    """A proxy that raises at every access is not offered where a type is needed, and the other variables are."""
    shell.run_cell("""
class Proxy:
    def __getattr__(self, name): raise RuntimeError("not bound")
    @property
    def __class__(self): raise RuntimeError("not bound")
proxy = Proxy()
""")
    assert ["Rating", "schema", "Proxy"] == offered(shell, "%%o3pro -s ")
    assert ["proxy"] == offered(shell, "%%o3pro -a pro")
    assert ["distance"] == offered(shell, "%%o3pro -f dis")
    assert ["proxy"] == offered(shell, "%%o3pro\nWhat is {{pro")


@pytest.mark.parametrize("folder", ["a" * 300, "a" * 300 + "/b", "nosuchfolder/", "table.csv/"])
def test_folders_that_cannot_be_read(shell, folder):
    """An impossible or unreadable folder offers no files."""
    assert [] == candidates(f"%%o3pro -a {folder}", folder, {}, list)


def test_an_option_and_its_value_as_one_word():
    """Where a front end treats `--effort=hi` as one word, it is completed as a whole."""
    assert ["--effort=high"] == candidates("%%o3pro --effort=hi", "--effort=hi", {}, list)
    assert ["--out=frame"] == candidates("%%o3pro --out=fr", "--out=fr", {"frame": 0}, list)


def test_all_options(shell):
    """A dash offers all options, the short ones included."""
    assert {flag for option in OPTIONS for flag in option.flags} == set(offered(shell, "%%o3pro -"))
    assert LONG == offered(shell, "%%o3pro --")


@pytest.mark.parametrize("code", ["%o3pro Why is --no", "%%o3pro\n--no", "%%o3pro -- --no", "x = --no", "%aiml history --no", "%%o3pro --nothing --no"])  # fmt: skip
def test_not_offered(shell, code):
    """No option is offered in the words of a question or in other code."""
    assert not set(LONG) & set(offered(shell, code))


def test_other_cells_cost_nothing(shell):
    """Tab in another cell imports no module of this package, and offers the same as without it."""
    sys.modules.pop("aiml_magic.notebook.completion", None)
    assert "figure" in offered(shell, "fig")
    assert "aiml_magic.notebook.completion" not in sys.modules


def test_chats_of_a_broken_journal(shell, home):
    """Chats are completed from the notebook's journal; an unreadable one gives no message, and a missing one is not created."""
    assert ["main"] == offered(shell, "%%o3pro -c ")
    assert not home.exists()
    home.mkdir()
    (home / "journal.sqlite3").write_text(
        "no journal at all, but some text that is long enough to be looked at"
    )
    assert ["main"] == offered(shell, "%%o3pro -c ")


def test_unloaded(shell):
    """Unloaded, the extension completes nothing any more."""
    unload_ipython_extension(shell)
    assert "high" not in offered(shell, "%%o3pro -e ")
    load_ipython_extension(shell)


def test_kernel(home, sandbox_url):
    """A completion request to the kernel gets the same, with the chats of the notebook."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}\nfigure = b''")
        running.run("%o3pro -q -c ideas Why?\n%o3pro -q -c 'far off' Why?")

        def matches(code: str) -> list[str]:
            return running.client.complete(code, len(code), reply=True, timeout=20)["content"][
                "matches"
            ]

        assert ["main", "ideas", '"far off"'] == matches("%%o3pro -c ")
        assert ["high"] == matches("%%o3pro -e h")
        assert ["figure"] == matches("%%o3pro\nWhat is {{fi")
