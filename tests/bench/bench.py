"""How fast it is: one table of medians, each beside something that was measured in the same run.

    python tests/bench/bench.py                        # prints it
    python tests/bench/bench.py --write                # and puts it into README.md beside this file
    python tests/bench/bench.py --only journals cells  # some of the parts

AIML_BENCH_PEERS names a Python that has jupyter-ai-magics and jupysql; the official client is used if it is installed here. Times on a
shared machine drift: what counts are the ratios and differences of neighbouring runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import wire
from kernels import kernel

from aiml_magic import ask
from aiml_magic.journal.replay import request_key
from aiml_magic.journal.rows import Result
from aiml_magic.journal.store import Journal
from aiml_magic.session.asking import Question, Session
from aiml_magic.show import details
from aiml_magic.show.answers import answer_bundle

RUNS = 15
QUIET = 0.5  # load for each core; above it, the machine was busy


class Row(NamedTuple):
    """One line of the table. `ours` is in the unit of `beside`; without anything beside it there is no ratio."""

    name: str
    ours: float | str
    unit: str
    beside: float | str = ""
    what: str = ""
    goal: str = ""

    def cells(self) -> list[str]:
        is_compared = (
            isinstance(self.ours, float) and isinstance(self.beside, float) and self.beside > 0
        )
        ratio = f"{self.ours / self.beside:.2f}" if is_compared else ""
        beside = f"{_rounded(self.beside)}, {self.what}" if self.what else ""
        return [self.name, f"{_rounded(self.ours)} {self.unit}".strip(), beside, ratio, self.goal]


def _rounded(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def timed(act: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def median(measure: Callable[[], float], runs: int = RUNS) -> float:
    return statistics.median(measure() for _ in range(runs))


LOAD = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
start = time.perf_counter()
shell.run_line_magic("load_ext", {what!r})
print(1000 * (time.perf_counter() - start))
"""


def loading() -> Iterator[Row]:
    """Loading the extension in a bare IPython, beside an extension of IPython's own and those of peers."""
    ours, own = load("aiml_magic"), load("storemagic")
    yield Row(
        "`%load_ext aiml_magic` in a bare IPython",
        ours,
        "ms",
        own,
        "IPython's own storemagic",
        "≤ 15 ms",
    )
    for name, package in (("jupyter_ai_magics", "jupyter-ai-magics"), ("sql", "jupysql")):
        peer = load(name, os.environ.get("AIML_BENCH_PEERS", ""))
        yield Row(
            "",
            ours if isinstance(peer, float) else "",
            "ms" if isinstance(peer, float) else "",
            peer,
            package,
        )


def load(what: str, python: str = sys.executable) -> float | str:
    command = [python, "-c", LOAD.format(what=what)]
    try:
        return median(
            lambda: float(
                subprocess.run(
                    command, capture_output=True, text=True, check=True
                ).stdout.splitlines()[-1]
            ),
            7,
        )
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "not installed"


