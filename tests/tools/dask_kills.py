"""Kills kernels, and now and then a worker, while a map runs on a Dask cluster; the next kernel asks the same.

    python tests/tools/dask_kills.py 50

Each round maps rows of its own and is killed with -9 at a random moment, up to three times; then the map is left to end. Every
row must have been sent at most once, and be answered, unless the worker that had sent it was killed too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import distributed
import wire

KEY = "test-key-0123456789abcdef"
ROWS = 10
MAP = """
import sys, distributed
from aiml_magic import ask, errors
rows = [f"{sys.argv[2]}-{number}" for number in range(int(sys.argv[3]))]
print("asking", flush=True)
answers = ask.map("{{row}}", rows, client=distributed.Client(sys.argv[1]), on_error="keep", progress=False)
print(*(row for row, answer in zip(rows, answers) if isinstance(answer, errors.AimlMagicError) and answer.may_cost))
print(*(f"{row}: {answer}" for row, answer in zip(rows, answers) if isinstance(answer, errors.AimlMagicError)), file=sys.stderr)
"""


def slow(request: wire.Request) -> wire.Reply:
    """An answer after up to a second."""
    time.sleep(random.random())
    return wire.json_reply(wire.response(f"On {request.body['input']}"))


def start(address: str, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAP, address, f"r{number}", str(ROWS)]
    kernel = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    kernel.stdout.readline()
    return kernel


def play(number: int, client: distributed.Client, address: str) -> bool:
    """One round; says whether a worker was killed in it."""
    is_worker_killed = random.random() < 0.2
    for _ in range(random.randint(1, 3)):
        kernel = start(address, number)
        time.sleep(random.uniform(0.0, 2.5))
        kernel.kill()
        kernel.communicate()
    if is_worker_killed:
        os.kill(random.choice(list(client.run(os.getpid).values())), signal.SIGKILL)
    kernel = start(address, number)
    lost, told = kernel.communicate(timeout=300)
    print(
        number, "worker killed" if is_worker_killed else "", lost.strip(), told.strip(), flush=True
    )
    assert is_worker_killed or not lost.strip(), "lost"
    return is_worker_killed


def main(rounds: int) -> None:
    os.environ["AIML_MAGIC_HOME"] = tempfile.mkdtemp()
    settings = {
        "n_workers": 2,
        "threads_per_worker": 2,
        "dashboard_address": "127.0.0.1:0",
        "env": {"AIML_API_KEY": KEY},
    }
    with (
        wire.serve(slow) as server,
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        os.environ["AIML_API_URL"] = server.url
        for number in range(rounds):
            play(number, client, cluster.scheduler_address)
            client.wait_for_workers(2)
            sent = [request.body["input"] for request in server.posts]
            assert len(sent) == len(set(sent)), "sent twice"
    print(
        f"{rounds} rounds: {len(sent)} of {rounds * ROWS} rows were sent, none twice, and none was lost."
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
