"""The times that a person notices: loading, a cell, a replay, a turn of a long chat, a long answer."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import wire
from document import DOCUMENT
from kernels import kernel
from many import row
from markdown_it import MarkdownIt
from measure import (
    ABSENT,
    IS_SHORT,
    RUNS,
    Row,
    by_peer,
    median,
    printed,
    running_script,
    session_at,
    timed,
)

LOAD = """
import sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
start = time.process_time()
shell.run_line_magic("load_ext", sys.argv[1])
print(1000 * (time.process_time() - start))
"""
IMPORT = """
import time
from IPython.core.interactiveshell import InteractiveShell
start = time.process_time()
import httpx
print(1000 * (time.process_time() - start))
"""
PEERS = {
    "krauncher_magic": "krauncher-jupyter",
    "jupyter_ai_magics": "jupyter-ai-magics",
    "sql": "jupysql",
}


def loading() -> Iterator[Row]:
    """Loading the extension in a bare IPython, beside `import httpx` there, and peers."""
    name = "`%load_ext aiml_magic` in a bare IPython"
    pairs = [(printed(LOAD, "aiml_magic"), printed(IMPORT)) for _ in range(RUNS)]
    ours, theirs = (statistics.median(map(float, column)) for column in zip(*pairs, strict=True))
    yield Row(name, ours, "ms", theirs, "`import httpx`", "≤ 0.06 ×")
    for module, package in {} if IS_SHORT else PEERS.items():
        found = [by_peer(LOAD, module) for _ in range(7)]
        peer = ABSENT if ABSENT in found else statistics.median(map(float, found))
        yield Row("", ours, "ms", peer, package, "≤ 1 ×" if "krauncher" in module else "")


@contextmanager
def sandbox() -> Iterator[str]:
    with running_script("-m", "aiml_magic.sandbox") as line:
        yield line.split()[-1]


BARE = "display({'text/plain': ''}, raw=True)\n" * 4
REPLAYS = """
import statistics, time
times = []
for _ in range(30):
    start = time.perf_counter()
    get_ipython().run_cell_magic("o3pro", "--alone", "What is 6*7?")
    times.append(time.perf_counter() - start)
    time.sleep(0.02)
