"""Faults of the network: the result for the person, the journal's row, and the number of requests.

Every fault has a question of its own, all at once, over real sockets.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import signal
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import wire
from asking import KEY, Asker, question
from certificates import certificate
from processes import wait_until

from aiml_magic import errors
from aiml_magic.api.responses import Response
from aiml_magic.api.stream import Stream
from aiml_magic.notebook.dry_run import dry_run
from aiml_magic.runner.jobs import Job
from aiml_magic.session.question import Delivery
from aiml_magic.show.answers import banner

STREAM = "text/event-stream"
JSON = "application/json"
WHOLE = json.dumps(wire.response()).encode()
PART = "A good begi"


def event(kind: str, **fields) -> bytes:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


CREATED = event("response.created", response={"id": "resp_1", "status": "in_progress"})
REASONING = event(
    "response.output_item.added",
    output_index=0,
    item={"id": "rs_1", "type": "reasoning", "summary": []},
)
DELTA = event("response.output_text.delta", output_index=1, content_index=0, delta=PART)
TEXT_DONE = event("response.output_text.done", output_index=1, content_index=0, text="Fine.")
COMPLETED = event("response.completed", response=wire.response())
FAILED = event(
    "response.failed",
    response={"id": "r", "status": "failed", "error": {"code": "invalid_prompt", "message": "No."}},
)
ERROR = event("error", code="server_error", message="Broken.")
NO_STREAM = event("error", code="400", message="No 'stream' here.", param="stream")
LIMIT = {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "Wait."}}
LIMITED = event("response.failed", response={"id": "r", **LIMIT})
PAID = {"meta": {"usage": {"usd_spent": 0.25, "credits_used": 500_000}}}
A_WHILE = 3.2  # seconds in which a model may have worked
UTF8 = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"\xff\xfe"}\n\n'


def body(
    *chunks: bytes,
    status: int = 200,
    kind: str = JSON,
    end: str = "clean",
    pace: float = 0.0,
    **headers: str,
) -> wire.Reply:
    return wire.Reply(status, {"Content-Type": kind} | headers, list(chunks), end, pace=pace)


def stream(*chunks: bytes, end: str = "reset") -> wire.Reply:
    return body(*chunks, kind=STREAM, end=end)


def ended(**fields) -> wire.Reply:
    """A complete response; without output and usage, unless they are given."""
    return body(json.dumps(wire.response(**{"output": [], "usage": None} | fields)).encode())


def late(reply: wire.Reply) -> wire.Reply:
    return replace(reply, delay=A_WHILE)


def raw(text: bytes, end: str) -> wire.Reply:
    """Exact bytes, then the end."""
    return wire.Reply(200 if end == "reset" else None, end=end, raw=text)


def said(status: int, message: str = "Something", **headers: str) -> wire.Reply:
    return body(
        json.dumps({"statusCode": status, "message": message}).encode(), status=status, **headers
    )


def sized(text: bytes, length: int) -> wire.Reply:
    return raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (length, text),
        "close",
    )


FINE = body(WHOLE)
QUEUED = ended(status="queued")
SOON = email.utils.formatdate(time.time() + 1, usegmt=True)
NOW = email.utils.formatdate(time.time(), usegmt=True)


class Fault(NamedTuple):
    """The server's replies in order (the last is repeated), and the expected result.

    `came` is the text of the answer or the class of the error; `posts` is the number of requests; `is_charged`: it may be charged;
    `kept` is the stored text of a failed one.
    """

    name: str
    replies: list[wire.Reply]
    came: str | type[errors.AimlMagicError]
    posts: int
    is_charged: bool = False
    kept: str = ""


LOST, CUT, BAD = errors.ConnectionLost, errors.StreamInterrupted, errors.MalformedResponse
FAULTS = [
    Fault("closed before the answer", [wire.Reply(end="close")], LOST, 1, True),
    Fault("reset before the answer", [raw(b"", "reset")], LOST, 1, True),
    Fault("reset inside the status line", [raw(b"HTTP/1.1 2", "reset")], LOST, 1, True),
    Fault("closed inside the headers", [raw(b"HTTP/1.1 200 OK\r\nContent-Ty", "close")], LOST, 1, True),
    Fault("no HTTP at all", [raw(b"SSH-2.0-OpenSSH_9.2\r\n", "close")], LOST, 1, True),
    Fault("headers without end", [raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000, "close")], LOST, 1, True),
    Fault("silence", [wire.Reply(end="silence")], LOST, 1, True),
    Fault("silence inside the body", [body(WHOLE[:20], end="hang")], LOST, 1, True),
    Fault("slow drip", [body(*(WHOLE[at : at + 8] for at in range(0, len(WHOLE), 8)), pace=0.05)], "Fine.", 1),
    Fault("reset inside the body", [body(WHOLE[:30], end="reset")], LOST, 1, True),
    Fault("reset after the body", [body(WHOLE, end="reset")], "Fine.", 1),
    Fault("shorter than its length", [sized(WHOLE[:40], len(WHOLE))], LOST, 1, True),
    Fault("truncated JSON, ended well", [body(WHOLE[:-20])], BAD, 1, True),
    Fault("empty body", [body()], BAD, 1, True),
    Fault("a page with 200", [body(b"<html><title>Portal</title></html>", kind="text/html")], BAD, 1, True),
    Fault("an array", [body(b"[1, 2]")], BAD, 1, True),
    Fault("another object", [body(b'{"choices": []}')], BAD, 1, True),
    Fault("invalid UTF-8 in the JSON", [body(WHOLE.replace(b"Fine.", b"F\xffne."))], "F\ufffdne.", 1),
    Fault("JSON as text/plain", [body(WHOLE, kind="text/plain")], "Fine.", 1),
    Fault("JSON as a stream", [body(WHOLE, kind=STREAM)], "Fine.", 1),
    Fault("a stream as JSON", [body(CREATED, COMPLETED)], "Fine.", 1),
    Fault("a coding that was not asked for", [body(b"\x1b\x00", **{"Content-Encoding": "br"})], LOST, 1, True),
    Fault("error with 200", [body(b'{"error": {"message": "Overloaded.", "code": "server_error"}}')], errors.ServerError, 1, True),
    Fault("failed with 200", [body(json.dumps(wire.response(status="failed", output=[], error={"code": "x", "message": "No."})).encode())], errors.ResponseFailed, 1),
    Fault("reset before the first event", [stream()], CUT, 1, True),
    Fault("reset after `created`", [stream(CREATED)], CUT, 1, True),
    Fault("reset while it reasons", [stream(CREATED, REASONING)], CUT, 1, True),
    Fault("reset inside the text", [stream(CREATED, REASONING, DELTA)], CUT, 1, True, PART),
    Fault("reset inside an event", [stream(CREATED, DELTA, DELTA[:20])], CUT, 1, True, PART),
    Fault("end of the stream inside the text", [stream(CREATED, DELTA, end="clean")], CUT, 1, True, PART),
    Fault("[DONE] instead of an end", [stream(CREATED, DELTA, b"data: [DONE]\n\n", end="clean")], CUT, 1, True, PART),
    Fault("silence inside the text", [stream(CREATED, DELTA, end="hang")], CUT, 1, True, PART),
    Fault("reset before the terminal event", [stream(CREATED, DELTA, TEXT_DONE)], CUT, 1, True, "Fine."),
    Fault("reset after the terminal event", [stream(CREATED, DELTA, COMPLETED)], "Fine.", 1),
    Fault("silence after the terminal event", [stream(CREATED, DELTA, COMPLETED, end="hang")], "Fine.", 1),
    Fault("terminal event without its blank line", [stream(CREATED, COMPLETED[:-2], end="clean")], "Fine.", 1),
    Fault("error as the first event", [stream(ERROR, end="clean")], errors.ServerError, 1, True),
    Fault("error inside the text", [stream(CREATED, DELTA, ERROR, end="clean")], errors.ResponseFailed, 1, True, PART),
    Fault("failed in the stream", [stream(CREATED, FAILED, end="clean")], errors.ResponseFailed, 1),
    Fault("stream refused inside the text", [stream(CREATED, DELTA, NO_STREAM, end="clean")], errors.ResponseFailed, 1, True, PART),
    Fault("rate limit before anything, then good", [ended(**LIMIT), FINE], "Fine.", 2),
    Fault("rate limit after a while", [late(ended(**LIMIT))], errors.ResponseFailed, 1, True),
    Fault("rate limit after `created`, then good", [stream(CREATED, LIMITED, end="clean"), FINE], "Fine.", 2),
    Fault("rate limit inside the text", [stream(CREATED, DELTA, LIMITED, end="clean")], errors.ResponseFailed, 1, True, PART),
    Fault("rate limit while it reasons", [stream(CREATED, REASONING, LIMITED, end="clean")], errors.ResponseFailed, 1),
    Fault("rate limit with output", [body(json.dumps(wire.response(**LIMIT)).encode())], errors.ResponseFailed, 1, True, "Fine."),
    Fault("rate limit with usage", [ended(**LIMIT, usage={"output_tokens": 7})], errors.ResponseFailed, 1),
    Fault("rate limit with a cost", [ended(**LIMIT, **PAID)], errors.ResponseFailed, 1, True),
    Fault("queued without an id", [ended(status="queued", id=None)], BAD, 1, True),
    Fault("in progress without an id", [body(json.dumps(wire.response(status="in_progress", id=7)).encode())], BAD, 1, True, "Fine."),
    Fault("a gap while it is polled", [QUEUED, said(503), FINE], "Fine.", 1),
    Fault("maintenance while it is polled", [QUEUED, said(500, "under maintenance"), FINE], "Fine.", 1),
    Fault("polled of a server that has none", [QUEUED, body(b'{"detail": "not found"}')], errors.RetrieveUnsupported, 1, True),
    Fault("polled of a server that is gone", [QUEUED, wire.Reply(end="close")], errors.RetrieveUnsupported, 1, True),
    Fault("expired", [ended(status="expired")], BAD, 1, True),
    Fault("no status and nothing else", [ended(status=None)], BAD, 1, True),
    Fault("invalid UTF-8 in the stream", [stream(CREATED, UTF8, COMPLETED, end="clean")], "Fine.", 1),
    Fault("no JSON in the stream", [stream(b"data: {oops\n\n", b"data: 7\n\n", COMPLETED, end="clean")], "Fine.", 1),
    Fault("502 as a page", [body(b"<html>502</html>", status=502, kind="text/html")], errors.BadGateway, 1, True),
    Fault("502 as JSON, then good", [said(502), FINE], "Fine.", 2),
    Fault("503, then good", [said(503), FINE], "Fine.", 2),
    Fault("503 for ever", [said(503)], errors.Unavailable, 3),
    Fault("503 after a while", [late(said(503))], errors.Unavailable, 1, True),
    Fault("503 as text, after a while", [late(body(b"upstream timed out", status=503, kind="text/plain"))], errors.Unavailable, 1, True),
    Fault("503 with a cost", [body(json.dumps(PAID).encode(), status=503)], errors.Unavailable, 1, True),
    Fault("502 with a whole answer", [body(WHOLE, status=502)], errors.BadGateway, 1, True, "Fine."),
    Fault("429 with tokens", [body(b'{"usage": {"output_tokens": 9}}', status=429)], errors.RateLimited, 1, True),
    Fault("502 as JSON, after a while", [late(said(502))], errors.BadGateway, 1, True),
    Fault("500 as JSON, after a while", [late(said(500))], errors.ServerError, 1, True),
    Fault("409 after a while", [late(said(409))], errors.RateLimited, 1, True),
    Fault("429 after a while", [late(said(429))], errors.RateLimited, 1, True),
    Fault("429 that drips", [body(*[b" "] * 5, b"{}", status=429, pace=A_WHILE / 5)], errors.RateLimited, 1, True),
    Fault("500 as JSON, then good", [said(500), FINE], "Fine.", 2),
    Fault("500 as a page", [body(b"<html>500</html>", status=500, kind="text/html")], errors.ServerError, 1, True),
    Fault("504", [said(504, "Generation timeout")], errors.GatewayTimeout, 1, True),
    Fault("524", [body(b"<html>524</html>", status=524, kind="text/html")], errors.GatewayTimeout, 1, True),
    Fault("408", [said(408)], errors.GatewayTimeout, 1, True),
    Fault("302", [body(status=302, Location="https://elsewhere.invalid/")], errors.Redirected, 1),
    Fault("401", [said(401)], errors.AuthError, 1),
    Fault("413", [said(413)], errors.PayloadTooLarge, 1),
    Fault("409, then good", [said(409), FINE], "Fine.", 2),
    Fault("429 without Retry-After", [said(429), FINE], "Fine.", 2),
    Fault("429, seconds", [said(429, **{"Retry-After": "1"}), FINE], "Fine.", 2),
    Fault("429, milliseconds", [said(429, **{"retry-after-ms": "100", "Retry-After": "60"}), FINE], "Fine.", 2),
    Fault("429, a date", [said(429, **{"Retry-After": SOON, "Date": NOW}), FINE], "Fine.", 2),
    Fault("429, an hour", [said(429, **{"Retry-After": "3600"})], errors.RateLimited, 1),
    Fault("429, nonsense", [said(429, **{"Retry-After": "soon"}), FINE], "Fine.", 2),
    Fault("429, below zero", [said(429, **{"Retry-After": "-5"}), FINE], "Fine.", 2),
    Fault("429, told not to", [said(429, **{"x-should-retry": "false"})], errors.RateLimited, 1),
    Fault("429, a quota", [said(429, "You exceeded your current quota")], errors.QuotaExceeded, 1),
]  # fmt: skip


def answering(replies: list[wire.Reply]) -> Callable[[wire.Request], wire.Reply]:
    turns = chain(replies, repeat(replies[-1]))
    return lambda _: next(turns)


def result_of(job: Job) -> tuple[int, str | errors.AimlMagicError]:
    try:
        return job.id, job.wait(60).text
    except errors.AimlMagicError as error:
        return job.id, error


AT_ONCE = 32  # faults: each has a server of its own, and few files may be open


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The result of every fault, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIML_API_KEY", KEY)
        asker = Asker(tmp_path_factory.mktemp("faults") / "journal.sqlite3")

        def outcome(fault: Fault) -> SimpleNamespace:
            with wire.serve(answering(fault.replies)) as server:
                row_id, came = result_of(asker.start(server.url, timeout=A_WHILE + 1.5, chat=None))
                return SimpleNamespace(
                    came=came, row=asker.journal.row(row_id), posts=len(server.posts)
                )

        with ThreadPoolExecutor(AT_ONCE) as people:
            yield dict(
                zip((fault.name for fault in FAULTS), people.map(outcome, FAULTS), strict=True)
            )
        asker.session.close(10)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault, outcomes):
    """The person gets the answer or the right error with its cost; the journal has what was received; nothing is sent too often."""
    got = outcomes[fault.name]
    assert fault.posts == got.posts
    if isinstance(fault.came, str):
        assert fault.came == got.came
        assert ("done", "completed") == (got.row.state, got.row.response["status"])
        assert fault.came == got.row.answer().text
        return
    assert fault.came is type(got.came)
    assert 2 == len(str(got.came).splitlines())
    assert fault.is_charged == got.came.may_cost
    assert fault.is_charged == ("may have been executed and charged" in got.came.message)
    assert fault.is_charged == (f"%aiml check {got.row.id}" in got.came.hint)
    assert "failed" == got.row.state
    assert fault.came.__name__ == got.row.error["class"]
    assert fault.kept == got.row.answer().text


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


NOWHERE = [
    "http://127.0.0.1:{}/v1",
    "https://127.0.0.1:{}/v1",
    "https://no-such-host.invalid:{}/v1",
]


def test_no_connection(asker):
    """At a closed port, an unknown host, and a server without TLS nothing is sent or charged, after three attempts."""
    with wire.serve(lambda _: wire.Reply()) as plain:
        urls = [
            *(url.format(closed_port()) for url in NOWHERE),
            plain.url.replace("http:", "https:"),
        ]
        for job in [asker.start(url, chat=None) for url in urls]:
            with pytest.raises(
                errors.ConnectError, match=r"Nothing was sent, nothing was charged"
            ) as failed:
                job.wait(60)
            assert not failed.value.may_cost
            assert 3 == asker.journal.row(job.id).attempts
        assert not plain.posts


def test_doubtful_is_not_sent_again(asker):
    """After a fault that may have been charged, the same cell shows the same error and sends nothing; --fresh sends it."""
    replies = [wire.Reply(end="close"), FINE]
    with wire.serve(answering(replies)) as server:
        for _ in range(3):
            with pytest.raises(errors.ConnectionLost):
                asker.ask(server.url, cell="a", replay="auto")
        assert 1 == len(server.posts)
        assert "Fine." == asker.ask(server.url, cell="a", replay="off").text
        assert "Fine." == asker.ask(server.url, cell="a", replay="auto").text
    assert 2 == len(server.posts)


@contextlib.contextmanager
def breaking_tls(context: ssl.SSLContext, begun: bytes):
    """A server that reads a question, sends `begun`, and then bytes that are not TLS; its address, and the questions."""
    asked: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)

        def do(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
                finally:
                    connection.sendall(outgoing.read())

        with contextlib.suppress(OSError), connection:
            do(tls.do_handshake)
            said = b""
            while b"\r\n\r\n" not in said or not said.endswith(b"}"):
                said += do(lambda: tls.read(65536))
            asked.append(said)
            if begun:
                do(lambda: tls.write(begun))
            connection.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
            connection.recv(1)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1", asked


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + CREATED + DELTA]
)
def test_tls_that_breaks(asker, tmp_path, monkeypatch, begun):
    """After TLS breaks behind the question, it may be charged, and is not sent again."""
    key, made = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    with breaking_tls(context, begun) as (url, asked):
        for _ in range(2):
            with pytest.raises(errors.RequestFailed, match="may") as failed:
                asker.ask(url, cell="a", replay="auto")
            assert failed.value.may_cost
        assert 1 == len(asked)


@pytest.mark.parametrize(
    "settings",
    [
        {"SSL_CERT_FILE": "/nowhere/made.pem"},
        {"ALL_PROXY": "odd://127.0.0.1:9"},
        {"HTTPS_PROXY": "127.0.0.1:9"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_cannot_be_used(asker, monkeypatch, settings):
    """An error before the question is sent says that it cost nothing."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        errors.RequestFailed, match="Nothing was sent, nothing was charged"
    ) as failed:
        asker.ask("https://api.example/v1", timeout=1)
    assert not failed.value.may_cost


