"""Access to a sandbox, and limits on the size of requests.

Only its user may read the questions. So a request needs a host name of this machine, which stops
DNS rebinding; no Origin header, which stops web pages; and the token. A sandbox that was started by
hand has no token, and accepts any key.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time

from tornado.iostream import IOStream
from tornado.web import RequestHandler, stream_request_body

from aiml_magic.addresses import is_loopback
from aiml_magic.sandbox.catalog import GENERATED_AT
from aiml_magic.sandbox.memory import Memory

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)

# Limits, in bytes.
MAX_BODY = 32 * 2**20  # one request
_MAX_BODIES = 128 * 2**20  # all unanswered requests, without the beginning of each
_BEGINNING = 64 * 2**10
_MESSAGES = {
    400: "Body validation error",
    401: "This request requires a valid API key.",
    403: "You've run out of credits.",
    404: "Not found",
    409: "Conflict",
    413: "Payload too large",
    429: "Too Many Requests",
    500: "Internal server error",
    502: "Bad Gateway",
    503: "Service unavailable",
    504: "Generation timeout",
}


class State:
    """The shared state of all requests; with an empty `token` any key is accepted.

    With `has_meta` it stands for AI/ML API, which reports the cost of each response as `meta`; else
    for a plain server of the Open Responses specification.
    """

    def __init__(self, port: int, token: str = "", *, has_meta: bool = True) -> None:
        self.port, self.token, self.has_meta = port, token, has_meta
        self.memory = Memory()
        self.unanswered = 0  # bytes of requests
        self.last_used = time.monotonic()
        self.stopped = asyncio.Event()


@stream_request_body  # so that the body of a refused request is not read
class Route(RequestHandler):
    """A request of the sandbox's user, with a bounded body."""

    def initialize(self, state: State) -> None:
        self.state = state
        self.body = bytearray()
        self.refusal = 0  # the status for a request that is too large
        self.counted = 0  # bytes of this request in `state.unanswered`
        self.is_read = False
        self.is_hung_up = asyncio.Event()

    def prepare(self) -> None:
        """Refuses all requests but those of the sandbox's user."""
        host = _HOST.fullmatch(self.request.headers.get("Host", ""))
        if host is None or not is_loopback(host[1]):
            return self.fail(403, "The sandbox answers to names of this machine only.")
        if "Origin" in self.request.headers:
            return self.fail(403, "The sandbox answers to no web page.")
        if not self.is_authorized():
            return self.fail(401)
        self.state.last_used = time.monotonic()
        return None

    def is_authorized(self) -> bool:
        """Whether the request has the token, or any key if there is no token."""
        kind, _, key = self.request.headers.get("Authorization", "").partition(" ")
        token = self.state.token
        is_same = hmac.compare_digest(key.encode("utf-8", "replace"), token.encode())
        return kind == "Bearer" and (is_same if token else bool(key))

    def data_received(self, chunk: bytes) -> None:
        size = len(self.body) + len(chunk)
        counted = len(chunk) if size > _BEGINNING else 0
        if size > MAX_BODY:
            self.refusal = 413
        elif self.state.unanswered + counted > _MAX_BODIES:
            self.refusal = 503
        if self.refusal:
            return self.release()
        self.body += chunk
        self.counted += counted
        self.state.unanswered += counted
        return None

    def release(self) -> None:
        """Drops the body of the request."""
        self.state.unanswered -= self.counted
        self.counted = 0
        self.body.clear()

    def on_finish(self) -> None:
        self.release()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.is_hung_up.set()
        if not self.is_read:  # else it is still answered, as by the API
            self.release()

    def fail(self, status: int, message: str = "") -> None:
        """Sends an error in the vendor's shape."""
        self.set_status(status)
        self.finish({
            "requestId": "sandbox",
            "statusCode": status,
            "timestamp": GENERATED_AT,
            "path": self.request.path,
            "message": message or _MESSAGES.get(status, "An error"),
        })  # fmt: skip

    def refuse(self, message: str) -> None:
        self.fail(400, f"Body validation error\n{message}")

    def hang_up(self) -> None:
        """Closes the connection without a reply."""
        stream: IOStream = self.request.connection.stream  # type: ignore[union-attr]  # HTTP1Connection has it
        stream.close()
