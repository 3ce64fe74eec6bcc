"""What a failure means: which error it is, whether it may have cost money, whether it may be sent again; pure.

A request is sent again without asking only if it cannot have been executed: the connection was
never made, or the server refused it (429, 503, a JSON 502 or 500, a run that failed on a rate
limit) before a model can have worked and before anything of an answer came; and at most twice. The
vendor charges nothing for a request that it saw fail. After anything else (a timeout, a reset, a
cut-off body, an HTML page of a gateway) the request may have run, and may be charged, so that only
the person may send it again. A GET is no question: what it meets says nothing of what was asked
before.
"""

from __future__ import annotations

import contextlib
import email.utils
import html
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiml_magic import errors
from aiml_magic.api.responses import Raw, Response
from aiml_magic.text import dump, load, one_line

MAX_RETRIES = 2
MAX_WAIT = 120.0  # seconds; a longer Retry-After is the person's to wait for
_QUICK = (
    3.0  # seconds within which no model has worked on a question: what fails later may have run
)

NO_HANDLE = "EMFILE"  # the code of an error for want of a file handle

TOO_LARGE = "the server sent more than an answer may hold"

_UNSENT = "Nothing was sent, nothing was charged."
_FREE = "Nothing was charged."
_MAYBE = "It may have been executed and charged."
_OF_MONEY = re.compile(
    r"(nothing was (sent, nothing was )?|it may have been (executed and )?)charged\.?",
    re.IGNORECASE,
)

# Where an error may hold another, and its own words.
_INNER = ("error", "fault", "detail", "message", "metadata", "raw", "response", "body")
_SPEAKING = (
    "message", "msg", "detail", "error_description", "error_message", "errormessage", "faultstring",
    "description", "reason", "error", "fault",
)  # fmt: skip
_STATUS = ("statuscode", "status_code", "status")
_DEEPEST = 6  # errors in one another

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


@dataclass(frozen=True)
class ErrorBody:
    """What an error body says, whichever of the known shapes it has."""

    message: str
    status: int | None = None
    code: str | None = None
    param: str | None = None
    request_id: str | None = None
    is_json: bool = True


def read_error_body(body: bytes) -> ErrorBody:
    """The shapes of AI/ML API and OpenAI, of frameworks and gateways, HTML, plain text, nothing.

    Never raises.
    """
    try:
        raw = load(body)
    except ValueError:
        return ErrorBody(_page_text(body.decode("utf-8", "replace")), is_json=False)
    if isinstance(raw, list):
        raw = next((entry for entry in raw if isinstance(entry, dict)), raw)
    inner = _object_in(raw)
    return ErrorBody(_phrase(raw) or dump(raw)[:500]) if inner is None else read_error(inner)


def read_error(raw: Raw) -> ErrorBody:
    """As `read_error_body`, of a JSON object.

    The innermost object that says anything is the origin of the error; those around it relay it.
    """
    layers = list(_layers(raw))[::-1]
    words = next(filter(None, map(_words, layers)), "") or next(_texts_in(raw), "")
    issues = [issue for layer in layers for issue in _issues(layer)]
    told = [_issue(issue) for issue in issues]
    fields = [where for issue in issues if (where := _where(issue))]
    return ErrorBody(
        message=" ".join([words, *(issue for issue in told if issue not in words)][:6]),
        status=next(
            filter(None, (_status(layer.get(n)) for layer in layers for n in _STATUS)), None
        ),
        code=_first_word(layers, ("code", "error_code", "errorcode")),
        param=_first_word(layers, ("param",)) or next(iter(fields), None),
        request_id=_word(raw.get("requestId")),
    )


