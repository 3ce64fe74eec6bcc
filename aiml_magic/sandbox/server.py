"""The routes of the sandbox, over tornado.

Nobody but its user may read what is asked here. It answers to names of this machine only, so that
a name whose DNS was changed to lead here is refused; to no web page, since a browser names the page
in a header; and to requests with its token. A sandbox that is started by hand has no token, and
takes any key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from aiml_magic.addresses import is_loopback
from aiml_magic.credentials import proof
from aiml_magic.sandbox import rules
from aiml_magic.sandbox.events import events
from aiml_magic.sandbox.memory import Memory
from aiml_magic.text import dump

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)

# Limits, in bytes and seconds.
_MAX_BODY = 32 * 2**20  # one request
_MAX_BODIES = 128 * 2**20  # all unanswered requests, but for the beginning of each
_BEGINNING = 64 * 2**10
_MAX_VALUES = 2**22  # in one request: bounds the memory that few bytes can ask for
_MAX_CONNECTIONS = 800
_MAX_WAIT = 60.0  # for the rest of a request that has begun, or for the next one on its connection
_FLUSH = 2**18  # of a stream, buffered until the client has read it
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
_HTML = "<html><head><title>502 Bad Gateway</title></head><body>gateway</body></html>"


class State:
    """What all requests to a sandbox share; an empty `token` stands for any key."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port, self.token = port, token
        self.memory = Memory()
        self.unanswered = 0  # bytes of requests
        self.last_used = time.monotonic()
        self.stopped = asyncio.Event()


@stream_request_body  # so that the body of a refused request is not read
class Route(RequestHandler):
    """A request of this user, whose body is read within bounds."""

    def initialize(self, state: State) -> None:
        self.state = state
        self.body = bytearray()
        self.refusal = 0  # the status of a request that is too much
        self.counted = 0  # bytes of this request in `state.unanswered`
        self.is_read = False
        self.is_hung_up = asyncio.Event()

    def prepare(self) -> None:
        """Refuses everybody but the user of this sandbox."""
        host = _HOST.fullmatch(self.request.headers.get("Host", ""))
        if host is None or not is_loopback(host[1]):
            return self.fail(403, "The sandbox answers to names of this machine only.")
        if "Origin" in self.request.headers:
            return self.fail(403, "The sandbox answers to no web page.")
        if not self.is_known():
            return self.fail(401)
        self.state.last_used = time.monotonic()
        return None

    def is_known(self) -> bool:
        """The token was sent; without a token, any key."""
        kind, _, key = self.request.headers.get("Authorization", "").partition(" ")
        token = self.state.token
        is_same = hmac.compare_digest(key.encode("utf-8", "replace"), token.encode())
        return kind == "Bearer" and (is_same if token else bool(key))

    def data_received(self, chunk: bytes) -> None:
        size = len(self.body) + len(chunk)
        counted = len(chunk) if size > _BEGINNING else 0
        if size > _MAX_BODY:
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
        if not self.is_read:  # else it is answered all the same, as by the real one
            self.release()

    def fail(self, status: int, message: str = "") -> None:
        """An error in the vendor's shape."""
        self.set_status(status)
        self.finish({
            "requestId": "sandbox",
            "statusCode": status,
            "path": "/v1/responses",
            "message": message or _MESSAGES.get(status, "An error"),
        })  # fmt: skip

    def refuse(self, message: str) -> None:
        self.fail(400, f"Body validation error\n{message}")

    def hang_up(self) -> None:
        """Ends the connection without an answer."""
        stream: IOStream = self.request.connection.stream  # type: ignore[union-attr]  # HTTP1Connection has it
        stream.close()


