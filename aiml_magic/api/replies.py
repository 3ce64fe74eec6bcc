"""The reply to a request, read from bytes in any form, and its error; no HTTP.

The form is recognized by the first bytes, not by the Content-Type: events, JSON, JSON lines, or a
page. Memory is bounded: by the size of one event, and of the content that all events leave. A
server may echo the key, so its bytes are masked before anything else reads them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiml_magic import errors
from aiml_magic.api import failures
from aiml_magic.api.error_bodies import read_error, read_error_body
from aiml_magic.api.masking import Secrets
from aiml_magic.api.responses import Cost, Raw, Response, cost, is_error, is_response, type_of
from aiml_magic.api.sse import Decoder, EventTooLarge
from aiml_magic.api.stream import Event, Stream
from aiml_magic.text import MAX_JSON, load, one_line

MAX_BODY = MAX_JSON  # bytes of one answer, decompressed
MAX_ERROR_BODY = 2**20
_MAX_BLANK = 1000  # bytes of white space after which a body counts as events
_BLANK = b"\xef\xbb\xbf\r\n\t "
_EVENTS = {"error", "meta", "ping", "keepalive", "heartbeat"}  # besides those of a response


class Listener:
    """The callbacks of a request; these do nothing."""

    async def on_attempt(self, attempt: int) -> None:
        """Called before the question is sent, for the first time or again."""

    def on_sent(self) -> None: ...

    def on_event(self, event: Event) -> None: ...

    def on_retry(self, error: errors.RequestFailed, seconds: float) -> None: ...

    def on_poll(self, response: Raw) -> None:
        """Called before each GET with the response so far."""


@dataclass(frozen=True)
class Reply:
    """The result of a request: a response, maybe partial; its cost; and any error.

    `attempts` is how many times the question was sent. `is_refusal`: the server refused it before a
    model can have worked on it, so it may be sent in another form.
    """

    response: Raw
    cost: Cost | None = None
    notices: tuple[str, ...] = ()
    error: errors.RequestFailed | None = None
    attempts: int = 0
    is_refusal: bool = False


@dataclass(frozen=True)
class Source:
    """A request, the status and headers of its HTTP response, and the secrets to mask."""

    request: Raw
    status: int
    headers: Mapping[str, str]
    secrets: Secrets


class Reader:
    """Reads a streamed answer, chunk by chunk.

    `form` is "events", "lines" (of JSON) or "body" (one JSON value, or a page); `None` until the
    first bytes are read.
    """

    def __init__(self, source: Source, listener: Listener, form: str | None = None) -> None:
        self._source = source
        self._listener = listener
        self._form = form
        self._stream = Stream()
        self._decoder = Decoder()
        self._rest = bytearray()  # of a body, or of lines
        self._notices: list[str] = []

    @property
    def has_ended(self) -> bool:
        return self._stream.has_ended

    @property
    def has_cost(self) -> bool:
        return self._stream.has_cost

    def feed(self, chunk: bytes) -> None:
        """Reads the events that `chunk` completes. Raises EventTooLarge."""
        has_line = b"\n" in chunk
        if self._form is None:
            self._rest += chunk
            self._form = _form_of(self._rest, has_line=has_line)
            chunk = b""
            if self._form == "events":
                chunk, self._rest = bytes(self._rest), bytearray()
        if self._form == "events":
            for event in self._decoder.feed(chunk):
                self._add(event)
            return
        self._rest += chunk
        if self._form == "lines" and has_line:
            *lines, rest = self._rest.split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                self._add(bytes(line))
        if len(self._rest) > MAX_BODY:
            raise EventTooLarge

    def finish(self) -> None:
        """Reads the rest of a stream that ended without an error."""
        left = self._decoder.flush() if self._form == "events" else None
        if left:
            self._notices.append("salvaged_unterminated_event")
        if self._form == "lines":
            left, self._rest = self._rest.decode("utf-8", "replace"), bytearray()
        self._add(left or "")

    def reply(self, ended: str | None = None) -> Reply:
        """The reply of the stream; `ended` is why it broke off, if it did."""
        if self._form in (None, "body") and self._rest.strip(_BLANK):
            return read_whole(bytes(self._rest), self._source, ended)
        return self._judged(ended)

    def _add(self, event: str | bytes) -> None:
        if event.strip() in ("[DONE]", b"[DONE]", "", b""):
            return  # gateways send it, but it is not an event of this API
        try:
            raw = load(event)
        except ValueError:
            raw = None
        if not isinstance(raw, dict):
            if "event_not_json" not in self._notices:
                self._notices.append("event_not_json")
            return
        # A delta may hold a part of a secret only: `_judged` masks them all together.
        is_piece = type_of(raw).endswith(".delta")
        seen = self._stream.add(raw if is_piece else self._source.secrets.load(event))
        if seen is not None:
            self._listener.on_event(seen)
        if self._stream.size > MAX_BODY:
            raise EventTooLarge

    def _judged(self, ended: str | None) -> Reply:
        stream, request = self._stream, self._source.request
        # Secrets that were split between deltas are whole only here.
        response, differs_from_final, fills_final = stream.whole()
        raw = self._source.secrets.without(response)
        has_failed = Response(raw).status == "failed"
        signs = {
            "final_differs_from_stream": differs_from_final,
            "final_left_out": fills_final and not has_failed,
            "error_before_end": stream.has_ended and bool(stream.error) and not has_failed,
            "no_terminal_event": not (stream.has_ended or stream.error or ended),
        }
        notices = (*self._notices, *(code for code, holds in signs.items() if holds))
        spent = cost(raw, self._source.headers, stream.meta)
        # The response leaves out items that were announced and not filled.
        has_worked = stream.has_worked and Response(raw).usage is None
        if stream.has_ended:
            return judged(raw, request, spent, notices, has_worked=has_worked)
        if stream.error is not None and not stream.has_begun:
            return Reply(raw, spent, notices, failures.error_in_success(stream.error))
        if stream.error is not None:
            details = read_error(stream.error)
            error = {"code": details.code, "message": details.message}
            failed = {**raw, "status": "failed", "error": error}
            reply = judged(failed, request, spent, notices, has_worked=has_worked)
            return replace(reply, response=raw)
        can_resume = bool(raw.get("id") and request.get("background") and request.get("store"))
        why = ended or "it ended without a final event"
        return Reply(raw, spent, notices, failures.stream_interrupted(why, can_resume=can_resume))


def read_whole(body: bytes, source: Source, cut: str | None = None) -> Reply:
    """The reply of a complete body: JSON, or events all at once.

    `cut` is why the body was cut off, if it was; JSON that is complete is still an answer.
    """
    try:
        raw = source.secrets.load(body)
    except ValueError:
        if body.lstrip(_BLANK).startswith((b"data:", b"event:", b":")):
            return _read_events(body, source, "events", cut)
        if isinstance(_first_line(body), dict):
            return _read_events(body, source, "lines", cut)
        if cut is not None:
            return Reply({}, error=failures.connection_lost(source.secrets.mask(cut)))
        message = read_error_body(source.secrets.clean(body)[:MAX_ERROR_BODY]).message
        what = (
            f"something that is not a response: {one_line(message)}" if message else "an empty body"
        )
        return Reply({}, error=failures.malformed(what, source.status))
    if not isinstance(raw, dict):
        return Reply({}, error=failures.malformed("JSON that is not a response", source.status))
    if _is_event(raw):
        return _read_events(body, source, "lines", cut)
    spent = cost(raw, source.headers)
    if is_response(raw):
        return judged(raw, source.request, spent, () if cut is None else ("salvaged_after_cut",))
    if is_error(raw):
        return Reply({}, spent, error=failures.error_in_success(raw))
    error = failures.malformed("JSON that is not a response", source.status)
    return Reply(raw, spent, error=error)


def judged(
    raw: Raw,
    request: Raw,
    spent: Cost | None,
    notices: tuple[str, ...],
    *,
    has_worked: bool = False,
) -> Reply:
    """The reply of a response, with its warnings, and its error if it failed."""
    response = Response(raw)
    error = failures.of_response(
        response, has_worked=has_worked or response.has_begun, is_paid=is_paid(spent)
    )
    return Reply(raw, spent, notices + response.warnings(request), error)


def is_paid(spent: Cost | None) -> bool:
    return spent is not None and spent.usd > 0


def weighed(reply: Reply, seconds: float) -> Reply:
    """`reply` as one that took `seconds`: if a model may have worked, it is not sent again."""
    is_quick = failures.is_quick(seconds)
    if reply.error is not None and reply.error.retry == "auto" and not is_quick:
        failures.in_doubt(reply.error)
    return replace(reply, is_refusal=is_quick and not reply.response and not is_paid(reply.cost))


def refused(body: bytes, source: Source, seconds: float) -> Reply:
    """The reply of an HTTP response that is not 2xx.

    With a cost, or a part of an answer, it does not count as a refusal.
    """
    value: Any = None
    with contextlib.suppress(ValueError):
        value = load(body)
    raw = value if isinstance(value, dict) else {}
    error = failures.http_error(source.status, source.headers, body, seconds)
    spent = cost(raw, source.headers)
    if is_paid(spent) or Response(raw).has_begun:
        return Reply(raw if is_response(raw) else {}, spent, error=failures.in_doubt(error))
    return Reply({}, spent, error=error, is_refusal=error.retry in ("auto", "never"))


def _read_events(body: bytes, source: Source, form: str, cut: str | None) -> Reply:
    reader = Reader(source, Listener(), form)
    try:
        reader.feed(body)
        reader.finish()
    except EventTooLarge:
        cut = failures.TOO_LARGE
    return reader.reply(cut)


def _form_of(beginning: bytes | bytearray, *, has_line: bool) -> str | None:
    """The form of a body, or `None` until more is read; `has_line` if a line may have ended."""
    start = beginning[:_MAX_BLANK].lstrip(_BLANK)
    if not start:
        return "events" if len(beginning) >= _MAX_BLANK else None
    if start[:1] in (b"[", b"<"):
        return "body"
    if start[:1] != b"{":
        return "events"
    if not has_line:
        return None
    first = _first_line(beginning)
    return "lines" if isinstance(first, dict) and _is_event(first) else "body"


def _first_line(body: bytes | bytearray) -> Any:
    """The JSON value on the first of several lines; `None` if there is none."""
    line, end, _ = body.lstrip(_BLANK).partition(b"\n")
    try:
        return load(bytes(line)) if end else None
    except ValueError:
        return None


def _is_event(raw: Raw) -> bool:
    kind = type_of(raw)
    return kind in _EVENTS or kind.startswith("response.")
