"""How fast it is, as ratios against a raw call in the same run.

    python tests/bench/bench.py

Prints a table of medians. Times on a shared machine drift; the ratios and differences are of neighbouring runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
import wire
from kernels import kernel

from aiml_magic import ask
from aiml_magic.journal import Journal, NewRow
from aiml_magic.replay import request_key
from aiml_magic.session import Question, Session

RUNS = 15
BARE = "display({'text/plain': ''}, raw=True)\n" * 4
TIMED = """
import statistics, time
times = []
for _ in range(30):
    start = time.perf_counter()
    get_ipython().run_cell_magic("o3pro", "--alone", "What is 6*7?")
    times.append(time.perf_counter() - start)
    time.sleep(0.02)
print(statistics.median(times))
"""
LOAD = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
start = time.perf_counter()
{what}
print(time.perf_counter() - start)
"""


def median_ms(measure: Callable[[], float], runs: int = RUNS) -> float:
    return 1000 * statistics.median(measure() for _ in range(runs))


def loading(what: str) -> float:
    done = subprocess.run([sys.executable, "-c", LOAD.format(what=what)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def sandbox() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "aiml_magic.sandbox"], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


def cells(url: str) -> list[tuple[str, float, float]]:
    """A cell that the sandbox answers, beside a raw POST of the same body on a warm connection."""
    body = {"model": "openai/o3-pro", "input": "What is 6*7?", "stream": True, "store": True}
    rows = []
    with kernel() as running, httpx.Client() as client:
        running.run(f"%config O3Pro.base_url = {url!r}")

        def raw() -> float:
            return timed(lambda: client.post(f"{url}/responses", json=body, headers={"Authorization": "Bearer x"}).read())

        def cell() -> float:
            return running.run("%%o3pro --alone --fresh\nWhat is 6*7?").seconds

        raw()
        rows.append(("first cell, over a raw POST", cell() * 1000, raw() * 1000))
        pairs = [(cell(), raw()) for _ in range(RUNS)]
        rows.append(("cell, over a raw POST", *(1000 * statistics.median(column) for column in zip(*pairs, strict=True))))
        running.run("from IPython.display import display")
        again = [
            tuple(running.run(code).kernel_seconds for code in ("%%o3pro --alone\nWhat is 6*7?", "1;", BARE))
            for _ in range(2 * RUNS)
        ]
        replayed, empty, bare = (1000 * statistics.median(column) for column in zip(*again, strict=True))
        rows += [
            ("replayed cell, over an empty one", replayed, empty),
            ("replayed cell, over four bare displays", replayed, bare),
            ("replayed cell, the magic alone (goal 5), over an empty one", 1000 * float(running.run(TIMED).stream), empty),
        ]
    return rows


def journals(count: int = 100_000) -> list[tuple[str, float, float]]:
    """Steps of a journal of so many answers, beside one of ten."""
    folder = Path(tempfile.mkdtemp())
    large, small = (filled(folder / f"{size}.sqlite3", size) for size in (count, 10))
    steps: dict[str, Callable[[Journal], object]] = {
        "look-up": lambda journal: journal.find(request_key("s", {"input": "question 7"}, None)),
        "search": lambda journal: journal.search("question 7 whale"),
        "open and write a row": lambda journal: Journal(journal.path).add(row("new", os.urandom(8).hex())),
    }
    return [(f"{name}, of {count:,} answers over 10", step_ms(step, large), step_ms(step, small)) for name, step in steps.items()]


def step_ms(step: Callable[[Journal], object], journal: Journal) -> float:
    return median_ms(lambda: timed(lambda: step(journal)))


def row(text: str, client_request_id: str) -> NewRow:
    request = {"input": text}
    return NewRow(
        "u", "s", request, client_request_id, None, None, "one", "n", "main", None, None, request_key("s", request, None), 0.0
    )


def filled(path: Path, count: int) -> Journal:
    journal = Journal(path)
    words = "moon sun whale river proof prime matrix cell graph light".split()
    with journal._transaction() as db:
        for number in range(count):
            text = f"question {number} about the {words[number % 10]}"
            new = row(f"question {number}", str(number))
            answer = json.dumps(wire.response(f"The {words[number // 7 % 10]} answers {number}. " * 20))
            db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, session, notebook, key, asked_at, state, status,
                                      response)
                VALUES ('u', 's', ?, ?, 'one', 'n', ?, 0, 'done', 'completed', ?)
                """,
                (json.dumps(new.request), new.client_request_id, new.key, answer),
            )
            db.execute("INSERT INTO texts (rowid, question, answer) VALUES (?, ?, ?)", (number + 1, text, answer))
    return journal


def interrupts() -> list[tuple[str, float, float]]:
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
            closed.append(time.perf_counter() - start)
            running.finish(request)
            idle.append(time.perf_counter() - start)
            request = running.start("import time; time.sleep(5)")
            time.sleep(0.3)
            start = time.perf_counter()
            os.kill(process, signal.SIGINT)
            running.finish(request)
            bare.append(time.perf_counter() - start)
    reference = 1000 * statistics.median(bare)
    return [
        ("interrupt to idle kernel, over one of time.sleep", 1000 * statistics.median(idle), reference),
        ("interrupt to closed socket", 1000 * statistics.median(closed), reference),
    ]


STREAMING = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"Half"}\n\n'
STATES: dict[str, tuple[wire.Reply, str]] = {
    "connecting": (wire.Reply(end="silence"), ""),
    "streaming": (wire.Reply(200, {"Content-Type": "text/event-stream"}, [STREAMING], end="hang"), ""),
    "retry countdown": (wire.json_reply({"message": "Too many"}, 429, **{"Retry-After": "60"}), ""),
    "polling": (wire.json_reply({"id": "r", "object": "response", "status": "queued"}), "--param background=true"),
    "waiting for a parent": (wire.Reply(end="silence"), ""),
}


def interrupts_in_each_state(runs: int = 5) -> list[tuple[str, str]]:
    """From the signal to the idle kernel, in each other state that a question can be in: the median, and the worst."""
    rows = []
    for state, (reply, options) in STATES.items():
        with wire.serve(lambda _, reply=reply: reply) as server, kernel() as running:
            running.run(
                f"%config O3Pro.base_url = {server.url.replace('http:', 'https:') if state == 'connecting' else server.url!r}"
            )
            if state == "waiting for a parent":
                running.run("%o3pro -b The parent?")
            idle = []
            for number in range(runs):
                chat = "" if state == "waiting for a parent" else "--alone"
                request = running.start(f"%%o3pro {chat} {options}\nWhy {number}?")
                time.sleep(0.8)
                start = time.perf_counter()
                os.kill(running.manager.provisioner.process.pid, signal.SIGINT)
                running.finish(request)
                idle.append(1000 * (time.perf_counter() - start))
        rows.append((f"ms from interrupt to idle, {state} (goal 150)", f"{statistics.median(idle):.0f}, worst {max(idle):.0f}"))
    return rows


def streaming() -> list[tuple[str, str]]:
    """20,000 characters in 4,000 deltas over 20 s, seen from iopub."""
    events = [{"type": "response.created", "response": {"id": "r", "status": "in_progress"}}]
    events += [{"type": "response.output_text.delta", "output_index": 0, "delta": "words"} for _ in range(4000)]
    events.append({"type": "response.completed", "response": wire.response("words" * 4000)})

    class Paced(list):
        def __iter__(self):
            for event in events:
                yield f"data: {json.dumps(event)}\n\n".encode()
                time.sleep(20 / 4000)

    reply = wire.Reply(200, {"Content-Type": "text/event-stream"}, Paced())
    with wire.serve(lambda _: reply) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        before = float(running.run("import time; print(time.process_time())").stream)
        ran = running.run("%%o3pro\nWhy?", timeout=60)
        after = float(running.run("print(time.process_time())").stream)
    size = sum(len(json.dumps(message["content"], default=str)) for message in ran.messages)
    return [
        ("messages on iopub (goal 150)", str(len(ran.messages))),
        ("MB on iopub (goal 0.3)", f"{size / 1e6:.2f}"),
        ("kernel CPU, s (goal 0.5)", f"{after - before:.2f}"),
        ("seconds, of 20 + the pauses' own", f"{ran.seconds:.1f}"),
    ]


def waiting_jobs(count: int = 256) -> list[tuple[str, str]]:
    """The memory of a runner with one waiting job and with so many, and the time until they are all on their way."""
    with wire.serve(lambda _: wire.Reply(end="silence")) as server:
        session, path = Session(), Path(tempfile.mkdtemp()) / "journal.sqlite3"

        def ask(number: int) -> None:
            question = Question(f"q{number}", cell=str(number), model="m", chat=None, background=True, max_concurrency=count)
            session.ask(question, server.url, path)

        def until(posts: int) -> float:
            while len(server.posts) < posts:
                time.sleep(0.01)
            time.sleep(0.5)
            return resident(session.runner(path)._process.pid)

        ask(0)
        one = until(1)
        start = time.perf_counter()
        for number in range(1, count):
            ask(number)
        many = until(count)
        seconds = time.perf_counter() - start - 0.5
        session.runner(path)._process.kill()
        session.close()
    return [
        ("MB of a runner that waits for one (goal 60)", f"{one / 1000:.1f}"),
        (f"kB more for each of {count} (goal 200)", f"{(many - one) / (count - 1):.0f}"),
        (f"ms for each until all {count} are on their way", f"{1000 * seconds / count:.1f}"),
    ]


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


def mapping(count: int = 1000, concurrency: int = 64) -> list[tuple[str, str]]:
    """`ask.map` of so many rows at a server that takes 50 ms, over raw asyncio httpx with a semaphore."""
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = os.environ["AIML_API_URL"] = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"

    async def raw() -> None:
        places = asyncio.Semaphore(concurrency)
        async with httpx.AsyncClient() as client:

            async def one(number: int) -> None:
                async with places:
                    (await client.post(f"{url}/responses", json={"model": "m", "input": f"q{number}"})).json()

            await asyncio.gather(*(one(number) for number in range(count)))

    try:
        ask("The first question starts the runner.")
        ours, theirs = [], []
        for turn in range(3):
            theirs.append(timed(lambda: asyncio.run(raw())))
            ours.append(timed(lambda turn=turn: ask.map(f"{{{{x}}}} {turn}", range(count), progress=False)))
    finally:
        process.terminate()
        process.wait(5)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return [(f"ask.map of {count} rows over raw httpx (goal 1.15)", f"{ratio:.2f} ({statistics.median(ours):.1f} s)")]


def resident(pid: int) -> int:
    """Kilobytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> None:
    os.environ["AIML_MAGIC_HOME"] = tempfile.mkdtemp()
    os.environ["AIML_API_KEY"] = "bench-key-0123456789"
    load = median_ms(lambda: loading('shell.run_line_magic("load_ext", "aiml_magic")'))
    nothing = median_ms(lambda: loading('shell.run_line_magic("load_ext", "storemagic")'))
    process, url = sandbox()
    try:
        rows = [("%load_ext aiml_magic, over one of IPython's own", load, nothing), *cells(url), *interrupts(), *journals()]
    finally:
        process.terminate()
        process.wait(5)
    print(f"{'':52} {'ms':>8} {'beside':>8} {'more':>8} {'ratio':>6}")
    for name, ours, other in rows:
        print(f"{name:52} {ours:8.1f} {other:8.1f} {ours - other:8.1f} {ours / other:6.1f}")
    for name, value in [*streaming(), *waiting_jobs(), *interrupts_in_each_state(), *mapping()]:
        print(f"{name:52} {value:>8}")


if __name__ == "__main__":
    main()
