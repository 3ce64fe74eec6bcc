"""A local stand-in for the API: answers by rule, no model behind it, and every answer says so.

    python -m aiml_magic.sandbox --port 9000

It keeps conversations, streams, calls the functions that a question names, fills schemas, reports
usage and cost, runs in the background and fails on demand, so that everything can be tried without
a key or a network. The same conversation always gets the same answer, id and date, so that a
notebook that uses it comes out the same each time. A line in the question makes it slow or makes it
fail:

    sandbox: delay=5 pace=0.02 fault=503 times=1

`delay` is in seconds, `pace` in seconds per word; `fault` is an HTTP status, or html, reset, cut,
silent, incomplete, refusal, failed, empty or error; `times` says how often it strikes (else
always). Any other order is refused.

Nobody but its user may read what is asked here. It answers to names of this machine only, so that
no name that was bent to lead here is one; to no web page, since a browser names the page in a
header; and to whoever sends its token, which is made when it starts and kept in a private note at
home. Whoever has got its port instead is not told the token: first it has to prove that it has it.
One that is started by hand has no token, and takes any key.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic.addresses import home, is_loopback
from aiml_magic.credentials import environment, new_token, proof
from aiml_magic.files import make_private_folder, raise_open_limit, write_private
from aiml_magic.text import count_of, cut, dump, load

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer
    from tornado.iostream import IOStream
    from tornado.web import Application

IDLE = 30 * 60.0  # seconds without a request after which it ends
_PATIENCE = 2.0  # seconds in which one that lives proves that it does
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)

# What it holds of others, in bytes and seconds.
_MAX_BODY = 32 * 2**20  # one request
_MAX_BODIES = 128 * 2**20  # all requests that are not answered yet, but for the beginning of each
_BEGINNING = 64 * 2**10
_MAX_VALUES = 2**22  # in one request: bounds the memory that few bytes can ask for
_MAX_KEPT = 64 * 2**20  # the conversations that it remembers
_MAX_LOG = 10_000  # entries
_MAX_CONNECTIONS = 800
_MAX_WAIT = 60.0  # for the rest of a request that has begun, or for the next one on its connection
_FLUSH = 2**18  # of a stream, held until the other side has read it
_CREATED = 1_767_225_600  # its clock stands still, at the beginning of 2026
_PRICE = {
    "input": 21.0,
    "output": 84.0,
}  # dollars for a million tokens, as a stand-in for the real price
_REASONING = {"low": 64, "medium": 256, "high": 1024}  # tokens
_ORDER = re.compile(r"^sandbox:((?:[ \t]+\w+=[\w.-]+)+)[ \t]*$", re.MULTILINE)
_ORDERS = {  # what may follow each
    "delay": r"\d{1,9}(\.\d+)?",
    "pace": r"\d{1,9}(\.\d+)?",
    "fault": r"[45]\d\d|html|reset|cut|silent|incomplete|refusal|failed|empty|error",
    "times": r"\d{1,9}",
}
# What a field is, if it is there.
_TYPES = {
    "instructions": str,
    "previous_response_id": str,
    "reasoning": dict,
    "text": dict,
    "tools": list,
}
_JSON = {str: "string", dict: "object", list: "array"}
_started: list[subprocess.Popen[bytes]] = []  # kept, so that they are no zombies nor warnings
_here: dict[str, str] = {}  # the tokens of those in this process, by their addresses


class Note(NamedTuple):
    """What a sandbox leaves at home, for its user alone."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def find_or_start(home: Path, patience: float = 20.0) -> str:
    """The base URL of this user's sandbox, which is started if none runs. Raises SandboxError."""
    note = _running(home)
    if note is None:
        process = _start(home)
        deadline = time.monotonic() + patience
        while (note := _running(home)) is None:
            if process.poll() or time.monotonic() > deadline:
                raise _not_started(process)
            time.sleep(0.02)
        if process.stderr is not None:
            process.stderr.close()
    return note.url


def is_in_this_process(url: str) -> bool:
    return url in _here


