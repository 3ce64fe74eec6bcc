"""Times that grow with the journal, with concurrent questions, or with the rows of a map."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import wire
from limits import Limit, limited
from measure import (
    IS_SHORT,
    Row,
    by_peer,
    median,
    printed,
    resident,
    running_script,
    session_at,
    timed,
)

from aiml_magic import ask


def journals() -> Iterator[Row]:
    """Steps of a journal that grows, beside one of a hundred answers."""
    from aiml_magic.journal.replay import request_key
    from aiml_magic.journal.store import Journal

    folder = Path(tempfile.mkdtemp())
    goals = {"look-up": "≤ 2 ×", "search": "≤ 2 ×", "start": "≤ 2 ×", "write": ""}
    found: dict[tuple[str, int], float] = {}
    sizes = (100, 10_000, 100_000, 1_000_000)
    for size in sizes:
        journal = filled(folder / f"{size}.sqlite3", size)
        steps: dict[str, Callable[[], object]] = {
            "look-up": lambda journal=journal: journal.known(
                [request_key("s", {"input": "question 7"}, None)], "u"
            ),
            "search": lambda journal=journal: journal.search("question 7 whale"),
            "start": lambda journal=journal: Journal(journal.path).known(["none"], "u"),
            "write": lambda journal=journal: journal.add(**row("new", os.urandom(8).hex())),
        }
        for step, act in steps.items():
            found[step, size] = median(lambda act=act: timed(act))
    shutil.rmtree(folder)
    for step, goal in goals.items():
        for size in sizes[1:]:
            name, goal_here = f"journal of {size:,} answers: {step}", goal * (size == 1_000_000)
            yield Row(name, found[step, size], "ms", found[step, 100], "of 100", goal_here)


def row(text: str, client_request_id: str, parent: int | None = None) -> dict[str, Any]:
    from aiml_magic.journal.replay import request_key

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


def filled(path: Path, count: int) -> Any:
    from aiml_magic.journal.store import Journal

    journal = Journal(path)
    words = "moon sun whale river proof prime matrix cell graph light".split()
    with journal._transaction() as db:
        for number in range(count):
            new = row(f"question {number}", str(number))
            text = f"The {words[number // 7 % 10]} answers {number}. " * 4
            db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, session,
                                      notebook, key, asked_at, state, status, response)
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
    with journal._transaction() as db:  # the measurement begins with an empty log
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return journal


def jobs() -> Iterator[Row]:
    """Questions that wait together: the time until all are on their way, and their memory."""
    from asking import question

    first = 0.0
    for count in (1, 8, 64):
        with session_at(wire.Reply(end="silence")) as (server, session, path):
            asking = session.on(server.url, path)

            def ask_one(number: int, asking=asking, count=count) -> None:
                how = {"chat": None, "background": True, "max_concurrency": count + 1}
                asking.ask(question(f"q{number}", str(number), **how))

            def arrived(posts: int, server=server) -> None:
                while len(server.posts) < posts:
                    time.sleep(0.002)

            def ask_all(count=count, ask_one=ask_one, arrived=arrived) -> None:
                for number in range(1, count + 1):
                    ask_one(number)
                arrived(count + 1)

            ask_one(0)
            arrived(1)
            time.sleep(0.5)
            runner = asking.runner._child.process.pid
            one = resident(runner)
            took = timed(ask_all)
            time.sleep(0.5)
            many = resident(runner)
        first = first or took
        name = f"{count} job{'s' if count > 1 else ''} until all are on their way"
        yield Row(name, took / count, "ms each", first, "one")
    yield Row("memory of a runner that waits for one", one / 1000, "MB", goal="≤ 60 MB")
    yield Row("memory for each of 64 more", (many - one) / 64, "kB", goal="≤ 200 kB")


SLOW = """
import asyncio, json, sys
body = sys.argv[1].encode()
async def answer(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\\r\\n")[1:-2])
            await reader.readexactly(int(fields.get(b"content-length", 0)))
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n")
            writer.write(b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
INSPECT = """
import asyncio, sys, time
from inspect_ai.model import GenerateConfig, get_model
async def main(url, count, limit):
    config = GenerateConfig(max_connections=limit)
    model = get_model("openai/gpt-5", base_url=url, api_key="x", config=config, responses_api=True)
    start = time.perf_counter()
    await asyncio.gather(*(model.generate(f"q{number}") for number in range(count)))
    print(1000 * (time.perf_counter() - start))
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""
CHATLAS = """
import asyncio, sys, time
from chatlas import ChatOpenAI, parallel_chat
async def main(url, count, limit):
    chat = ChatOpenAI(base_url=url, api_key="x", model="gpt-5")
    prompts = [f"q{number}" for number in range(count)]
    start = time.perf_counter()
    await parallel_chat(chat, prompts, max_active=limit, rpm=10**6, on_error="stop")
    print(1000 * (time.perf_counter() - start))
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""
AT_ONCE = 64
SCRIPT = """
import os, subprocess, sys, tempfile, time
os.environ |= {"AIML_MAGIC_HOME": tempfile.mkdtemp(), "AIML_API_URL": sys.argv[1]}
from aiml_magic import ask
ask("The first question starts the runner.")
"""
MEMORY = (
    SCRIPT
    + """
def resident():  # of this process and of its child, the runner
    pid = str(os.getpid())
    found = subprocess.run(["ps", "-o", "rss=", "-p", pid, "--ppid", pid], capture_output=True)
    return sum(map(int, found.stdout.split())) / 1000
before = resident()
answers = ask.map("q {{x}}", range(10_000), progress=False)
print(resident() - before)
"""
)
RECORDED = (
    SCRIPT
    + """
from pathlib import Path
from aiml_magic.notebook import script
script.loaded_or_new().session.recordings.start(Path(tempfile.mkdtemp(), "recording.o3pro"))
start, count = time.perf_counter(), int(sys.argv[2])
ask.map("q {{x}}", range(count), progress=False)
print(1000 * (time.perf_counter() - start) / count)
"""
)


@contextmanager
def slow_server() -> Iterator[str]:
    """A server that takes 50 ms for an answer."""
    response = wire.response(created_at=1, parallel_tool_calls=True, tool_choice="auto", tools=[])
    response["output"][0]["id"] = "msg_1"
    details = {"input_tokens_details": {"cached_tokens": 0}}
    response["usage"] |= details | {"output_tokens_details": {"reasoning_tokens": 0}}
    with running_script("-c", SLOW, json.dumps(response)) as port:
        yield f"http://127.0.0.1:{port.strip()}/v1"


async def posts(url: str, count: int) -> None:
    places = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(timeout=60) as client:

        async def one(number: int) -> None:
            async with places:
                body = {"model": "m", "input": f"q{number}"}
                (await client.post(f"{url}/responses", json=body)).json()

        await asyncio.gather(*(one(number) for number in range(count)))


def mapping() -> Iterator[Row]:
    """`ask.map` at a server that takes 50 ms, beside raw asyncio httpx with a semaphore."""
    count = 250 if IS_SHORT else 1000
    with slow_server() as url:
        os.environ["AIML_API_URL"] = url
        ask("The first question starts the runner.")

        def mapped(text: str, rows: int = count) -> float:
            return timed(lambda: ask.map(f"{text} {{{{x}}}}", range(rows), progress=False))

        pairs = [
            (mapped(f"Time {turn}"), timed(lambda: asyncio.run(posts(url, count))))
            for turn in range(3)
        ]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        name = f"`ask.map` of {count:,} rows"
        yield Row(name, ours, "ms", theirs, "raw asyncio httpx, as many at once", "≤ 1.05 ×")
        if IS_SHORT:
            return
        for package, script in {"inspect_ai": INSPECT, "chatlas": CHATLAS}.items():
            peer = by_peer(script, url, str(count), str(AT_ONCE))
            yield Row("", ours, "ms", peer, f"the map of {package}")
        memory = printed(MEMORY, url)
        yield Row(
            "memory of 10,000 rows, kernel and runner together", memory, "MB", goal="≤ 100 MB"
        )
        few, many = (printed(RECORDED, url, str(rows)) for rows in (100, count))
        yield Row("a row of 1,000 while they are recorded", many, "ms", few, "of 100", "≤ 1 ×")


def limits() -> Iterator[Row]:
    """`ask.map` at a server that limits requests, compared with the least time that its limit allows."""
    count, allowed, seconds = 60, 10, 3.0
    with wire.serve(limited(Limit(allowed, seconds))) as server:
        os.environ["AIML_API_URL"] = server.url
        ours = timed(lambda: ask.map("Limited {{x}}", range(count), progress=False)) / 1000
        name = f"`ask.map` of {count} rows at a server that allows {allowed} in {seconds:.0f} s"
        least = (count / allowed - 1) * seconds
        yield Row(name, ours, "s", least, "what the limit takes", "≤ 1.25 ×")
        sent = float(len(server.posts))
        yield Row("requests that it took", sent, "", float(count), "the rows")
