"""A local stand-in for the API: answers by rule, no model behind it, and every answer says so.

    python -m aiml_magic.sandbox --port 9000

It keeps conversations, streams, calls the functions that a question names, fills schemas, reports usage and cost, runs in the
background and fails on demand, so that everything can be tried without a key or a network. The same conversation always gets the
same answer, id and date, so that a notebook that uses it comes out the same each time. A line in the question makes it slow or
makes it fail:

    sandbox: delay=5 pace=0.02 fault=503 times=1

`delay` is in seconds, `pace` in seconds per word; `fault` is an HTTP status, or html, reset, cut, silent, incomplete, refusal,
failed, empty or error; `times` says how often it strikes (else always). Any other order is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiml_magic.addresses import make_private_folder, write_private
from aiml_magic.responses import dump, load

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer
    from tornado.web import Application

IDLE = 30 * 60.0  # seconds without a request after which it ends
_CREATED = 1_767_225_600  # its clock stands still, at the beginning of 2026
_PRICE = {"input": 21.0, "output": 84.0}  # dollars for a million tokens, as a stand-in for the real price
_REASONING = {"low": 64, "medium": 256, "high": 1024}  # tokens
_ORDER = re.compile(r"^sandbox:((?:[ \t]+\w+=[\w.-]+)+)[ \t]*$", re.MULTILINE)
_ORDERS = {  # what may follow each
    "delay": r"\d{1,9}(\.\d+)?",
    "pace": r"\d{1,9}(\.\d+)?",
    "fault": r"[45]\d\d|html|reset|cut|silent|incomplete|refusal|failed|empty|error",
    "times": r"\d{1,9}",
}
# What a field is, if it is there.
_TYPES = {"instructions": str, "previous_response_id": str, "reasoning": dict, "text": dict, "tools": list}
_JSON = {str: "string", dict: "object", list: "array"}
_started: list[subprocess.Popen[bytes]] = []  # kept, so that they are no zombies nor warnings


def find_or_start(home: Path, patience: float = 10.0) -> str:
    """The base URL of this user's sandbox, which is started if none runs. Raises SandboxError."""
    from aiml_magic.errors import SandboxError

    url = _running(home)
    if url is None:
        command = [sys.executable, "-P", "-m", "aiml_magic.sandbox", "--home", str(home)]
        # A session of its own: it outlives the kernel, as the API does.
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        _started.append(subprocess.Popen(command, start_new_session=True, **quiet))  # type: ignore[call-overload]
        deadline = time.monotonic() + patience
        while (url := _running(home)) is None:
            if time.monotonic() > deadline or _started[-1].poll() not in (None, 0):
                raise SandboxError("The sandbox did not start.", "Run it by hand to see why: python -m aiml_magic.sandbox")
            time.sleep(0.02)
    return url


def stop(home: Path) -> bool:
    """Ends this user's sandbox; `False` if none was running."""
    url = _running(home)
    if url is not None:
        _call(_port(home), "DELETE")
    for process in _started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
    _started.clear()
    return url is not None


def _running(home: Path) -> str | None:
    port = _port(home)
    return _address(port) if port and _call(port, "GET") == "aiml_magic sandbox" else None