def token(url: str) -> str | None:
    """The token of the sandbox of this process or of this home at `url`; `None` if there is no such, or no longer."""
    if url in _here:
        return _here[url]
    note = _note(home())
    return note.token if note is not None and note.url == url else None


def stop(home: Path) -> bool:
    """Ends this user's sandbox; `False` if none was running."""
    note = _running(home)
    if note is not None:
        _call(note.port, "DELETE", "/sandbox", f"Authorization: Bearer {note.token}\r\n")
        for process in _started:
            if process.args[-1] == str(home):  # type: ignore[index]  # a list, as `_start` gives it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
    _started[:] = [process for process in _started if process.poll() is None]
    return note is not None


def _start(home: Path) -> subprocess.Popen[bytes]:
    from aiml_magic.errors import SandboxError

    command = [sys.executable, "-P", "-m", "aiml_magic.sandbox", "--home", str(home)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,  # it outlives the kernel, as the API does
        )
    except OSError as error:
        raise SandboxError(f"The sandbox did not start: {error}.", _BY_HAND) from error
    _started.append(process)
    return process


def _not_started(process: subprocess.Popen[bytes]) -> Exception:
    """The error for one that ended or is not ready in time, with its own last words."""
    from aiml_magic.errors import SandboxError

    assert process.stderr is not None
    with process.stderr as stderr:
        if not process.poll():
            return SandboxError(
                "The sandbox did not start in time; another one of this home may hang.",
                "Try again when the machine has less to do; or set AIML_MAGIC_HOME to another folder.",
            )
        words = stderr.read().decode("utf-8", "replace").split("\n")
    why = next(
        (line.strip() for line in reversed(words) if line.strip()),
        f"it ended with code {process.returncode}",
    )
    return SandboxError(f"The sandbox did not start: {why[:300].rstrip('.')}.", _BY_HAND)


_BY_HAND = (
    "Correct that, or set AIML_MAGIC_HOME to a folder that can be written; "
    "by hand it needs none: python -m aiml_magic.sandbox"
)


def _running(home: Path) -> Note | None:
    """The note of the sandbox of this home, if the one at its port proves that it is the one that left it."""
    note = _note(home)
    if note is None:
        return None
    nonce = secrets.token_hex(16)
    shown = _call(note.port, "GET", f"/sandbox/proof?nonce={nonce}")
    return (
        note if hmac.compare_digest(shown, proof(note.token, note.port, nonce).encode()) else None
    )


def _note(home: Path) -> Note | None:
    try:
        raw = load(_path(home, "json").read_text("utf-8"))
        port, token = int(raw["port"]), raw["token"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return Note(port, token) if 0 < port < 2**16 and isinstance(token, str) and token else None


def _call(port: int, method: str, path: str, headers: str = "") -> bytes:
    """The beginning of what is answered at a port of this machine, in time: something else may have got it."""
    deadline, told, body = time.monotonic() + _PATIENCE, b"", b""
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Connection: close\r\n\r\n"
    )
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), _PATIENCE) as connection,
    ):
        connection.sendall(request.encode("ascii"))
        while (left := deadline - time.monotonic()) > 0 and len(told) < 2000 and len(body) < 64:
            connection.settimeout(left)
            if not (piece := connection.recv(1000)):
                break
            told += piece
            body = told.partition(b"\r\n\r\n")[2]
    return body


def _path(home: Path, ending: str) -> Path:
    """The note or the lock of the sandbox that can be reached from here.

    A home may be shared by machines and by containers, each with a loopback of its own: so they are
    told apart by their names, by when they were started, and by their networks.
    """
    told = [socket.gethostname()]
    with contextlib.suppress(OSError):  # where there is no such thing, the name must do
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        told.append(str(Path("/proc/self/ns/net").readlink()))
    return home / f"sandbox-{hashlib.sha256(dump(told).encode()).hexdigest()[:12]}.{ending}"


