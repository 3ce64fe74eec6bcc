"""One request over the wire: headers, bounds, connections, and the hosts that get the key."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import certifi
import pytest
import wire
from asking import KEY
from certificates import certificate
from processes import wait_until

from aiml_magic import errors
from aiml_magic.api.network import settings_of_network


def test_request(asker):
    """A request has the fields of the vendor's page, the key as a bearer, an id of its own, and `store`."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.ask(server.url, "Hello", stream=False, store=False)
        asker.ask(server.url, "Hello", chat=None, effort="high", summary="auto", instructions="Be brief.", max_output_tokens=99,
                  params={"truncation": "auto"})  # fmt: skip
    first, second = server.posts
    assert ("POST", "/v1/responses") == (first.method, first.path)
    assert {"model": "openai/o3-pro", "input": "Hello", "store": False} == first.body
    assert f"Bearer {KEY}" == first.headers["authorization"]
    assert "application/json" == first.headers["content-type"]
    ids = {request.headers["x-client-request-id"] for request in (first, second)}
    assert 2 == len(ids)
    assert all(
        set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(one) <= 128 for one in ids
    )
    assert {
        "model": "openai/o3-pro", "input": "Hello", "instructions": "Be brief.", "max_output_tokens": 99, "stream": True,
        "reasoning": {"effort": "high", "summary": "auto"}, "store": True, "truncation": "auto",
    } == second.body  # fmt: skip


def test_any_text_arrives(asker):
    """A question arrives as it was typed: quotes, backslashes, NUL, emoji, even a lone surrogate."""
    text = '"quotes" \\back\\ \x00\x1b 😀 \u2028 \ud800 end'
    with wire.serve(lambda _: wire.json_reply(wire.response(text))) as server:
        answer = asker.ask(server.url, text)
    assert text == server.posts[0].body["input"] == answer.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(module_asker, status):
    """A redirect is not followed with the key."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as elsewhere:
        reply = wire.Reply(status, {"Location": f"{elsewhere.url}/responses"})
        with wire.serve(lambda _: reply) as server, pytest.raises(errors.Redirected):
            module_asker.ask(server.url, chat=None)
        assert [] == elsewhere.requests


@pytest.mark.parametrize(
    "url",
    ["http://api.aimlapi.com/v1", "http://127.0.0.1@evil.example/v1", "http://evil.example#127.0.0.1", "ftp://127.0.0.1/v1",
     "https://a b/v1", "https://user:pass@host/v1", "//127.0.0.1/v1", "http://127.0.0.1.evil.example/v1", "http://0x7f.1/v1",
     "https://api.aimlapi.com\\@evil.example/v1", "http://localhost.evil.example", "https://host/v1?x=1", "http://localhost:99999/v1", "https://host:65536"],
)  # fmt: skip
@pytest.mark.parametrize("proxied", [False, True])
def test_addresses_that_are_refused(asker, url, proxied, monkeypatch):
    """Plain http to another machine, and an address that parsers read differently, are refused."""
    if proxied:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with pytest.raises(errors.BadInput):
        asker.ask(url)
    assert not asker.path.exists(), "nothing is written of what is refused"


def test_loopback_is_never_proxied(asker, monkeypatch):
    """Plain http to this machine does not leave it through a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        assert "Fine." == asker.ask(server.url).text


@contextlib.contextmanager
def proxy(status: int = 403, reason: str | None = None):
    """A proxy that refuses every tunnel: its host and port, and its requests."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            seen.append((self.path, dict(self.headers)))
            self.send_error(status, reason)

        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


def test_proxy_of_the_environment(asker, monkeypatch):
    """https goes through the environment's proxy by CONNECT, without the key; each question by the current variables."""
    with proxy() as (one, seen), proxy() as (two, seen_by_two):
        for variables, by in (
            ({"HTTPS_PROXY": f"http://{one}"}, seen),
            ({"https_proxy": two}, seen_by_two),
        ):
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            job = asker.start("https://api.example/v1")
            wait_until(lambda by=by: bool(by))
            job.cancel(10)
        monkeypatch.delenv("https_proxy")
        before = len(seen)
        monkeypatch.setenv("NO_PROXY", "*")
        with pytest.raises(errors.ConnectError):
            asker.ask("https://api.example/v1")
        assert before == len(seen)
        monkeypatch.delenv("NO_PROXY")
        job = asker.start("https://api.example/v1")
        wait_until(lambda: len(seen) > before)
        job.cancel(10)
    assert {"api.example:443"} == {path for path, _ in seen + seen_by_two}
    assert KEY not in str(seen + seen_by_two)


