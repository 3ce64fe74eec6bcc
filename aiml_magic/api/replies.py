"""What came of a request: the bytes of an answer read, whatever their form, and judged; no HTTP.

The form is told by how the bytes begin, not by their Content-Type: events, JSON, JSON line by
line, or a page. What a server may make this process hold in memory is bounded: one event, and what
is kept of all events, but not the sum of their envelopes. A server may echo the key: whatever it
said is masked here, before anything is made of it.
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
from aiml_magic.api.responses import Cost, Raw, Response, cost, is_error, is_response
from aiml_magic.api.sse import Decoder, EventTooLarge
from aiml_magic.api.stream import Event, Stream
from aiml_magic.text import MAX_JSON, load, one_line

MAX_BODY = MAX_JSON  # bytes of one answer, decompressed
MAX_ERROR_BODY = 2**20
_MAX_BLANK = 1000  # bytes of white space before the form of a body is known
_BLANK = b"\xef\xbb\xbf\r\n\t "
_EVENTS = {"error", "meta", "ping", "keepalive", "heartbeat"}  # besides those of a response


class Listener:
    """Told of what happens while it happens; this one does nothing about it."""

    async def on_attempt(self, attempt: int) -> None:
        """Told before the question is sent for the second time, and each time after that."""

    def on_sent(self) -> None: ...

    def on_event(self, event: Event) -> None: ...

    def on_retry(self, error: errors.RequestFailed, seconds: float) -> None: ...

    def on_poll(self, response: Raw) -> None:
        """Told, before each look, what is known of a response that the server works on."""


@dataclass(frozen=True)
class Reply:
    """The result of a request: a response, or the part that came; its cost; and any error.

    `attempts` is how many times the question was sent. `is_refusal` says that the server refused it
    before a model can have worked on it, so that it may be sent in another form.
    """

    response: Raw
    cost: Cost | None = None
    notices: tuple[str, ...] = ()
    error: errors.RequestFailed | None = None
    attempts: int = 0
    is_refusal: bool = False


@dataclass(frozen=True)
class Source:
    """The request, the status and headers of its answer, and the secrets to mask."""

    request: Raw
    status: int
    headers: Mapping[str, str]
    secrets: Secrets


class Reader:
    """Reads a streamed answer, chunk by chunk.

    `form` is "events", "lines" (of JSON) or "body" (one JSON value, or a page), `None` until the
    bytes tell.
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
                self._take(event)
            return
        self._rest += chunk
        if self._form == "lines" and has_line:
            *lines, rest = self._rest.split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                self._take(bytes(line))
        if len(self._rest) > MAX_BODY:
            raise EventTooLarge

    def finish(self) -> None:
        """Reads what is left when the stream has ended in good order."""
        left = self._decoder.flush() if self._form == "events" else None
        if left:
            self._notices.append("salvaged_unterminated_event")
        if self._form == "lines":
            left, self._rest = self._rest.decode("utf-8", "replace"), bytearray()
        self._take(left or "")

    def reply(self, ended: str | None = None) -> Reply:
        """What came of the stream, which ended in good order, or for this reason."""
        if self._form in (None, "body") and self._rest.strip(_BLANK):
            return read_whole(bytes(self._rest), self._source, ended)
        return self._judged(ended)

    def _take(self, event: str | bytes) -> None:
        if event.strip() in ("[DONE]", b"[DONE]", "", b""):
            return  # no terminal event of this API, though gateways send it
        try:
            raw = load(event)
        except ValueError:
            raw = None
        if not isinstance(raw, dict):
            if "event_not_json" not in self._notices:
                self._notices.append("event_not_json")
            return
        # A piece is masked with the others: alone it may say nothing.
        is_piece = str(raw.get("type")).endswith(".delta")
        seen = self._stream.add(raw if is_piece else self._source.secrets.load(event))
        if seen is not None:
            self._listener.on_event(seen)
        if self._stream.size > MAX_BODY:
            raise EventTooLarge

    def _judged(self, ended: str | None) -> Reply:
        stream, request = self._stream, self._source.request
        # What came in pieces is a secret only now.
        raw = self._source.secrets.without(stream.response())
        has_failed = Response(raw).status == "failed"
        signs = {
            "final_differs_from_stream": stream.differs_from_final,
            "final_left_out": stream.fills_final and not has_failed,
            "error_before_end": stream.has_ended and bool(stream.error) and not has_failed,
            "no_terminal_event": not (stream.has_ended or stream.error or ended),
        }
        notices = (*self._notices, *(code for code, holds in signs.items() if holds))
        spent = cost(raw, self._source.headers, stream.meta)
        # An item that was only announced is in no response.
        has_worked = stream.has_worked and Response(raw).usage is None
        if stream.has_ended:
            return judged(raw, request, spent, notices, has_worked=has_worked)
        if stream.error is not None and not stream.has_begun:
            return Reply(raw, spent, notices, failures.error_in_success(stream.error))
        if stream.error is not None:
            said = read_error(stream.error)
            error = {"code": said.code, "message": said.message}
            failed = {**raw, "status": "failed", "error": error}
            reply = judged(failed, request, spent, notices, has_worked=has_worked)
            return replace(reply, response=raw)
        can_resume = bool(raw.get("id") and request.get("background") and request.get("store"))
        why = ended or "it ended without saying that it was done"
        return Reply(raw, spent, notices, failures.stream_interrupted(why, can_resume=can_resume))


