"""Jobs, in the background or not: one request and one answer, whichever process dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import wire
from asking import Asker, question
from environment import files_at_once
from kernels import kernel
from processes import processes, wait_until
from rows import new

from aiml_magic import errors
from aiml_magic.api.masking import Secrets
from aiml_magic.journal.store import Journal
from aiml_magic.runner.child import RunnerProcess
from aiml_magic.runner.jobs import Job
from aiml_magic.session.asking import Session
from aiml_magic.session.question import Delivery


class Held:
    """Answers each question with itself when it is released; a question is named by its `first` words."""

    def __init__(self) -> None:
        self._gates: dict[str, threading.Event] = {}
        self.asked: list[str] = []

    def gate(self, word: str) -> threading.Event:
        return self._gates.setdefault(word, threading.Event())

    def let_go(self, *words: str) -> None:
        for word in words:
            self.gate(word).set()

    def __call__(self, request: wire.Request) -> wire.Reply:
        told = request.body["input"]
        asked = told if isinstance(told, str) else told[-1]["content"][0]["text"]
        self.asked.append(asked)
        self.gate(asked).wait(20)
        previous = request.body.get("previous_response_id")
        return wire.json_reply(
            wire.response(f"On {asked}", id=f"resp_{asked}", previous_response_id=previous)
        )


@pytest.fixture
def held():
    with wire.serve(answer := Held()) as server:
        server.held = answer
        yield server
        answer.let_go(*answer.asked)


def start(asker, server, text, **options):
    return asker.start(server.url, text, background=True, **options)


def test_job(asker, held):
    """A job is returned at once, shows its state, and has its answer later: by `wait`, by its attributes, by `await`."""
    job = start(asker, held, "one")
    wait_until(lambda: held.posts and job.status == "sent")
    assert (False, None) == (job.done, job.answer)
    with pytest.raises(TimeoutError, match="goes on"):
        job.wait(0.1)
    held.held.let_go("one")
    assert "On one" == job.wait().text
    assert (True, "completed") == (job.done, job.status)
    assert job.answer is job.wait()

    async def awaited():
        return await job

    assert job.answer is asyncio.run(awaited())
    assert f"<Job {job.id}: completed>" == repr(job)


def test_cancelled_at_once(asker, held):
    """A question that is cancelled while the runner still starts is not sent; asked again, it is answered."""
    one = start(asker, held, "one")
    one.cancel(10)
    with pytest.raises(errors.Interrupted, match="nothing was charged"):
        one.wait(0)
    held.held.let_go("one")
    assert "On one" == start(asker, held, "one").wait(10).text
    assert 1 == len(held.posts)


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be halted here")
def test_cancelled_while_the_runner_is_busy(asker, held):
    """An unsent question is cancelled at once, in any state of the runner; a sent one may have been charged."""
    one = start(asker, held, "one")
    wait_until(lambda: one.status == "sent")
    runner = asker.asking.runner._child.process.pid
    os.kill(runner, signal.SIGSTOP)
    try:
        two = start(asker, held, "two")
        two.cancel(60)
        with pytest.raises(errors.Interrupted, match="nothing was charged"):
            two.wait(0)
        one.cancel(0.1)
        with pytest.raises(errors.Interrupted, match="may have been sent, and may be charged"):
            one.outcome()
    finally:
        os.kill(runner, signal.SIGCONT)
    wait_until(lambda: asker.journal.row(one.id).state == "cancelled")
    assert ["one"] == held.held.asked


def test_next_question_waits(asker, held):
    """A question that continues a job waits for its answer, and says so; one of another chat does not."""
    one, two, other = (
        start(asker, held, text, chat=chat)
        for text, chat in [("one", "a"), ("two", "a"), ("else", "b")]
    )
    wait_until(lambda: {"one", "else"} == set(held.held.asked))
    wait_until(lambda: two.progress.parent == one.id)
    assert "waiting" == two.status
    held.held.let_go("two", "else")
    assert "On else" == other.wait().text
    assert ["else", "one"] == sorted(held.held.asked)
    held.held.let_go("one")
    assert "On two" == two.wait().text
    assert "resp_one" == held.posts[-1].body["previous_response_id"]
    assert asker.journal.row(two.id).parent == one.id


def test_key_of_a_question_that_waited(asker, held):
    """Both turns of a chain in the background are replayed after they were answered."""
    held.held.let_go("one", "two")
    for _ in range(2):
        session, asker.session = asker.session, Session()
        asker.cells = 0
        jobs = [start(asker, held, text, replay="auto") for text in ("one", "two")]
        assert ["On one", "On two"] == [job.wait().text for job in jobs]
        session.close(10)
    assert 2 == len(held.posts)
    assert all(job.wait().replayed for job in jobs)


def in_turn(gate, **first):
    """Numbered answers; the first is sent when `gate` is set."""

    def answer(request):
        previous = request.body.get("previous_response_id")
        if previous is None:
            gate.wait(20)
            return wire.json_reply(wire.response("On one", id="resp_1", **first))
        return wire.json_reply(wire.response("On two", id="resp_2", previous_response_id=previous))

    return answer


def test_next_question_waits_for_a_place_too(asker):
    """A question that waits for its parent and for a slot is replayed as a follow-up of that parent, not sent again."""
    with wire.serve(in_turn(gate := threading.Event())) as server:
        one, two = (
            start(asker, server, text, cell=text, max_concurrency=1) for text in ("one", "two")
        )
        wait_until(lambda: two.status == "waiting")
        gate.set()
        assert "On two" == two.wait(10).text
        assert one.done
        assert asker.ask(server.url, "two", cell="two", replay="auto").replayed
        assert 2 == len(server.posts)


def test_next_question_behind_half_an_answer(asker):
    """No follow-up is sent if its parent's answer is cut off."""
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    with wire.serve(in_turn(gate := threading.Event(), **cut)) as server:
        _, two = (start(asker, server, text, max_concurrency=1) for text in ("one", "two"))
        gate.set()
        with pytest.raises(errors.ParentFailed):
            two.wait(10)
        assert 1 == len(server.posts)