PASSWORD = "hunter2-s%65cret"  # with a character that is encoded in a URL


@pytest.mark.parametrize("address", ["http://bob:{}@127.0.0.1:{}", "http://bob:{}@127.0.0.1:{}x", "ftp://bob:{}@h:{}",
                                     "http://bob:{} @h:{}"])  # fmt: skip
def test_password_of_a_proxy(asker, home, monkeypatch, address, capfd):
    """The password in a proxy's address is in no message and no file, for any error of the address and any reply of the proxy."""
    plain = PASSWORD.replace("%65", "e")
    packed = base64.b64encode(f"bob:{plain}".encode()).decode()
    with proxy(407, f"no {packed} {plain} {PASSWORD}") as (where, _):
        monkeypatch.setenv("HTTPS_PROXY", address.format(PASSWORD, where.partition(":")[2]))
        with pytest.raises(errors.ConnectError, match="Nothing was sent") as refused:
            asker.ask("https://api.example/v1")
        with pytest.raises(errors.RequestFailed) as refused_balance:
            asker.on("https://api.example/v1").get("/v2/billing")
    told = f"{refused.value} {refused_balance.value} {capfd.readouterr()}"
    files = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert not any(
        secret in told or secret.encode() in files for secret in (plain, PASSWORD, packed)
    )


