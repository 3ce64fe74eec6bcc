"""A failure as an error: its kind, its cost, and whether the request may be sent again; pure.

A request is sent again automatically only if it cannot have been executed: no connection was made,
or the server refused it (429, 503, a JSON 502 or 500, a run that failed on a rate limit) before a
model can have worked and before any part of an answer; and at most twice. The vendor charges
nothing for a request that it saw fail. After anything else (a timeout, a reset, a cut-off body, an
HTML page of a gateway) the request may have run and be charged: only the person may send it again.
A failed GET says nothing about the question whose answer it fetches.
"""

from __future__ import annotations

import email.utils
import random
import re
from collections.abc import Mapping

from aiml_magic.api.error_bodies import ErrorBody, as_status, read_error, read_error_body
from aiml_magic.api.responses import Raw, Response
from aiml_magic.errors import (
    NOTHING_SENT,
    AuthError,
    BadGateway,
    ConnectError,
    ConnectionLost,
    GatewayTimeout,
    InvalidRequest,
    MalformedResponse,
    NotFound,
    OutOfCredits,
    PayloadTooLarge,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    Redirected,
    RequestFailed,
    ResponseFailed,
    RetrieveUnsupported,
    Retry,
    ServerError,
    StreamInterrupted,
    Unavailable,
    hint_to_check,
)
from aiml_magic.text import one_line

MAX_RETRIES = 2
MAX_WAIT = 120.0  # seconds; after a longer Retry-After only the person may send again
_QUICK = 3.0  # seconds in which no model can have worked on a question
NO_HANDLE = "EMFILE"  # the code of the error that no file handle is free
TOO_LARGE = "the server sent more than an answer may hold"
_UNSENT = "Nothing was sent, nothing was charged."
_FREE = "Nothing was charged."
_MAYBE = "It may have been executed and charged."
_OF_MONEY = re.compile(
    r"(nothing was (sent, nothing was )?|it may have been (executed and )?)charged\.?",
    re.IGNORECASE,
)
_REFUSALS = (200, 400, 403, 404, 405, 406, 409, 410, 415, 422, 500, 501, 502)
_TOPICS = {
    "stream": r"\bstream(ing|ed|s)?\b",
    "store": r"\b(stor(e|es|ed|ing|age))\b",
    "previous_response_id": r"previous.?response|\bchain|\bstateful|\bconversation state",
}
_NEGATIONS = (
    r"\bnot? (support|allow|permit|available|implement|enabled|found|known|valid|exist|possible)"
    r"|does(n't| not)|unsupported|un(known|recogni[sz]ed|expected|available)|must be|can(not|'t)"
    r"|invalid|disabled|expired|no longer|requires?\b|extra "
)


def refuses(error: RequestFailed, field: str, value: str = "") -> bool:
    """Whether the server refused a request because of a field or its value, however it says so.

    An error after HTTP 200 counts only if it names the field.
    """
    if error.status not in _REFUSALS:
        return False
    words = f"{error.code} {error.message}".lower()
    is_named = re.search(rf"\b{field}\b" if "_" in field else rf"""['"`]{field}['"`]""", words)
    if (error.param or "").rpartition(".")[2] == field or (value and value.lower() in words):
        return True
    if error.status == 200 and not is_named:
        return False
    return bool(re.search(_TOPICS[field], words) and re.search(_NEGATIONS, words))


def http_error(
    status: int, headers: Mapping[str, str], body: bytes, seconds: float
) -> RequestFailed:
    """The error of an HTTP response that is not 2xx, `seconds` after the request."""
    said = read_error_body(body)
    kind, retry, next_step = _judge(status, said)
    if retry == "auto" and not is_quick(seconds):
        retry, next_step = "ask", _CHECK
    wait = retry_after(headers)
    if headers.get("x-should-retry") == "false" and retry == "auto":
        retry = "never"
    cost = _MAYBE if retry == "ask" else _FREE
    if wait is not None and wait > MAX_WAIT and retry == "auto":
        retry, next_step = (
            "ask",
            f"The server asks to wait {wait:,.0f} s; run the cell again after that.",
        )
    return kind(
        f"{_SAID[kind]} ({status}){_quoted(said.message)}. {cost}",
        next_step,
        retry=retry,
        retry_after=wait,
        may_cost=cost == _MAYBE,
        status=status,
        code=said.code,
        param=said.param,
        request_id=said.request_id,
    )


