"""The HTTP server of the sandbox, with tornado."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application

from aiml_magic.api.responses import Raw
from aiml_magic.credentials import proof
from aiml_magic.sandbox import catalog, rules, schema
from aiml_magic.sandbox.access import MAX_BODY, Route, State
from aiml_magic.sandbox.calls import wrong_choice
from aiml_magic.sandbox.events import events
from aiml_magic.text import dump

_MAX_VALUES = 2**22  # in one request: each takes far more memory than its bytes
_MAX_CONNECTIONS = 800
_MAX_WAIT = 60.0  # seconds for the rest of a request, or for the next one on its connection
_FLUSH = 2**18  # bytes of a stream after which the server waits until the client reads
_HTML = "<html><head><title>502 Bad Gateway</title></head><body>gateway</body></html>"


class Answering(Route):
    """A route that sends a response, whole or as a stream."""

    def finish_response(self, response: Raw) -> None:
        usage = response["usage"]
        self.set_header("x-inference-id", response["id"])
        if self.state.has_meta and usage is not None:
            cost = rules.cost(usage)
            self.set_header("x-aimlapi-credits-used", str(cost["credits_used"]))
            self.set_header("x-aimlapi-usd-spent", str(cost["usd_spent"]))
            response = {**response, "meta": {"usage": cost}}
        self.finish(dict(response))

    async def stream(
        self, response: Raw, *, pace: float = 0, after: int = -1, is_cut: bool = False
    ) -> None:
        """Sends the events of a response, with `pace` seconds after each word."""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("x-inference-id", response["id"])
        left, waiting = events(response)[after + 1 :], 0
        with contextlib.suppress(StreamClosedError):
            for event in left[: len(left) // 2] if is_cut else left:
                if event["type"] not in ("response.created", "response.queued"):
                    await self.wait_for(response["id"])
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
            self.write(f"data: {self.last_chunk(response)}\n\n")

    async def wait_for(self, response_id: str) -> None:
        """Waits until a background response is complete."""
        if left := self.state.memory.seconds_left(response_id):
            await self.flush()
            await asyncio.sleep(left)

    def last_chunk(self, response: Raw) -> str:
        """The data of a stream's last chunk: the vendor's cost, or `[DONE]` of Open Responses."""
        if self.state.has_meta:
            return dump({"meta": {"usage": rules.cost(response["usage"])}})
        return "[DONE]"


class Responses(Answering):
    """`POST /v1/responses`."""

    async def post(self) -> None:
        if self.refusal:
            return self.fail(self.refusal)
        self.is_read = True
        try:
            body = _read(self.body)
        except ValueError:
            return self.refuse("not JSON")
        if wrong := schema.wrong(body, is_vendors=self.state.has_meta):
            return self.refuse(wrong)
        if gone := catalog.withdrawn(body["model"]):
            return self.fail_upstream(404, gone, "model", "model_not_found")
        if wrong := wrong_choice(body):
            return self.fail_upstream(400, wrong, "tool_choice")
        memory, previous = self.state.memory, body.get("previous_response_id")
        if previous and previous not in memory.turns:
            wrong, name = "Previous response not found.", "previous_response_id"
            return self.fail_upstream(400, wrong, name, "previous_response_not_found")
        _, question = memory.conversation(body)
        orders = rules.orders(question)
        if wrong := rules.wrong_order(orders):
            return self.refuse(wrong)
        await self.answer(body, orders, memory.fault(question, orders))

    async def answer(self, body: Raw, orders: rules.Orders, fault: str) -> None:
        memory = self.state.memory
        client_request_id = self.request.headers.get("X-Client-Request-Id")
        if fault == "silent":
            await self.is_hung_up.wait()
        elif not body.get("background"):
            await asyncio.sleep(float(orders.get("delay", 0)))
        if self.fail_by(fault):
            return memory.log(client_request_id, body, None)
        response = memory.respond(body, {**orders, "fault": fault})
        memory.log(client_request_id, body, response)
        if body.get("stream"):
            pace = float(orders.get("pace", 0))
            return await self.stream(response, pace=pace, is_cut=fault == "cut")
        if body.get("background"):
            response = rules.unfinished(response, "queued")
        return self.finish_response(response)

    def fail_upstream(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        """Sends an error in OpenAI's shape, as the vendor relays it."""
        self.set_status(status)
        self.finish({"error": {"message": message, "type": kind, "param": param, "code": code}})

    def fail_by(self, fault: str) -> bool:
        """Fails as ordered; `False` if the request is to be answered."""
        match fault:
            case "html":
                self.set_status(502)
                self.finish(_HTML)
            case "empty":
                self.finish()
            case "error":
                kind = "server_error"
                self.fail_upstream(200, "The upstream is overloaded.", code=kind, kind=kind)
            case "reset":
                self.hang_up()
            case _ if fault.isdecimal():
                if fault == "429":
                    self.set_header("Retry-After", "1")
                self.fail(int(fault))
            case _:
                return False
        return True


