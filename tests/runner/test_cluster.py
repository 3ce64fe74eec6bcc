"""ask.map on a Dask cluster: its workers send the rows that the journal lacks, each once, and the journal stores the answers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
import wire
from asking import KEY

from aiml_magic import addresses, ask, errors
from aiml_magic.api.responses import Cost
from aiml_magic.journal.rows import Result
from aiml_magic.journal.store import Journal
from aiml_magic.runner import worker as worker_module

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
pytestmark = pytest.mark.filterwarnings("default")  # Dask emits warnings of its own


@pytest.fixture(scope="module")
def cluster():
    """Four worker processes of two threads each; they alone have the key."""
    settings = {"distributed.scheduler.allowed-failures": 10, "distributed.worker.daemon": False}
    import dask

    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=4, threads_per_worker=2, processes=True, **LOOPBACK, env={"AIML_API_KEY": KEY}
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster, plain_script, monkeypatch):
    monkeypatch.delenv("AIML_API_KEY", raising=False)
    with distributed.Client(cluster) as client:
        client.wait_for_workers(4)  # a killed worker is started again
        yield client


def echo(request: wire.Request) -> wire.Reply:
    time.sleep(0.02)
    return wire.json_reply(
        wire.response(f"On {request.body['input']}", id=f"resp_{request.body['input']}")
    )


class Held:
    """A server that answers on a signal."""

    def __init__(self):
        self.is_over = threading.Event()

    def __call__(self, request: wire.Request) -> wire.Reply:
        self.is_over.wait(60)
        return echo(request)


def kill(process, *, when) -> None:
    """Kills a process with -9 as soon as `when()` is true."""
    wait_for(when)
    process.kill()
    process.wait()


def killed_kernel(address, rows, *, when):
    """Maps `rows` on the cluster at `address` in another process, which is killed with -9 as soon as `when()` is true."""
    code = "import distributed; from aiml_magic import ask; "
    code += (
        f"ask.map('{{{{row}}}}', {rows!r}, client=distributed.Client({address!r}), progress=False)"
    )
    kill(subprocess.Popen([sys.executable, "-c", code]), when=when)


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def states(home) -> list[str]:
    return [row.state for row in Journal(home / "journal.sqlite3").history()]


def fall_silent(home) -> None:
    """Sets the heartbeats of all rows back by a minute, as if their kernels had died."""
    with closing(sqlite3.connect(home / "journal.sqlite3")) as db, db:
        db.execute("UPDATE requests SET alive_at = alive_at - 60")


def kept_by(client) -> list[dict[str, str]]:
    """The variables that the scheduler stores for kernels."""
    return client.run_on_scheduler(
        lambda dask_scheduler: [
            kept["value"] for kept in dask_scheduler.extensions["variables"].variables.values()
        ]
    )


def wait_for_leave(seconds: float) -> None:
    """Sets the seconds that a worker waits for permission."""
    worker_module._PERMISSION_WAIT = seconds


def asked(server: wire.Server) -> list[str]:
    return sorted(request.body["input"] for request in server.posts)


def test_rows_the_journal_lacks(client, monkeypatch):
    """The workers send the rows that the journal lacks, with the key of their environment; a second map is replayed."""
    with wire.serve(echo) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        answers = ask.map("{{row}}", ["a", "b", "a"], client=client, progress=False)
        assert ["On a", "On b", "On a"] == [answer.text for answer in answers]
        assert ["a", "b"] == asked(server), "the same row twice is one question"
        assert {f"Bearer {KEY}"} == {request.headers["authorization"] for request in server.posts}
        answers = ask.map("{{row}}", ["a", "b", "c"], client=client, progress=False, effort=None)
        assert [True, True, False] == [answer.replayed for answer in answers]
        assert ["a", "b", "c"] == asked(server)
    assert ask.map("{{row}}", ["c", "b"], progress=False)[1].replayed, (
        "with no server, no key and no cluster"
    )


def test_attempts_of_a_worker(client, monkeypatch):
    """A worker retries a refused request under another id, and reports the number of attempts."""
    refused = []

    def answer(request):
        refused.append(request)
        return (
            wire.json_reply({"message": "Service unavailable"}, 503)
            if len(refused) == 1
            else echo(request)
        )

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        answers = ask.map("{{row}}", ["tried twice"], client=client, progress=False)
        first, second = (request.headers["x-client-request-id"] for request in server.posts)
    assert f"{first}.2" == second
    assert 2 == Journal(addresses.journal_path("")).row(answers[0].journal_id).attempts


def test_key_is_in_no_graph(client, monkeypatch):
    """A key of this process never goes to the scheduler: a worker has its own, or none."""
    monkeypatch.setenv("AIML_API_KEY", "sk-of-this-process-0123456789")
    with wire.serve(echo) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        ask.map("{{row}}", ["a"], client=client, progress=False)
        assert f"Bearer {KEY}" == server.posts[0].headers["authorization"]
        client.run(lambda: os.environ.pop("AIML_API_KEY"))
        try:
            with pytest.raises(errors.RunnerDied, match=r"No API key was found.*Nothing was sent"):
                ask.map("{{row}}", ["b"], client=client, progress=False)
        finally:
            client.run(lambda: os.environ.update(AIML_API_KEY=KEY))
        assert 1 == len(server.posts)
        assert "On b" == ask.map("{{row}}", ["b"], client=client, progress=False)[0].text, (
            "what was not sent may be asked"
        )


def test_worker_that_dies(client, monkeypatch):
    """After the death of a worker its sent rows may be charged and are not sent again; all other rows are answered once."""
    rows = [f"w{number}" for number in range(40)]
    pid = next(iter(client.run(os.getpid).values()))
    held, is_dead = [], threading.Event()

    def answer(request):
        if len(held) < 8:  # as many as there are threads: so the victim has two of them
            held.append(request.body["input"])
            is_dead.wait(30)
        return echo(request)

    def kill():
        while len(held) < 8:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        is_dead.set()

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        threading.Thread(target=kill, daemon=True).start()
        answers = ask.map("{{row}}", rows, client=client, on_error="keep", progress=False)
        lost = [
            row
            for row, answer in zip(rows, answers, strict=True)
            if isinstance(answer, errors.RunnerDied)
        ]
        assert 2 == len(lost)
        assert set(lost) < set(held)
        assert all(
            answer.text == f"On {row}"
            for row, answer in zip(rows, answers, strict=True)
            if row not in lost
        )
        assert sorted(rows) == asked(server), "each row was sent once"
        again = ask.map("{{row}}", rows, client=client, on_error="keep", progress=False)
        assert lost == [
            row
            for row, answer in zip(rows, again, strict=True)
            if isinstance(answer, errors.RunnerDied)
        ]
        assert all(
            error.may_cost and "%aiml check" in error.hint
            for error in again
            if isinstance(error, errors.RunnerDied)
        )
        assert sorted(rows) == asked(server)


def test_interrupt_keeps_what_was_sent(client, monkeypatch):
    """Tasks that no worker has begun are withdrawn at once; the others are answered into the journal."""
    is_over = threading.Event()

    def answer(request):
        is_over.wait(30)
        return echo(request)

    def rows():
        for number in range(12):
            yield f"w{number}"
        while len(server.posts) < 8:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        with pytest.raises(errors.Interrupted) as stopped:
            ask.map("{{row}}", rows(), client=client, progress=False)
        assert [None] * 12 == stopped.value.answers
        is_over.set()
        sent = asked(server)
        assert 8 == len(sent)
        for job in threading.enumerate():
            if job.name == "aiml_magic-cluster":
                job.join(30)
        assert all(
            answer.replayed for answer in ask.map("{{row}}", sent, client=client, progress=False)
        )
        assert not any(
            answer.replayed
            for answer in ask.map(
                "{{row}}", ["w8", "w9", "w10", "w11"], client=client, progress=False
            )
        )


@pytest.mark.parametrize("given", [{"chat": "c"}, {"tool": len}, {"after": 1}])
def test_what_a_worker_cannot_have(client, given):
    """Conversations, functions and tool servers are refused on a cluster."""
    with pytest.raises(errors.BadInput, match="On a cluster each row stands alone"):
        ask.map("{{row}}", ["a"], client=client, **given)


def test_cluster_that_goes(home, monkeypatch):
    """A cluster that is closed during a map ends it with an error; rows that may have been sent are not sent again."""
    is_over = threading.Event()

    def answer(request):
        is_over.wait(30)
        return echo(request)

    monkeypatch.setenv("AIML_API_KEY", KEY)
    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, **LOOPBACK)
        client = distributed.Client(cluster)

        def go():
            while not server.posts:
                time.sleep(0.01)
            client.close()
            cluster.close()

        threading.Thread(target=go, daemon=True).start()
        answers = ask.map("{{row}}", ["a", "b"], client=client, on_error="keep", progress=False)
        is_over.set()
        assert [errors.RunnerDied] * 2 == [type(answer) for answer in answers]
        with pytest.raises(errors.RunnerDied, match="may be charged"):
            ask.map("{{row}}", ["a"], progress=False)
        assert ["a"] == asked(server)


def test_client_that_is_closed(cluster, home):
    """A closed client, or a value that is not a client, is an error of two lines, and leaves no thread that would keep a script alive."""
    closed = distributed.Client(cluster)
    closed.close()
    for client in (closed, "tcp://127.0.0.1:1"):
        with pytest.raises(errors.BadInput, match="not connected"):
            ask.map("{{row}}", ["a"], client=client, progress=False)
    assert "aiml_magic-cluster" not in {thread.name for thread in threading.enumerate()}


ROWS = [f"w{number}" for number in range(12)]


@pytest.fixture
def held(monkeypatch):
    """A server that answers once `held.is_over` is set."""
    held = Held()
    with wire.serve(held) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        held.server = server
        yield held
        held.is_over.set()


def test_kernel_that_dies(client, home, held):
    """A kernel is killed with 8 of 12 rows in flight: the next kernel gets their answers, and sends the other 4."""
    killed_kernel(client.scheduler.address, ROWS, when=lambda: 8 == len(held.server.posts))
    assert ["queued"] * 4 + ["sent"] * 8 == sorted(states(home))
    threading.Timer(
        1.0, held.is_over.set
    ).start()  # the next kernel starts before the answers are ready
    answers = ask.map("{{row}}", ROWS, client=client, progress=False)
    assert [f"On {row}" for row in ROWS] == [answer.text for answer in answers]
    assert sorted(ROWS) == asked(held.server), "each was sent once"
    wait_for(lambda: [] == kept_by(client))


def test_answers_wait_at_the_scheduler(client, home, held):
    """Answers that workers finish after their kernel died are fetched by the next map."""
    killed_kernel(client.scheduler.address, ["a", "b"], when=lambda: 2 == len(held.server.posts))
    held.is_over.set()
    wait_for(lambda: ["came", "came"] == [name for kept in kept_by(client) for name in kept])
    ask.map("{{row}}", ["c"], client=client, progress=False)
    assert ["done"] * 3 == states(home)
    assert all(answer.replayed for answer in ask.map("{{row}}", ["a", "b"], progress=False)), (
        "without the cluster"
    )
    assert ["a", "b", "c"] == asked(held.server)


def test_rows_of_a_cluster_without_it(client, home, held, monkeypatch):
    """Without its cluster, a row that was sent from one is an error of two lines that names the cluster, and is not sent again."""
    killed_kernel(client.scheduler.address, ["a"], when=lambda: 1 == len(held.server.posts))
    fall_silent(home)
    with pytest.raises(errors.RunnerDied, match=r"may be charged") as left:
        ask.map("{{row}}", ["a"], progress=False)
    assert 2 == len(str(left.value).splitlines())
    assert client.scheduler.address in left.value.message
    assert "client=" in left.value.hint
    assert "%aiml check" in left.value.hint
    held.is_over.set()
    assert "On a" == ask.map("{{row}}", ["a"], client=client, progress=False)[0].text
    assert ["a"] == asked(held.server)


def test_worker_and_kernel_that_die(client, home, held):
    """A worker dies after its kernel: its sent rows may be charged and are not sent again; all others are fetched or sent."""
    killed_kernel(client.scheduler.address, ROWS, when=lambda: 8 == len(held.server.posts))
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    held.is_over.set()
    fall_silent(home)
    answers = ask.map("{{row}}", ROWS, client=client, on_error="keep", progress=False)
    lost = [answer for answer in answers if isinstance(answer, errors.RunnerDied)]
    assert [True, True] == [answer.may_cost for answer in lost]
    assert 10 == sum(getattr(answer, "text", "").startswith("On w") for answer in answers)
    assert sorted(ROWS) == asked(held.server)
    wait_for(lambda: [] == kept_by(client))


def test_rows_without_a_worker(home, held):
    """Rows that waited for a worker when their kernel died were not sent: the next kernel sends them, with the cluster or without.

    So is a row that the kernel had claimed, but that no worker was permitted to send.
    """
    settings = {"n_workers": 0, "threads_per_worker": 1, "env": {"AIML_API_KEY": KEY}}
    with (
        distributed.LocalCluster(**settings, **LOOPBACK) as cluster,
        distributed.Client(cluster) as client,
    ):
        killed_kernel(
            cluster.scheduler_address, ["a", "b"], when=lambda: ["queued"] * 2 == states(home)
        )
        scheduler = client.scheduler_info()
        assert (
            Journal(home / "journal.sqlite3").claim(2, f"{scheduler['address']} {scheduler['id']}")
            is not None
        )
        fall_silent(home)
        held.is_over.set()
        assert "On a" == ask.map("{{row}}", ["a"], progress=False)[0].text
        cluster.scale(1)
        client.wait_for_workers(1)
        client.run(wait_for_leave, 1.0)
        answers = ask.map("{{row}}", ["b", "c"], client=client, progress=False)
        assert ["On b", "On c"] == [answer.text for answer in answers]
    assert ["a", "b", "c"] == asked(held.server)


def test_scheduler_that_dies_with_its_kernel(home, held):
    """The kernel dies with its own cluster: sent rows may be charged, and are not sent again; unsent ones are sent."""
    code = """
