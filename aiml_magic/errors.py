"""All errors, and how a cell shows them.

An error is two lines: what happened and whether it cost money, then what to do. It fails its cell,
so that *Run All* stops. It shows no frames, since a frame could show the API key.

    AimlMagicError
     ├── BadInput              an option, a name, a value or a question; nothing was sent
     │    ├── NoKey            no API key was found
     │    ├── ReplayMiss       no recorded answer, and nothing may be asked
     │    └── BudgetExceeded   it could cost more than the budget leaves
     ├── JournalError          the journal cannot be used; nothing was sent
     ├── SandboxError          the sandbox did not start
     ├── Interrupted           the person stopped it (also a KeyboardInterrupt)
     ├── SchemaMismatch        the answer does not fit the schema; it is raw
     └── RequestFailed         the server or the network failed
          ├── InvalidRequest   PayloadTooLarge   NotFound   RetrieveUnsupported   Redirected
          ├── AuthError        PermissionDenied  OutOfCredits  QuotaExceeded
          ├── RateLimited      ServerError  BadGateway  Unavailable  GatewayTimeout
          ├── ConnectError     ConnectionLost  StreamInterrupted  RunnerDied  ParentFailed
          └── MalformedResponse  ResponseFailed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from aiml_magic.text import encodable, one_line, printable, reason

if TYPE_CHECKING:
    from aiml_magic.journal.answer import Answer

Retry = Literal["auto", "ask", "resume", "never"]
NOTHING_SENT = "Nothing was sent."  # of every error before the POST
_LONGEST = 4_000  # characters of a line from a server or a file
_FIELDS = "retry retry_after may_cost status code param request_id".split()


class AimlMagicError(Exception):
    """An error that a cell shows as two lines.

    `answer` is the part received before it, `row_id` the id of its row, if any.
    """

    answer: Answer | None = None
    row_id: int | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = _sentence(message), _sentence(hint)
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".rstrip()

    def _render_traceback_(self) -> list[str]:
        return [encodable(line) for line in f"{type(self).__name__}: {self}".splitlines()]


class BadInput(AimlMagicError):
    """An option, a name, a value or a question cannot be used; nothing was sent."""


class ReplayMiss(BadInput):
    """The journal has no answer to this question, and nothing may be asked."""


class BudgetExceeded(BadInput):
    """The question could cost more than the budget leaves."""


class NoKey(BadInput):
    """No API key was found."""


class JournalError(AimlMagicError):
    """The journal cannot be read or written; nothing was sent."""


class SandboxError(AimlMagicError):
    """The sandbox did not start."""


class Interrupted(AimlMagicError, KeyboardInterrupt):
    """The person interrupted the question."""


class SchemaMismatch(AimlMagicError):
    """The answer does not fit the requested schema; `answer` holds it."""


class RequestFailed(AimlMagicError):
    """A failure of the server or the network.

    `retry` says whether it may be sent again: "auto" (it was not executed), "ask" (it may have
    been), "resume" (the server has it; GET may fetch it) or "never" (the same request would fail
    again). `may_cost`: it may have been charged. `retry_after`: seconds that the server asks to
    wait. `status`: of HTTP. `code` and `param`: the server's own words.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        retry: Retry = "never",
        retry_after: float | None = None,
        may_cost: bool = False,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.retry: Retry = retry
        self.retry_after = retry_after
        self.may_cost = may_cost
        self.status = status
        self.code, self.param, self.request_id = (
            word and one_line(word, _LONGEST) for word in (code, param, request_id)
        )

    def name_row(self, row_id: int) -> None:
        """Puts the id of the row into the hint, which has a placeholder for it."""
        self.hint = self.hint.replace(hint_to_check(), hint_to_check(row_id))

    def name_again(self, row_id: int) -> None:
        """Puts a command into the hint that asks only this row again, not its whole cell or map."""
        alone = hint_to_check(row_id, f"%aiml again {row_id}")
        self.hint = self.hint.replace(hint_to_check(row_id), alone)

    def as_dict(self) -> dict[str, object]:
        """The error for the journal; `error_from_dict` makes the same error of it."""
        names = ("message", "hint", *_FIELDS)
        return {"class": type(self).__name__} | {name: getattr(self, name) for name in names}


class InvalidRequest(RequestFailed):
    """The server does not accept the request as it is (400)."""


class AuthError(RequestFailed):
    """The server does not accept the API key (401)."""


class PermissionDenied(RequestFailed):
    """The key may not do this (403)."""


class OutOfCredits(RequestFailed):
    """The account has no money left (402, 403)."""


class NotFound(RequestFailed):
    """No such model or route (404)."""


class RetrieveUnsupported(NotFound):
    """The server accepted the question, but its answer cannot be fetched by GET."""


class Redirected(RequestFailed):
    """The server points elsewhere (3xx), where the key must not go."""


class PayloadTooLarge(RequestFailed):
    """The request is too large for the server (413)."""


class RateLimited(RequestFailed):
    """Too many requests (429, 409)."""


class QuotaExceeded(RequestFailed):
    """A quota is used up (429); waiting a little does not help."""


class ServerError(RequestFailed):
    """The server failed (5xx)."""


class BadGateway(ServerError):
    """A gateway got no valid answer (502)."""


class Unavailable(ServerError):
    """The service is unavailable (503)."""


class GatewayTimeout(ServerError):
    """A gateway stopped waiting for the answer (504, 52x)."""


class ConnectError(RequestFailed):
    """No connection was made; nothing was sent."""


class ConnectionLost(RequestFailed):
    """The connection ended before the answer was received."""


class StreamInterrupted(ConnectionLost):
    """The connection ended in the middle of the answer."""


class RunnerDied(ConnectionLost):
    """The process that held the connection ended before the answer was received."""


class ParentFailed(RequestFailed):
    """The answer that the question continues failed; nothing was sent."""


class MalformedResponse(RequestFailed):
    """The reply is not a response of this API."""


class ResponseFailed(RequestFailed):
    """The response says that the run of the model failed."""


@contextmanager
def refusing(what: str, hint: str, why: Callable[[Exception], str] = reason) -> Iterator[None]:
    """Turns every exception into BadInput: an object of the notebook may raise anything."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{what}: {why(error)}. {NOTHING_SENT}", hint) from error


def hint_to_check(row_id: int | str = "ID", again: str = "--fresh") -> str:
    """The hint of every error after which the question may have been charged."""
    return (
        f"%aiml check {row_id} asks the server what became of it; "
        f"only {again} asks, and pays, once more."
    )


def error_from_dict(raw: Mapping[str, Any]) -> RequestFailed:
    """The error from its `as_dict`, which may come from an untrusted file or a newer version.

    An unknown class is a plain `RequestFailed`, an unknown field is left out, and message and hint
    are a line each.
    """
    known = {kind.__name__: kind for kind in _subclasses(RequestFailed)}
    message = one_line(raw.get("message") or "", _LONGEST)
    hint = one_line(raw.get("hint", hint_to_check()) or "", _LONGEST)
    fields = {name: raw[name] for name in _FIELDS if name in raw}
    return known.get(str(raw.get("class")), RequestFailed)(
        message or "The request failed for an unknown reason. It may have been charged.",
        hint,
        **fields,
    )


def _sentence(words: str) -> str:
    """A printable text without a second full stop after a quoted message."""
    return re.sub(_TWO_STOPS, r"\1", printable(words))


_TWO_STOPS = r"(?<![.?!])([.?!])\.(?=\s|$)"


def _subclasses(kind: type[RequestFailed]) -> Iterable[type[RequestFailed]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
