"""Kills kernels at random moments of a running answer, and looks whether anything was lost or paid twice.

python tests/chaos.py 100
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import wire
from kernels import kernel

from aiml_magic.journal import Journal

WORDS = [f"word{number} " for number in range(40)]
SECONDS = 0.6  # that an answer takes


class Slow(list):
    """The chunks of an answer, one after the other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        start = {"type": "response.created", "response": {"id": f"resp_{text}", "status": "in_progress"}}
        deltas = [{"type": "response.output_text.delta", "output_index": 0, "delta": word} for word in WORDS]
        whole = wire.response("".join(WORDS), id=f"resp_{text}")
        self.events = [start, *deltas, {"type": "response.completed", "response": whole}]

    def __iter__(self):
        for event in self.events:
            yield f"data: {json.dumps(event)}\n\n".encode()
            time.sleep(SECONDS / len(self.events))


def kill_at_random(runs: int, seed: int) -> Counter[str]:
    """Asks `runs` questions, each in a kernel that is killed meanwhile; then each again, in a new one. Counts what happened.

    Every other question is asked in the background.
    """
    generator = random.Random(seed)
    journal = Journal(Path(os.environ["AIML_MAGIC_HOME"]) / "journal.sqlite3")
    happened: Counter[str] = Counter()

    def answer(request: wire.Request) -> wire.Reply:
        return wire.Reply(200, {"Content-Type": "text/event-stream"}, Slow(request.body["input"].split()[-1]))  # type: ignore[arg-type]

    with wire.serve(answer) as server:
        for number in range(runs):
            with kernel() as running:
                running.run(f"%config O3Pro.base_url = {server.url!r}")
                running.start(f"%%o3pro --alone {'-b' * (number % 2)}\nQuestion {number}")
                time.sleep(generator.uniform(0, SECONDS * 1.5))
                os.kill(running.manager.provisioner.process.pid, signal.SIGKILL)
            happened["asked"] += 1
        wait_for_runners(journal)
        sent = Counter(request.body["input"] for request in server.posts)
        with kernel() as running:
            running.run(f"%config O3Pro.base_url = {server.url!r}")
            for number in range(runs):
                ran = running.run(f"%%o3pro --alone\nQuestion {number}")
                assert ran.error is None
                assert "word39" in ran.of_type("text/markdown")[0], "the whole answer is shown"
        for number in range(runs):
            posts = [request for request in server.posts if request.body["input"] == f"Question {number}"]
            was_answered = sent[f"Question {number}"] == 1
            happened["answered before the kernel died or after"] += was_answered
            happened["killed before it was sent"] += not was_answered
            happened["sent twice"] += len(posts) > 1
            happened["not shown in the end"] += len(posts) == 0
    return happened


def wait_for_runners(journal: Journal, timeout: float = 20.0) -> None:
    """Until every request that was sent has come to its end."""
    deadline = time.monotonic() + timeout
    while any(row.state == "sent" for row in journal.history()):
        assert time.monotonic() < deadline, "a runner did not finish"
        time.sleep(0.05)


def main() -> None:
    os.environ["AIML_MAGIC_HOME"] = tempfile.mkdtemp()
    os.environ["AIML_API_KEY"] = "chaos-key-0123456789"
    happened = kill_at_random(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(dict(happened))
    assert happened["sent twice"] == 0
    assert happened["not shown in the end"] == 0


if __name__ == "__main__":
    main()