def _port(home: Path) -> int:
    try:
        port = int(load((home / "sandbox.json").read_text())["port"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0
    return port if 0 < port < 2**16 else 0


def _call(port: int, method: str) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request(method, "/sandbox")
        # Something else may have got the port, and tell a story without an end: as much as comes at once is enough.
        return str(load(connection.getresponse().read1(1000))["name"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Sandbox:
    """What the stand-in remembers: responses with their conversations, a log, and the faults that have struck."""

    def __init__(self) -> None:
        self.responses: dict[str, dict[str, Any]] = {}
        self.ready_at: dict[str, float] = {}
        self.turns: dict[str, list[tuple[str, str]]] = {}
        self.logs: list[dict[str, Any]] = []
        self.struck: Counter[str] = Counter()
        self.last_used = time.monotonic()

    def conversation(self, body: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str]:
        """The turns so far as question and answer, and the new question. Raises KeyError for an unknown response."""
        turns = list(self.turns[body["previous_response_id"]]) if body.get("previous_response_id") else []
        if isinstance(body["input"], str):
            return turns, body["input"]
        asked = ""
        results = [str(item.get("output")) for item in body["input"] if item.get("type") == "function_call_output"]
        if results:
            return turns, f"(what came of the tools: {'; '.join(results)})"
        for item in body["input"]:
            content = item.get("content") or ""
            parts = [str(part.get("text") or "") for part in content if isinstance(part, dict)]
            text = content if isinstance(content, str) else parts[0] if parts else ""
            if item.get("role") == "assistant":
                turns.append((asked, text))
            else:
                asked = text
        return turns, asked

    def respond(self, body: Mapping[str, Any], orders: Mapping[str, str]) -> dict[str, Any]:
        """The response to a request, by rule. Raises KeyError for an unknown `previous_response_id`."""
        turns, question = self.conversation(body)
        reasoning = body.get("reasoning") or {}
        effort = reasoning.get("effort") or "medium"
        wanted = (body.get("text") or {}).get("format") or {}
        text = (
            dump(_filled(wanted["schema"], wanted["schema"]))
            if wanted.get("type") == "json_schema"
            else _text(turns, _ORDER.sub("", question).strip(), body, effort)
        )
        identity = hashlib.sha256(dump([turns, body["input"], body.get("model"), body.get("instructions"), reasoning]).encode())
        response_id = "sandbox_" + identity.hexdigest()[:16]
        told = sum(_tokens(asked) + _tokens(answered) for asked, answered in turns)
        usage = _usage(told + _tokens(question) + _tokens(body.get("instructions") or ""), _tokens(text), _REASONING[effort])
        summary = [{"type": "summary_text", "text": f"**Counting words**\n\nThe question has {len(question.split())}."}]
        content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        response = {
            "id": response_id,
            "object": "response",
            "created_at": _CREATED,
            "status": "completed",
            "background": bool(body.get("background")),
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": f"{body['model'].rpartition('/')[2]}-sandbox",
            "output": [
                {"id": "rs_1", "type": "reasoning", "summary": summary if reasoning.get("summary") else []},
                *(
                    _calls(body, question)
                    or [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}]
                ),
            ],
            "parallel_tool_calls": True,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": effort, "summary": reasoning.get("summary")},
            "store": bool(body.get("store")),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "truncation": body.get("truncation") or "disabled",
            "usage": usage,
        }
        _limit(response, body.get("max_output_tokens"))
        _spoil(response, orders.get("fault", ""))
        if body.get("store"):
            self.responses[response_id] = response
            self.turns[response_id] = [*turns, (question, text)]
        return response

    def strikes(self, question: str, orders: Mapping[str, str]) -> str:
        """The fault to show for this request, or the empty string."""
        fault = orders.get("fault", "")
        self.struck[question] += bool(fault)
        return "" if "times" in orders and self.struck[question] > int(orders["times"]) else fault

    def log(self, client_request_id: str | None, body: Mapping[str, Any], response: Mapping[str, Any] | None) -> None:
        usage = (response or {}).get("usage") or {}
        cost = _cost(usage)
        self.logs.insert(0, {
            "created": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "status": "succeeded" if response else "failed",
            "origin": "api",
            "model": body.get("model"),
            "cost": {"usd": cost["usd_spent"], "credits": cost["credits_used"]},
            "tokens": {
                "input": usage.get("input_tokens", 0),
                "output": usage.get("output_tokens", 0),
                "total": usage.get("total_tokens", 0),
            },
            "request_id": None,
            "inference_id": (response or {}).get("id", ""),
            "client_request_id": client_request_id,
        })  # fmt: skip


def orders(question: str) -> dict[str, str]:
    """What a question asks of the sandbox itself."""
    found = _ORDER.search(question)
    return dict(order.split("=", 1) for order in found[1].split()) if found else {}


def _text(turns: list[tuple[str, str]], question: str, body: Mapping[str, Any], effort: str) -> str:
    form = "by the id of the last answer" if body.get("previous_response_id") else "as a transcript"
    rows = [
        ("model", f"`{body['model']}`"),
        ("effort", effort),
        ("instructions", body.get("instructions") or "none"),
        ("conversation", f"{len(turns)} earlier, sent {form}" if turns else "it begins here"),
    ]
    attached = _attached(body["input"])
    if attached:
        rows.append(("attached", attached))
    table = "\n".join(f"| {name} | {' '.join(str(value).split())[:80].replace('|', '/')} |" for name, value in rows)
    words = len(question.split())
    quote = "\n".join(f"> {line}" for line in question[:400].splitlines())
    earlier = "\n".join(f"{number}. {_first_words(asked)}" for number, (asked, _) in enumerate(turns, start=1))
    return (
        f"**This is the sandbox; no model is behind it.** It read your question of {words} word{'s' * (words != 1)}:\n\n"
        f"{quote}\n\n| sent with it | |\n|---|---|\n{table}\n"
    ) + (f"\nEarlier in this conversation you asked:\n\n{earlier}\n" if turns else "")


def _calls(body: Mapping[str, Any], question: str) -> list[dict[str, Any]]:
    """A call of each function that the question names, with arguments by rule; none once there are results."""
    if isinstance(body["input"], list) and any(item.get("type") == "function_call_output" for item in body["input"]):
        return []
    named = [tool for tool in body.get("tools") or [] if tool.get("type") == "function" and tool["name"] in question]
    return [
        {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}", "name": tool["name"], "status": "completed",
         "arguments": dump(_filled(tool.get("parameters"), tool.get("parameters")))}
        for number, tool in enumerate(named, start=1)
    ]  # fmt: skip


def _filled(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that fits a schema: the first that comes to mind."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "$ref" in schema:
        return _filled(root.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2]), root, depth + 1)
    if schema.get("anyOf"):
        return _filled(schema["anyOf"][0 if depth < 4 else -1], root, depth + 1)
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _filled(entry, root, depth + 1) for name, entry in (schema.get("properties") or {}).items()}
        case "array":
            return [_filled(schema.get("items"), root, depth + 1)] if depth < 4 else []
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "string":
            return {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00"}.get(schema.get("format", ""), "sandbox")
        case _:
            return None


def _attached(asked: Any) -> str:
    """What came along with the newest message, by the line that names each."""
    parts = asked[-1].get("content") if isinstance(asked, list) and asked else []
    texts = [str(part.get("text") or "") for part in parts[1:] if isinstance(part, dict)] if isinstance(parts, list) else []
    names = (text.partition("\n")[0].removesuffix(":") for text in texts if text)
    return "; ".join(name.removeprefix("Attachment ") for name in names)


def _first_words(text: str) -> str:
    line = " ".join(_ORDER.sub("", text).split())
    return line if len(line) <= 60 else line[:59] + "…"


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _usage(given: int, written: int, reasoned: int) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written + reasoned,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": given + written + reasoned,
    }