def test_next_question_of_three_kernels(home):
    """One kernel asks, a second queues a follow-up, a third asks the same follow-up: it is sent once."""
    kernels = [Asker(home / "journal.sqlite3") for _ in range(3)]
    try:
        with wire.serve(in_turn(gate := threading.Event())) as server:
            one = start(kernels[0], server, "one", cell="one")
            wait_until(lambda: server.posts)
            kernels[1].asking.chats.resume()
            two = kernels[1].start(server.url, "two", cell="two", replay="auto")
            wait_until(lambda: two.status == "waiting")
            gate.set()
            one.wait(10)
            assert (
                "On two"
                == kernels[2].ask(server.url, "two", cell="two", replay="auto").text
                == two.wait(10).text
            )
            assert 2 == len(server.posts)
    finally:
        for each in kernels:
            each.session.close(10)


def test_parent_that_fails(asker):
    """A question whose parent failed is not sent, and its error names the parent."""

    both_are_asked = threading.Event()

    def answer(request):
        both_are_asked.wait(20)
        return wire.json_reply({"message": "No."}, 400)

    with wire.serve(answer) as server:
        one, two = start(asker, server, "one"), start(asker, server, "two")
        both_are_asked.set()
        with pytest.raises(errors.InvalidRequest):
            one.wait()
        with pytest.raises(
            errors.ParentFailed, match=f"Question {one.id}, which .* Nothing was sent"
        ):
            two.wait()
        assert "failed" == two.status
        assert 1 == len(server.posts)


def test_cancel(asker, held):
    """A job that is cancelled closes its connection, and one that waits for it is never sent."""
    one, two = start(asker, held, "one"), start(asker, held, "two")
    wait_until(lambda: held.posts)
    two.cancel(2)
    assert "cancelled" == two.status
    with pytest.raises(errors.Interrupted, match="nothing was charged"):
        two.wait()
    one.cancel(2)
    with pytest.raises(errors.Interrupted, match="may be charged"):
        one.wait()
    assert ["cancelled", "cancelled"] == [asker.journal.row(job.id).state for job in (one, two)]
    assert 1 == len(held.posts)


def test_max_concurrency(asker, held):
    """At most `max_concurrency` questions are in flight; the others are queued, and all are answered."""
    words = [f"word {number}" for number in range(6)]
    jobs = [start(asker, held, word, chat=None, max_concurrency=2) for word in words]
    wait_until(lambda: 2 == len(held.posts))
    wait_until(lambda: 4 == sum(job.status == "waiting" for job in jobs))
    jobs[3].cancel(2)
    held.held.let_go(words[0])
    wait_until(lambda: 3 == len(held.posts))
    time.sleep(0.1)
    assert 3 == len(held.posts)
    held.held.let_go(*words)
    assert [f"On {word}" for word in words if word != "word 3"] == [
        job.wait().text for job in jobs if job is not jobs[3]
    ]
    assert "word 3" not in held.held.asked


