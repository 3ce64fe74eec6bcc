"""README's four promises, each by the command that README gives to see it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from kernels import Kernel, kernel

from aiml_magic.journal.store import Journal
from aiml_magic.sandbox import start as sandbox

ROOT = Path(__file__).parents[1]
PROMISES = re.findall(
    r"^\| \*\*(.+?)\*\*.*\| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
)
SAID = dict(PROMISES)
COMMANDS = {promise: re.findall(r"`(%o3pro [^`]+)`", how) for promise, how in PROMISES}
LOST, TWICE, BLOCKS, RUNS = COMMANDS


@pytest.fixture
def home(home, monkeypatch):
    """A home without a key, and a sandbox that ends with the test."""
    monkeypatch.delenv("AIML_API_KEY")
    yield home
    sandbox.stop(home)


@pytest.fixture
def running(home, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    with kernel() as running:
        yield running


def quickstart() -> list[str]:
    cells = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def sooner(command: str) -> str:
    assert "delay=20" in command
    return command.replace("delay=20", "delay=4")


def run_all(running: Kernel, cells: list[str]) -> None:
    for number, cell in enumerate(cells):
        assert running.run(cell, f"cell-{number}").error is None


def test_restart_in_the_middle(running, home):
    """*Restart Kernel and Run All Cells* while the quickstart's last cell waits: the same answer, asked once, for $0 more."""
    (command,) = COMMANDS[LOST]
    assert "*Restart Kernel and Run All Cells* while it waits" in SAID[LOST]
    cells = quickstart()
    run_all(running, cells)
    running.start(sooner(command), "added")
    running.wait_for_words("waiting for the answer")
    running.manager.restart_kernel()
    running.client.wait_for_ready(timeout=60)
    run_all(running, cells)
    ran = running.run(sooner(command), "added")
    assert "This is the sandbox" in ran.of_type("text/markdown")[0]
    asked = [
        row for row in Journal(home / "journal.sqlite3").history() if "delay=4" in row.question
    ]
    assert ["done"] == [row.state for row in asked]
    assert "`%aiml status`: $0.0000 in this session" in SAID[TWICE]
    assert "$0.0000 in this session" in running.run("%aiml status").stream


def test_background(running):
    """`-b` returns at once, and the answer appears in its cell later."""
    (command,) = COMMANDS[BLOCKS]
    run_all(running, quickstart())
    ran = running.run(f"job = {sooner(command)}\njob")
    assert ran.error is None
    assert "False\n" == running.run("print(job.done)").stream
    assert "2" == running.run("1 + 1").of_type("text/plain")[0]
    assert "This is the sandbox" in running.run("print(job.wait())").stream


def test_nothing_runs(running):
    """A tag in the question, which the sandbox quotes, is shown as text."""
    (command,) = COMMANDS[RUNS]
    assert "<img" in command
    run_all(running, quickstart()[:2])
    shown = "".join(
        running.run(command).of_type("text/markdown") + running.run(command).of_type("text/html")
    )
    assert "img" in shown
    assert "<img" not in shown