def refuses(error: errors.RequestFailed, field: str, value: str = "") -> bool:
    """The server's reason for not accepting a request is this field of it, or its value; in any of the shapes of an error.

    In an answer that began well only the field's own name tells it.
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
) -> errors.RequestFailed:
    """The error of an HTTP answer that is not 2xx and came `seconds` after the request."""
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


def error_in_success(raw: Raw) -> errors.RequestFailed:
    """The error of an error body that came with HTTP 200, or as an event: nobody knows how far the request got."""
    said = read_error(raw)
    status = said.status or _status(said.code) or _STATUS_OF_CODE.get(said.code or "", 500)
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


def failed_run(error: Raw | None, *, has_worked: bool = False) -> errors.ResponseFailed:
    """The error of a response whose status is "failed", before or after the model has worked on it."""
    said = read_error(error or {})
    code, words = said.code, said.message or "no reason was given"
    retry: errors.Retry = "ask"
    hint = "Run the cell again to ask once more."
    if code == "rate_limit_exceeded":
        retry, hint = "ask" if has_worked else "auto", "Wait a little, then run the cell again."
    elif code == "invalid_prompt":
        retry, hint = "never", "Change the question; the same one would fail again."
    return errors.ResponseFailed(
        f"The model failed{f' ({code})' if code else ''}{_quoted(words)}. {_FREE}",
        hint,
        retry=retry,
        code=code,
    )


def of_response(
    response: Response, *, has_worked: bool, is_paid: bool
) -> errors.RequestFailed | None:
    """The error of a response that failed, came to nothing, or is worked on and has no id to ask for it by; else `None`.

    `has_worked` says that the model has, `is_paid` that the server told of a cost.
    """
    match response.outcome:
        case "failed":
            failed = failed_run(response.error, has_worked=has_worked)
            return in_doubt(failed) if response.has_output or is_paid else failed
        case "pending" if response.id is None:
            return malformed(
                f'a response that is "{one_line(response.status or "", 40)}" and has no id to ask for its answer by'
            )
        case "unknown" if not response.has_begun:
            return no_answer(response)
    return None


def no_answer(response: Response) -> errors.MalformedResponse:
    return malformed(f"a response without an answer, {_named(response.status)}")


def in_doubt(error: errors.RequestFailed) -> errors.RequestFailed:
    """`error`, of a request on which a model may have worked: it may be charged, and only the person may send it again."""
    error.message = error.message.replace(_FREE, _MAYBE)
    error.retry, error.may_cost, error.hint = "ask", True, _CHECK
    return error


def is_quick(seconds: float) -> bool:
    """What came so soon after a request came before a model can have worked on it."""
    return seconds < _QUICK


def malformed(what: str, status: int | None = None) -> errors.MalformedResponse:
    return errors.MalformedResponse(
        f"The server sent {what}. {_MAYBE}", _CHECK, retry="ask", may_cost=True, status=status
    )


def not_connected(reason: str, *, is_final: bool = False) -> errors.ConnectError:
    """No connection was made.

    `is_final` if trying again cannot help (a certificate, a proxy without support).
    """
    hint = "Check the network, the proxy and %config O3Pro.base_url; then run the cell again."
    message = f"No connection to the server ({one_line(reason)}). {_UNSENT}"
    return errors.ConnectError(message, hint, retry="never" if is_final else "auto")


def no_handle(limit: int | None) -> errors.ConnectError:
    """As many files and connections are open here as may be; one may come free."""
    most = "" if limit is None else f", which is {limit:,}"
    return errors.ConnectError(
        f"Too many files and connections are open: the limit{most}, is reached. {_UNSENT}",
        "Raise it (ulimit -n), or lower %config O3Pro.max_concurrency; then ask again.",
        retry="auto",
        code=NO_HANDLE,
    )


def untrusted(reason: str) -> errors.ConnectError:
    """The server's certificate is vouched for by nobody who is trusted here."""
    error = not_connected(reason, is_final=True)
    error.hint = "If your network vouches for it, set SSL_CERT_FILE to its certificate; then run the cell again."
    return error


def sandbox_gone() -> errors.ConnectError:
    """What is at the sandbox's port did not prove to be the sandbox."""
    return errors.ConnectError(
        f"The sandbox is gone, or something else is at its port. {_UNSENT}",
        "%aiml sandbox starts it again; then run the cell again.",
        retry="never",
    )


def unusable(variable: str, what: str, reason: str) -> errors.ConnectError:
    """A variable of the environment says how to reach the network, and that cannot be done."""
    return errors.ConnectError(
        f"{variable} {what}{f' ({one_line(reason)})' if reason else ''}. {_UNSENT}",
        f"Set {variable} to what it should be, or remove it; then run the cell again.",
        retry="never",
    )


def connection_lost(reason: str) -> errors.ConnectionLost:
    message = f"The connection ended without an answer ({one_line(reason)}). {_MAYBE}"
    return errors.ConnectionLost(message, _CHECK, retry="ask", may_cost=True)


def stream_interrupted(reason: str, *, can_resume: bool = False) -> errors.StreamInterrupted:
    return errors.StreamInterrupted(
        f"The connection ended in the middle of the answer ({one_line(reason)}). {_MAYBE}",
        _CHECK,
        retry="resume" if can_resume else "ask",
        may_cost=True,
    )


def of_get(error: errors.RequestFailed) -> errors.RequestFailed:
    """`error` as that of a GET, which costs nothing, and of which no cell is run again."""
    for cost in (_UNSENT, _FREE, _MAYBE):
        error.message = error.message.replace(f" {cost}", "")
    error.may_cost = False
    error.hint = _remedy(error) or "Try again in some minutes."
    return error