@contextlib.contextmanager
def secure(folder: Path):
    """A server that answers over TLS with an untrusted certificate: its address, the certificate, the connections."""
    key, made = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    accepted: list[bytes] = []
    body = json.dumps(wire.response()).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )

    def accept(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                accepted.append(b"")
                with (
                    connection,
                    contextlib.suppress(OSError),
                    context.wrap_socket(connection, server_side=True) as tls,
                ):
                    while b'"input"' not in accepted[-1]:
                        accepted[-1] += tls.recv(10_000) or b'"input"'
                    tls.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1", made, accepted
        listener.shutdown(socket.SHUT_RDWR)


def test_certificates_of_the_environment(asker, tmp_path, monkeypatch):
    """A change of the trusted certificates applies to the next question, in both directions."""
    file = tmp_path / "trusted.pem"
    with secure(tmp_path) as (url, made, _):
        with pytest.raises(errors.ConnectError, match="(?i)certificate") as refused:
            asker.ask(url)
        assert "SSL_CERT_FILE" in refused.value.hint
        file.write_bytes(made.read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert "Fine." == asker.ask(url).text
        file.write_bytes(Path(certifi.where()).read_bytes())
        with pytest.raises(errors.ConnectError, match="(?i)certificate"):
            asker.ask(url)
        file.write_bytes(made.read_bytes() + b"\n")
        assert "Fine." == asker.ask(url).text
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(errors.ConnectError, match="(?i)certificate"):
            asker.ask(url)


def test_no_certificate_of_the_environment(tmp_path, monkeypatch):
    """A file written to the working folder does not replace the client, whose connections would be lost."""
    monkeypatch.chdir(tmp_path)
    before = settings_of_network({})
    os.utime(tmp_path, (1, 1))
    assert before == settings_of_network({})


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("what", ["missing", "a folder", "garbage", "empty"])
def test_certificates_that_cannot_be_read(module_asker, tmp_path, monkeypatch, name, what):
    """If certificates cannot be read, the error names the variable and its path, and no connection is made."""
    path = tmp_path / "trusted"
    match what:
        case "a folder" if name == "SSL_CERT_FILE":
            path.mkdir()
        case "garbage":
            path.write_text("no certificate")
        case "empty":
            path.touch()
        case _:
            pass
    monkeypatch.setenv(name, str(path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        with pytest.raises(errors.ConnectError, match="Nothing was sent") as refused:
            module_asker.ask(f"https://127.0.0.1:{listener.getsockname()[1]}/v1", chat=None)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert name in refused.value.message
    assert str(path) in refused.value.message
    assert name in refused.value.hint


def test_untrusted_certificate(asker, tmp_path):
    """An untrusted certificate ends the connection before anything is sent, without a retry."""
    key, made = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    accepted = []

    def accept(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                accepted.append(1)
                with (
                    connection,
                    contextlib.suppress(OSError),
                    context.wrap_socket(connection, server_side=True) as secure,
                ):
                    accepted.append(secure.recv(100))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        with pytest.raises(errors.ConnectError, match="(?i)certificate") as refused:
            asker.ask(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        listener.shutdown(socket.SHUT_RDWR)
    assert "never" == refused.value.retry
    assert [1] == accepted, "one connection, and not a byte of the request"


def test_keepalive(asker):
    """A silent connection is probed before a router forgets it."""
    with wire.serve(lambda _: wire.Reply(end="silence")) as server:
        job = asker.start(server.url)
        deadline = time.monotonic() + 5
        while not server.posts and time.monotonic() < deadline:
            time.sleep(0.01)
        port = server.url.rpartition(":")[2].partition("/")[0]
        try:
            told = subprocess.run(
                ["ss", "-tno", f"dport = :{port}"], capture_output=True, text=True, check=True
            ).stdout
        except FileNotFoundError:
            pytest.skip("this machine has no ss")
        finally:
            job.cancel()
    assert "timer:(keepalive,4" in told


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_answer(asker, coding):
    """An unrequested compressed answer is still read: it was paid for."""
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    body = pack(json.dumps(wire.response("Packed.")).encode())
    reply = wire.Reply(
        200,
        {"Content-Type": "application/json", "Content-Encoding": coding},
        [body[:20], body[20:]],
    )
    with wire.serve(lambda _: reply) as server:
        assert "Packed." == asker.ask(server.url).text
    assert "identity" == server.posts[0].headers["accept-encoding"]


def bomb() -> wire.Reply:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, again = (pack.compress(b" " * 2**20) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    chunks = [first, *[again] * 1023]  # 1 GiB, when it is unpacked
    return wire.Reply(200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, chunks)


def flood(start: bytes, chunk: bytes, kind: str) -> wire.Reply:
    return wire.Reply(200, {"Content-Type": kind}, [start, *[chunk] * (2**30 // len(chunk))])


def numbered_events(form: str) -> wire.Reply:
    """A GiB of events, each of which holds something new."""
    events = (
        b"data: " + (form % (number, "x" * 60_000)).encode() + b"\n\n" for number in range(17_000)
    )
    return wire.Reply(200, {"Content-Type": STREAM}, events)


STREAM = "text/event-stream"
SNAPSHOT = '{"type":"response.in_progress","response":{"id":"r","f%d":"%s"}}'
ITEM = '{"type":"response.output_item.done","output_index":%d,"item":{"type":"x","x":"%s"}}'
DELTA = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"%s"}\n\n' % (
    b"x" * 60_000
)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(bomb, id="gzip bomb"),
        pytest.param(
            lambda: flood(b'{"output":[', b" " * 2**16, "application/json"), id="1 GiB of JSON"
        ),
        pytest.param(lambda: flood(b"data: ", b"x" * 2**16, STREAM), id="one endless event"),
        pytest.param(lambda: flood(b"", DELTA, STREAM), id="endless text"),
        pytest.param(lambda: flood(b"", b": keep-alive\n\n" * 5000, STREAM), id="endless comments"),
        pytest.param(lambda: numbered_events(SNAPSHOT), id="endless fields"),
        pytest.param(lambda: numbered_events(ITEM), id="endless items"),
        pytest.param(
            lambda: flood(b'{"type":"ping"}\n{"', b"x" * 2**16, STREAM), id="endless line"
        ),
        pytest.param(lambda: flood(b"<html>", b"x" * 2**16, "text/html"), id="1 GiB of HTML"),
    ],
)
def test_memory_is_bounded(asker, reply):
    """An endless or huge reply ends with an error, is not requested again, and costs the runner less than 300 MB."""
    endless = reply()
    with wire.serve(lambda _: endless) as server:
        with pytest.raises(errors.RequestFailed) as failed:
            asker.ask(server.url)
        runner = asker.asking.runner._child.process.pid
        # Without /proc, the rest of the claim is tested.
        status = Path(f"/proc/{runner}/status")
        lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0 kB"]
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert peak < 300_000
    assert "ask" == failed.value.retry
    assert 1 == len(server.posts)


def test_large_event(asker):
    """One event of several MiB is an answer."""
    text = "word " * 1_000_000
    event = json.dumps({"type": "response.completed", "response": wire.response(text)})
    with wire.serve(
        lambda _: wire.Reply(200, {"Content-Type": STREAM}, [f"data: {event}\n\n".encode()])
    ) as server:
        assert text == asker.ask(server.url).text


def test_error_body_holding_the_key(asker, home):
    """A key that a server echoes is in no message and not in the journal."""
    for reply in (
        wire.json_reply({"message": f"bad key {KEY}"}, 401),
        wire.json_reply(wire.response(f"You sent {KEY}")),
        wire.json_reply({"unexpected": KEY}),
    ):
        with wire.serve(lambda _, reply=reply: reply) as server:
            try:
                assert KEY not in asker.ask(server.url).text
            except errors.RequestFailed as error:
                assert KEY not in str(error)
    assert not any(KEY.encode() in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_stream_refused(asker):
    """A 400 that names `stream` was not executed: the question is sent once more without it, and answered."""
    refused = wire.json_reply(
        {"error": {"message": "not supported", "param": "stream", "code": "unsupported_value"}}, 400
    )

    def answer(request):
        return refused if request.body.get("stream") else wire.json_reply(wire.response())

    with wire.serve(answer) as server:
        assert "Fine." == asker.ask(server.url).text
    assert [True, False] == [request.body["stream"] for request in server.posts]


def test_retries_until_it_is_good(asker):
    """A retry after a 503 is answered; each attempt has its own id in a log."""
    replies = iter(
        [wire.json_reply({"message": "Service unavailable"}, 503), wire.json_reply(wire.response())]
    )
    with wire.serve(lambda _: next(replies)) as server:
        assert "Fine." == asker.ask(server.url).text
    assert 2 == len(server.posts)
    first, second = (request.headers["x-client-request-id"] for request in server.posts)
    assert f"{first}.2" == second
    assert 2 == asker.journal.row(1).attempts


def test_silence(asker):
    """After the time of --timeout without a byte the wait ends, and the question is not sent again."""
    with wire.serve(lambda _: wire.Reply(end="silence")) as server:
        with pytest.raises(errors.ConnectionLost) as lost:
            asker.ask(server.url, timeout=0.3)
        assert "--timeout" in lost.value.message
        assert 1 == len(server.posts)


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
@pytest.mark.parametrize("body", ["json", "events"])
def test_wrong_content_type(module_asker, kind, body):
    """An answer with a wrong Content-Type is read by its content."""
    whole = json.dumps(wire.response())
    text = (
        whole if body == "json" else f'data: {{"type":"response.completed","response":{whole}}}\n\n'
    )
    with wire.serve(lambda _: wire.Reply(200, {"Content-Type": kind}, [text.encode()])) as server:
        assert "Fine." == module_asker.ask(server.url, chat=None).text


def test_reset_after_the_end(asker):
    """A connection that breaks after the complete answer loses nothing."""
    event = json.dumps({"type": "response.completed", "response": wire.response()})
    replies = [
        wire.Reply(200, {"Content-Type": STREAM}, [f"data: {event}\n\n".encode()], end="reset"),
        wire.Reply(
            200,
            {"Content-Type": "application/json"},
            [json.dumps(wire.response()).encode()],
            end="reset",
        ),
    ]
    for reply in replies:
        with wire.serve(lambda _, reply=reply: reply) as server:
            assert "Fine." == asker.ask(server.url).text


def test_connection_is_used_again(module_asker):
    """The next question reuses the connection, after a JSON body and after a stream whose end follows its last event."""
    whole = wire.response(meta={"usage": {"usd_spent": 0.01}})
    event = json.dumps({"type": "response.completed", "response": whole})
    stream = wire.Reply(200, {"Content-Type": STREAM}, [f"data: {event}\n\n".encode()])
    for reply in (wire.json_reply(whole), stream):
        with wire.serve(lambda _, reply=reply: reply) as server:
            for _ in range(3):
                module_asker.ask(server.url, chat=None)
        assert 1 == len({request.client for request in server.posts})


NO_HANDLES = """
import asyncio, os, resource, sys
from aiml_magic.api.client import Client
from aiml_magic.api.replies import Listener
from aiml_magic.api.masking import Secrets

async def main():
    client = Client(sys.argv[1], Secrets("key"), silence=float(sys.argv[2]))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, taken[0] + 20))
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    asyncio.get_running_loop().call_later(float(sys.argv[3]), lambda: [os.close(one) for one in taken])
    reply = await client.ask({"model": "m", "input": "q"}, "id", Listener())
    print(reply.response.get("id"), reply.error)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize(
    ("host", "silence", "freed_after"),
    [("127.0.0.1", 30, 1), ("localhost", 30, 1), ("127.0.0.1", 0.1, 60)],
)
def test_no_free_file_handle(host, silence, freed_after):
    """Without a free file handle a request waits for one; after the timeout the error says so, and nothing was sent."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        url = server.url.replace("127.0.0.1", host)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            NO_HANDLES,
            url,
            str(silence),
            str(freed_after),
        ]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if freed_after < silence:
            assert (["resp_1 None"], 1) == (told, len(server.posts))
        else:
            assert (2, 0) == (len(told), len(server.posts))
            assert told[0].startswith("None Too many files and connections are open")
            assert "Nothing was sent" in told[0]