def test_proxy_that_dies(asker, monkeypatch):
    """A proxy that accepts a CONNECT and stays silent gets no byte of the question."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(errors.RequestFailed) as failed:
            asker.ask("https://api.example/v1", timeout=0.5)
        assert not failed.value.may_cost


def test_interrupt_behind_the_end(asker):
    """An interrupt after the complete answer, while only its cost is missing, keeps the answer."""
    with wire.serve(lambda _: stream(CREATED, DELTA, COMPLETED, end="hang")) as server:
        job = asker.start(server.url, cell="a")
        wait_until(lambda: job.progress.state == "writing")
        time.sleep(0.3)
        job.cancel()
        assert job.outcome().text
        assert asker.ask(server.url, cell="a", replay="auto").replayed


def test_pings_behind_the_end(asker):
    """A cell ends with its answer, even if the server sends more."""
    pings = [b": ping\n\n"] * 60
    with wire.serve(lambda _: body(CREATED, COMPLETED, *pings, kind=STREAM, pace=0.3)) as server:
        assert asker.start(server.url).wait(12).text


def test_sign_of_life_that_a_sleep_hid(asker):
    """A question of the kernel's own runner is followed even with a stale heartbeat: the machine may have slept."""
    with wire.serve(lambda _: body(CREATED, COMPLETED, kind=STREAM, pace=1.0)) as server:
        job = asker.start(server.url, cell="a", replay="auto", background=True)
        wait_until(lambda: job.status == "sent")
        with contextlib.closing(sqlite3.connect(asker.path)) as db, db:
            db.execute("UPDATE requests SET alive_at = alive_at - 60")
        assert job.wait().text == asker.start(server.url, cell="a", replay="auto").wait(10).text