def not_fetched(
    response_id: str, error: errors.RequestFailed, *, is_final: bool = False
) -> errors.RetrieveUnsupported:
    """The error of a question that the server took, when a GET for its answer met `error`.

    `is_final` if the server seems to give out no answers at all.
    """
    said = one_line(error.message).rstrip(".")
    later = (
        ""
        if is_final
        else " Run the cell again to go on: its answer is fetched, and the question is not sent again."
    )
    return errors.RetrieveUnsupported(
        f"The server took the question as {one_line(response_id, 80)}, but its answer could not be fetched. {said}. {_MAYBE}",
        f"{_remedy(error)}{later} {errors.check()}".strip(),
        retry="never" if is_final else "resume",
        may_cost=True,
        status=error.status,
        code=error.code,
        param=error.param,
        request_id=error.request_id,
    )


def limited() -> errors.RequestFailed:
    """The server takes no more requests for now; nothing was sent."""
    return errors.RateLimited(
        f"The server takes fewer requests at once. {errors.NOTHING_SENT}", retry="auto"
    )


def is_limit(error: errors.RequestFailed) -> bool:
    """The server refused a request for the number of requests, and did not execute it.

    Waiting helps, however often it comes: 429, and 503 with Retry-After.
    """
    if error.retry != "auto" or error.may_cost:
        return False
    if isinstance(error, errors.Unavailable):
        return error.retry_after is not None
    return isinstance(error, errors.RateLimited) and error.status == 429


def seconds_before_retry(error: errors.RequestFailed | None, retries: int) -> float | None:
    """Seconds to wait before the request is sent again, or `None` to give up; `retries` counts those already made.

    The server's Retry-After decides, else 1 s, then 2 s, less up to a quarter so that many clients
    do not come at once.
    """
    if (
        error is None or error.retry != "auto" or retries >= MAX_RETRIES or error.code == NO_HANDLE
    ):  # that was waited for
        return None
    if error.retry_after is not None:
        return error.retry_after
    return 2.0**retries * random.uniform(0.75, 1)  # noqa: S311  # no secret depends on it


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else Retry-After as seconds or date (RFC 9110, 10.2.3).

    A date is read against the server's own Date, since our clock may be wrong.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < 1e9 else None
    until, now = _date(headers.get("retry-after")), _date(headers.get("date"))
    return max(0.0, until - now) if until is not None and now is not None else None


_CHECK = f"The journal keeps what came. {errors.check()}"

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


def _remedy(error: errors.RequestFailed) -> str:
    return _REMEDIES.get(402 if isinstance(error, errors.OutOfCredits) else error.status, "")


_SAID: dict[type[errors.RequestFailed], str] = {
    errors.InvalidRequest: "The server does not accept the request",
    errors.AuthError: "The server does not accept the API key",
    errors.PermissionDenied: "The API key may not do this",
    errors.OutOfCredits: "The account has run out of credits",
    errors.NotFound: "The server does not know this model or address",
    errors.Redirected: "The server points to another address, where the key must not go",
    errors.PayloadTooLarge: "The request is too large for the server",
    errors.RateLimited: "Too many requests",
    errors.QuotaExceeded: "A quota is used up",
    errors.ServerError: "The server failed",
    errors.BadGateway: "A gateway got no good answer",
    errors.Unavailable: "The service is unavailable",
    errors.GatewayTimeout: "A gateway stopped waiting for the answer",
}

_Verdict = tuple[type[errors.RequestFailed], errors.Retry, str]


def _judge(status: int, said: ErrorBody) -> _Verdict:
    """Kind of error, whether to send again, and the next step; the table of the vendor's errors, row by row."""
    words = f"{said.message} {said.code}".lower()
    again = "Wait a little, then run the cell again."
    match status:
        case 401:
            return errors.AuthError, "never", _REMEDIES[401]
        case 402:
            return errors.OutOfCredits, "never", "Top up the account, then run the cell again."
        case 403 if "credit" in words or "balance" in words:
            return errors.OutOfCredits, "never", "Top up the account, then run the cell again."
        case 403:
            return errors.PermissionDenied, "never", _REMEDIES[403]
        case 404:
            return errors.NotFound, "never", "Check --model and %config O3Pro.base_url."
        case 413:
            return errors.PayloadTooLarge, "never", "Send less text, or smaller attachments."
        case 409 | 429 if any(sign in words for sign in ("quota", "free limit")):
            return (
                errors.QuotaExceeded,
                "never",
                "Raise the limit of the account, or wait until it is renewed.",
            )
        case 409 | 429:
            return errors.RateLimited, "auto", again
        case 408 | 504 | 520 | 521 | 522 | 523 | 524:
            return errors.GatewayTimeout, "ask", _CHECK
        case 503:
            return errors.Unavailable, "auto", again
        case 502:
            return (
                errors.BadGateway,
                "auto" if said.is_json else "ask",
                again if said.is_json else _CHECK,
            )
        case 501 if said.is_json:
            return (
                errors.InvalidRequest,
                "never",
                "Change what the message names, then run the cell again.",
            )
        case 500 if "maintenance" in words:
            return (
                errors.ServerError,
                "never",
                "Ask another model with --model, or come back later.",
            )
        case 500 if said.is_json:
            return errors.ServerError, "auto", again
        case _ if 300 <= status < 400:
            return errors.Redirected, "never", "Set AIML_API_URL to the right address."
        case _ if 400 <= status < 500:
            return (
                errors.InvalidRequest,
                "never",
                "Change what the message names, then run the cell again.",
            )
        case _:
            return errors.ServerError, "ask", _CHECK