class Sandbox:
    """What the stand-in remembers: responses with their conversations, a log, and the faults that have struck."""

    def __init__(self) -> None:
        self.responses: dict[str, dict[str, Any]] = {}
        self.ready_at: dict[str, float] = {}
        self.turns: dict[str, list[tuple[str, str]]] = {}
        self.sizes: dict[str, int] = {}  # of what is remembered of each, in bytes; the oldest first
        self.logs: list[dict[str, Any]] = []
        self.struck: Counter[str] = Counter()
        self.kept = 0  # bytes, of all that is remembered
        self.unanswered = 0  # bytes of requests
        self.last_used = time.monotonic()

    def conversation(self, body: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str]:
        """The turns so far as question and answer, and the new question.

        Raises KeyError for an unknown response.
        """
        turns = (
            list(self.turns[body["previous_response_id"]])
            if body.get("previous_response_id")
            else []
        )
        if isinstance(body["input"], str):
            return turns, body["input"]
        asked = ""
        results = [
            str(item.get("output"))
            for item in body["input"]
            if item.get("type") == "function_call_output"
        ]
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

    def keep(
        self, response: dict[str, Any], turns: list[tuple[str, str]] | None, size: int
    ) -> None:
        """Remembers a response, and the conversation if one may go on from it; forgets the oldest when there is too much."""
        response_id = response["id"]
        self.forget(response_id)
        self.responses[response_id], self.sizes[response_id] = response, size
        if turns is not None:
            self.turns[response_id] = turns
        self.kept += size
        while self.kept > _MAX_KEPT:
            self.forget(next(iter(self.sizes)))

    def forget(self, response_id: str) -> bool:
        """`False` if there is no such response."""
        self.turns.pop(response_id, None)
        self.ready_at.pop(response_id, None)
        self.kept -= self.sizes.pop(response_id, 0)
        return self.responses.pop(response_id, None) is not None

    def respond(self, body: Mapping[str, Any], orders: Mapping[str, str]) -> dict[str, Any]:
        """The response to a request, by rule.

        Raises KeyError for an unknown `previous_response_id`.
        """
        turns, question = self.conversation(body)
        reasoning = body.get("reasoning") or {}
        effort = reasoning.get("effort") or "medium"
        wanted = (body.get("text") or {}).get("format") or {}
        text = (
            dump(_filled(wanted["schema"], wanted["schema"]))
            if wanted.get("type") == "json_schema"
            else _text(turns, _ORDER.sub("", question).strip(), body, effort)
        )
        identity = hashlib.sha256(
            dump(
                [turns, body["input"], body.get("model"), body.get("instructions"), reasoning]
            ).encode()
        )
        response_id = "sandbox_" + identity.hexdigest()[:16]
        told = sum(_tokens(asked) + _tokens(answered) for asked, answered in turns)
        usage = _usage(
            told + _tokens(question) + _tokens(body.get("instructions") or ""),
            _tokens(text),
            _REASONING[effort],
        )
        summary = [
            {
                "type": "summary_text",
                "text": f"**Counting words**\n\nThe question has {len(question.split())}.",
            }
        ]
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
                {
                    "id": "rs_1",
                    "type": "reasoning",
                    "summary": summary if reasoning.get("summary") else [],
                },
                *(
                    _calls(body, question)
                    or [
                        {
                            "id": "msg_1",
                            "type": "message",
                            "role": "assistant",
                            "status": "completed",
                            "content": [content],
                        }
                    ]
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
        if body.get("store") or body.get("background"):
            size = len(dump(body)) + len(text)
            self.keep(response, [*turns, (question, text)] if body.get("store") else None, size)
        return response

    def strikes(self, question: str, orders: Mapping[str, str]) -> str:
        """The fault to show for this request, or the empty string."""
        fault = orders.get("fault", "")
        if not fault:
            return ""
        known = hashlib.sha256(
            dump(question).encode()
        ).hexdigest()  # as short for a long question as for any
        self.struck[known] += 1
        return "" if "times" in orders and self.struck[known] > int(orders["times"]) else fault

    def log(
        self,
        client_request_id: str | None,
        body: Mapping[str, Any],
        response: Mapping[str, Any] | None,
    ) -> None:
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
        del self.logs[_MAX_LOG:]


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
    table = "\n".join(
        f"| {name} | {' '.join(str(value).split())[:80].replace('|', '/')} |"
        for name, value in rows
    )
    words = len(question.split())
    quote = "\n".join(f"> {line}" for line in question[:400].splitlines())
    read = (
        f"your question of {count_of(words, 'word')}:\n\n{quote}"
        if words
        else "orders, and no question."
    )
    earlier = "\n".join(
        f"{number}. {_first_words(asked) or 'orders alone'}"
        for number, (asked, _) in enumerate(turns, start=1)
    )
    said = f"**This is the sandbox; no model is behind it.** It read {read}\n\n| sent with it | |\n|---|---|\n{table}\n"
    return said + (f"\nEarlier in this conversation you asked:\n\n{earlier}\n" if turns else "")


def _calls(body: Mapping[str, Any], question: str) -> list[dict[str, Any]]:
    """A call of each function that the question names, with arguments by rule; none once there are results."""
    if isinstance(body["input"], list) and any(
        item.get("type") == "function_call_output" for item in body["input"]
    ):
        return []
    named = [
        tool
        for tool in body.get("tools") or []
        if tool.get("type") == "function" and tool["name"] in question
    ]
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
        return _filled(
            root.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2]), root, depth + 1
        )
    if schema.get("anyOf"):
        return _filled(schema["anyOf"][0 if depth < 4 else -1], root, depth + 1)
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {
                name: _filled(entry, root, depth + 1)
                for name, entry in (schema.get("properties") or {}).items()
            }
        case "array":
            return [_filled(schema.get("items"), root, depth + 1)] if depth < 4 else []
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "string":
            return {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00"}.get(
                schema.get("format", ""), "sandbox"
            )
        case _:
            return None


