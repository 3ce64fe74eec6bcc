"""Secrets in a request, recognized by the names of their fields: sent, but never stored; pure.

Journal, pages, exports and messages have the request without them. The runner gets them through the
pipe, like the API key: each tool or field as it is sent, under the JSON of its public form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Fields = Mapping[str, Any]  # of a request, by name
KEPT_NOWHERE = "(kept nowhere)"  # replaces a secret in a stored request
_WORDS = {"model", "input", "instructions", "previous_response_id"}  # fields without secrets
_SECRET = re.compile(
    r"headers?$|authoriz|authenticat|(?:^|[_-])o?auth(?:$|[_-])|token(?!i[sz])|bearer|jwt"
    r"|(?<!mon|tur|hot|don)key(?!word|board|frame|note|pad|stroke)|credential|cookie|signature"
    r"|passw|passphrase|passcode|(?:^|[_-])(?:pwd|(?:user|db)?pass|pin)(?:$|[_-])|secret(?!ar)"
    r"|(?:^|[_-])(?:otp|pat|sas|sig)$",
    re.IGNORECASE,
)
_SECRET_NUMBER = re.compile(r"passw|passcode|secret(?!ar)|(?:^|[_-])pin$", re.IGNORECASE)
_NO_SECRET = {"prompt_cache_key"}
# Keywords of JSON Schema: the names below them are properties, not fields.
_SCHEMAS = set(
    "properties patternProperties $defs definitions dependentRequired dependentSchemas".split()
)
_COMPARISON = {"type", "key", "value"}  # the fields of a filter: its key is an attribute's name
_IN_TEXT = re.compile(
    r"(?<=://)[^/?#\s@]+@"  # of an address
    r"|((?<=[?&#;])(?:[^=&#;\s]*(?:token|key|passw|pwd|secret|sig|auth|credential|jwt)[^=&#;\s]*"
    r"|(?:[^=&#;\s]*[_-])?(?:code|otp|pass|pat|pin|sas))="
    r"|\b[\w-]*(?:password|passwd|pwd|account_?key|access_?key|api[_-]?key)['\"]?\s?[:=]\s?"
    r"|\b(?:x-[\w-]*(?:key|token|secret)|cookie):\s?"  # of a header
    r"|\bauthorization\W{0,2}[:=]\W{0,2}(?:(?:bearer|basic|token)\s+)?|\bbearer\s+(?=\S*\d))"
    r"[^&#;\s]+",
    re.IGNORECASE,
)


def split(request: Fields) -> tuple[Fields, Fields]:
    """The public form of a request, and the tools and fields with secrets that are sent instead."""
    hidden: dict[str, Any] = {}

    def hide(field: Fields) -> Any:
        is_tool = "tools" in field
        public = _public({"tools": _without_headers(field["tools"])} if is_tool else field, [])
        if public != field:
            hidden[_index(public)] = field
        return public

    return _with_fields(request, hide), hidden


def restored(request: Fields, hidden: Fields) -> Fields:
    """A request as it is sent, from its public form; secrets that were lost are left out."""

    def restore(field: Fields) -> Any:
        sent = hidden.get(_index(field)) if hidden else None
        return _without_placeholders(field) if sent is None else sent

    return _with_fields(request, restore)


def texts(value: Any) -> list[str]:
    """The secrets in a value."""
    secrets: list[str] = []
    _public(value, secrets)
    return secrets


def without_logins(text: str) -> str:
    """A text without the users, passwords and tokens in its addresses and headers."""
    return _text(text, [])


def names_secret(name: str) -> bool:
    """Whether a field or a variable of this name holds a secret, such as `DB_PASSWORD`."""
    return _SECRET.search(name) is not None and name not in _NO_SECRET


def with_bare_tools(request: Fields) -> Fields:
    """A request without the headers of its tools: the public form of earlier versions."""
    tools = request.get("tools")
    bare = {"tools": list(map(_without_headers, tools))} if isinstance(tools, list) else {}
    return {**request, **bare}


def _without_headers(tool: Any) -> Any:
    """A tool without its headers: the public form does not even name them."""
    if not isinstance(tool, Mapping):
        return tool
    return {name: entry for name, entry in tool.items() if name != "headers"}


def _with_fields(request: Fields, change: Callable[[Fields], Any]) -> Fields:
    """A request with each field changed, except those of words; each tool is a field of its own."""
    changed: dict[str, Any] = {}
    for name, value in request.items():
        if name == "tools" and isinstance(value, list):
            changed[name] = [change({name: tool})[name] for tool in value]
        else:
            changed |= {name: value} if name in _WORDS else change({name: value})
    return changed


def _index(public: Any) -> str:
    return json.dumps(public, sort_keys=True)


def _public(value: Any, secrets: list[str], *, are_fields: bool = True) -> Any:
    """`value` without its secrets, which are added to `secrets`.

    Unless `are_fields`, its names are properties of a JSON Schema.
    """
    if isinstance(value, Mapping):
        is_comparison = value.keys() >= _COMPARISON
        public = {}
        for name, entry in value.items():
            is_schema = not are_fields and isinstance(entry, Mapping | list)
            called = value.get("name", value.get("key", "")) if name == "value" else name
            is_public = is_schema or (is_comparison and name in ("key", "value"))
            if not is_public and _is_secret(str(called), entry):
                secrets.extend(map(str, _leaves(entry)))
                public[name] = KEPT_NOWHERE
            else:
                public[name] = _public(entry, secrets, are_fields=name not in _SCHEMAS)
        return public
    if isinstance(value, list | tuple):
        return [_public(entry, secrets) for entry in value]
    return _text(value, secrets) if isinstance(value, str) else value


def _is_secret(name: str, entry: Any) -> bool:
    """Whether a field of this name has a secret; for numbers fewer names do, as in `max_tokens`."""
    return any(
        names_secret(name) if isinstance(leaf, str) else _SECRET_NUMBER.search(name)
        for leaf in _leaves(entry)
        if leaf not in ("", KEPT_NOWHERE)
    )


def _leaves(value: Any) -> Iterator[Any]:
    """The texts and numbers in a JSON value."""
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(entry)
    elif value is not None and not isinstance(value, bool):
        yield value


def _text(text: str, secrets: list[str]) -> str:
    """A text stripped of the users, passwords and tokens in its addresses and headers."""

    def strip(part: re.Match[str]) -> str:
        name = part[1] or ""
        secret = part[0].removeprefix(name).removesuffix("@")
        secrets.extend([secret, *secret.split(":")])
        return name

    return _IN_TEXT.sub(strip, text)


def _without_placeholders(value: Any) -> Any:
    """`value` without the fields whose secrets are not known."""
    if isinstance(value, Mapping):
        return {
            name: _without_placeholders(entry)
            for name, entry in value.items()
            if entry != KEPT_NOWHERE
        }
    if isinstance(value, list):
        return [_without_placeholders(entry) for entry in value]
    return value