def error_in_success(raw: Raw) -> RequestFailed:
    """The error of an error body with HTTP 200, or in an event: the request may have run."""
    said = read_error(raw)
    status = said.status or as_status(said.code) or _STATUS_OF_CODE.get(said.code or "", 500)
    kind, _, _ = _judge(status, said)
    return kind(
        f"{_SAID[kind]}, in an answer that began well{_quoted(said.message)}. {_MAYBE}",
        _CHECK,
        retry="ask",
        may_cost=True,
        status=200,
        code=said.code,
        param=said.param,
        request_id=said.request_id,
    )


def failed_run(error: Raw | None, *, has_worked: bool) -> ResponseFailed:
    """The error of a response with the status "failed"; `has_worked`: a model worked on it."""
    said = read_error(error or {})
    code, words = said.code, said.message or "no reason was given"
    retry: Retry = "ask"
    hint = "Run the cell again to ask once more."
    if code == "rate_limit_exceeded":
        retry, hint = "ask" if has_worked else "auto", "Wait a little, then run the cell again."
    elif code == "invalid_prompt":
        retry, hint = "never", "Change the question; the same one would fail again."
    return ResponseFailed(
        f"The model failed{f' ({code})' if code else ''}{_quoted(words)}. {_FREE}",
        hint,
        retry=retry,
        code=code,
    )


def of_response(response: Response, *, has_worked: bool, is_paid: bool) -> RequestFailed | None:
    """The error of a response that failed, is empty, or is pending without an id; else `None`.

    `has_worked`: the model worked on it. `is_paid`: the server reported a cost.
    """
    match response.outcome:
        case "failed":
            failed = failed_run(response.error, has_worked=has_worked)
            return in_doubt(failed) if response.has_output or is_paid else failed
        case "pending" if response.id is None:
            return malformed(
                f'a response that is "{one_line(response.status or "", 40)}"'
                " and has no id to ask for its answer by"
            )
        case "unknown" if not response.has_begun:
            return no_answer(response)
    return None


def no_answer(response: Response) -> MalformedResponse:
    return malformed(f"a response without an answer, {_named(response.status)}")


def in_doubt(error: RequestFailed) -> RequestFailed:
    """`error`, changed to one that may be charged, and that only the person may send again."""
    error.message = error.message.replace(_FREE, _MAYBE)
    error.retry, error.may_cost, error.hint = "ask", True, _CHECK
    return error


def is_quick(seconds: float) -> bool:
    """Whether a reply came before a model can have worked on the question."""
    return seconds < _QUICK


def malformed(what: str, status: int | None = None) -> MalformedResponse:
    return MalformedResponse(
        f"The server sent {what}. {_MAYBE}", _CHECK, retry="ask", may_cost=True, status=status
    )


def not_connected(reason: str, *, is_final: bool = False) -> ConnectError:
    """The error that no connection was made; `is_final` if trying again cannot help."""
    hint = "Check the network, the proxy and %config O3Pro.base_url; then run the cell again."
    message = f"No connection to the server ({one_line(reason)}). {_UNSENT}"
    return ConnectError(message, hint, retry="never" if is_final else "auto")


def no_handle(limit: int | None) -> ConnectError:
    """The error that this process may open no more files and connections for now."""
    most = "" if limit is None else f", which is {limit:,}"
    return ConnectError(
        f"Too many files and connections are open: the limit{most}, is reached. {_UNSENT}",
        "Raise it (ulimit -n), or lower %config O3Pro.max_concurrency; then ask again.",
        retry="auto",
        code=NO_HANDLE,
    )


