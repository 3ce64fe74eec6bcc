"""Kills kernels and runners at random moments of a question, and checks that no answer is lost and no question sent twice.

    python tests/tools/chaos.py 100 [SEED]

Each question meets one of six behaviours of the server, and its kernel, its runner or both are killed with -9, or the kernel is
restarted as a front end does. Then the same question is asked in a new kernel. It is lost if neither its answer is shown nor an
error says that it may have been charged; it is sent twice if the server has worked on it twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import environment
import wire
from kernels import Kernel, kernel

WORDS = [f"word{number} " for number in range(40)]
SECONDS = 0.6  # that an answer takes
VICTIMS = ("kernel", "runner", "runner, then kernel", "kernel, then runner", "kernel, by its menu")
BEHAVIOURS = ("stream", "whole", "polled", "unavailable first", "limited first", "reset")


class Slow(list):
    """The chunks of an answer, one after the other."""

    def __init__(self, name: str, count: int | None = None) -> None:
        super().__init__()
        start = {
            "type": "response.created",
            "response": {"id": f"resp_{name}", "status": "in_progress"},
        }
        deltas = [
            {"type": "response.output_text.delta", "output_index": 0, "delta": word}
            for word in WORDS
        ]
        end = {"type": "response.completed", "response": whole(name)}
        self.events = [start, *deltas, end][:count]

    def __iter__(self):
        for event in self.events:
            yield f"data: {json.dumps(event)}\n\n".encode()
            time.sleep(SECONDS / len(WORDS))


def whole(name: str, **fields: object) -> dict[str, object]:
    return wire.response("".join(WORDS), id=f"resp_{name}", **fields)


class Server:
    """Answers each question in its own way; counts how often it worked on each."""

    def __init__(self) -> None:
        self.worked: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.begun: dict[str, float] = {}

    def __call__(self, request: wire.Request) -> wire.Reply:
        if request.method == "GET":
            name = request.path.rpartition("resp_")[2]
            is_done = time.monotonic() - self.begun.get(name, 0) > SECONDS
            return wire.json_reply(whole(name, status="completed" if is_done else "in_progress"))
        behaviour, name = request.body["input"].rpartition(" ")[::2]
        if behaviour.endswith("first") and name not in self.refused:
            self.refused.add(name)
            return wire.json_reply(
                {"message": "Not now"},
                503 if "unavailable" in behaviour else 429,
                **{"Retry-After": "0.2"},
            )
        self.worked[name] += 1
        match behaviour:
            case "whole" | "limited first":
                time.sleep(SECONDS)
                return wire.json_reply(whole(name))
            case "polled":
                self.begun[name] = time.monotonic()
                return wire.json_reply(whole(name, status="queued", output=[]))
            case "reset":
                return wire.Reply(
                    200, {"Content-Type": "text/event-stream"}, Slow(name, 20), end="reset"
                )
        return wire.Reply(200, {"Content-Type": "text/event-stream"}, Slow(name))


def ask(running: Kernel, url: str, behaviour: str, number: int, options: str = "") -> str:
    """Asks a question with a runner that is already started, so that not only its start is killed."""
    running.run(f"%config O3Pro.base_url = {url!r}\n%aiml status")
    polled = "--param background=true" if behaviour == "polled" else ""
    return running.start(f"%%o3pro --alone {polled} {options}\n{behaviour} {number}")


def kill(running: Kernel, victim: str, journal: Path) -> None:
    """Kills these processes only: the runner of an earlier kernel may still wait for its answer."""
    kernel_pid = running.manager.provisioner.process.pid
    ours = {child.pid for child in psutil.Process(kernel_pid).children()}
    pids = {"kernel": [kernel_pid], "runner": [pid for pid in runners(journal) if pid in ours]}
    for name in victim.split(", then ") if victim in VICTIMS[:4] else []:
        for pid in pids[name]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if victim == "kernel, by its menu":
        running.manager.restart_kernel()


def runners(journal: Path) -> list[int]:
    """The processes that hold the connections of this journal."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if "aiml_magic.runner" in line and str(journal) in line:
            found.append(process.info["pid"])
    return found


def kill_at_random(runs: int, seed: int) -> Counter[str]:
    """Asks `runs` questions, kills a process during each, and asks each again in a new kernel; returns the counts."""
    generator = random.Random(seed)
    path = Path(os.environ["AIML_MAGIC_HOME"]) / "journal.sqlite3"
    happened: Counter[str] = Counter()
    server = Server()
    met = [
        (BEHAVIOURS[number % 6], generator.choice(VICTIMS), "-b" * generator.randrange(2))
        for number in range(runs)
    ]
    with wire.serve(server) as serving:
        for number, (behaviour, victim, options) in enumerate(met):
            with kernel() as running:
                ask(running, serving.url, behaviour, number, options)
                time.sleep(generator.uniform(0, SECONDS * 1.5))
                kill(running, victim, path)
        wait_for_runners(path)
        pass_a_minute(path)
        with kernel() as running:
            for number, (behaviour, victim, _) in enumerate(met):
                was_sent = server.worked[str(number)] > 0
                ran = running.finish(ask(running, serving.url, behaviour, number))
                is_shown = "word39" in str(ran.of_type("text/markdown"))
                is_doubtful = (
                    ran.error is not None
                    and "charged" in ran.error["evalue"]
                    and "check" in ran.error["evalue"]
                )
                is_expected = is_shown or (
                    is_doubtful and ("runner" in victim or behaviour == "reset")
                )
                happened["answered"] += is_shown
                happened["told as doubtful"] += not is_shown and is_expected
                happened["killed before it was sent"] += not was_sent
                happened["lost"] += not is_expected
                happened["sent twice"] += server.worked[str(number)] > 1
                if not is_expected or server.worked[str(number)] > 1:
                    print(
                        number,
                        behaviour,
                        victim,
                        server.worked[str(number)],
                        ran.error and ran.error["evalue"],
                    )
    return happened


def wait_for_runners(journal: Path, timeout: float = 60.0) -> None:
    """Waits until every runner has ended, and so all requests are over."""
    deadline = time.monotonic() + timeout
    while runners(journal):
        assert time.monotonic() < deadline, "a runner did not finish"
        time.sleep(0.05)


def pass_a_minute(journal: Path) -> None:
    """Sets all heartbeats back by a minute, so that the next kernel need not wait until they are stale."""
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE requests SET alive_at = alive_at - 60")


def main() -> None:
    environment.make()
    os.environ["AIML_API_KEY"] = "chaos-key-0123456789"
    happened = kill_at_random(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(dict(happened))
    assert happened["sent twice"] == 0
    assert happened["lost"] == 0


if __name__ == "__main__":
    main()
