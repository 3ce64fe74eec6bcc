"""The speed: one table of medians, each beside a reference from the same run.

    python tests/bench/bench.py                        # prints it
    python tests/bench/bench.py --write                # and puts it into README.md beside this file
    python tests/bench/bench.py --only journals cells  # some of the parts
    python tests/bench/bench.py --against REF          # beside another commit, in turns with it
    python tests/bench/bench.py --short --against REF  # fails if something takes twice as long

AIML_BENCH_PEERS names a Python that has krauncher-jupyter, jupyter-ai-magics, jupysql, inspect_ai
and chatlas; the official client is used if it is installed here. Times on a shared machine drift:
what counts are the ratios and differences of neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import cells
import interrupts
import many
from measure import Row, ratio, rounded

ROOT = Path(__file__).parents[2]
QUIET = 0.5  # load per core above which the machine counts as busy
PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    part.__name__: part
    for part in (
        cells.loading, cells.cells, cells.replays, interrupts.interrupts, interrupts.states,
        interrupts.streaming, many.journals, cells.conversations, cells.answers, many.jobs,
        many.mapping, many.limits,
    )
}  # fmt: skip
SHORT = "loading", "cells", "replays", "conversations", "mapping"
HEAD = ["what", "here", "beside it", "ratio", "goal"]
TOO_SLOW = 2.0


@contextmanager
def worktree(ref: str) -> Iterator[Path]:
    """The package of another commit, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "other")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(path), ref], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def measured(part: str, package: Path) -> list[Row]:
    """The rows of a part for one of the two packages; by its own benchmark if ours cannot run there.

    None if neither can.
    """
    done: subprocess.CompletedProcess[str] | None = None
    for script in (Path(__file__), package / "tests" / "bench" / "bench.py"):
        done = subprocess.run(
            [sys.executable, str(script), "--only", part],
            check=False,
            cwd=package,  # `python -c` looks there first
            env=os.environ | {"PYTHONPATH": str(package)},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return [Row.read(line) for line in done.stdout.splitlines() if line.count("|") == 4]
        print(done.stderr.strip().rpartition("\n")[2], file=sys.stderr)
    return []


def medians(runs: Iterable[list[Row]]) -> dict[str, Row]:
    """The median of each row over all runs, by its name and its reference."""
    found: dict[str, list[Row]] = {}
    for run in runs:
        for row in run:
            found.setdefault(f"{row.name}|{row.what}", []).append(row)
    return {
        key: rows[0]._replace(
            ours=_median([row.ours for row in rows]), beside=_median([row.beside for row in rows])
        )
        for key, rows in found.items()
    }


def _median(values: list[float | str]) -> float | str:
    numbers = [value for value in values if not isinstance(value, str)]
    return statistics.median(numbers) if numbers else values[0]


def paired(part: str, other: Path, pairs: int) -> list[tuple[Row, float | str]]:
    """The rows of a part, each with its median in the other package; the two take turns."""
    runs: dict[Path, list[list[Row]]] = {ROOT: [], other: []}
    for pair in range(pairs):
        for package in (ROOT, other) if pair % 2 else (other, ROOT):
            runs[package].append(measured(part, package))
    there = medians(runs[other])
    return [
        (row, there[key].ours if key in there else "") for key, row in medians(runs[ROOT]).items()
    ]


def slower(found: Iterable[tuple[Row, float | str]]) -> set[str]:
    """The names of the rows that take twice as long as in the other package."""
    return {
        row.name
        for row, there in found
        if row.name and float(ratio(row.ours, there) or 0) >= TOO_SLOW
    }


def against(
    ref: str, parts: list[str], pairs: int, *, is_short: bool
) -> tuple[list[list[str]], set[str]]:
    """The lines of the table with those of another commit, and the slower rows; printed as well.

    Rows that seem slower are measured again, for longer, to rule out other work on the machine.
    """
    lines, slow = [], set()
    with worktree(ref) as other:
        for part in parts:
            found = paired(part, other, 1 if is_short else pairs)
            if is_short and slower(found):
                again = paired(part, other, pairs)
                slow |= slower(found) & slower(again)
                found = again
            for row, there in found:
                lines.append([*row.cells(), rounded(there), ratio(row.ours, there)])
                print(" | ".join(lines[-1]), flush=True)
    return lines, slow


def page(head: list[str], lines: list[list[str]], load_for_each_core: float) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    was = "quiet"
    if load_for_each_core > QUIET:
        was = "busy, so the times are long, and only ratios mean something"
    table = "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
    return f"""# How fast it is

Medians, written by `python tests/bench/bench.py --write` on {datetime.now(timezone.utc):%Y-%m-%d},
on {os.cpu_count()} cores with {memory:.0f} GB and Python {sys.version.split()[0]}. The machine was
{was} (load {load_for_each_core:.1f} for each core when it began). "not installed" stands where a
peer was not there to be measured: AIML_BENCH_PEERS names a Python that has them.

{table}

That a kernel killed at a hundred random moments loses no finished answer and sends no question
twice is no time: `python tests/tools/chaos.py 100` counts it, and `.ci/run` runs it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--against", metavar="REF", help="measure another commit, too, in turns")
    parser.add_argument("--pairs", type=int, default=3, help="turns with it")
    parser.add_argument("--short", action="store_true", help="few, small parts, for a quick look")
    parser.add_argument("--only", nargs="*", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args()
    load_for_each_core = os.getloadavg()[0] / (os.cpu_count() or 1)
    os.environ |= {"AIML_MAGIC_HOME": tempfile.mkdtemp(), "AIML_API_KEY": "bench-key-0123456789"}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python compiles a module once
    if args.short:
        os.environ["AIML_BENCH_SHORT"] = "1"
    parts = args.only or list(SHORT if args.short else PARTS)
    head, slow = HEAD, set()
    if args.against:
        head = [*HEAD, f"at {args.against}", "ratio"]
        lines, slow = against(args.against, parts, args.pairs, is_short=args.short)
    else:
        lines = []
        for part in parts:
            for row in PARTS[part]():
                lines.append(row.cells())
                print(" | ".join(lines[-1]), flush=True)
    if args.write:
        text = page(head, lines, load_for_each_core)
        Path(__file__).with_name("README.md").write_text(text, "utf-8")
    if slow:
        sys.exit(f"Twice as slow as {args.against}, or slower: {'; '.join(sorted(slow))}.")


if __name__ == "__main__":
    main()