def untrusted(reason: str) -> ConnectError:
    """The error that no trusted authority signed the server's certificate."""
    error = not_connected(reason, is_final=True)
    error.hint = (
        "If your network signs certificates itself, set SSL_CERT_FILE to its own;"
        " then run the cell again."
    )
    return error


def sandbox_gone() -> ConnectError:
    """The error that the server at the sandbox's port did not prove to be the sandbox."""
    return ConnectError(
        f"The sandbox is gone, or another program is at its port. {_UNSENT}",
        "%aiml sandbox starts it again; then run the cell again.",
        retry="never",
    )


def unusable(variable: str, what: str, reason: str) -> ConnectError:
    """The error of an environment variable for the network with an unusable value."""
    return ConnectError(
        f"{variable} {what}{f' ({one_line(reason)})' if reason else ''}. {_UNSENT}",
        f"Correct {variable} or remove it; then run the cell again.",
        retry="never",
    )


def connection_lost(reason: str) -> ConnectionLost:
    message = f"The connection ended without an answer ({one_line(reason)}). {_MAYBE}"
    return ConnectionLost(message, _CHECK, retry="ask", may_cost=True)


def stream_interrupted(reason: str, *, can_resume: bool) -> StreamInterrupted:
    return StreamInterrupted(
        f"The connection ended in the middle of the answer ({one_line(reason)}). {_MAYBE}",
        _CHECK,
        retry="resume" if can_resume else "ask",
        may_cost=True,
    )


def of_get(error: RequestFailed) -> RequestFailed:
    """`error` as one of a GET: without a word on costs or on running a cell again."""
    for cost in (_UNSENT, _FREE, _MAYBE):
        error.message = error.message.replace(f" {cost}", "")
    error.may_cost = False
    error.hint = _remedy(error) or "Try again in some minutes."
    return error


def not_fetched(
    response_id: str, error: RequestFailed, *, is_final: bool = False
) -> RetrieveUnsupported:
    """The error of a question that the server accepted, but whose answer a GET could not fetch.

    `is_final` if the server does not support GET for answers.
    """
    said = one_line(error.message).rstrip(".")
    later = (
        " Run the cell again to go on: its answer is fetched, and the question is not sent again."
    )
    return RetrieveUnsupported(
        f"The server accepted the question as {one_line(response_id, 80)},"
        f" but its answer could not be fetched. {said}. {_MAYBE}",
        f"{_remedy(error)}{'' if is_final else later} {hint_to_check()}".strip(),
        retry="never" if is_final else "resume",
        may_cost=True,
        status=error.status,
        code=error.code,
        param=error.param,
        request_id=error.request_id,
    )


def limited() -> RequestFailed:
    """The error that the server accepts no more requests for now; nothing was sent."""
    return RateLimited(
        f"The server accepts no more requests for now. {NOTHING_SENT}", _AGAIN, retry="auto"
    )


def is_limit(error: RequestFailed) -> bool:
    """Whether the server refused a request only because there were too many.

    These are 429, and 503 with Retry-After: they are retried without a limit.
    """
    if error.retry != "auto" or error.may_cost:
        return False
    if isinstance(error, Unavailable):
        return error.retry_after is not None
    return isinstance(error, RateLimited) and error.status == 429


def seconds_before_retry(error: RequestFailed | None, retries: int) -> float | None:
    """Seconds to wait before the request is sent again, or `None` to give up.

    `retries` counts those already made. The server's Retry-After decides, else 1 s, then 2 s, less
    a random part of up to a quarter, so that many clients do not retry together. A lack of file
    handles has been waited for before.
    """
    if error is None or error.retry != "auto" or retries >= MAX_RETRIES or error.code == NO_HANDLE:
        return None
    if error.retry_after is not None:
        return error.retry_after
    return 2.0**retries * random.uniform(0.75, 1)  # noqa: S311  # no secret depends on it


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else Retry-After.

    Retry-After holds seconds or a date (RFC 9110, 10.2.3). A date is compared with the server's own
    Date, since our clock may be wrong.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < 1e9 else None
    until, now = _date(headers.get("retry-after")), _date(headers.get("date"))
    return max(0.0, until - now) if until is not None and now is not None else None