def test_cost_of_a_failed_run(asker):
    """The cost of a run that failed midway is counted once, and its cell, run again, sends nothing."""
    failed = event("response.failed", response={"id": "r", **LIMIT, **PAID})
    with wire.serve(lambda _: stream(CREATED, DELTA, failed, end="clean")) as server:
        for _ in range(2):
            with pytest.raises(
                errors.ResponseFailed, match="may have been executed and charged"
            ) as stopped:
                asker.ask(server.url, cell="a", replay="auto")
            assert (PART, 0.25) == (stopped.value.answer.text, stopped.value.answer.cost_usd)
        assert 1 == len(server.posts)
    assert (0.25, 0) == asker.journal.spent(server.url)


def test_doubtful_costs_are_counted(asker):
    """The number of questions of unknown cost is shown with the sum of the known costs."""
    with (
        wire.serve(lambda _: wire.Reply(end="close")) as server,
        pytest.raises(errors.ConnectionLost),
    ):
        asker.ask(server.url)
    assert (0.0, 1) == asker.journal.spent(server.url)


WORDS = {"succeeded": "completed", "COMPLETED": "completed", "Success": "completed", "done": "completed", "finished": "completed",
         "ended": "completed", " completed ": "completed", "expired": "expired", "moderated": "moderated", "Canceled": "cancelled",
         "7": "7", "true": "true"}  # fmt: skip


