"""The replay key of a request, and the differences between requests; pure.

The key is a hash of all that decides the answer: the server, the request (with the hashes of its
attachments), and the response that it continues. Delivery does not count: streaming, storage,
background mode, and the conversation's form (id or transcript). A request has the same key with
attachments as with their hashes instead.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

from aiml_magic.api.responses import Raw, as_object, as_text
from aiml_magic.text import cut

SAMPLE = "aiml_magic.sample"  # field of a row's request: the number of the sample, from 2 on
_DELIVERY = {"stream", "store", "background", "previous_response_id"}
_INLINE = re.compile(r"data:([\w.+/-]+);base64,")
_HASHED = re.compile(r"data:[\w.+/-]+;sha256,")
# An attached text as its heading and its hash.
_HASHED_TEXT = re.compile(r"(.*:) sha256,[0-9a-f]{64}")
_NOT_STORED = "(it is not available any more)"
_TAG = b"aiml_magic request 1\n"  # makes the hash different from every other kind of hash


def request_key(server: str, request: Raw, parent: str | None) -> str:
    """The key of a request to `server` that continues the response `parent`."""
    return _key(server, with_hashes(request), parent)


def request_keys(server: str, request: Raw, parent: str | None) -> tuple[str, ...]:
    """The key of a request, and those of earlier versions.

    These hashed attached texts as they are, and left out the label of an MCP server's choice.
    """
    forms = (with_hashes(request), with_file_hashes(request))
    if as_object(request.get("tool_choice")).get("type") == "mcp":
        forms += tuple({**form, "tool_choice": {"type": "mcp"}} for form in forms)
    return tuple(dict.fromkeys(_key(server, form, parent) for form in forms))


def _key(server: str, hashed: Raw, parent: str | None) -> str:
    decisive = {"server": server, "request": without_delivery(hashed), "parent": parent}
    text = json.dumps(decisive, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(_TAG + text.encode("ascii")).hexdigest()


def without_delivery(request: Raw) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in _DELIVERY}


def sendable(request: Raw) -> dict[str, Any]:
    """A request without the number of its sample, which the API does not know."""
    return {name: value for name, value in request.items() if name != SAMPLE}


def with_hashes(request: Raw) -> dict[str, Any]:
    """A request with each attachment replaced by its hash."""
    hashed: dict[str, Any] = with_file_hashes(request)
    if "input" in hashed:
        hashed["input"] = _with_parts(hashed["input"], _with_text_hash)
    return hashed


def with_file_hashes(value: Any) -> Any:
    """`value` with each attached image or file replaced by its hash; attached texts stay."""
    if isinstance(value, Mapping):
        return {name: with_file_hashes(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [with_file_hashes(entry) for entry in value]
    if isinstance(value, str) and (found := _INLINE.match(value)):
        return f"data:{found[1]};sha256,{_sha256(value[found.end() :])}"
    return value


def without_hashed(asked: Any) -> Any:
    """An input with a placeholder for each attachment of which only the hash is known."""
    return _with_parts(asked, _without_hash)


def _with_parts(asked: Any, change: Callable[[Any], Any]) -> Any:
    """An input with all parts of each message changed except the first, which is the question."""
    if not isinstance(asked, list | tuple):
        return asked
    return [
        {**item, "content": [*item["content"][:1], *map(change, item["content"][1:])]}
        if isinstance(item, Mapping) and isinstance(item.get("content"), list)
        else item
        for item in asked
    ]


def _with_text_hash(part: Any) -> Any:
    """A part with the text after its heading replaced by its hash."""
    text = _text_of(part)
    name, line_end, rest = text.partition("\n")
    return {**part, "text": f"{name} sha256,{_sha256(rest)}"} if line_end else part


def _without_hash(part: Any) -> Any:
    if found := _HASHED_TEXT.fullmatch(_text_of(part)):
        return {**part, "text": f"{found[1]} {_NOT_STORED}"}
    is_hashed = any(_HASHED.match(as_text(value)) for value in as_object(part).values())
    return {"type": "input_text", "text": _NOT_STORED} if is_hashed else part


def _text_of(part: Any) -> str:
    return as_text(as_object(part).get("text"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def nearest(request: Raw, others: Iterable[Raw]) -> int | None:
    """The index of the request most similar to `request`; `None` if there are none."""
    text = _text(request)
    compared = [_text(other) for other in others]
    # `quick_ratio` ignores the letters' order, and selects candidates; `ratio` decides among them.
    letters = [
        SequenceMatcher(None, text, other, autojunk=False).quick_ratio() for other in compared
    ]
    candidates = heapq.nlargest(8, range(len(compared)), key=letters.__getitem__)
    return max(
        candidates,
        key=lambda at: SequenceMatcher(None, text, compared[at], autojunk=False).ratio(),
        default=None,
    )


def differences(ours: Raw, recorded: Raw) -> list[str]:
    """The differences between two requests, one line for each field."""
    ours, recorded = (with_hashes(without_delivery(request)) for request in (ours, recorded))
    names = sorted(
        name for name in ours.keys() | recorded.keys() if ours.get(name) != recorded.get(name)
    )
    return [
        f"{name}: {short_json(recorded.get(name))} is recorded, "
        f"{short_json(ours.get(name))} is asked"
        for name in names
    ]


def _text(request: Raw) -> str:
    return json.dumps(with_hashes(without_delivery(request)), sort_keys=True)[:2000]


def short_json(value: Any) -> str:
    """A value as short JSON for a message."""
    return cut("nothing" if value is None else json.dumps(value, ensure_ascii=False))
