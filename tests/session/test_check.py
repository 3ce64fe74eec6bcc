"""The fate of a request whose connection was lost, by its id in the server's log."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import ExitStack, closing

import pytest
import wire
from asking import KEY
from kernels import kernel

from aiml_magic import errors
from aiml_magic.journal.costs import Scope
from aiml_magic.sandbox import start as sandbox
from aiml_magic.session.question import Delivery


@pytest.fixture
def running(home, sandbox_url):
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        yield running


def cut_off() -> wire.Reply:
    """A stream that names its response, and then breaks."""
    begun = {"type": "response.created", "response": wire.response(status="in_progress", output=[])}
    return wire.Reply(
        200,
        {"Content-Type": "text/event-stream"},
        [f"data: {json.dumps(begun)}\n\n".encode()],
        end="reset",
    )


def test_answer_that_the_server_still_has(running):
    """A stored answer whose stream was cut is fetched for free; its cell then replays it, and its cost is counted."""
    cut = running.run("%%o3pro\nWhy?\nsandbox: fault=cut", "a")
    assert "%aiml check 1" in cut.error["evalue"]
    assert "in the journal now: %aiml show 1" in running.run("%aiml check 1").stream
    shown = running.run("%%o3pro\nWhy?\nsandbox: fault=cut", "a")
    assert "| effort | medium |" in shown.of_type("text/markdown")[0]
    assert not shown.error
    assert "completed" in running.run("%aiml history").stream
    assert "$0.0000 in this session" not in running.run("%aiml history").stream
    assert "is answered" in running.run("%aiml check 1").stream


def test_found_answer_is_gone_on_from(asker):
    """A fetched answer is stored without the key that it echoes, and the next cell continues it."""
    cut = cut_off()

    def answer(request):
        if request.method == "GET":
            return wire.json_reply(
                wire.response(f"You sent {request.headers['authorization']}", id="resp_1")
            )
        return cut if len(server.posts) == 1 else wire.json_reply(wire.response())

    with wire.serve(answer) as server:
        with pytest.raises(errors.RequestFailed):
            asker.ask(server.url, "One?", cell="a", replay="auto")
        asker.asking.chats.head("main")
        assert "answered" == asker.on(server.url).check(asker.journal.row(1)).fate
        text = asker.ask(server.url, "One?", cell="a", replay="auto").text
        assert text.startswith("You sent")
        assert KEY not in text
        asker.ask(server.url, "Two?", cell="b")
        assert "resp_1" == server.posts[-1].body["previous_response_id"]


def test_answer_that_is_lost(running):
    """An answer that the server does not return has a known charge; only --fresh asks again."""
    running.run("%%o3pro --no-store\nAnd why?\nsandbox: fault=cut", "a")
    told = running.run("%aiml check 1").stream
    assert "finished question 1 and charged $0." in told
    assert "Only --fresh" in told
    assert running.run("%%o3pro --no-store\nAnd why?\nsandbox: fault=cut", "a").error
    assert "1 of unknown cost" not in running.run("%aiml status").stream


def test_request_that_failed(running):
    """A question that failed at the server is free, and its cell asks again."""
    assert (
        "may have been"
        in running.run("%%o3pro\nWhy?\nsandbox: fault=reset times=1", "a").error["evalue"]
    )
    assert (
        "may have been"
        in running.run("%%o3pro\nWhy?\nsandbox: fault=reset times=1", "a").error["evalue"]
    )
    assert "nothing was charged" in running.run("%aiml check 1").stream
    assert not running.run("%%o3pro\nWhy?\nsandbox: fault=reset times=1", "a").error


def test_request_that_nobody_knows(asker):
    """A request missing from the log has an unknown fate: all pages are read, and entries of other requests do not count."""
    entry = {"client_request_id": None, "status": "succeeded", "cost": {"usd": 4.0}}
    pages = {"0": ([entry] * 100, True), "100": ([entry | {"client_request_id": "another"}], False)}
    asked = []

    def answer(request):
        if request.method == "POST":
            return wire.Reply(end="close")
        asked.append(request.path)
        data, more = pages[request.path.rpartition("offset=")[2]]
        return wire.json_reply({"data": data, "pagination": {"has_more": more}})

    with wire.serve(answer) as server:
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url)
        row = asker.journal.row(1)
        assert "unknown" == asker.on(server.url).check(row).fate
        pages["100"] = ([entry | {"client_request_id": row.client_request_id}], False)
        assert ("charged", 4.0) == asker.on(server.url).check(row)
    assert [
        f"/v2/logs?period=2h&model=openai/o3-pro&limit=100&offset={offset}" for offset in (0, 100)
    ] * 2 == asked
    assert (4.0, 0) == asker.journal.spent(server.url)


@pytest.mark.parametrize(("hours", "other", "fate"), [
    (25, "another", "lost"), (25, None, "unknown"), (23, "another", "unknown"), (93 * 24, "another", "unknown"), (-19, "another", "unknown"),
])  # fmt: skip
def test_request_that_never_arrived(asker, hours, other, fate):
    """A request missing from a log with ids a day later was free: its reservation ends, and it is not sent by itself.

    For a row from the future, written before the clock was set back, the whole log is searched.
    """
    log = {"data": [{"client_request_id": other, "status": "succeeded", "cost": {"usd": 4.0}}]}

    def answer(request):
        return wire.Reply(end="close") if request.method == "POST" else wire.json_reply(log)

    with wire.serve(answer) as server:
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url, cell="a")
        asker.journal._execute("UPDATE requests SET asked_at = ?, worst_usd = 8.4", time.time() - hours * 3600)  # fmt: skip
        assert fate == asker.on(server.url).check(asker.journal.row(1)).fate
        assert hours > 0 or "period=2208h" in server.requests[-1].path
        reserved = asker.journal.sums(Scope(server.url)).reserved_usd
        assert (0.0 if fate == "lost" else 8.4) == reserved
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url, cell="a", replay="auto")
        assert 1 == len(server.posts)


class Attempts:
    """A server that refuses the first attempt, loses the second, and has a log; and the attempts on disk at each."""

    def __init__(self, journal) -> None:
        self.log: list[dict[str, object]] = []
        self.on_disk: list[int] = []
        self._journal = journal

    def __call__(self, request: wire.Request) -> wire.Reply:
        if request.method == "GET":
            return wire.json_reply({"data": self.log, "pagination": {"has_more": False}})
        with closing(sqlite3.connect(self._journal)) as db:
            sent = request.headers["x-client-request-id"].partition(".")[0]
            self.on_disk += db.execute(
                "SELECT attempts FROM requests WHERE client_request_id = ?", (sent,)
            ).fetchone()
        if len(self.on_disk) == 1:
            return wire.json_reply({"message": "Service unavailable"}, 503)
        return wire.Reply(end="close")

    def write(self, row, attempt: int, status: str, usd: float | None = None) -> None:
        request_id = row.client_request_id + (f".{attempt}" if attempt > 1 else "")
        cost = {"usd": usd} if usd is not None else None
        self.log.insert(0, {"client_request_id": request_id, "status": status, "cost": cost})


# The log's entry for each attempt; then the fate and the cost of the question.
LOGS: list[tuple[list[tuple], str, float | None]] = [
    ([], "unknown", None),
    ([(1, "failed")], "unknown", None),
    ([(1, "failed"), (2, "in_progress")], "unknown", None),
    ([(1, "failed"), (2, "failed")], "failed", 0.0),
    ([(2, "FAILED", 0.0)], "failed", 0.0),
    ([(1, "failed"), (2, "succeeded", 4.0)], "charged", 4.0),
    ([(1, "succeeded", 1.5)], "charged", 1.5),
    ([(1, "failed", 1.5), (2, "succeeded", 4.0)], "charged", 5.5),
    ([(1, "succeeded"), (2, "failed")], "charged", None),
    ([(12, "succeeded", 1.0)], "charged", 1.0),
]


def test_attempts_are_told_apart(asker):
    """After a 503 and a lost connection, only the last attempt can prove that nothing was charged, and any attempt a charge; all costs count."""
    with ExitStack() as stack:
        answers = [Attempts(asker.path) for _ in LOGS]
        servers = [stack.enter_context(wire.serve(answer)) for answer in answers]
        options = {"cell": "a", "chat": None, "replay": "auto"}
        jobs = [asker.start(server.url, **options) for server in servers]
        for (logged, fate, usd), answer, server, job in zip(
            LOGS, answers, servers, jobs, strict=True
        ):
            with pytest.raises(errors.ConnectionLost):
                job.wait(60)
            assert [1, 2] == answer.on_disk, "on disk before it is used"
            row = asker.journal.row(job.id)
            sent = [request.headers["x-client-request-id"] for request in server.posts]
            assert [row.client_request_id, f"{row.client_request_id}.2"] == sent
            for entry in logged:
                answer.write(row, *entry)
            assert (fate, usd) == asker.on(server.url).check(row)
            assert (usd or 0.0, 1 if usd is None else 0) == asker.journal.spent(server.url)
            with pytest.raises(errors.RequestFailed):
                asker.ask(server.url, **options)
            assert (3 if fate == "failed" else 2) == len(server.posts), (
                "only what is free is sent again"
            )


def test_attempts_that_nobody_counted(asker):
    """For a row with an unknown number of attempts a failure in the log decides nothing, and a charge does."""
    answer = Attempts(asker.path)
    with wire.serve(answer) as server:
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url)
        with closing(sqlite3.connect(asker.path)) as db, db:
            # As in a row of an older version, or of a dead worker.
            db.execute("UPDATE requests SET attempts = NULL")
        answer.write(asker.journal.row(1), 1, "failed")
        assert "unknown" == asker.on(server.url).check(asker.journal.row(1)).fate
        answer.write(asker.journal.row(1), 3, "succeeded", 2.0)
        assert ("charged", 2.0) == asker.on(server.url).check(asker.journal.row(1))


def test_check_that_is_refused(asker):
    """A refused request for the log leaves the question as it was."""
    lost = wire.Reply(end="close")
    with wire.serve(
        lambda r: lost if r.method == "POST" else wire.json_reply({"message": "No."}, 401)
    ) as server:
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url)
        with pytest.raises(errors.AuthError, match="may have been charged") as refused:
            asker.on(server.url).check(asker.journal.row(1))
        assert "Nothing was charged" not in str(refused.value)
        assert asker.journal.row(1).is_doubtful


def test_answer_that_is_still_made(asker):
    """A check reports that the server still works on a question; its cell then waits for the answer, and sends nothing."""
    cut = cut_off()
    looks = [wire.response(status="in_progress", output=[]), wire.response()]
    with wire.serve(
        lambda r: cut if r.method == "POST" else wire.json_reply(looks.pop(0))
    ) as server:
        with pytest.raises(errors.StreamInterrupted):
            asker.ask(server.url, cell="a", replay="auto")
        assert "pending" == asker.on(server.url).check(asker.journal.row(1)).fate
        assert "Fine." == asker.ask(server.url, cell="a", replay="auto").text
        assert 1 == len(server.posts)


@pytest.mark.parametrize(
    "page", [[], {}, {"data": None}, {"data": [7, None]}, {"data": [{"status": 3, "cost": 7}]}]
)
def test_log_of_another_shape(module_asker, page):
    """A malformed log finds nothing, and causes no error."""
    with wire.serve(
        lambda request: (
            wire.Reply(end="close") if request.method == "POST" else wire.json_reply(page)
        )
    ) as server:
        job = module_asker.start(server.url, chat=None)
        with pytest.raises(errors.ConnectionLost):
            job.wait(30)
        row = module_asker.journal.row(job.id)
        assert "unknown" == module_asker.on(server.url).check(row).fate


def test_what_needs_no_check(running):
    """A check of an answered or an unsent question sends nothing."""
    running.run("%o3pro Why?")
    assert "is answered: %aiml show 1" in running.run("%aiml check 1").stream
    assert 2 == len(running.run("%aiml check").error["traceback"])
    assert 2 == len(running.run("%aiml check 7").error["traceback"])


def row_of(asker, url: str, server: str):
    """The row of a request that failed at `server`."""
    with (
        wire.serve(lambda _: wire.Reply(end="close")) as lost,
        pytest.raises(errors.ConnectionLost),
    ):
        asker.ask(lost.url)
    with asker.journal._transaction() as db:
        db.execute("UPDATE requests SET base_url = ?, server = ?, response_id = 'r'", (url, server))
    return asker.journal.row(1)


def test_key_goes_to_no_other_server(asker):
    """A journal may name any server, or any address as a sandbox: only the server in use gets a request and the key."""
    with wire.serve(lambda _: wire.json_reply({})) as elsewhere:
        row = row_of(asker, elsewhere.url, elsewhere.url)
        with pytest.raises(errors.BadInput, match="not the server in use"):
            asker.on("https://api.example/v1").check(row)
        assert not elsewhere.requests
        with asker.journal._transaction() as db:
            db.execute("UPDATE requests SET server = 'sandbox'")
        with pytest.raises(errors.BadInput, match="not the server in use"):
            asker.on("https://api.example/v1").check(asker.journal.row(1))
        assert not elsewhere.requests


@pytest.fixture
def in_use(asker, home):
    """The sandbox of this home, in use."""
    asker.session.sandbox_url = sandbox.find_or_start(home)
    yield asker.session.sandbox_url
    sandbox.stop(home)


def test_check_at_the_sandbox_in_use(asker, in_use):
    """A check of a question to a sandbox asks the sandbox in use, not the address in the journal."""
    asker.ask(in_use, "Why?", cell="a")
    with wire.serve(lambda _: wire.json_reply({})) as elsewhere:
        with asker.journal._transaction() as db:
            db.execute("UPDATE requests SET base_url = ?", (elsewhere.url,))
        assert "answered" == asker.asking.check(asker.journal.row(1)).fate
        asker.session.sandbox_url = None
        with pytest.raises(errors.BadInput, match="%aiml sandbox"):
            asker.asking.check(asker.journal.row(1))
        assert not elsewhere.requests


def test_rows_of_another_sandbox(asker, in_use):
    """A queued question to a sandbox is sent to the sandbox in use, not to the address in the journal."""
    asker.ask(in_use, "Why?", cell="a")
    with wire.serve(lambda _: wire.json_reply({})) as elsewhere:
        with asker.journal._transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'queued', base_url = ?, response = NULL, status = NULL",
                (elsewhere.url,),
            )
        for url in (in_use, None):
            asker.session.sandbox_url = url
            assert [] == asker.on(elsewhere.url).unfinished(Delivery())
        asker.session.sandbox_url = in_use
        assert "Why?" in asker.ask(in_use, "Why?", cell="a", replay="auto").text
        assert not elsewhere.requests


def test_rows_of_a_stranger(asker):
    """A queued row is sent for a question only if its request fits its key: a journal may be forged."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as here:
        first = asker.ask(here.url, cell="a")
        with asker.journal._transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'queued', request = json_set(request, '$.input', 'Buy!'), response = NULL"
            )
        assert "Fine." == asker.ask(here.url, cell="a", replay="auto").text
        assert ["Why?", "Why?"] == [post.body["input"] for post in here.posts]
        assert "queued" == asker.journal.row(first.journal_id).state


def test_queued_row_of_another_server(asker):
    """A question that is queued for another address in the journal is sent to the server in use only, with its key."""
    with (
        wire.serve(lambda _: wire.json_reply(wire.response())) as here,
        wire.serve(lambda _: wire.json_reply({})) as elsewhere,
    ):
        asker.ask(here.url, cell="a")
        with asker.journal._transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'queued', base_url = ?, response = NULL, status = NULL",
                (elsewhere.url,),
            )
        assert [] == asker.on(here.url).unfinished(Delivery())
        assert "Fine." == asker.ask(here.url, cell="a", replay="auto").text
        assert not elsewhere.requests