def test_finished_in_other_words(asker):
    """A received answer with any status is replayed; its status is the API's word, else the server's."""

    def answer(request):
        said = request.body["input"]
        return wire.json_reply(
            wire.response(status=json.loads(said) if said in ("7", "true") else said)
        )

    with wire.serve(answer) as server:
        for is_replay in (False, True):
            for word, status in WORDS.items():
                answered = asker.ask(server.url, word, cell=word, chat=word, replay="auto")
                assert ("Fine.", status, is_replay) == (
                    answered.text,
                    answered.status,
                    answered.replayed,
                )
                assert (status in ("completed", "cancelled")) == (
                    f"`{status}`" not in banner(answered)
                )
                assert (status == "completed") == asker.journal.row(
                    answered.journal_id
                ).can_continue
        assert len(WORDS) == len(server.posts)


@pytest.mark.parametrize(
    "kind", ["response.done", "response.succeeded", "response.expired", "response.Completed"]
)
@pytest.mark.parametrize("status", [None, "in_progress"])
def test_stream_that_ends_in_other_words(kind, status):
    """A terminal event ends a stream, under any of its names and with any content."""
    inside = wire.response(status="expired" if kind == "response.expired" else status)
    ended = Stream()
    for told in (CREATED, DELTA, event(kind, response=inside)):
        ended.add(json.loads(told.removeprefix(b"data: ")))
    assert ended.has_ended
    answer = Response(ended.whole().response)
    wanted = "expired" if kind == "response.expired" else "completed"
    assert ("Fine.", wanted) == (answer.text, answer.status)