@contextmanager
def sandbox() -> Iterator[str]:
    command = [sys.executable, "-m", "aiml_magic.sandbox"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


BARE = "display({'text/plain': ''}, raw=True)\n" * 4
REPLAYS = """
import statistics, time
times = []
for _ in range(30):
    start = time.perf_counter()
    get_ipython().run_cell_magic("o3pro", "--alone", "What is 6*7?")
    times.append(time.perf_counter() - start)
    time.sleep(0.02)
print(statistics.median(times))
"""


def cells() -> Iterator[Row]:
    """A cell that the sandbox answers, beside a POST of the same body on a warm connection, and beside an empty cell."""
    body = {"model": "openai/o3-pro", "input": "What is 6*7?", "stream": True, "store": True}
    with sandbox() as url, kernel() as running, httpx.Client() as client:
        running.run(f"%config O3Pro.base_url = {url!r}")

        def raw() -> float:
            return timed(
                lambda: client.post(
                    f"{url}/responses", json=body, headers={"Authorization": "Bearer x"}
                ).read()
            )

        def cell() -> float:
            return 1000 * running.run("%%o3pro --alone --fresh\nWhat is 6*7?").seconds

        raw()
        yield Row(
            "the first cell, which starts the runner",
            cell(),
            "ms",
            raw(),
            "a raw httpx POST",
            "≤ 500 ms more",
        )
        ours, theirs = (
            statistics.median(column)
            for column in zip(*((cell(), raw()) for _ in range(RUNS)), strict=True)
        )
        yield Row(
            "a cell, its journal and its outputs included",
            ours,
            "ms",
            theirs,
            "a raw httpx POST",
            "≤ 15 ms more",
        )
        yield Row("", ours, "ms", official(url, body), "the official client's `create`")
        running.run("from IPython.display import display")
        codes = ("%%o3pro --alone\nWhat is 6*7?", "1;", BARE)
        again = [
            [1000 * running.run(code).kernel_seconds for code in codes] for _ in range(2 * RUNS)
        ]
        replayed, empty, bare = (statistics.median(column) for column in zip(*again, strict=True))
        yield Row("a replayed cell", replayed, "ms", empty, "an empty cell")
        yield Row("", replayed, "ms", bare, "four bare displays")
        yield Row(
            "of it, the magic",
            1000 * float(running.run(REPLAYS).stream),
            "ms",
            bare,
            "four bare displays",
            "≤ 5 ms",
        )


def official(url: str, body: dict[str, object]) -> float | str:
    try:
        from openai import OpenAI
    except ImportError:
        return "not installed"
    with OpenAI(api_key="x", base_url=url, max_retries=0) as client:
        return median(lambda: timed(lambda: client.responses.create(**body | {"stream": False})))


def interrupts() -> Iterator[Row]:
    """From the signal to the idle kernel, and to the closed socket, while the server is silent; beside a `time.sleep`."""
    idle, closed, bare = [], [], []
    with wire.serve(lambda _: wire.Reply(end="silence")) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        process = running.manager.provisioner.process.pid
        for number in range(RUNS):
            server.closed_by_client.clear()
            request = running.start("%%o3pro --alone\nWhy?")
            while len(server.posts) <= number:
                time.sleep(0.005)
            time.sleep(0.3)
            start = time.perf_counter()
            os.kill(process, signal.SIGINT)
            server.closed_by_client.wait(5)
            closed.append(1000 * (time.perf_counter() - start))
            running.finish(request)
            idle.append(1000 * (time.perf_counter() - start))
            request = running.start("import time; time.sleep(5)")
            time.sleep(0.3)
            os.kill(process, signal.SIGINT)
            bare.append(timed(lambda request=request: running.finish(request)))
    reference = statistics.median(bare)
    yield Row(
        "interrupt to idle kernel",
        statistics.median(idle),
        "ms",
        reference,
        "one of `time.sleep`",
        "≤ 150 ms",
    )
    yield Row(
        "interrupt to closed socket",
        statistics.median(closed),
        "ms",
        reference,
        "one of `time.sleep`",
        "≤ 50 ms",
    )


STREAMING = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"Half"}\n\n'
STATES: dict[str, tuple[wire.Reply, str]] = {
    "connecting": (wire.Reply(end="silence"), ""),
    "streaming": (
        wire.Reply(200, {"Content-Type": "text/event-stream"}, [STREAMING], end="hang"),
        "",
    ),
    "waiting to try again": (
        wire.json_reply({"message": "Too many"}, 429, **{"Retry-After": "60"}),
        "",
    ),
    "polling": (
        wire.json_reply({"id": "r", "object": "response", "status": "queued"}),
        "--param background=true",
    ),
    "waiting for a parent": (wire.Reply(end="silence"), ""),
}


def states(runs: int = 5) -> Iterator[Row]:
    """From the signal to the idle kernel, in each other state that a question can be in: the median beside the worst."""
    for state, (reply, options) in STATES.items():
        with wire.serve(lambda _, reply=reply: reply) as server, kernel() as running:
            is_waiting = state == "waiting for a parent"
            running.run(
                f"%config O3Pro.base_url = {server.url.replace('http:', 'https:') if state == 'connecting' else server.url!r}"
            )
            if is_waiting:
                running.run("%o3pro -b The parent?")
            idle = []
            for number in range(runs):
                request = running.start(
                    f"%%o3pro {'' if is_waiting else '--alone'} {options}\nWhy {number}?"
                )
                time.sleep(0.8)
                os.kill(running.manager.provisioner.process.pid, signal.SIGINT)
                idle.append(timed(lambda running=running, request=request: running.finish(request)))
        yield Row(
            f"interrupt to idle kernel, {state}",
            statistics.median(idle),
            "ms",
            max(idle),
            "the worst",
            "≤ 150 ms",
        )


