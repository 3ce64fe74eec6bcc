"""A server of plain sockets that sends exact bytes in exact chunks, with any kind of fault at the end."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Chunks = list[bytes]


@dataclass
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    client: Any = None  # the address at the other end of its connection

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Reply:
    """A reply: a status, headers, a body in chunks, `pace` seconds apart, and an end: clean, reset, close, hang or silence.

    Nothing is sent for `delay` seconds.
    `raw` is sent instead, byte for byte.
    """

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Chunks = field(default_factory=list)
    end: str = "clean"
    raw: bytes | None = None
    pace: float = 0.0
    delay: float = 0.0


@dataclass
class Server:
    """A running server: its URL, its requests, and whether the client closed a connection."""

    url: str
    requests: list[Request] = field(default_factory=list)
    closed_by_client: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]


@contextmanager
def serve(
    answer: Callable[[Request], Reply],
    *,
    read_only: int | None = None,
    port: int = 0,
    has_models: bool = False,
) -> Iterator[Server]:
    """Serves on loopback, on a free port if none is given. With `read_only`, so many bytes are read before the connection is reset.

    Unless it `has_models`, requests for the list of models and the feed of deprecations, which may come at any time, get a 404.
    """
    listener = socket.create_server(("127.0.0.1", port))
    server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if read_only is not None:
                connection.recv(read_only)
                server.requests.append(Request("POST", "", {}, b""))
                return _reset(connection)
            with connection.makefile("rb") as lines:
                while (request := _read_request(lines)) is not None:
                    if "/models" in request.path and not has_models:
                        reply = json_reply({}, 404)
                    else:
                        request.client = connection.getpeername()
                        server.requests.append(request)
                        reply = answer(request)
                    if not _send(connection, reply, server):
                        return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        server.release.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            connection.close()


def reply_of(http: dict[str, Any], body: bytes) -> Reply:
    """The reply that a vector describes."""
    match http["chunking"]:
        case "whole":
            chunks = [body]
        case "inside_multibyte":
            chunks = _cut(body, [i for i in range(1, len(body)) if body[i] & 0xC0 == 0x80])
        case int(size):
            chunks = [body[i : i + size] for i in range(0, len(body), size)]
        case sizes:
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            chunks = _cut(body, [end for end in ends if end < len(body)])
    ends = {"disconnect_after_request": "close"}
    return Reply(http["status"], http["headers"], chunks, ends.get(http["end"], http["end"]))


def _cut(body: bytes, places: list[int]) -> Chunks:
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def _read_request(lines: Any) -> Request | None:
    try:
        first = lines.readline().decode()
        if not first.strip():
            return None
        headers = {}
        while line := lines.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        method, path, _ = first.split()
        length = int(headers.get("content-length", 0))
        body = lines.read(length)
        # A shorter body means that the client has disconnected.
        return Request(method, path, headers, body) if len(body) == length else None
    except (OSError, ValueError):  # ValueError: no HTTP
        return None


def _send(connection: socket.socket, reply: Reply, server: Server) -> bool:
    """Sends a reply; `True` if the connection may be used again."""
    try:
        server.release.wait(reply.delay)
        if reply.end == "silence":
            _wait_for_client(connection, server)
            return False
        if reply.raw is not None:
            connection.sendall(reply.raw)
        if reply.status is None or reply.end == "close":
            return False
        headers = {"Transfer-Encoding": "chunked", **reply.headers}
        lines = [
            f"HTTP/1.1 {reply.status} Status",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        connection.sendall("\r\n".join(lines).encode() if reply.raw is None else b"")
        for chunk in reply.chunks:
            if chunk:
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                server.release.wait(reply.pace)
        if reply.end == "hang":
            _wait_for_client(connection, server)
            return False
        if reply.end == "reset":
            server.release.wait(0.1)
            _reset(connection)
            return False
        connection.sendall(b"0\r\n\r\n")
    except OSError:
        server.closed_by_client.set()
        return False
    return True


def _wait_for_client(connection: socket.socket, server: Server) -> None:
    """Sends nothing until the client closes the connection, or the test is over."""
    connection.settimeout(0.02)
    while not server.release.is_set():
        try:
            if connection.recv(1) == b"":
                server.closed_by_client.set()
                return
        except TimeoutError:
            continue
        except OSError:
            server.closed_by_client.set()
            return


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def response(text: str = "Fine.", **fields: Any) -> dict[str, Any]:
    """A plain response of the API."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "o3-pro-2025-06-10",
        "output": [
            {"type": "message", "role": "assistant", "status": "completed", "content": content}
        ],
        "usage": usage,
    } | fields


def json_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(
        status, {"Content-Type": "application/json"} | headers, [json.dumps(body).encode()]
    )
