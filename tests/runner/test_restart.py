"""A kernel that is restarted or shut down while a question is answered: front ends interrupt it first, and nothing is sent twice."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field

import psutil
import pytest
import wire
from asking import Asker
from kernels import Kernel, kernel

from aiml_magic import errors
from aiml_magic.journal.store import Journal
from aiml_magic.runner.jobs import HOLD

EVENTS = {"Content-Type": "text/event-stream"}
FUNCTION_CALL = {
    "type": "function_call",
    "id": "fc",
    "call_id": "c",
    "name": "weigh",
    "arguments": "{}",
}
WEIGH = "import time\ndef weigh() -> str:\n    'Weighs.'\n    print('weighing')\n    time.sleep({seconds})\n    return '7 g'"


@dataclass
class Held:
    """An answer that begins at once, and goes on when it is released."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.begun.set()
        self.go.wait(60)


class HeldStream(list):
    """The chunks of an answer; the second half is sent when it is released."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self.held = held

    def __iter__(self):
        def event(kind: str, **fields: object) -> bytes:
            return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()

        yield event("response.created", response={"id": "r", "status": "in_progress"})
        yield event("response.output_text.delta", output_index=0, delta="Half ")
        self.held.wait()
        yield event("response.output_text.delta", output_index=0, delta="and half.")
        yield event("response.completed", response=wire.response("Half and half.", id="r"))


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


@pytest.fixture
def running(home):
    with kernel() as running:
        yield running


def silent(held: Held):
    def answer(request: wire.Request) -> wire.Reply:
        held.wait()
        return wire.json_reply(wire.response("Half and half."))

    return answer


def streamed(held: Held):
    return lambda request: wire.Reply(200, EVENTS, HeldStream(held))


def polled(held: Held):
    def answer(request: wire.Request) -> wire.Reply:
        if request.method == "POST":
            return wire.json_reply(wire.response(id="r", status="queued", output=[]))
        held.begun.set()
        return wire.json_reply(
            wire.response(
                "Half and half.", id="r", status="completed" if held.go.is_set() else "in_progress"
            )
        )

    return answer


def use(running: Kernel, url: str) -> None:
    assert running.run(f"%load_ext aiml_magic\n%config O3Pro.base_url = {url!r}").error is None


def restart(running: Kernel, url: str) -> None:
    """Interrupts the kernel and restarts it, as the menu of a front end does."""
    running.manager.restart_kernel()
    running.client.wait_for_ready(timeout=60)
    use(running, url)


@pytest.mark.parametrize(
    ("end", "answer"),
    [("restart", silent), ("restart", streamed), ("restart", polled), ("shut down", streamed)],
)
def test_end_of_the_kernel_in_the_middle(running, held, answer, end):
    """After a restart or shutdown during a stream or a poll, the same cell shows the answer that was paid for."""
    cell = "%%o3pro --param background=true\nWhy?" if answer is polled else "%%o3pro\nWhy?"
    with wire.serve(answer(held)) as server:
        use(running, server.url)
        running.start(cell, "a")
        assert held.begun.wait(30)
        if end == "restart":
            restart(running, server.url)
            held.go.set()
            ran = running.run(cell, "a")
        else:
            running.manager.shutdown_kernel()
            held.go.set()
            with kernel() as another:
                use(another, server.url)
                ran = another.run(cell, "a")
        assert 1 == len(server.posts)
        assert ran.error is None
        assert ["Half and half."] == ran.of_type("text/markdown")


def test_kernel_that_takes_long_to_end(running, held, home):
    """A kernel that is shut down closes its runner's pipe at once, even if the kernel itself waits for something else."""
    with wire.serve(silent(held)) as server:
        use(running, server.url)
        running.run(
            "import threading, time; threading.Thread(target=time.sleep, args=[60]).start()"
        )
        running.start("%%o3pro\nWhy?", "a")
        assert held.begun.wait(30)
        children = psutil.Process(running.manager.provisioner.pid).children()
        runner = next(one for one in children if "aiml_magic.runner" in one.cmdline())
        running.manager.interrupt_kernel()
        running.manager.request_shutdown()
        held.go.set()
        runner.wait(30)
        assert running.manager.is_alive()
        assert "Half and half." == Journal(home / "journal.sqlite3").history()[-1].answer().text


def test_restart_in_a_function(running, home):
    """After a restart during a function of the notebook, earlier answers are replayed, and each round is sent once."""

    def answer(request: wire.Request) -> wire.Reply:
        is_first = isinstance(request.body["input"], str)
        return wire.json_reply(
            wire.response(id="r1", output=[FUNCTION_CALL]) if is_first else wire.response(id="r2")
        )

    with wire.serve(answer) as server:
        use(running, server.url)
        running.run(WEIGH.format(seconds=60))
        running.start("%%o3pro -f weigh\nHow heavy?", "a")
        running.wait_for_words("weighing")
        restart(running, server.url)
        running.run(WEIGH.format(seconds=0))
        ran = running.run("%%o3pro -f weigh\nHow heavy?", "a")
        assert ran.error is None
        assert 2 == len(server.posts)


def test_restart_in_a_map(running, held):
    """After a restart during a map, the same map waits for the same answers."""
    cell = "from aiml_magic import ask\nanswers = ask.map('Rate {{x}}', [1, 2, 3], progress=False)\nprint(len(answers), answers[2])"
    with wire.serve(silent(held)) as server:
        use(running, server.url)
        running.start(cell)
        deadline = time.monotonic() + 30
        while len(server.posts) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        restart(running, server.url)
        request = running.start(cell)
        held.go.set()
        assert "3 Half and half.\n" == running.finish(request).stream
        assert 3 == len(server.posts)