def streaming() -> Iterator[Row]:
    """20,000 characters in 4,000 deltas over 20 s, seen from iopub."""
    events = [{"type": "response.created", "response": {"id": "r", "status": "in_progress"}}]
    events += [
        {"type": "response.output_text.delta", "output_index": 0, "delta": "words"}
        for _ in range(4000)
    ]
    events.append({"type": "response.completed", "response": wire.response("words" * 4000)})
    last = []

    class Paced(list):
        def __iter__(self):
            for event in events:
                last[:] = [time.time()]
                yield f"data: {json.dumps(event)}\n\n".encode()
                time.sleep(20 / 4000)

    reply = wire.Reply(200, {"Content-Type": "text/event-stream"}, Paced())
    with wire.serve(lambda _: reply) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        before = float(running.run("import time; print(time.process_time())").stream)
        ran = running.run("%%o3pro\nWhy?", timeout=90)
        after = float(running.run("print(time.process_time())").stream)
    size = sum(len(json.dumps(message["content"], default=str)) for message in ran.messages)
    shown = next(
        message for message in ran.messages if "text/markdown" in message["content"].get("data", {})
    )
    bare = 4000 * len(
        json.dumps({"data": {"text/plain": "words" * 2000}, "metadata": {}, "transient": {}})
    )
    yield Row(
        "a stream of 20 s: messages on iopub",
        float(len(ran.messages)),
        "",
        4000.0,
        "one for each delta",
        "≤ 150",
    )
    yield Row(
        "bytes on iopub", size / 1e6, "MB", bare / 1e6, "the text anew for each delta", "≤ 0.3 MB"
    )
    yield Row(
        "CPU of the kernel", after - before, "s", ran.seconds, "seconds that it took", "≤ 0.5 s"
    )
    late = 1000 * (shown["header"]["date"].timestamp() - last[0])
    yield Row("from the last event to the answer's display", late, "ms", goal="≤ 300 ms")


def journals() -> Iterator[Row]:
    """Steps of a journal that grows, beside one of a hundred answers."""
    folder = Path(tempfile.mkdtemp())
    goals = {"look-up": "≤ 1 ms", "search": "≤ 50 ms", "start": "no slower than empty", "write": ""}
    found: dict[tuple[str, int], float] = {}
    sizes = (100, 10_000, 100_000, 1_000_000)
    for size in sizes:
        journal = filled(folder / f"{size}.sqlite3", size)
        steps: dict[str, Callable[[], object]] = {
            "look-up": lambda journal=journal: journal.find(
                request_key("s", {"input": "question 7"}, None)
            ),
            "search": lambda journal=journal: journal.search("question 7 whale"),
            "start": lambda journal=journal: Journal(journal.path).find("none"),
            "write": lambda journal=journal: journal.add(**row("new", os.urandom(8).hex())),
        }
        for step, act in steps.items():
            found[step, size] = median(lambda act=act: timed(act))
    shutil.rmtree(folder)
    for step, goal in goals.items():
        for size in sizes[1:]:
            goal_here = goal if size == 100_000 else ""
            yield Row(
                f"journal of {size:,} answers: {step}",
                found[step, size],
                "ms",
                found[step, 100],
                "of 100",
                goal_here,
            )


def row(text: str, client_request_id: str, parent: int | None = None) -> dict[str, Any]:
    request = {"input": text}
    return {
        "base_url": "u",
        "server": "s",
        "request": request,
        "client_request_id": client_request_id,
        "parent": parent,
        "session": "one",
        "notebook": "n",
        "chat": "main",
        "key": request_key("s", request, None),
        "asked_at": 0.0,
    }