_CHECK = f"The journal keeps the part received. {hint_to_check()}"

_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_prompt": 400,
}

_REMEDIES: Mapping[int | None, str] = {
    401: "Give another key with %aiml login, or set AIML_API_KEY.",
    402: "Top up the account.",
    403: "Check the scopes of the key; it needs model:responses.",
    407: "Check the proxy of the environment.",
}


def _remedy(error: RequestFailed) -> str:
    return _REMEDIES.get(402 if isinstance(error, OutOfCredits) else error.status, "")


_SAID: dict[type[RequestFailed], str] = {
    InvalidRequest: "The server does not accept the request",
    AuthError: "The server does not accept the API key",
    PermissionDenied: "The API key may not do this",
    OutOfCredits: "The account has run out of credits",
    NotFound: "The server does not know this model or address",
    Redirected: "The server points to another address, where the key must not go",
    PayloadTooLarge: "The request is too large for the server",
    RateLimited: "Too many requests",
    QuotaExceeded: "A quota is used up",
    ServerError: "The server failed",
    BadGateway: "A gateway got no valid answer",
    Unavailable: "The service is unavailable",
    GatewayTimeout: "A gateway stopped waiting for the answer",
}

_Verdict = tuple[type[RequestFailed], Retry, str]

_AGAIN = "Wait a little, then run the cell again."
_CHANGE = "Change what the message names, then run the cell again."
_RENEW = "Raise the limit of the account, or wait until it is renewed."
_TOP_UP = "Top up the account, then run the cell again."
_OTHER_MODEL = "Ask another model with --model, or come back later."


def _judge(status: int, said: ErrorBody) -> _Verdict:
    """The class of the error, whether to send again, and the hint."""
    words = f"{said.message} {said.code}".lower()
    if 300 <= status < 400:
        return Redirected, "never", "Set AIML_API_URL to the right address."
    if 400 <= status < 500:
        return _judge_4xx(status, words)
    return _judge_5xx(status, words, is_json=said.is_json)


def _judge_4xx(status: int, words: str) -> _Verdict:
    match status:
        case 401:
            return AuthError, "never", _REMEDIES[401]
        case 402:
            return OutOfCredits, "never", _TOP_UP
        case 403 if "credit" in words or "balance" in words:
            return OutOfCredits, "never", _TOP_UP
        case 403:
            return PermissionDenied, "never", _REMEDIES[403]
        case 404:
            return NotFound, "never", "Check --model and %config O3Pro.base_url."
        case 408:
            return GatewayTimeout, "ask", _CHECK
        case 409 | 429 if "quota" in words or "free limit" in words:
            return QuotaExceeded, "never", _RENEW
        case 409 | 429:
            return RateLimited, "auto", _AGAIN
        case 413:
            return PayloadTooLarge, "never", "Send less text, or smaller attachments."
        case _:
            return InvalidRequest, "never", _CHANGE


def _judge_5xx(status: int, words: str, *, is_json: bool) -> _Verdict:
    match status:
        case 500 if "maintenance" in words:
            return ServerError, "never", _OTHER_MODEL
        case 500 if is_json:
            return ServerError, "auto", _AGAIN
        case 501 if is_json:
            return InvalidRequest, "never", _CHANGE
        case 502 if is_json:
            return BadGateway, "auto", _AGAIN
        case 502:
            return BadGateway, "ask", _CHECK
        case 503:
            return Unavailable, "auto", _AGAIN
        case 504 | 520 | 521 | 522 | 523 | 524:
            return GatewayTimeout, "ask", _CHECK
        case _:
            return ServerError, "ask", _CHECK


def _named(status: str | None) -> str:
    return "and without a status" if status is None else f'whose status is "{one_line(status, 40)}"'


def _quoted(words: str) -> str:
    """A server's message without its sentence on money, which ours replaces."""
    short = one_line(_OF_MONEY.sub("", words)).rstrip(".")
    return f": {short}" if short else ""


def _date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError, OverflowError):
        return None