def test_many_jobs(asker):
    """256 questions (fewer with a lower limit of open files) are in flight in one runner, and each gets its own answer."""
    count = min(256, files_at_once() // 4)
    barrier = threading.Barrier(count)

    def answer(request):
        barrier.wait(60)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    with wire.serve(answer) as server:
        jobs = [
            start(asker, server, f"q{number}", chat=None, max_concurrency=256)
            for number in range(count)
        ]
        assert [f"On q{number}" for number in range(count)] == [job.wait(60).text for job in jobs]


def test_two_runners_one_row(asker, held):
    """A row is sent once, however many runners try at once; each of them gets its answer."""
    job = start(asker, held, "one")
    others = [RunnerProcess(asker.journal) for _ in range(3)]
    row = asker.journal.row(job.id)
    jobs = [job, *(other.send(row, Secrets("another-key-0123456789"), 60, 64) for other in others)]
    wait_until(lambda: held.posts)
    time.sleep(0.3)
    held.held.let_go("one")
    assert ["On one"] * 4 == [each.wait(10).text for each in jobs]
    assert 1 == len(held.posts)
    for other in others:
        other.close(10)


def test_runner_that_dies_before_all_is_read(asker, held):
    """Jobs of a dead runner end, even if a new runner is started while the old one's events are still being read."""
    one = start(asker, held, "one")
    with one._changed:  # its first event is not read yet
        wait_until(lambda: held.posts)
        dead = asker.asking.runner._child.process
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait(10)
        held.held.let_go("two")
        assert "On two" == start(asker, held, "two", chat=None).wait(10).text
    with pytest.raises(errors.RunnerDied, match="may be charged"):
        one.wait(10)


def test_what_else_is_printed(asker, held, tmp_path, monkeypatch):
    """Output of the user's Python in the runner, at its start or as an unfinished line at its end, is not read as an event."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nprint('Welcome!')\nprint('[1]')\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print(end='{\"event\"', flush=True), os._exit(1)))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    held.held.let_go("one")
    assert "On one" == start(asker, held, "one").wait(10).text
    two = start(asker, held, "two")
    wait_until(lambda: two.status == "sent")
    os.kill(asker.asking.runner._child.process.pid, signal.SIGTERM)
    with pytest.raises(errors.RunnerDied):
        two.wait(10)


def test_limited_row_of_a_dead_runner(asker):
    """A rate-limited question is queued: after its runner's death it is sent under the id of a new attempt, or can be cancelled."""
    is_full = True

    def answer(request):
        if is_full and request.body["input"] != "one":
            return wire.json_reply(
                {"error": {"message": "Slow down."}}, 429, **{"Retry-After": "60"}
            )
        reply = wire.json_reply(wire.response(f"On {request.body['input']}"))
        return replace(reply, end="silence") if is_full else reply

    with wire.serve(answer) as server:
        asked = {"replay": "auto", "chat": None}
        one, two, three = (start(asker, server, text, **asked) for text in ("one", "two", "three"))
        states = lambda: [asker.journal.row(job.id).state for job in (one, two, three)]  # noqa: E731
        wait_until(lambda: states() == ["sent", "queued", "queued"] and len(server.posts) == 3)
        began = time.monotonic()
        three.interrupt()
        with pytest.raises(errors.Interrupted, match="nothing was charged"):
            three.wait(10)
        assert time.monotonic() - began < 1
        os.kill(asker.asking.runner._child.process.pid, signal.SIGKILL)
        with pytest.raises(errors.RunnerDied, match="may be charged"):
            one.wait(10)
        with pytest.raises(errors.RunnerDied, match="Nothing was sent"):
            two.wait(10)
        is_full = False
        again = start(asker, server, "two", cell=asker.journal.row(two.id).cell, **asked)
        assert two.id == again.wait(20).journal_id
        first, second = (post.headers["x-client-request-id"] for post in server.posts if post.body["input"] == "two")  # fmt: skip
        assert f"{first}.2" == second


def test_queued_row_of_a_dead_runner(asker, held):
    """A question that was unsent when its runner died is sent by the next runner, as the same row."""
    one, two = start(asker, held, "one"), start(asker, held, "two")
    wait_until(lambda: held.posts and two.status == "waiting")
    os.kill(asker.asking.runner._child.process.pid, signal.SIGKILL)
    with pytest.raises(errors.RunnerDied, match="Nothing was sent"):
        two.wait()
    with pytest.raises(errors.RunnerDied, match="may be charged"):
        one.wait()
    assert ("failed", "queued") == (
        asker.journal.row(one.id).state,
        asker.journal.row(two.id).state,
    )
    held.held.let_go("one", "two", "alone")
    alone = start(asker, held, "alone", chat=None)
    assert two.id + 1 == alone.wait().journal_id
    resumed = asker.on(held.url).unfinished(Delivery())
    assert two.id in {job.id for job in resumed}
    with pytest.raises(errors.ParentFailed):
        next(job for job in resumed if job.id == two.id).wait()
    assert ["one", "alone"] == held.held.asked


def test_sleep_is_no_death(asker, held):
    """A row whose runner had no heartbeat for a while is not lost: its answer is stored when it arrives."""
    job = start(asker, held, "one", replay="auto")
    wait_until(lambda: held.posts)
    with closing(sqlite3.connect(asker.path)) as db, db:
        db.execute("UPDATE requests SET alive_at = alive_at - 3600")
    other = Session()
    doubtful = other.on(held.url, asker.path).ask(question("one", "cell 1"))
    with pytest.raises(errors.RunnerDied, match="may be charged"):
        doubtful.wait()
    held.held.let_go("one")
    assert "On one" == job.wait().text
    assert other.on(held.url, asker.path).ask(question("one", "cell 1")).wait().replayed
    other.close(10)
    assert 1 == len(held.posts)


@pytest.fixture
def running(home):
    with kernel() as running:
        yield running


def test_background_cell(running, held, home):
    """The cell of a job returns at once; its own outputs become the answer while a later cell computes, which gets none of it."""
    running.run(f"%config O3Pro.base_url = {held.url!r}")
    asked = running.run("%%o3pro -b -o job\none")
    assert asked.seconds < 5
    assert not asked.of_type("text/markdown")
    wait_until(lambda: held.posts)
    ids = [
        message["content"]["transient"].get("display_id")
        for message in asked.messages
        if message["msg_type"] == "display_data"
    ]
    assert 4 == len(ids)
    request = running.start("import time; time.sleep(1.5); print('computed')")
    held.held.let_go("one")
    computed = running.finish(request)
    assert not computed.displays
    shown = running.wait_for_update(lambda update: update["transient"]["display_id"] == ids[1])
    assert "On one" == shown["data"]["text/markdown"]
    assert (
        "<details>"
        in running.wait_for_update(lambda update: update["transient"]["display_id"] == ids[3])[
            "data"
        ]["text/html"]
    )
    assert "On one" == running.run("print(job.answer.text)").stream.strip()
    again = running.run("%%o3pro -b --alone\none")
    assert "On one" == again.of_type("text/markdown")[0], "an answer that is there is shown at once"
    assert 1 == len(held.posts)


def test_background_error(running, home):
    """An error in the background is shown in its cell, and raised where the answer is used."""
    with wire.serve(lambda _: wire.json_reply({"message": "Bad <b>question</b>."}, 400)) as server:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        asked = running.run("%%o3pro -b -o job\nWhy?")
        waited = running.run("job.wait()")
        assert "InvalidRequest" == waited.error["ename"]
        assert not asked.error
        assert "failed" in running.run("job").stream
        shown = running.wait_for_update(lambda update: update["data"].get("text/html"))["data"][
            "text/html"
        ]
        assert 'role="alert"' in shown
        assert "<b>" not in shown


def test_kernel_dies_in_the_background(running, held, home):
    """The kernel dies while one job waits for another; both are answered, and their cells replay the answers."""
    running.run(f"%config O3Pro.base_url = {held.url!r}")
    running.run("%%o3pro -b\none", "cell-1")
    running.run("%%o3pro -b\ntwo", "cell-2")
    wait_until(lambda: held.posts)
    os.kill(running.pid, signal.SIGKILL)
    with kernel() as another:
        another.run(f"%config O3Pro.base_url = {held.url!r}")
        told = another.run("%aiml resume").stream
        assert "Question 1 is still being answered" in told
        assert "Question 2 is still being answered" in told
        assert 2 == len(another.run("%aiml jobs").stream.splitlines())
        held.held.let_go("one", "two")
        ran = another.run("%%o3pro\none", "cell-1")
        assert "On one" in ran.of_type("text/markdown")[0]
        assert "On two" in another.run("%%o3pro\ntwo", "cell-2").of_type("text/markdown")[0]
        assert "No question" in another.run("%aiml jobs").stream
    assert ["one", "two"] == held.held.asked


def test_cancel_command(running, held, home):
    """`%aiml cancel` stops a job of this kernel at once, and one of another kernel's runner by the journal."""
    running.run(f"%config O3Pro.base_url = {held.url!r}")
    running.run("%%o3pro -b\none")
    wait_until(lambda: held.posts)
    with kernel() as another:
        assert "another kernel" in another.run("%aiml cancel 1").stream
        journal = Journal(home / "journal.sqlite3")
        wait_until(lambda: "cancelled" == journal.row(1).state, 30)
        assert "cancelled" in running.run("%aiml history").stream
    running.run("%%o3pro -b --fresh\ntwo")
    wait_until(lambda: 2 == len(held.posts))
    assert "is cancelled; it was sent, and may be charged" in running.run("%aiml cancel 2").stream
    assert "is over" in running.run("%aiml cancel 2").error["evalue"]
    assert "no answer 99" in running.run("%aiml cancel 99").error["evalue"]


def test_upgrade_while_a_runner_lives(home, held, tmp_path, monkeypatch):
    """A runner that lives through an upgrade of the package finishes its work with the loaded modules."""
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    import aiml_magic

    package = tmp_path / "site" / "aiml_magic"
    shutil.copytree(Path(aiml_magic.__file__).parent, package)
    code = f"""
import sys, time
sys.path.insert(0, {str(package.parent)!r})
from pathlib import Path
from aiml_magic.session.asking import Session
from aiml_magic.session.question import Place, Question
job = Session().on({held.url!r}, Path({str(home / "journal.sqlite3")!r})).ask(Question("one", "m", Place("a")))
while job.status != "sent": time.sleep(0.01)
"""
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
    )
    wait_until(lambda: held.posts)
    for file in package.glob("*.py"):
        file.write_text("raise ImportError('half an upgrade')")
    held.held.let_go("one")
    with closing(sqlite3.connect(home / "journal.sqlite3")) as db:
        wait_until(lambda: [("done",)] == db.execute("SELECT state FROM requests").fetchall())
    wait_until(lambda: not processes(str(home / "journal.sqlite3")))