def _cost(usage: Mapping[str, Any]) -> dict[str, Any]:
    """What the real one might charge; in the sandbox it is play money."""
    usd = sum(usage.get(f"{kind}_tokens", 0) * price / 1e6 for kind, price in _PRICE.items())
    return {"credits_used": round(usd * 2e6), "usd_spent": round(usd, 6)}


def _limit(response: dict[str, Any], limit: int | None) -> None:
    """Stops at `max_output_tokens`: first the reasoning counts, then the text."""
    usage = response["usage"]
    if limit is None or usage["output_tokens"] <= limit:
        return
    reasoned = min(limit, usage["output_tokens_details"]["reasoning_tokens"])
    message = response["output"][1]
    if message["type"] == "message":
        message["content"][0]["text"] = message["content"][0]["text"][: 4 * (limit - reasoned)]
    message["status"] = "incomplete"
    response["usage"] = _usage(usage["input_tokens"], limit - reasoned, reasoned)
    response.update(status="incomplete", incomplete_details={"reason": "max_output_tokens"})


def _spoil(response: dict[str, Any], fault: str) -> None:
    match fault:
        case "incomplete":
            _limit(response, response["usage"]["output_tokens_details"]["reasoning_tokens"] + 8)
        case "refusal":
            refusal = {"type": "refusal", "refusal": "The sandbox was told to refuse."}
            response["output"][1]["content"] = [refusal]
        case "failed":
            error = {"code": "server_error", "message": "The sandbox was told to fail."}
            response.update(status="failed", error=error, output=[], usage=None)


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


def _error(status: int, message: str) -> dict[str, Any]:
    return {"requestId": "sandbox", "statusCode": status, "path": "/v1/responses", "message": message}


_BEGUN = {"status": "in_progress", "summary": [], "content": [], "arguments": ""}  # as much as there is of an item at first