import distributed
from aiml_magic import ask
client = distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0")
ask.map("{{row}}", ["a", "b", "c"], client=client, progress=False)
"""
    kill(subprocess.Popen([sys.executable, "-c", code]), when=lambda: 2 == len(held.server.posts))
    sent = asked(held.server)
    held.is_over.set()
    fall_silent(home)
    answers = ask.map("{{row}}", ["a", "b", "c"], on_error="keep", progress=False)
    assert [row in sent for row in "abc"] == [
        isinstance(answer, errors.RunnerDied) for answer in answers
    ]
    assert ["a", "b", "c"] == asked(held.server)


def test_any_answer_is_kept_there():
    """A result stays unchanged in the scheduler, including errors and lone surrogates."""
    lost = errors.ConnectionLost("It ended: é.", "Check.", may_cost=True, status=502)
    for came in (
        Result("done", wire.response("\ud800 \0"), 2.5, ("chain_ignored",), Cost(0.5, 3, "meta")),
        Result("failed", error=lost),
    ):
        told = worker_module.result_from(worker_module._as_text(came))
        assert replace(came, error=None) == replace(told, error=None)
        assert (came.error and came.error.as_dict()) == (told.error and told.error.as_dict())


def test_settings_of_one_map(client, tmp_path, monkeypatch):
    """The settings of a map hold on a cluster as well: its server, its journal, and its concurrency."""
    monkeypatch.setenv("AIML_API_URL", "http://127.0.0.1:9/v1")
    now, most, lock = 0, 0, threading.Lock()

    def answer(request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        reply = echo(request)
        with lock:
            now -= 1
        return reply

    other, rows = tmp_path / "other.sqlite3", [f"w{number}" for number in range(6)]
    with wire.serve(answer) as server:
        given = {"base_url": server.url, "journal": other, "max_concurrency": 2, "progress": False}
        answers = ask.map("{{row}}", rows, client=client, **given)
    assert [f"On {row}" for row in rows] == [one.text for one in answers]
    assert most <= 2
    assert 6 == len(Journal(other).history())