def test_journal_that_fails_before_a_question_is_sent(asker):
    """If the runner cannot mark a question as sent, its cell shows the error of the journal, and that nothing was sent."""
    row = asker.journal.add(**new())
    job = Job(row, asker.journal, asker.asking.runner)
    job.on_event(
        {"event": "stuck", "why": "The journal is locked. Nothing was sent.", "hint": "Mend it."}
    )
    job.on_event({"event": "over"})
    assert "failed" == job.status
    with pytest.raises(errors.JournalError, match="Nothing was sent"):
        job.wait()


def test_words_of_a_server_are_plain(asker):
    """The state of a job is one short line without control characters, for any type of item that a server names."""
    kind = "\x1b]52;c;cm0=\x07\r\n\x9b2J\u202e" + "x" * 500
    event = json.dumps(
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": kind}}
    )
    with wire.serve(
        lambda _: wire.Reply(
            200, {"Content-Type": "text/event-stream"}, [f"data: {event}\n\n".encode()], end="hang"
        )
    ) as server:
        job = asker.start(server.url)
        wait_until(lambda: "cm0=" in job.status)
        seen = [job.status, repr(job), str(job), job.progress.state]
        job.cancel()
    assert all("cm0=" in words and words.isprintable() and len(words) < 150 for words in seen)