REFUSALS = [400, 401, 402, 403, 407, 302, 418]


@contextlib.contextmanager
def polled(refusals: list[wire.Reply]):
    """A server that accepts every question, and answers polls with `refusals` in order, then with the response."""
    left = list(refusals)

    def answer(request: wire.Request) -> wire.Reply:
        if request.method == "POST":
            return wire.json_reply(
                wire.response(
                    status="queued", output=[], usage=None, id=f"resp_{request.body['input']}"
                )
            )
        return (
            left.pop()
            if left
            else wire.json_reply(wire.response(**PAID, id=request.path.rpartition("/")[2]))
        )

    with wire.serve(answer) as server:
        yield server


def test_poll_that_is_refused(asker):
    """A refused poll decides nothing about the question: it may be charged, and its cell resumes it by its id."""
    options = {"replay": "auto", "chat": None}
    with polled([said(status, "No.") for status in REFUSALS]) as server:
        asked = [str(number) for number in range(len(REFUSALS))]
        for job in [asker.start(server.url, text, cell=text, **options) for text in asked]:
            with pytest.raises(
                errors.RetrieveUnsupported, match="may have been executed and charged"
            ) as refused:
                job.wait(60)
            assert f"({refused.value.status})" in refused.value.message
            assert "Nothing was charged" not in refused.value.message
            assert ("%aiml login" in refused.value.hint) == (refused.value.status == 401)
            assert f"%aiml check {job.id}" in refused.value.hint
            row = asker.journal.row(job.id)
            assert ("failed", f"resp_{row.question}") == (row.state, row.response_id)
        looks = len(server.requests)
        with pytest.raises(errors.RetrieveUnsupported):
            asker.ask(server.url, "0", cell="0", **options | {"replay": "only"})
        assert looks == len(server.requests), "only: nothing is sent, not even a look"
        assert ("answered", 0.25) == asker.on(server.url).check(asker.journal.row(1))
        jobs = [asker.start(server.url, text, cell=text, **options) for text in asked]
        assert ["Fine."] * len(asked) == [job.wait(60).text for job in jobs]
        assert len(asked) == len(server.posts)
    assert (0.25 * len(asked), 0) == asker.journal.spent(server.url)


