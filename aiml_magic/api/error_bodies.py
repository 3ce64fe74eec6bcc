"""What an error body says, in any of the shapes of servers, frameworks and gateways; pure."""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.text import dump, load, one_line

# Where an error may hold another, and its own words.
_INNER = ("error", "fault", "detail", "message", "metadata", "raw", "response", "body")
_SPEAKING = (
    "message", "msg", "detail", "error_description", "error_message", "errormessage", "faultstring",
    "description", "reason", "error", "fault",
)  # fmt: skip
_STATUS = ("statuscode", "status_code", "status")
_DEEPEST = 6  # errors in one another


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
            filter(None, (as_status(layer.get(n)) for layer in layers for n in _STATUS)), None
        ),
        code=_first_word(layers, ("code", "error_code", "errorcode")),
        param=_first_word(layers, ("param",)) or next(iter(fields), None),
        request_id=_word(raw.get("requestId")),
    )


def as_status(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _layers(raw: Raw, depth: int = 0) -> Iterator[Raw]:
    """The objects of an error, from the outermost in; names in small letters."""
    layer = {str(name).lower(): value for name, value in raw.items()}
    yield layer
    inner = next(filter(None, (_object_in(layer.get(name)) for name in _INNER)), None)
    if inner and depth < _DEEPEST:
        yield from _layers(inner, depth + 1)


def _object_in(value: Any) -> Raw | None:
    """An object, also one written as JSON in a text, as by a server that relays another's words."""
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


def _word(value: Any) -> str | None:
    return None if value is None or isinstance(value, Mapping | list) else str(value)