def test_names_of_an_answer_are_plain(asker):
    """The names that a server gives an answer act on no terminal when they are printed; `raw` has them as they came."""
    name = "\x1b]52;c;cm0=\x07\x9b2J\u202e"
    with wire.serve(
        lambda _: wire.json_reply(wire.response("Yes.", id=name, model=name, status=name))
    ) as server:
        answer = asker.ask(server.url)
    assert {"␛]52;c;cm0=␇�2J�"} == {answer.id, answer.model, answer.status}
    assert name == answer.raw["model"]


def test_many_servers(asker):
    """Idle connections to earlier servers are closed: they would use up the limit of open files."""
    for _ in range(20):
        with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
            asker.ask(server.url, "Why?", chat=None)
    (runner,) = processes(str(asker.path), parent=os.getpid())

    def sockets() -> int:
        count = 0
        for handle in Path(f"/proc/{runner}/fd").iterdir():
            with suppress(OSError):  # its connection was closed meanwhile
                count += "socket:" in str(handle.readlink())
        return count

    wait_until(lambda: sockets() <= 12, 20)


@pytest.mark.parametrize("jump", [86_400, -86_400, 3_600, -3_600])
def test_clock_that_is_set(module_asker, monkeypatch, jump):
    """The seconds of a job and until its next attempt stay right after the clock was set."""
    limited = wire.json_reply({"message": "Later."}, 429, **{"Retry-After": "50"})
    real = time.time
    with wire.serve(lambda _: limited) as server:
        job = module_asker.start(server.url, f"Jump of {jump}?")
        wait_until(lambda: job.retry_in, 60)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        assert 0 <= job.progress.seconds < 600
        assert 0 < job.retry_in <= 50
        monkeypatch.undo()
        job.cancel(10)