def filled(path: Path, count: int) -> Journal:
    journal = Journal(path)
    words = "moon sun whale river proof prime matrix cell graph light".split()
    with journal._transaction() as db:
        for number in range(count):
            new = row(f"question {number}", str(number))
            text = f"The {words[number // 7 % 10]} answers {number}. " * 4
            db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, session, notebook, key, asked_at, state, status,
                                      response)
                VALUES ('u', 's', ?, ?, 'one', 'n', ?, 0, 'done', 'completed', ?)
                """,
                (
                    json.dumps(new["request"]),
                    new["client_request_id"],
                    new["key"],
                    json.dumps(wire.response(text)),
                ),
            )
            question = f"question {number} about the {words[number % 10]}"
            db.execute(
                "INSERT INTO texts (rowid, question, answer) VALUES (?, ?, ?)",
                (number + 1, question, text),
            )
    with journal._transaction() as db:
        db.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        )  # the log of all that is no part of what is measured
    return journal


@contextmanager
def session_at(reply: wire.Reply) -> Iterator[tuple[wire.Server, Session, Path]]:
    """A session with a journal of its own, at a server that always says the same."""
    folder = Path(tempfile.mkdtemp())
    with wire.serve(lambda _: reply) as server:
        session = Session()
        yield server, session, folder / "journal.sqlite3"
        runner = session.on("", folder / "journal.sqlite3").runner._child.process
        if runner is not None:
            runner.kill()
        session.close()
    shutil.rmtree(folder)


def conversations() -> Iterator[Row]:
    """A turn of a conversation that is sent as a transcript, beside the second turn."""
    found = {}
    with session_at(wire.json_reply(wire.response("Fine. " * 50))) as (server, session, path):
        journal = session.on("", path).journal
        parent, turns = None, 0
        for size in (1, 10, 100, 1000):
            while turns < size:
                parent = journal.add(**row(f"question {turns}", os.urandom(8).hex(), parent)).id
                journal.finish(
                    parent, Result("done", wire.response("Fine. " * 50, id=f"r{turns}"), 1)
                )
                turns += 1

            def turn(parent: int | None = parent) -> None:
                question = Question(
                    f"Why {os.urandom(8).hex()}?",
                    "c",
                    "m",
                    after=str(parent),
                    chain="transcript",
                    stream=False,
                )
                job = session.on(server.url, path).ask(question)
                for _ in job.follow():
                    pass
                job.outcome()

            turn()
            found[size] = median(lambda turn=turn: timed(turn), 7)
            assert 2 * size + 1 == len(server.posts[-1].body["input"])
    for size in (10, 100, 1000):
        yield Row(
            f"a turn behind {size:,} others, as a transcript",
            found[size],
            "ms",
            found[1],
            "behind one",
        )


PARAGRAPH = "The *proof* is short: if $p_1 \\dots p_n$ were **all** primes, then `q` divides https://example.org/q_1 as well.\n\n- a\n- b\n\n"


def answers() -> Iterator[Row]:
    """What it takes to make all that is shown of an answer, by its size."""
    with session_at(wire.json_reply(wire.response())) as (_, session, path):
        journal, found = session.on("", path).journal, {}
        for size in (1_000, 10_000, 100_000, 1_000_000):
            row_id = journal.add(**row("question", os.urandom(8).hex())).id
            journal.finish(
                row_id, Result("done", wire.response(PARAGRAPH * (size // len(PARAGRAPH))), 1)
            )
            answer = journal.row(row_id).answer()
            found[size] = median(
                lambda answer=answer: timed(
                    lambda: (answer_bundle(answer), details.details(answer))
                ),
                3,
            )
    for size, took in found.items():
        yield Row(
            f"an answer of {size // 1000:,} kB, made safe and written",
            took / size * 1000,
            "ms/kB",
            found[1000],
            "of 1 kB",
        )


def jobs() -> Iterator[Row]:
    """Questions that wait together: the time until they are all on their way, and the memory of their runner."""
    first = 0.0
    for count in (1, 8, 64):
        with session_at(wire.Reply(end="silence")) as (server, session, path):

            def ask_one(
                number: int, session=session, server=server, path=path, count=count
            ) -> None:
                question = Question(
                    f"q{number}",
                    str(number),
                    "m",
                    chat=None,
                    background=True,
                    max_concurrency=count + 1,
                )
                session.on(server.url, path).ask(question)

            def arrived(posts: int, server=server) -> None:
                while len(server.posts) < posts:
                    time.sleep(0.002)

            ask_one(0)
            arrived(1)
            time.sleep(0.5)
            one = resident(session.on("", path).runner._child.process.pid)
            took = timed(
                lambda count=count: (
                    [ask_one(number + 1) for number in range(count)],
                    arrived(count + 1),
                )
            )
            time.sleep(0.5)
            many = resident(session.on("", path).runner._child.process.pid)
        first = first or took
        yield Row(
            f"{count} job{'s' * (count > 1)} until all are on their way",
            took / count,
            "ms each",
            first,
            "one",
        )
    yield Row("memory of a runner that waits for one", one / 1000, "MB", goal="≤ 60 MB")
    yield Row("memory for each of 64 more", (many - one) / 64, "kB", goal="≤ 200 kB")


def resident(pid: int) -> float:
    """Kilobytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmRSS"))