class OneResponse(Answering):
    """`/v1/responses/{id}`."""

    async def get(self, response_id: str) -> None:
        memory = self.state.memory
        if response_id not in memory.responses:
            return self.fail(404)
        if self.get_query_argument("stream", "") != "true":
            return self.finish_response(memory.current(response_id))
        after = self.get_query_argument("starting_after", "-1")
        if not re.fullmatch(r"-1|\d{1,9}", after, re.ASCII):
            return self.refuse("starting_after: Expected number")
        await self.stream(memory.responses[response_id], after=int(after))

    def delete(self, response_id: str) -> None:
        if not self.state.memory.forget(response_id):
            return self.fail(404)
        self.finish({"id": response_id, "object": "response", "deleted": True})


class Cancel(Answering):
    """`POST /v1/responses/{id}/cancel`."""

    def post(self, response_id: str) -> None:
        memory = self.state.memory
        if response_id not in memory.responses:
            return self.fail(404)
        if not memory.responses[response_id]["background"]:
            return self.refuse("Only a background response can be cancelled")
        memory.cancel(response_id)
        self.finish_response(memory.current(response_id))


class Public(Route):
    """A list that the vendor sends without a key; a sandbox with a token requires that."""

    def is_authorized(self) -> bool:
        return not self.state.token or super().is_authorized()

    def show(self, entries: list[Raw], **fields: str) -> None:
        self.set_header("Cache-Control", "public, max-age=300")
        self.finish({"object": "list", **fields, "data": entries})


class Models(Public):
    """`GET /v1/models`."""

    def get(self) -> None:
        self.show(catalog.models(self.get_query_argument("id", "")))


class Deprecations(Public):
    """`GET /v1/models/deprecations`."""

    def get(self) -> None:
        status, since = (self.get_query_argument(name, "") for name in ("status", "since"))
        if status not in ("", *catalog.STATUSES):
            return self.refuse(f"status: Expected {' | '.join(map(repr, catalog.STATUSES))}")
        if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?", since, re.ASCII):
            return self.refuse("since: Expected YYYY-MM-DD")
        self.show(catalog.deprecations(status, since), generated_at=catalog.GENERATED_AT)


class Billing(Route):
    """`GET /v2/billing`."""

    def get(self) -> None:
        self.finish({"current_balance": 100.0, "currency": "USD"})


class Logs(Route):
    """`GET /v2/logs`."""

    def get(self) -> None:
        wanted = {"period": "24h", "offset": "0", "limit": "50"}
        for name, default in wanted.items():
            wanted[name] = self.get_query_argument(name, default)
            form = r"[1-9]\d*[hd]" if name == "period" else r"\d{1,9}"
            if not re.fullmatch(form, wanted[name], re.ASCII):
                return self.refuse(f"{name}: Invalid")
        models = self.get_query_arguments("model")
        offset, limit = int(wanted["offset"]), min(int(wanted["limit"]), 100)
        logs = self.state.memory.logs
        entries = [entry for entry in logs if not models or entry["model"] in models]
        page = {
            "limit": limit,
            "offset": offset,
            "total": len(entries),
            "has_more": len(entries) > offset + limit,
        }
        self.finish({"data": entries[offset : offset + limit], "pagination": page})


class Self(Route):
    """`DELETE /sandbox`: stops the sandbox."""

    def delete(self) -> None:
        self.state.stopped.set()
        self.finish({"name": "aiml_magic sandbox"})


class Proof(Route):
    """`GET /sandbox/proof`: proves that this sandbox has the token, without sending it."""

    def is_authorized(self) -> bool:
        return True  # a client sends the token only after this proof

    def get(self) -> None:
        state = self.state
        if state.stopped.is_set() or not state.token:  # a stopping sandbox must not be found
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
    "/v1/models/deprecations": Deprecations,
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
    """Listening sockets on loopback and their port; for port 0 a free one."""
    sockets = bind_sockets(port, "127.0.0.1")
    return sockets, int(sockets[0].getsockname()[1])


class _Server(HTTPServer):
    """A server with a bounded number of connections."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            return stream.close()
        return super().handle_stream(stream, address)


def serve(state: State, sockets: list[socket.socket]) -> HTTPServer:
    """Starts the server on `sockets`, in the running event loop."""
    shared = {"state": state}
    app = Application(
        [(path, route, shared) for path, route in _ROUTES.items()],
        log_function=lambda _: None,
        default_handler_class=Unknown,
        default_handler_args=shared,
    )
    # A body beyond the limit is read and dropped, so that its sender gets the refusal.
    server = _Server(
        app, max_body_size=8 * MAX_BODY, body_timeout=_MAX_WAIT, idle_connection_timeout=_MAX_WAIT
    )
    server.add_sockets(sockets)
    return server
