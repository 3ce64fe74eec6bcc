"""Error bodies in the shapes of servers, frameworks and gateways; pure."""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiml_magic.api.responses import Raw, as_object
from aiml_magic.text import dump, load, one_line

# The fields in which an error may hold another error, and those of its message.
_INNER = "error fault detail message metadata raw response body".split()
_MESSAGES = (
    "message msg detail error_description error_message errormessage faultstring description "
    "reason error fault"
).split()
_STATUS = ("statuscode", "status_code", "status")
_DEEPEST = 6  # levels of nested errors


@dataclass(frozen=True)
class ErrorBody:
    """The content of an error body, whatever its shape."""

    message: str
    status: int | None = None
    code: str | None = None
    param: str | None = None
    request_id: str | None = None
    is_json: bool = True


def read_error_body(body: bytes) -> ErrorBody:
    """Reads JSON of AI/ML API, OpenAI, frameworks and gateways, HTML, plain text or nothing.

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

    The innermost object with a message is the origin of the error; those around it relay it.
    """
    layers = list(_layers(raw))[::-1]
    message = next(filter(None, map(_message, layers)), "") or next(_texts_in(raw), "")
    issues = [issue for layer in layers for issue in _issues(layer)]
    details = [_issue_text(issue) for issue in issues]
    fields = [field for issue in issues if (field := _field_of(issue))]
    return ErrorBody(
        message=" ".join([message, *(text for text in details if text not in message)][:6]),
        status=next(
            filter(None, (as_status(layer.get(n)) for layer in layers for n in _STATUS)), None
        ),
        code=_first_scalar(layers, ("code", "error_code", "errorcode")),
        param=_first_scalar(layers, ("param",)) or next(iter(fields), None),
        request_id=_scalar(raw.get("requestId")),
    )


def as_status(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _layers(raw: Raw, depth: int = 0) -> Iterator[Raw]:
    """The nested objects of an error, outermost first; field names in lower case."""
    layer = {str(name).lower(): value for name, value in raw.items()}
    yield layer
    inner = next(filter(None, (_object_in(layer.get(name)) for name in _INNER)), None)
    if inner and depth < _DEEPEST:
        yield from _layers(inner, depth + 1)


def _object_in(value: Any) -> Raw | None:
    """An object, or the one that a text holds as JSON: some servers relay an error that way."""
    if isinstance(value, str) and "{" in value:
        with contextlib.suppress(ValueError, RecursionError):
            value, _ = json.JSONDecoder().raw_decode(value, value.index("{"))
    return value if isinstance(value, Mapping) else None


def _message(layer: Raw) -> str:
    """The message of one layer of an error, with its title."""
    message = next(filter(None, (_phrase(layer.get(name)) for name in _MESSAGES)), "")
    title = _phrase(layer.get("title"))
    return message if not title or title in message else f"{title}: {message}".removesuffix(": ")


def _phrase(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_issue_text, value[:5]))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return "" if _object_in(value) else str(value).strip()
    return ""


def _issue_text(issue: Any) -> str:
    """One entry of a validator's list as `field: message`."""
    if not isinstance(issue, Mapping):
        return _phrase(issue) or dump(issue)
    layers = list(_layers(issue))
    broken = list(as_object(issue.get("constraints")).values())
    message = next(filter(None, map(_message, layers)), "") or _phrase(broken) or dump(issue)
    field = _field_of(issue)
    return f"{field}: {message}" if field else message


def _field_of(issue: Any) -> str:
    """The path of the field that an issue is about."""
    names = ("path", "loc", "field", "property", "param")
    path = next(filter(None, map(as_object(issue).get, names)), "")
    if not isinstance(path, list):
        return _phrase(path)
    return ".".join(map(str, path[1:] if path[0] == "body" else path))


def _issues(layer: Raw) -> list[Any]:
    """The issues in every field in which a validator may put a list of them."""
    issues: list[Any] = []
    for name in ("errors", "issues", "data", "meta", "detail", "message"):
        value = layer.get(name)
        entries = value.get("issues") if isinstance(value, Mapping) else value
        issues += entries if isinstance(entries, list) else []
    if isinstance(fields := layer.get("errors"), Mapping):
        issues += [{"path": name, "message": message} for name, message in fields.items()]
    return [issue for issue in issues if issue][:5]


def _texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    """All texts in a JSON value of unknown shape."""
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, Mapping | list) and depth < _DEEPEST:
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(entry, depth + 1)


def _first_scalar(layers: list[Raw], names: tuple[str, ...]) -> str | None:
    values = (_scalar(layer.get(name)) for layer in layers for name in names)
    return next(filter(None, values), None)


def _page_text(page: str) -> str:
    """The text of an HTML page (its title first) or of plain text."""
    page = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", " ", page[:20_000])
    return one_line(html.unescape(re.sub(r"<[^>]*>", " ", page)))


def _scalar(value: Any) -> str | None:
    return None if value is None or isinstance(value, Mapping | list) else str(value)