def events(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events that stream a response."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    found: list[dict[str, Any]] = [{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")]
    for index, item in enumerate(response["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {name: _BEGUN.get(name, value) for name, value in item.items()}
        found.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        found += [{**event, **place} for event in _inside(item)]
        found.append({"type": "response.output_item.done", "output_index": index, "item": item})
    found.append({"type": f"response.{response['status']}", "response": response})
    for number, event in enumerate(found):
        event["sequence_number"] = number
    return found


def _inside(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events that tell what an item holds."""
    if item["type"] == "function_call":
        yield {"type": "response.function_call_arguments.delta", "delta": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}
    for number, part in enumerate(item.get("summary", [])):
        yield from _told(part, "reasoning_summary_text", "reasoning_summary_part", {"summary_index": number})
    for number, part in enumerate(item.get("content", [])):
        yield from _told(part, part["type"], "content_part", {"content_index": number})


def _told(part: Mapping[str, Any], kind: str, kind_of_part: str, place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events that tell one part, word by word."""
    field = "refusal" if kind == "refusal" else "text"
    place_of_text = {**place, "logprobs": []} if kind == "output_text" else place
    yield {"type": f"response.{kind_of_part}.added", "part": {**part, field: ""}, **place}
    for word in re.findall(r"\s*\S+|\s+", part[field]):
        yield {"type": f"response.{kind}.delta", "delta": word, **place_of_text}
    yield {"type": f"response.{kind}.done", field: part[field], **place_of_text}
    yield {"type": f"response.{kind_of_part}.done", "part": part, **place}


def application(state: Sandbox) -> Application:
    """The web application over `state`."""
    from tornado.iostream import StreamClosedError
    from tornado.web import Application, RequestHandler

    class Base(RequestHandler):
        def prepare(self) -> None:
            state.last_used = time.monotonic()

        def fail(self, status: int, message: str | None = None) -> None:
            self.set_status(status)
            self.finish(_error(status, message or _MESSAGES.get(status, "An error")))

        def hang_up(self) -> None:
            """Ends the connection without an answer."""
            self.request.connection.stream.close()  # type: ignore[union-attr]  # tornado's HTTP1Connection has it

    class Responses(Base):
        async def post(self) -> None:
            try:
                body = json.loads(self.request.body)
            except (ValueError, RecursionError):
                return self.fail(400, "Body validation error: no JSON")
            if not self.request.headers.get("Authorization", "").startswith("Bearer "):
                return self.fail(401)
            wrong = _wrong(body)
            if wrong:
                return self.fail(400, f"Body validation error\n{wrong}")
            client_request_id = self.request.headers.get("X-Client-Request-Id")
            try:
                _, question = state.conversation(body)
            except KeyError:
                known = {"message": "Previous response not found.", "type": "invalid_request_error"}
                self.set_status(400)
                return await self.finish(
                    {"error": {**known, "param": "previous_response_id", "code": "previous_response_not_found"}}
                )
            asked = orders(question)
            wrong = _wrong_order(asked)
            if wrong:
                return self.fail(400, f"Body validation error\n{wrong}")
            fault = state.strikes(question, asked)
            if await self.strike(fault, float(asked.get("delay", 0)) if not body.get("background") else 0):
                state.log(client_request_id, body, None)
                return None
            response = state.respond(body, {"fault": fault})
            state.log(client_request_id, body, response)
            if body.get("background"):
                state.responses[response["id"]] = response
                state.ready_at[response["id"]] = time.monotonic() + float(asked.get("delay", 0))
                return await self.finish(_seen(state, response["id"]))
            self.set_header("x-inference-id", response["id"])
            if not body.get("stream"):
                return await self.finish({**response, "meta": {"usage": _cost(response["usage"] or {})}})
            return await self.stream(response, float(asked.get("pace", 0)), fault)

        async def strike(self, fault: str, delay: float) -> bool:
            """Waits, then fails as it was told to; `False` if the answer should come all the same."""
            await asyncio.sleep(1e6 if fault == "silent" else delay)
            if fault.isdecimal():
                if fault == "429":
                    self.set_header("Retry-After", "1")
                self.fail(int(fault))
            elif fault == "html":
                self.set_status(502)
                self.finish("<html><head><title>502 Bad Gateway</title></head><body>gateway</body></html>")
            elif fault == "empty":
                self.finish()
            elif fault == "error":
                self.finish(
                    {
                        "error": {
                            "message": "The upstream is overloaded.",
                            "type": "server_error",
                            "code": "server_error",
                        }
                    }
                )
            elif fault == "reset":
                self.hang_up()
            else:
                return False
            return True

        async def stream(self, response: dict[str, Any], pace: float, fault: str) -> None:
            self.set_header("Content-Type", "text/event-stream; charset=utf-8")
            told = events(response)
            with contextlib.suppress(StreamClosedError):
                for event in told[: len(told) // 2] if fault == "cut" else told:
                    self.write(f"event: {event['type']}\ndata: {dump(event)}\n\n")
                    if pace and event["type"].endswith("delta"):
                        await self.flush()
                        await asyncio.sleep(pace)
                if fault == "cut":
                    await self.flush()
                    return self.hang_up()
                self.write(f"data: {dump({'meta': {'usage': _cost(response['usage'] or {})}})}\n\n")

    class OneResponse(Base):
        def get(self, response_id: str) -> None:
            if response_id not in state.responses:
                return self.fail(404)
            self.finish(_seen(state, response_id))

        def delete(self, response_id: str) -> None:
            if state.responses.pop(response_id, None) is None:
                return self.fail(404)
            state.turns.pop(response_id, None)
            self.finish({"id": response_id, "object": "response", "deleted": True})

    class Cancel(Base):
        def post(self, response_id: str) -> None:
            if response_id not in state.responses:
                return self.fail(404)
            if _seen(state, response_id)["status"] == "queued":
                state.responses[response_id] |= {"status": "cancelled", "output": [], "usage": None}
                state.ready_at.pop(response_id, None)
            self.finish(_seen(state, response_id))

    class Models(Base):
        def get(self) -> None:
            units = [{"unit": f"{kind}_token", "price": price, "per": 1_000_000} for kind, price in _PRICE.items()]
            names = {"name": "o3-pro (sandbox)", "developer": "nobody"}
            pricing = {"kind": "fixed", "units": units}
            model = {"id": "openai/o3-pro", "type": "responses", "info": names, "tags": [], "pricing": pricing}
            self.finish({"object": "list", "data": [model]})

    class Billing(Base):
        def get(self) -> None:
            self.finish({"current_balance": 100.0, "currency": "USD"})

    class Logs(Base):
        def get(self) -> None:
            if not re.fullmatch(r"[1-9]\d*[hd]", self.get_query_argument("period", "24h")):
                return self.fail(400, "Body validation error\nperiod: Invalid")
            models, offset = self.get_query_arguments("model"), int(self.get_query_argument("offset", "0"))
            limit = min(int(self.get_query_argument("limit", "50")), 100)
            kept = [entry for entry in state.logs if not models or entry["model"] in models]
            page = {"limit": limit, "offset": offset, "total": len(kept), "has_more": len(kept) > offset + limit}
            self.finish({"data": kept[offset : offset + limit], "pagination": page})

    class Self(Base):
        def get(self) -> None:
            if stopped.is_set():  # nobody should find one that ends
                return self.fail(503)
            self.finish({"name": "aiml_magic sandbox"})

        def delete(self) -> None:
            stopped.set()
            self.finish({"name": "aiml_magic sandbox"})

    stopped = asyncio.Event()
    routes = [
        (r"/v1/responses", Responses), (r"/v1/responses/([^/]+)", OneResponse), (r"/v1/responses/([^/]+)/cancel", Cancel),
        (r"/v1/models", Models), (r"/v2/billing", Billing), (r"/v2/logs", Logs), (r"/sandbox", Self),
    ]  # fmt: skip
    return Application(routes, stopped=stopped, log_function=lambda _: None)


def _wrong(body: Any) -> str:
    """What is wrong with a request, in the vendor's manner; empty if nothing is."""
    if not isinstance(body, dict):
        return "Expected object"
    if not isinstance(body.get("model"), str):
        return "model: Required"
    if not isinstance(body.get("input"), str | list) or not body["input"]:
        return "input: Required"
    limit = body.get("max_output_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 16):
        return "max_output_tokens: Number must be greater than or equal to 16"
    for name, kind in _TYPES.items():
        if not isinstance(body.get(name) or kind(), kind):
            return f"{name}: Expected {_JSON[kind]}"
    if str((body.get("reasoning") or {}).get("effort") or "medium") not in _REASONING:
        return "reasoning.effort: Expected 'low' | 'medium' | 'high'"
    return _wrong_entry(body)


def _wrong_entry(body: Mapping[str, Any]) -> str:
    """As `_wrong`, of what the fields hold."""
    for item in body["input"] if isinstance(body["input"], list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("content") or "", str | list):
            return "input: Expected messages"
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict) or (tool.get("type") == "function" and not isinstance(tool.get("name"), str)):
            return "tools: Expected objects, and names of functions"
    wanted = (body.get("text") or {}).get("format") or {}
    if not isinstance(wanted, dict) or (wanted.get("type") == "json_schema" and not isinstance(wanted.get("schema"), dict)):
        return "text.format: Expected object, and schema"
    return ""


def _wrong_order(asked: Mapping[str, str]) -> str:
    """Which order the sandbox does not know; empty if it knows all."""
    unknown = [f"{name}={value}" for name, value in asked.items() if not re.fullmatch(_ORDERS.get(name, "(?!)"), value)]
    rule = "delay and pace are in seconds, times is a number, fault a status or a word"
    return f"{unknown[0]} is no order for the sandbox: {rule}" if unknown else ""


def _seen(state: Sandbox, response_id: str) -> dict[str, Any]:
    """A stored response as it is now: one in the background is queued until its delay is over."""
    response = state.responses[response_id]
    if time.monotonic() < state.ready_at.get(response_id, 0):
        return {**response, "status": "queued", "output": [], "usage": None}
    return {**response, "meta": {"usage": _cost(response["usage"] or {})}}


async def serve(port: int, home: Path | None, idle: float = IDLE) -> None:
    """Serves on loopback until it was idle for so many seconds; with `home` as its only one, which leaves a note there."""
    lock = None if home is None else _lock(home)
    if home is not None and lock is None:
        return print("Another sandbox of this home is running.")
    state = Sandbox()
    app = application(state)
    sockets, chosen = _bind(port)
    server = _serving(app, sockets)
    if home is not None:
        _leave_note(home, chosen)
    print(f"The sandbox listens on {_address(chosen)}", flush=True)
    stopped: asyncio.Event = app.settings["stopped"]
    while not stopped.is_set() and time.monotonic() - state.last_used < idle:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), min(idle, 60))
    if lock is not None:
        lock.close()  # before the port is, so that the next one finds its place free
    server.stop()
    await asyncio.sleep(0.1)  # the answer to the request that stopped it


@contextlib.contextmanager
def in_this_process() -> Iterator[str]:
    """The base URL of a sandbox in a thread of this process, which ends with it, however that ends. Raises OSError."""
    app, loop = application(Sandbox()), asyncio.new_event_loop()
    sockets, port = _bind(0)
    stopped: asyncio.Event = app.settings["stopped"]

    async def run() -> None:
        server = _serving(app, sockets)
        await stopped.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True, name="aiml_magic-sandbox")
    thread.start()
    try:
        yield _address(port)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def _bind(port: int) -> tuple[list[socket.socket], int]:
    """Sockets of loopback that listen, and their port, which is chosen if it is 0."""
    from tornado.netutil import bind_sockets

    sockets = bind_sockets(port, "127.0.0.1")
    return sockets, int(sockets[0].getsockname()[1])


def _serving(app: Application, sockets: list[socket.socket]) -> HTTPServer:
    from tornado.httpserver import HTTPServer

    server = HTTPServer(app)
    server.add_sockets(sockets)
    return server


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _lock(home: Path) -> sqlite3.Connection | None:
    """A lock on `home`, which ends with its process however that ends; `None` if another process has it."""
    make_private_folder(home)
    path = home / "sandbox.lock"
    path.touch(0o600)
    lock = sqlite3.connect(path, timeout=0, isolation_level=None)  # SQLite locks alike on every system
    try:
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return None
    return lock


def _leave_note(home: Path, port: int) -> None:
    write_private(home / "sandbox.json", dump({"port": port}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aiml_magic.sandbox", description="A stand-in for the API; no model.")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--home", type=Path, help="a folder in which to leave a note of the port")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds without a request after which it ends")
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.home, args.idle))


if __name__ == "__main__":
    main()
