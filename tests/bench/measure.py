"""A measurement, and the functions shared by all parts."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import wire

IS_SHORT = "AIML_BENCH_SHORT" in os.environ  # fewer runs, and smaller sizes
RUNS = 5 if IS_SHORT else 15
ABSENT = "not installed"


class Row(NamedTuple):
    """One line of the table: `ours` in the unit of `beside`; less is better."""

    name: str
    ours: float | str
    unit: str
    beside: float | str = ""
    what: str = ""
    goal: str = ""

    @classmethod
    def read(cls, line: str) -> Row:
        """The row of a printed line, with its rounded numbers."""
        name, ours, beside, _, goal = (cell.strip() for cell in line.split("|"))
        return cls(name, *_value_and_unit(ours), *_value_and_unit(beside), goal)

    def cells(self) -> list[str]:
        beside = f"{rounded(self.beside)}, {self.what}" if self.what else ""
        ours = f"{rounded(self.ours)} {self.unit}".strip()
        return [self.name, ours, beside, ratio(self.ours, self.beside), self.goal]


def _value_and_unit(cell: str) -> tuple[float | str, str]:
    number, unit = re.fullmatch(rf"({ABSENT}|[\d,]*\d(?:\.\d+)?(?:e-\d+)?|),? ?(.*)", cell).groups()
    with suppress(ValueError):
        return float(number.replace(",", "")), unit
    return number, unit


def rounded(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(ours: float | str, beside: float | str) -> str:
    """The ratio of two measurements; empty if one of them is missing."""
    if isinstance(ours, str) or isinstance(beside, str) or not beside:
        return ""
    return f"{ours / beside:.2f}"


def timed(act: Callable[[], object]) -> float:
    """The milliseconds that a call takes."""
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def median(measure: Callable[[], float], runs: int = RUNS) -> float:
    return statistics.median(measure() for _ in range(runs))


def printed(script: str, *args: str, python: str = sys.executable) -> float | str:
    """The number that a script prints last; a peer's may be absent, as may its Python."""
    command = [python, "-c", script, *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return ABSENT


@contextmanager
def running_script(*args: str) -> Iterator[str]:
    """The first line that a running Python process prints."""
    command = [sys.executable, *args]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()


def by_peer(script: str, *args: str) -> float | str:
    """The number that a script prints in the Python that has the peers."""
    return printed(script, *args, python=os.environ.get("AIML_BENCH_PEERS", ""))


def resident(pid: int) -> float:
    """Kilobytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@contextmanager
def session_at(reply: wire.Reply) -> Iterator[tuple[wire.Server, Any, Path]]:
    """A session with its own journal, at a server with one fixed reply."""
    from aiml_magic.session.asking import Session

    folder = Path(tempfile.mkdtemp())
    with wire.serve(lambda _: reply) as server:
        session = Session()
        yield server, session, folder / "journal.sqlite3"
        child = session.on("", folder / "journal.sqlite3").runner._child
        if child is not None:  # no question was asked
            child.process.kill()
        session.close()
    shutil.rmtree(folder)
