"""ask.map on a Dask cluster: what the journal lacks is sent by its workers, once each, and kept here."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import wire
from asking import KEY

from aiml_magic import ask, asking, errors

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
pytestmark = pytest.mark.filterwarnings("default")  # Dask has some of its own


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
def client(cluster, home, monkeypatch):
    monkeypatch.delenv("AIML_API_KEY", raising=False)
    asking._without_notebook.cache_clear()
    with distributed.Client(cluster) as client:
        client.wait_for_workers(4)  # one that was killed comes again
        yield client
    asking._without_notebook().session.close(10)
    asking._without_notebook.cache_clear()


def echo(request: wire.Request) -> wire.Reply:
    time.sleep(0.02)
    return wire.json_reply(wire.response(f"On {request.body['input']}", id=f"resp_{request.body['input']}"))


def asked(server: wire.Server) -> list[str]:
    return sorted(request.body["input"] for request in server.posts)


def test_rows_the_journal_lacks(client, monkeypatch):
    """The workers send what the journal lacks, with the key of their environment; then the journal has it, and no worker is asked."""
    with wire.serve(echo) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        answers = ask.map("{{row}}", ["a", "b", "a"], client=client, progress=False)
        assert ["On a", "On b", "On a"] == [answer.text for answer in answers]
        assert ["a", "b"] == asked(server), "the same row twice is one question"
        assert {f"Bearer {KEY}"} == {request.headers["authorization"] for request in server.posts}
        answers = ask.map("{{row}}", ["a", "b", "c"], client=client, progress=False, effort=None)
        assert [True, True, False] == [answer.replayed for answer in answers]
        assert ["a", "b", "c"] == asked(server)
    assert ask.map("{{row}}", ["c", "b"], progress=False)[1].replayed, "with no server, no key and no cluster"


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
        assert "On b" == ask.map("{{row}}", ["b"], client=client, progress=False)[0].text, "what was not sent may be asked"


def test_worker_that_dies(client, monkeypatch):
    """A worker is killed half-way: what it had sent may be charged and is not sent again, all other rows are answered once."""
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
        lost = [row for row, answer in zip(rows, answers, strict=True) if isinstance(answer, errors.RunnerDied)]
        assert 2 == len(lost)
        assert set(lost) < set(held)
        assert all(answer.text == f"On {row}" for row, answer in zip(rows, answers, strict=True) if row not in lost)
        assert sorted(rows) == asked(server), "each row was sent once"
        again = ask.map("{{row}}", rows, client=client, on_error="keep", progress=False)
        assert lost == [row for row, answer in zip(rows, again, strict=True) if isinstance(answer, errors.RunnerDied)]
        assert all(error.may_cost and "%aiml check" in error.hint for error in again if isinstance(error, errors.RunnerDied))
        assert sorted(rows) == asked(server)


def test_interrupt_keeps_what_was_sent(client, monkeypatch):
    """What no worker has begun is taken back at once; what one has is answered into the journal all the same."""
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
        assert all(answer.replayed for answer in ask.map("{{row}}", sent, client=client, progress=False))
        assert not any(
            answer.replayed for answer in ask.map("{{row}}", ["w8", "w9", "w10", "w11"], client=client, progress=False)
        )


@pytest.mark.parametrize("given", [{"chat": "c"}, {"tool": len}, {"after": 1}, {"background": True}])
def test_what_a_worker_cannot_have(client, given):
    """Conversations, functions and servers of tools stay in the notebook."""
    with pytest.raises(errors.BadInput, match="On a cluster each row stands alone"):
        ask.map("{{row}}", ["a"], client=client, **given)


def test_cluster_that_goes(home, monkeypatch):
    """A cluster that is closed in the middle ends the map with an error, and what may have been sent is not sent again."""
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
    """A client that is closed already, or is none, is two lines, and leaves no thread for which a script would wait for ever."""
    closed = distributed.Client(cluster)
    closed.close()
    for client in (closed, "tcp://127.0.0.1:1"):
        with pytest.raises(errors.BadInput, match="not connected"):
            ask.map("{{row}}", ["a"], client=client, progress=False)
    assert "aiml_magic-cluster" not in {thread.name for thread in threading.enumerate()}