def test_interrupt_without_an_end(running, held, home):
    """After an interrupt without a restart, the cell is idle at once, the connection is closed after the hold, and the cell asks once more."""
    with wire.serve(streamed(held)) as server:
        use(running, server.url)
        request = running.start("%%o3pro\nWhy?", "a")
        assert held.begun.wait(30)
        running.wait_for_words("Half")
        interrupted = time.monotonic()
        running.manager.interrupt_kernel()
        ran = running.finish(request)
        assert "the request was sent, and may be charged; 5 characters" in ran.error["evalue"]
        journal = Journal(home / "journal.sqlite3")
        row = journal.history()[-1]
        assert time.monotonic() - interrupted < HOLD or row.state == "cancelled", (
            "the cell does not wait for the hold"
        )
        while journal.row(row.id).state == "sent":
            assert time.monotonic() - interrupted < 30
            time.sleep(0.02)
        assert time.monotonic() - interrupted >= HOLD
        assert "cancelled" == journal.row(row.id).state
        held.go.set()
        assert running.run("%%o3pro\nWhy?", "a").error is None
        assert 2 == len(server.posts)


def test_asked_again_at_once(running, held):
    """Run again within the hold, the cell follows the same request, whose cancellation is dropped."""
    with wire.serve(streamed(held)) as server:
        use(running, server.url)
        request = running.start("%%o3pro\nWhy?", "a")
        assert held.begun.wait(30)
        running.manager.interrupt_kernel()
        assert running.finish(request).error is not None
        again = running.start("%%o3pro\nWhy?", "a")
        running.wait_for_words("Half")
        time.sleep(HOLD + 0.5)
        held.go.set()
        assert ["Half and half."] == running.finish(again).of_type("text/markdown")
        assert 1 == len(server.posts)


def test_cancelled_by_name(asker, held):
    """The cancellation of `%aiml cancel` is not held: the connection is closed at once."""
    with wire.serve(lambda _: wire.Reply(end="silence")) as server:
        job = asker.start(server.url)
        while job.progress.state != "sent":
            time.sleep(0.01)
        job.cancel(30)
        assert server.closed_by_client.wait(30)
        assert "cancelled" == asker.journal.row(job.id).state


def test_budget_counts_what_is_held(asker, held):
    """A question with a held cancellation may be charged, and counts with its highest cost."""
    with wire.serve(silent(held)) as server:
        job = asker.start(server.url)
        assert held.begun.wait(30)
        job.interrupt(30)
        assert "cancelled" == job.status
        assert asker.journal.row(job.id).has_unknown_cost
        with pytest.raises(errors.Interrupted, match="was sent, and may be charged"):
            job.outcome()


COMMANDS = [
    b"[1, 2]", b"7", b"{}", b'{"do": "cancel"}', b'{"do": "send"}', b'{"do": "send", "row": []}', b'{"row": 1}',
    b'{"do": ["send"], "row": 1}', b'{"do": "cancel", "row": {}}', b'{"do": "get", "call": 1}', b"[" * 100_000, b"\xff\xfe",
    b'{"do": "send", "row": 1e999, "parent": null}', b'{"do": "nothing", "row": 1}',
]  # fmt: skip


def test_commands_that_cannot_be_read(asker, held):
    """After any input on the pipe, requests in flight go on, and the next command is executed."""
    with wire.serve(silent(held)) as server:
        job = asker.start(server.url)
        assert held.begun.wait(30)
        process = asker.asking.runner._child.process
        for line in COMMANDS:
            process.stdin.write(line + b"\n")
        process.stdin.flush()
        another = asker.start(server.url, "And why not?")
        held.go.set()
        assert ["Half and half."] * 2 == [job.wait(30).text, another.wait(30).text]


EVENTS_OF_NO_KIND = [
    [1], 7, {"row": {}}, {"row": [], "event": "over"}, {"call": []}, {"row": 1, "event": "text"}, {"row": 1, "event": []},
    {"row": 1, "event": "unkept"}, {"row": 1, "event": "retry"}, {"row": 1, "event": "poll", "status": {}},
]  # fmt: skip


def test_events_that_cannot_be_read(home, held, tmp_path, monkeypatch):
    """A job gets its end even if the runner's process prints other lines among the events."""
    told = "\n".join(map(json.dumps, EVENTS_OF_NO_KIND))
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'aiml_magic.runner' in sys.orig_argv: print({told!r}, flush=True)"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    asker = Asker(home / "journal.sqlite3")
    try:
        with wire.serve(silent(held)) as server:
            job = asker.start(server.url)
            held.go.set()
            assert "Half and half." == job.wait(30).text
    finally:
        asker.session.close(10)


def test_no_more_threads(asker, monkeypatch):
    """Without a thread for its events no runner is left and nothing was sent; later the question is sent once."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("aiml_magic"):
            raise RuntimeError("can't start new thread")
        start(thread)

    before = psutil.Process().children()
    with wire.serve(lambda _: wire.json_reply(wire.response("Whole."))) as server:
        with monkeypatch.context() as crowded:
            crowded.setattr(threading.Thread, "start", refuse)
            with pytest.raises(errors.RunnerDied, match="Nothing was sent"):
                asker.ask(server.url)
        assert before == psutil.Process().children()
        assert "Whole." == asker.ask(server.url).text
        assert 1 == len(server.posts)