print(1000 * statistics.median(times))
"""


def cells() -> Iterator[Row]:
    """A cell that the sandbox answers, beside a POST of the same body on a warm connection."""
    body = {"model": "openai/o3-pro", "input": "What is 6*7?", "stream": True, "store": True}
    headers = {"Authorization": "Bearer x"}
    with sandbox() as url, kernel() as running, httpx.Client(timeout=60) as client:
        running.run(f"%config O3Pro.base_url = {url!r}")

        def raw() -> float:
            return timed(lambda: client.post(f"{url}/responses", json=body, headers=headers).read())

        def cell(options: str = "--alone --fresh") -> float:
            return 1000 * running.run(f"%%o3pro {options}\nWhat is 6*7?").seconds

        raw()
        first = cell()
        theirs = median(raw)
        yield Row(
            "the first cell, which starts the runner", first, "ms", theirs, "a raw POST", "≤ 100 ×"
        )
        for name, options in {
            "a cell, its journal and its outputs included": "--alone --fresh",
            "a turn of a chat, the second to the last of these": "--fresh",
        }.items():
            pairs = [(cell(options), raw()) for _ in range(RUNS)]
            ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            yield Row(name, ours, "ms", theirs, "a raw POST", "≤ 5 ×")
        if not IS_SHORT:
            yield Row("", ours, "ms", official(url, body), "the official client's `create`")


def replays() -> Iterator[Row]:
    """A replay in a notebook of 1,000 earlier turns, beside bare displays and an empty cell."""
    ids = itertools.count()

    def answer(_: wire.Request) -> wire.Reply:
        # Of one size: the sandbox would name all earlier questions.
        return wire.json_reply(wire.response("Fine. " * 50, id=f"r{next(ids)}"))

    with wire.serve(answer) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        turns = 100 if IS_SHORT else 1000
        for turn in range(turns):
            assert running.run(f"%o3pro --quiet Question {turn}?", f"cell {turn}").error is None
        running.run("from IPython.display import display")
        codes = ("%%o3pro\nWhat is 6*7?", "1;", BARE)
        again = [
            [1000 * running.run(code, "one").kernel_seconds for code in codes]
            for _ in range(2 * RUNS)
        ]
        replayed, empty, bare = (statistics.median(column) for column in zip(*again, strict=True))
        name = f"a replayed cell behind {turns:,} turns"
        yield Row(name, replayed, "ms", empty, "an empty cell")
        yield Row("", replayed, "ms", bare, "four bare displays", "≤ 1.2 ×")
        running.run(REPLAYS)
        magic = float(running.run(REPLAYS).stream)
        yield Row("of it, the magic", magic, "ms", bare, "four bare displays", "≤ 0.4 ×")


def official(url: str, body: dict[str, object]) -> float | str:
    try:
        from openai import OpenAI
    except ImportError:
        return ABSENT
    with OpenAI(api_key="x", base_url=url, max_retries=0) as client:
        return median(lambda: timed(lambda: client.responses.create(**body | {"stream": False})))


def conversations() -> Iterator[Row]:
    """A turn of a conversation that is sent as a transcript, beside the second turn."""
    from asking import question

    from aiml_magic.journal.rows import Result

    found = {}
    sizes = (1, 100) if IS_SHORT else (1, 10, 100, 1000)
    with session_at(wire.json_reply(wire.response("Fine. " * 50))) as (server, session, path):
        journal = session.on("", path).journal
        parent, turns = None, 0
        for size in sizes:
            while turns < size:
                parent = journal.add(**row(f"question {turns}", os.urandom(8).hex(), parent)).id
                answer = wire.response("Fine. " * 50, id=f"r{turns}")
                journal.finish(parent, Result("done", answer, 1))
                turns += 1

            def turn(parent: int | None = parent) -> None:
                text = f"Why {os.urandom(8).hex()}?"
                how = {"after": str(parent), "chain": "transcript", "stream": False}
                job = session.on(server.url, path).ask(question(text, "c", **how))
                for _ in job.follow():
                    pass
                job.outcome()

            turn()
            found[size] = median(lambda turn=turn: timed(turn), RUNS)
            assert 2 * size + 1 == len(server.posts[-1].body["input"])
    for size in sizes[1:]:
        name = f"a turn behind {size:,} others, as a transcript"
        yield Row(name, found[size], "ms", found[1], "behind one", "≤ 3 ×" * (size == 1000))


PARAGRAPH = (
    "The *proof* is short: if $p_1 \\dots p_n$ were **all** primes, then `q` divides "
    "https://example.org/q_1 as well.\n\n- a\n- b\n\n"
)


def answers() -> Iterator[Row]:
    """The time to make all outputs of an answer, by its size."""
    from aiml_magic.journal.rows import Result
    from aiml_magic.show import details, safe
    from aiml_magic.show.answers import answer_bundle

    with session_at(wire.json_reply(wire.response())) as (_, session, path):
        journal, found = session.on("", path).journal, {}
        for size in (1_000, 10_000, 100_000, 1_000_000):
            row_id = journal.add(**row("question", os.urandom(8).hex())).id
            text = PARAGRAPH * (size // len(PARAGRAPH))
            journal.finish(row_id, Result("done", wire.response(text), 1))
            answer = journal.row(row_id).answer()

            def shown(answer=answer) -> float:
                return timed(lambda: (answer_bundle(answer), details.details(answer)))

            found[size] = median(shown, 3)
    for size, took in found.items():
        name = f"an answer of {size // 1000:,} kB, made safe and written"
        yield Row(name, took / size * 1000, "ms/kB", found[1000], "of 1 kB")
    text, bare = DOCUMENT * 10, MarkdownIt("commonmark").enable(["table", "strikethrough"])
    safe.markdown(text)
    turns = [
        (timed(lambda: safe.markdown(text)), timed(lambda: bare.parse(text))) for _ in range(RUNS)
    ]
    ours, parsed = map(statistics.median, zip(*turns, strict=True))
    yield Row("an answer made safe", ours, "ms", parsed, "markdown-it-py's parse", "≤ 1.35")