def read_whole(body: bytes, source: Source, cut: str | None = None) -> Reply:
    """A JSON answer, or events that came all at once.

    What came of one that was cut off, for the reason `cut`, is still an answer if it is whole.
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
        said = read_error_body(source.secrets.clean(body)[:MAX_ERROR_BODY]).message
        what = f"something that is no response: {one_line(said)}" if said else "an empty body"
        return Reply({}, error=failures.malformed(what, source.status))
    if not isinstance(raw, dict):
        return Reply({}, error=failures.malformed("JSON that is no response", source.status))
    if _is_event(raw):
        return _read_events(body, source, "lines", cut)
    spent = cost(raw, source.headers)
    if is_response(raw):
        return judged(raw, source.request, spent, () if cut is None else ("salvaged_after_cut",))
    if is_error(raw):
        return Reply({}, spent, error=failures.error_in_success(raw))
    error = failures.malformed("JSON that is no response", source.status)
    return Reply(raw, spent, error=error)


def judged(
    raw: Raw,
    request: Raw,
    spent: Cost | None,
    notices: tuple[str, ...],
    *,
    has_worked: bool = False,
) -> Reply:
    """The reply of a response, with the remarks on it, and its error if it failed."""
    response = Response(raw)
    error = failures.of_response(
        response, has_worked=has_worked or response.has_begun, is_paid=is_paid(spent)
    )
    return Reply(raw, spent, notices + response.warnings(request), error)


def is_paid(spent: Cost | None) -> bool:
    return spent is not None and spent.usd > 0


def weighed(reply: Reply, seconds: float) -> Reply:
    """`reply` after `seconds`; no other attempt follows if a model may have worked."""
    is_quick = failures.is_quick(seconds)
    if reply.error is not None and reply.error.retry == "auto" and not is_quick:
        failures.in_doubt(reply.error)
    return replace(reply, is_refusal=is_quick and not reply.response and not is_paid(reply.cost))


def refused(body: bytes, source: Source, seconds: float) -> Reply:
    """An HTTP answer that is not 2xx.

    With a cost, or anything of an answer, it refused nothing, whatever it says.
    """
    raw: Any = None
    with contextlib.suppress(ValueError):
        raw = load(body)
    said = raw if isinstance(raw, dict) else {}
    error = failures.http_error(source.status, source.headers, body, seconds)
    spent = cost(said, source.headers)
    if is_paid(spent) or Response(said).has_begun:
        return Reply(said if is_response(said) else {}, spent, error=failures.in_doubt(error))
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
    """The form of a body that begins so, or `None` yet; `has_line` if a line may have ended."""
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
    """The JSON value on the first line of several; `None` if there is none."""
    line, end, _ = body.lstrip(_BLANK).partition(b"\n")
    try:
        return load(bytes(line)) if end else None
    except ValueError:
        return None


def _is_event(raw: Raw) -> bool:
    kind = raw.get("type")
    return isinstance(kind, str) and (kind in _EVENTS or kind.startswith("response."))