def test_poll_that_finds_nothing(asker):
    """If a server does not know an accepted response, running the cell again polls once more, and sends no second question."""
    with polled([said(404)] * 3) as server:
        with pytest.raises(errors.RetrieveUnsupported, match="may have been executed and charged"):
            asker.ask(server.url, "1", cell="a", replay="auto")
        assert "It would not be sent" in dry_run(question("1", "a"), asker.on(server.url))
        assert "Fine." == asker.ask(server.url, "1", cell="a", replay="auto").text
        assert 1 == len(server.posts)


def test_runner_that_dies_while_it_polls(asker):
    """After the death of its runner, the same cell fetches an accepted question by its id, and sends no second one."""
    with polled([]) as server:
        job = asker.start(server.url, "1", cell="a", replay="auto")
        wait_until(lambda: Response(asker.journal.row(job.id).response).outcome == "pending")
        os.kill(asker.asking.runner._child.process.pid, signal.SIGKILL)
        with pytest.raises(errors.RunnerDied, match="may be charged") as died:
            job.wait(30)
        assert "Run the cell again" in died.value.hint
        assert "Fine." == asker.start(server.url, "1", cell="a", replay="auto").wait(60).text
        assert 1 == len(server.posts)
    assert (0.25, 0) == asker.journal.spent(server.url)


def test_runner_of_another_kernel_that_dies(asker):
    """A kernel takes over a question when its runner's heartbeat is stale: by running its cell again, or by resume."""
    other, options = Asker(asker.path), {"replay": "auto", "chat": None}
    with polled([]) as server:
        jobs = [other.start(server.url, text, cell=text, **options) for text in "12"]
        for job in jobs:
            wait_until(lambda: Response(asker.journal.row(job.id).response).outcome == "pending")  # noqa: B023
        os.kill(other.asking.runner._child.process.pid, signal.SIGKILL)
        again = asker.start(server.url, "1", cell="1", **options)
        followed = asker.on(server.url).unfinished(Delivery())
        assert [again.id, jobs[1].id] == [job.id for job in followed]
        wait_until(lambda: all(job.progress.state == "in_progress" for job in followed))
        with contextlib.closing(sqlite3.connect(asker.path)) as db, db:
            db.execute("UPDATE requests SET alive_at = alive_at - 60")
        assert ["Fine.", "Fine."] == [job.wait(60).text for job in followed]
        assert 2 == len(server.posts)
    other.session.close(10)