SLOW = """
import asyncio, json
body = json.dumps({"id": "r", "object": "response", "status": "completed", "output_text": "Fine."}).encode()
async def answer(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def mapping(count: int = 1000, concurrency: int = 64) -> Iterator[Row]:
    """`ask.map` of so many rows at a server that takes 50 ms, over raw asyncio httpx with a semaphore."""
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = os.environ["AIML_API_URL"] = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"

    async def raw() -> None:
        places = asyncio.Semaphore(concurrency)
        async with httpx.AsyncClient() as client:

            async def one(number: int) -> None:
                async with places:
                    (
                        await client.post(
                            f"{url}/responses", json={"model": "m", "input": f"q{number}"}
                        )
                    ).json()

            await asyncio.gather(*(one(number) for number in range(count)))

    try:
        ask("The first question starts the runner.")
        ours, theirs = [], []
        for turn in range(3):
            theirs.append(timed(lambda: asyncio.run(raw())))
            ours.append(
                timed(lambda turn=turn: ask.map(f"{{{{x}}}} {turn}", range(count), progress=False))
            )
    finally:
        process.terminate()
        process.wait(5)
    theirs_ms = statistics.median(theirs)
    yield Row(
        f"`ask.map` of {count:,} rows",
        statistics.median(ours),
        "ms",
        theirs_ms,
        "raw asyncio httpx, as many at once",
        "≤ 1.15 ×",
    )


PARTS = (
    loading,
    cells,
    interrupts,
    states,
    streaming,
    journals,
    conversations,
    answers,
    jobs,
    mapping,
)
HEAD = ["what", "here", "beside it", "ratio", "goal"]


def table(rows: list[Row]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(found.cells() for found in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(rows: list[Row], load_for_each_core: float) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    was = (
        "busy, so the times are long, and only ratios mean something"
        if load_for_each_core > QUIET
        else "quiet"
    )
    return f"""# How fast it is

Medians, written by `python tests/bench/bench.py --write` on {datetime.now(timezone.utc):%Y-%m-%d}, on {os.cpu_count()} cores with
{memory:.0f} GB and Python {sys.version.split()[0]}. The machine was {was} (load {load_for_each_core:.1f} for each core when it began).
"not installed" stands where a peer was not there to be measured: AIML_BENCH_PEERS names a Python that has them.

{table(rows)}

That a kernel killed at a hundred random moments loses no finished answer and sends no question twice is no time: `python tests/tools/chaos.py
100` counts it, and `.ci/run` runs it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="put the table into README.md beside this file"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="PART",
        help="some of " + ", ".join(part.__name__ for part in PARTS),
    )
    args = parser.parse_args()
    os.environ["AIML_MAGIC_HOME"] = tempfile.mkdtemp()
    os.environ["AIML_API_KEY"] = "bench-key-0123456789"
    load_for_each_core = os.getloadavg()[0] / (os.cpu_count() or 1)
    rows = []
    for part in PARTS:
        if args.only is None or part.__name__ in args.only:
            for found in part():
                rows.append(found)
                print(" | ".join(found.cells()), flush=True)
    if args.write:
        Path(__file__).with_name("README.md").write_text(page(rows, load_for_each_core), "utf-8")


if __name__ == "__main__":
    main()