def _named(status: str | None) -> str:
    return "and without a status" if status is None else f'whose status is "{one_line(status, 40)}"'


def _quoted(words: str) -> str:
    """A server's words in a message, without what they say of money: our own sentence says that."""
    short = one_line(_OF_MONEY.sub("", words)).rstrip(".")
    return f": {short}" if short else ""


def _layers(raw: Raw, depth: int = 0) -> Iterator[Raw]:
    """The objects of an error, from the outermost in; names in small letters."""
    layer = {str(name).lower(): value for name, value in raw.items()}
    yield layer
    inner = next(filter(None, (_object_in(layer.get(name)) for name in _INNER)), None)
    if inner and depth < _DEEPEST:
        yield from _layers(inner, depth + 1)


def _object_in(value: Any) -> Raw | None:
    """An object, also one that is written as JSON in a text, as of a server that relays another's words."""
    if isinstance(value, str) and "{" in value:
        with contextlib.suppress(ValueError, RecursionError):
            value, _ = json.JSONDecoder().raw_decode(value, value.index("{"))
    return value if isinstance(value, Mapping) else None


def _words(layer: Raw) -> str:
    """What a layer of an error says itself."""
    said = next(filter(None, (_phrase(layer.get(name)) for name in _SPEAKING)), "")
    title = _phrase(layer.get("title"))
    return said if not title or title in said else f"{title}: {said}".removesuffix(": ")


def _phrase(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_issue, value[:5]))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return "" if _object_in(value) else str(value).strip()
    return ""


def _issue(issue: Any) -> str:
    """What one entry of a validator's list says, as `field: message`."""
    if not isinstance(issue, Mapping):
        return _phrase(issue) or dump(issue)
    layers = list(_layers(issue))
    constraints = issue.get("constraints")
    told = list(constraints.values()) if isinstance(constraints, Mapping) else []
    words = next(filter(None, map(_words, layers)), "") or _phrase(told) or dump(issue)
    where = _where(issue)
    return f"{where}: {words}" if where else words


def _where(issue: Any) -> str:
    """The field that an issue is about."""
    names = ("path", "loc", "field", "property", "param")
    found = [issue.get(name) for name in names] if isinstance(issue, Mapping) else []
    place = next(filter(None, found), "")
    if not isinstance(place, list):
        return _phrase(place)
    return ".".join(str(step) for step in place[bool(place[0] == "body") :])


def _issues(layer: Raw) -> list[Any]:
    """Every issue found where a validator may put a list of them."""
    places = [layer.get(name) for name in ("errors", "issues", "data", "meta", "detail", "message")]
    found: list[Any] = []
    for place in places:
        if isinstance(place, Mapping):
            issues = place.get("issues")
            found += issues if isinstance(issues, list) else []
        elif isinstance(place, list):
            found += place
    if isinstance(fields := layer.get("errors"), Mapping):
        found += [{"path": name, "message": said} for name, said in fields.items()]
    return [issue for issue in found if issue][:5]


def _texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a JSON value of a shape that nobody knows."""
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, Mapping | list) and depth < _DEEPEST:
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(entry, depth + 1)


def _first_word(layers: list[Raw], names: tuple[str, ...]) -> str | None:
    words = (_word(layer.get(name)) for layer in layers for name in names)
    return next(filter(None, words), None)


def _page_text(page: str) -> str:
    """The words of an HTML page (its title first) or of plain text."""
    page = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", " ", page[:20_000])
    return one_line(html.unescape(re.sub(r"<[^>]*>", " ", page)))


def _status(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _word(value: Any) -> str | None:
    return None if value is None or isinstance(value, Mapping | list) else str(value)


def _date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError, OverflowError):
        return None
