"""Interrupts in every state of a question, and a long stream, as a front end sees them."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from itertools import chain, repeat

import httpx
import wire
from kernels import kernel
from measure import RUNS, Row, timed


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
            running.finish(request)
            idle.append(1000 * (time.perf_counter() - start))
            server.closed_by_client.wait(5)
            closed.append(1000 * (time.perf_counter() - start))
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
        "interrupt to closed socket, held for 2 s, since a restart begins so",
        statistics.median(closed),
        "ms",
        reference,
        "one of `time.sleep`",
        "≤ 2,100 ms",
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
    replies = chain([wire.json_reply(wire.response())], repeat(reply))
    with wire.serve(lambda _: next(replies)) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}\n%o3pro What is imported?")
        before = float(running.run("import time; print(time.process_time())").stream)
        ran = running.run("%%o3pro\nWhy?", timeout=90)
        after = float(running.run("print(time.process_time())").stream)
        shown = next(
            message["header"]["date"]
            for message in ran.messages
            if "text/markdown" in message["content"].get("data", {})
        )
        late = 1000 * (shown.timestamp() - last[0])
        began = time.thread_time()
        with httpx.stream("POST", f"{server.url}/responses", json={}, timeout=90) as raw:
            for _ in raw.iter_lines():
                pass
        read = time.thread_time() - began
    size = sum(len(json.dumps(message["content"], default=str)) for message in ran.messages)
    bare = 4000 * len(
        json.dumps({"data": {"text/plain": "words" * 2000}, "metadata": {}, "transient": {}})
    )
    yield Row(
        "a stream of 20 s: messages on iopub",
        float(len(ran.messages)),
        "",
        4000.0,
        "one for each delta",
        "≤ 110",
    )
    yield Row(
        "bytes on iopub", size / 1e6, "MB", bare / 1e6, "the text anew for each delta", "≤ 0.2 MB"
    )
    yield Row("CPU of the kernel", after - before, "s", read, "a raw httpx reader", "≤ 0.2 ×")
    yield Row("from the last event to the answer's display", late, "ms", goal="≤ 300 ms")