def _attached(asked: Any) -> str:
    """What came along with the newest message, by the line that names each."""
    parts = asked[-1].get("content") if isinstance(asked, list) and asked else []
    texts = (
        [str(part.get("text") or "") for part in parts[1:] if isinstance(part, dict)]
        if isinstance(parts, list)
        else []
    )
    names = (text.partition("\n")[0].removesuffix(":") for text in texts if text)
    return "; ".join(name.removeprefix("Attachment ") for name in names)


def _first_words(text: str) -> str:
    return cut(" ".join(_ORDER.sub("", text).split()))


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
    return {
        "requestId": "sandbox",
        "statusCode": status,
        "path": "/v1/responses",
        "message": message,
    }


_BEGUN = {
    "status": "in_progress",
    "summary": [],
    "content": [],
    "arguments": "",
}  # as much as there is of an item at first


def events(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events that stream a response."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    found: list[dict[str, Any]] = [
        {"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")
    ]
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
        yield from _told(
            part, "reasoning_summary_text", "reasoning_summary_part", {"summary_index": number}
        )
    for number, part in enumerate(item.get("content", [])):
        yield from _told(part, part["type"], "content_part", {"content_index": number})


def _told(
    part: Mapping[str, Any], kind: str, kind_of_part: str, place: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The events that tell one part, word by word."""
    field = "refusal" if kind == "refusal" else "text"
    place_of_text = {**place, "logprobs": []} if kind == "output_text" else place
    yield {"type": f"response.{kind_of_part}.added", "part": {**part, field: ""}, **place}
    for word in re.findall(r"\s*\S+|\s+", part[field]):
        yield {"type": f"response.{kind}.delta", "delta": word, **place_of_text}
    yield {"type": f"response.{kind}.done", field: part[field], **place_of_text}
    yield {"type": f"response.{kind_of_part}.done", "part": part, **place}


def application(state: Sandbox, note: Note) -> Application:
    """The web application over `state`, for whoever has the token of `note`; if that is empty, for whoever sends any key."""
    from tornado.iostream import StreamClosedError
    from tornado.web import Application, RequestHandler, stream_request_body

    @stream_request_body  # so that nothing is read of a request that is refused
    class Base(RequestHandler):
        def initialize(self) -> None:
            self.body = bytearray()
            self.too_much = 0  # the status that says so
            self.held = 0  # bytes that count among those of all unanswered requests
            self.is_read = False
            self.is_hung_up = asyncio.Event()

        def prepare(self) -> None:
            """Refuses whoever is not the user of this sandbox."""
            host = _HOST.fullmatch(self.request.headers.get("Host", ""))
            if host is None or not is_loopback(host[1]):
                return self.fail(403, "The sandbox answers to names of this machine only.")
            if "Origin" in self.request.headers:
                return self.fail(403, "The sandbox answers to no web page.")
            if not self.is_known():
                return self.fail(401)
            state.last_used = time.monotonic()
            return None

        def is_known(self) -> bool:
            """The token was sent; if there is none, any key."""
            kind, _, key = self.request.headers.get("Authorization", "").partition(" ")
            is_same = hmac.compare_digest(key.encode("utf-8", "replace"), note.token.encode())
            return kind == "Bearer" and (is_same if note.token else bool(key))

        def data_received(self, chunk: bytes) -> None:
            counted = len(chunk) if len(self.body) + len(chunk) > _BEGINNING else 0
            if len(self.body) + len(chunk) > _MAX_BODY:
                self.too_much = 413
            elif state.unanswered + counted > _MAX_BODIES:
                self.too_much = 503
            if self.too_much:
                return self.let_go()
            self.body += chunk
            self.held += counted
            state.unanswered += counted
            return None

        def let_go(self) -> None:
            """Holds the request no longer."""
            state.unanswered -= self.held
            self.held = 0
            self.body.clear()

        def on_finish(self) -> None:
            self.let_go()

        def on_connection_close(self) -> None:
            super().on_connection_close()
            self.is_hung_up.set()
            if not self.is_read:  # else it is answered all the same, as by the real one
                self.let_go()

        def fail(self, status: int, message: str | None = None) -> None:
            self.set_status(status)
            self.finish(_error(status, message or _MESSAGES.get(status, "An error")))

        def hang_up(self) -> None:
            """Ends the connection without an answer."""
            self.request.connection.stream.close()  # type: ignore[union-attr]  # tornado's HTTP1Connection has it

    class Responses(Base):
        async def post(self) -> None:
            if self.too_much:
                return self.fail(self.too_much)
            self.is_read = True
            try:
                body = _read(self.body)
            except ValueError:
                return self.fail(400, "Body validation error: no JSON")
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
                    {
                        "error": {
                            **known,
                            "param": "previous_response_id",
                            "code": "previous_response_not_found",
                        }
                    }
                )
            asked = orders(question)
            wrong = _wrong_order(asked)
            if wrong:
                return self.fail(400, f"Body validation error\n{wrong}")
            fault = state.strikes(question, asked)
            if await self.strike(
                fault, float(asked.get("delay", 0)) if not body.get("background") else 0
            ):
                state.log(client_request_id, body, None)
                return None
            response = state.respond(body, {"fault": fault})
            state.log(client_request_id, body, response)
            if body.get("background"):
                state.ready_at[response["id"]] = time.monotonic() + float(asked.get("delay", 0))
                return await self.finish(_seen(state, response["id"]))
            self.set_header("x-inference-id", response["id"])
            if not body.get("stream"):
                return await self.finish(
                    {**response, "meta": {"usage": _cost(response["usage"] or {})}}
                )
            return await self.stream(response, float(asked.get("pace", 0)), fault)

        async def strike(self, fault: str, delay: float) -> bool:
            """Waits, then fails as it was told to; `False` if the answer should come all the same."""
            await (self.is_hung_up.wait() if fault == "silent" else asyncio.sleep(delay))
            if fault.isdecimal():
                if fault == "429":
                    self.set_header("Retry-After", "1")
                self.fail(int(fault))
            elif fault == "html":
                self.set_status(502)
                self.finish(
                    "<html><head><title>502 Bad Gateway</title></head><body>gateway</body></html>"
                )
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
            told, waiting = events(response), 0
            with contextlib.suppress(StreamClosedError):
                for event in told[: len(told) // 2] if fault == "cut" else told:
                    line = f"event: {event['type']}\ndata: {dump(event)}\n\n"
                    self.write(line)
                    waiting += len(line)
                    is_paced = bool(pace) and event["type"].endswith("delta")
                    if is_paced or waiting > _FLUSH:
                        await self.flush()
                        waiting = 0
                    if is_paced:
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
            if not state.forget(response_id):
                return self.fail(404)
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
            units = [
                {"unit": f"{kind}_token", "price": price, "per": 1_000_000}
                for kind, price in _PRICE.items()
            ]
            names = {"name": "o3-pro (sandbox)", "developer": "nobody"}
            pricing = {"kind": "fixed", "units": units}
            model = {
                "id": "openai/o3-pro",
                "type": "responses",
                "info": names,
                "tags": [],
                "pricing": pricing,
            }
            self.finish({"object": "list", "data": [model]})

    class Billing(Base):
        def get(self) -> None:
            self.finish({"current_balance": 100.0, "currency": "USD"})

    class Logs(Base):
        def get(self) -> None:
            if not re.fullmatch(r"[1-9]\d*[hd]", self.get_query_argument("period", "24h")):
                return self.fail(400, "Body validation error\nperiod: Invalid")
            wanted = {
                name: self.get_query_argument(name, default)
                for name, default in (("offset", "0"), ("limit", "50"))
            }
            for name, value in wanted.items():
                if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
                    return self.fail(400, f"Body validation error\n{name}: Invalid")
            models, offset, limit = (
                self.get_query_arguments("model"),
                int(wanted["offset"]),
                min(int(wanted["limit"]), 100),
            )
            kept = [entry for entry in state.logs if not models or entry["model"] in models]
            page = {
                "limit": limit,
                "offset": offset,
                "total": len(kept),
                "has_more": len(kept) > offset + limit,
            }
            self.finish({"data": kept[offset : offset + limit], "pagination": page})

    class Self(Base):
        def delete(self) -> None:
            stopped.set()
            self.finish({"name": "aiml_magic sandbox"})

    class Proof(Base):
        def is_known(self) -> bool:
            return True  # nobody tells the token before this is answered

        def get(self) -> None:
            if stopped.is_set() or not note.token:  # nobody should find one that ends
                return self.fail(404)
            self.finish(proof(note.token, note.port, self.get_query_argument("nonce", "")))

    class Unknown(Base):
        def prepare(self) -> None:
            super().prepare()
            if not self._finished:
                self.fail(404)

    stopped = asyncio.Event()
    routes = [
        (r"/v1/responses", Responses), (r"/v1/responses/([^/]+)", OneResponse), (r"/v1/responses/([^/]+)/cancel", Cancel),
        (r"/v1/models", Models), (r"/v2/billing", Billing), (r"/v2/logs", Logs), (r"/sandbox", Self),
        (r"/sandbox/proof", Proof),
    ]  # fmt: skip
    return Application(
        routes, stopped=stopped, log_function=lambda _: None, default_handler_class=Unknown
    )


def _read(body: bytearray) -> Any:
    """The value of a request's JSON. Raises ValueError, also for one with too many values."""
    if sum(map(body.count, b"{[,")) > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    finally:
        body.clear()


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
        if not isinstance(tool, dict) or (
            tool.get("type") == "function" and not isinstance(tool.get("name"), str)
        ):
            return "tools: Expected objects, and names of functions"
    wanted = (body.get("text") or {}).get("format") or {}
    if not isinstance(wanted, dict) or (
        wanted.get("type") == "json_schema" and not isinstance(wanted.get("schema"), dict)
    ):
        return "text.format: Expected object, and schema"
    return ""


def _wrong_order(asked: Mapping[str, str]) -> str:
    """Which order the sandbox does not know; empty if it knows all."""
    unknown = [
        f"{name}={value}"
        for name, value in asked.items()
        if not re.fullmatch(_ORDERS.get(name, "(?!)"), value)
    ]
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
    sockets, chosen = _bind(port)
    note = Note(chosen, "" if home is None else new_token())
    app = application(state, note)
    server = _serving(app, sockets)
    print(f"The sandbox listens on {note.url}", flush=True)
    if home is None:
        print(
            f"To ask it, set AIML_API_URL={note.url} and AIML_API_KEY to anything: it takes any key.",
            flush=True,
        )
    else:
        _sweep(home)
        _leave_note(home, note)
        print(f"It wants the token that is in {_path(home, 'json')}", flush=True)
        _fall_silent()
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
    """The base URL of a sandbox in a thread of this process, which ends with it, however that ends.

    Raises OSError.
    """
    sockets, port = _bind(0)
    note = Note(port, new_token())
    app, loop = application(Sandbox(), note), asyncio.new_event_loop()
    stopped: asyncio.Event = app.settings["stopped"]

    async def run() -> None:
        server = _serving(app, sockets)
        await stopped.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(
        target=loop.run_until_complete, args=(run(),), daemon=True, name="aiml_magic-sandbox"
    )
    thread.start()
    _here[note.url] = note.token
    try:
        yield note.url
    finally:
        del _here[note.url]
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def _bind(port: int) -> tuple[list[socket.socket], int]:
    """Sockets of loopback that listen, and their port, which is chosen if it is 0."""
    from tornado.netutil import bind_sockets

    sockets = bind_sockets(port, "127.0.0.1")
    return sockets, int(sockets[0].getsockname()[1])


def _serving(app: Application, sockets: list[socket.socket]) -> HTTPServer:
    """A server that holds no more connections than it should, and none that goes no further."""
    from tornado.httpserver import HTTPServer

    class Bounded(HTTPServer):
        def handle_stream(self, stream: IOStream, address: Any) -> None:
            if len(self._connections) >= _MAX_CONNECTIONS:
                return stream.close()
            return super().handle_stream(stream, address)

    # A body may be longer than is kept of it, so that whoever sends it is told.
    server = Bounded(
        app, max_body_size=8 * _MAX_BODY, body_timeout=_MAX_WAIT, idle_connection_timeout=_MAX_WAIT
    )
    server.add_sockets(sockets)
    return server


def _lock(home: Path) -> sqlite3.Connection | None:
    """A lock on the place of a sandbox at `home`; `None` if another process has it."""
    make_private_folder(home)
    path = _path(home, "lock")
    path.touch(0o600)
    return _locked(path)


def _locked(path: Path) -> sqlite3.Connection | None:
    """A lock that ends with its process however that ends; `None` if another process has it."""
    lock = sqlite3.connect(
        path, timeout=0, isolation_level=None
    )  # SQLite locks alike on every system
    try:
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return None
    return lock


def _sweep(home: Path) -> None:
    """Removes what sandboxes have left that ended with their machine or their container: locks that nobody holds, and notes."""
    for path in home.glob("sandbox*.lock"):
        with contextlib.suppress(OSError, sqlite3.Error):
            if path != _path(home, "lock") and (lock := _locked(path)) is not None:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
                lock.close()


def _leave_note(home: Path, note: Note) -> None:
    write_private(_path(home, "json"), dump(note._asdict()))


def _fall_silent() -> None:
    """From now on nobody reads what is said here."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aiml_magic.sandbox", description="A stand-in for the API; no model."
    )
    parser.add_argument(
        "--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free one"
    )
    parser.add_argument(
        "--home",
        type=Path,
        help="a folder in which to leave a note of the port and a token, which it then wants",
    )
    parser.add_argument(
        "--idle", type=float, default=IDLE, help="seconds without a request after which it ends"
    )
    args = parser.parse_args()
    raise_open_limit()
    try:
        asyncio.run(serve(args.port, args.home, args.idle))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except sqlite3.Error as error:
        sys.exit(f"{args.home}: {error}")