class Responses(Route):
    """`POST /v1/responses`."""

    async def post(self) -> None:
        if self.refusal:
            return self.fail(self.refusal)
        self.is_read = True
        try:
            body = _read(self.body)
        except ValueError:
            return self.refuse("no JSON")
        if wrong := rules.wrong(body):
            return self.refuse(wrong)
        try:
            _, question = self.state.memory.conversation(body)
        except KeyError:
            return self.refuse_previous()
        orders = rules.orders(question)
        if wrong := rules.wrong_order(orders):
            return self.refuse(wrong)
        await self.answer(body, orders, self.state.memory.fault(question, orders))

    async def answer(self, body: Mapping[str, Any], orders: Mapping[str, str], fault: str) -> None:
        memory, delay = self.state.memory, float(orders.get("delay", 0))
        client_request_id = self.request.headers.get("X-Client-Request-Id")
        await (
            self.is_hung_up.wait()
            if fault == "silent"
            else asyncio.sleep(0 if body.get("background") else delay)
        )
        if self.strike(fault):
            return memory.log(client_request_id, body, None)
        response = memory.respond(body, fault=fault, delay=delay)
        memory.log(client_request_id, body, response)
        if body.get("background"):
            return await self.finish(memory.seen(response["id"]))
        self.set_header("x-inference-id", response["id"])
        if body.get("stream"):
            return await self.stream(response, float(orders.get("pace", 0)), is_cut=fault == "cut")
        return await self.finish({**response, "meta": {"usage": rules.cost(response["usage"])}})

    def refuse_previous(self) -> None:
        self.fail_upstream(
            400,
            "Previous response not found.",
            type="invalid_request_error",
            param="previous_response_id",
            code="previous_response_not_found",
        )

    def fail_upstream(self, status: int, message: str, **fields: str) -> None:
        """An error in OpenAI's shape, as the vendor passes it on."""
        self.set_status(status)
        self.finish({"error": {"message": message, **fields}})

    def strike(self, fault: str) -> bool:
        """Fails as ordered; `False` if the request is to be answered all the same."""
        match fault:
            case "html":
                self.set_status(502)
                self.finish(_HTML)
            case "empty":
                self.finish()
            case "error":
                words = "The upstream is overloaded."
                self.fail_upstream(200, words, type="server_error", code="server_error")
            case "reset":
                self.hang_up()
            case _ if fault.isdecimal():
                if fault == "429":
                    self.set_header("Retry-After", "1")
                self.fail(int(fault))
            case _:
                return False
        return True

    async def stream(self, response: dict[str, Any], pace: float, *, is_cut: bool) -> None:
        """Sends the events of a response, `pace` seconds apart for each word."""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        found, waiting = events(response), 0
        with contextlib.suppress(StreamClosedError):
            for event in found[: len(found) // 2] if is_cut else found:
                line = f"event: {event['type']}\ndata: {dump(event)}\n\n"
                self.write(line)
                waiting += len(line)
                is_paced = bool(pace) and event["type"].endswith("delta")
                if is_paced or waiting > _FLUSH:
                    await self.flush()
                    waiting = 0
                if is_paced:
                    await asyncio.sleep(pace)
            if is_cut:
                await self.flush()
                return self.hang_up()
            self.write(f"data: {dump({'meta': {'usage': rules.cost(response['usage'])}})}\n\n")


class OneResponse(Route):
    """`/v1/responses/{id}`."""

    def get(self, response_id: str) -> None:
        if response_id not in self.state.memory.responses:
            return self.fail(404)
        self.finish(self.state.memory.seen(response_id))

    def delete(self, response_id: str) -> None:
        if not self.state.memory.forget(response_id):
            return self.fail(404)
        self.finish({"id": response_id, "object": "response", "deleted": True})


class Cancel(Route):
    """`POST /v1/responses/{id}/cancel`."""

    def post(self, response_id: str) -> None:
        if response_id not in self.state.memory.responses:
            return self.fail(404)
        self.state.memory.cancel(response_id)
        self.finish(self.state.memory.seen(response_id))


class Models(Route):
    """`GET /v1/models`."""

    def get(self) -> None:
        units = [
            {"unit": f"{kind}_token", "price": price, "per": 1_000_000}
            for kind, price in rules.PRICES.items()
        ]
        model = {
            "id": "openai/o3-pro",
            "type": "responses",
            "info": {"name": "o3-pro (sandbox)", "developer": "nobody"},
            "tags": [],
            "pricing": {"kind": "fixed", "units": units},
        }
        self.finish({"object": "list", "data": [model]})


class Billing(Route):
    """`GET /v2/billing`."""

    def get(self) -> None:
        self.finish({"current_balance": 100.0, "currency": "USD"})


class Logs(Route):
    """`GET /v2/logs`."""

    def get(self) -> None:
        if not re.fullmatch(r"[1-9]\d*[hd]", self.get_query_argument("period", "24h")):
            return self.refuse("period: Invalid")
        wanted = {
            name: self.get_query_argument(name, default)
            for name, default in (("offset", "0"), ("limit", "50"))
        }
        for name, value in wanted.items():
            if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
                return self.refuse(f"{name}: Invalid")
        models = self.get_query_arguments("model")
        offset, limit = int(wanted["offset"]), min(int(wanted["limit"]), 100)
        logs = self.state.memory.logs
        found = [entry for entry in logs if not models or entry["model"] in models]
        page = {
            "limit": limit,
            "offset": offset,
            "total": len(found),
            "has_more": len(found) > offset + limit,
        }
        self.finish({"data": found[offset : offset + limit], "pagination": page})


class Self(Route):
    """`DELETE /sandbox`: stops it."""

    def delete(self) -> None:
        self.state.stopped.set()
        self.finish({"name": "aiml_magic sandbox"})


class Proof(Route):
    """`GET /sandbox/proof`: shows that this sandbox has the token, without telling it."""

    def is_known(self) -> bool:
        return True  # nobody sends the token before this is answered

    def get(self) -> None:
        state = self.state
        if state.stopped.is_set() or not state.token:  # nobody should find one that ends
            return self.fail(404)
        self.finish(proof(state.token, state.port, self.get_query_argument("nonce", "")))


class Unknown(Route):
    """Any other path."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self.fail(404)


_ROUTES = {
    "/v1/responses": Responses,
    "/v1/responses/([^/]+)": OneResponse,
    "/v1/responses/([^/]+)/cancel": Cancel,
    "/v1/models": Models,
    "/v2/billing": Billing,
    "/v2/logs": Logs,
    "/sandbox": Self,
    "/sandbox/proof": Proof,
}


def _read(body: bytearray) -> Any:
    """The value of a request's JSON. Raises ValueError, also for too many values."""
    if sum(map(body.count, b"{[,")) > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    finally:
        body.clear()


def bind(port: int) -> tuple[list[socket.socket], int]:
    """Listening sockets of loopback, and their port, which is chosen if it is 0."""
    sockets = bind_sockets(port, "127.0.0.1")
    return sockets, int(sockets[0].getsockname()[1])


class _Server(HTTPServer):
    """A server with a bounded number of connections."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            return stream.close()
        return super().handle_stream(stream, address)


def serve(state: State, sockets: list[socket.socket]) -> HTTPServer:
    """Starts to answer on `sockets`, in the running event loop."""
    shared = {"state": state}
    app = Application(
        [(path, route, shared) for path, route in _ROUTES.items()],
        log_function=lambda _: None,
        default_handler_class=Unknown,
        default_handler_args=shared,
    )
    # A longer body than is kept is read to its end, so that its sender gets the refusal.
    server = _Server(
        app, max_body_size=8 * _MAX_BODY, body_timeout=_MAX_WAIT, idle_connection_timeout=_MAX_WAIT
    )
    server.add_sockets(sockets)
    return server
