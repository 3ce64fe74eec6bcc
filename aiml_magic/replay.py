"""When an answer of the journal stands for a new one: the key of a request, and what tells two requests apart; pure.

The key is a hash of all that decides the answer: the server, the request (with the hashes of its attachments), and the response
that it continues. How the request
travels does not count: streamed or not, stored or not, in the background or not, its conversation by id or as a transcript.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

_DELIVERY = {"stream", "store", "background", "previous_response_id"}
_INLINE = re.compile(r"data:([\w.+/-]+);base64,")
_HASHED = re.compile(r"data:[\w.+/-]+;sha256,")
_TAG = b"aiml_magic request 1\n"  # a hash of another kind of thing, or of another version, is another hash


def request_key(server: str, request: Mapping[str, Any], parent: str | None) -> str:
    """The key of a request to `server` that continues the response `parent`; the order of fields does not count."""
    decisive = {"server": server, "request": with_hashes(without_delivery(request)), "parent": parent}
    text = json.dumps(decisive, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(_TAG + text.encode("ascii")).hexdigest()


def without_delivery(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in _DELIVERY}


def with_hashes(value: Any) -> Any:
    """`value` with the hash of each attached image or file in its place: that decides the answer as well, and is small."""
    if isinstance(value, Mapping):
        return {name: with_hashes(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [with_hashes(entry) for entry in value]
    if isinstance(value, str) and (found := _INLINE.match(value)):
        return f"data:{found[1]};sha256,{hashlib.sha256(value[found.end() :].encode()).hexdigest()}"
    return value


def without_hashed(asked: Any) -> Any:
    """An input without the attachments of which only the hash is known, as in a recording: a word stands for each."""
    if not isinstance(asked, list):
        return asked
    return [{**item, "content": [_kept(part) for part in item["content"]]} if "content" in item else item for item in asked]


def _kept(part: Mapping[str, Any]) -> Mapping[str, Any]:
    is_hashed = any(isinstance(value, str) and _HASHED.match(value) for value in part.values())
    return {"type": "input_text", "text": "(it is not at hand any more)"} if is_hashed else part


def nearest(request: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> int | None:
    """The position of the request that is most like `request`; `None` if there is none."""
    text = _text(request)
    compared = [_text(other) for other in others]
    # The letters that two texts share choose a few quickly; their order then decides.
    letters = [SequenceMatcher(None, text, other, autojunk=False).quick_ratio() for other in compared]
    few = heapq.nlargest(8, range(len(compared)), key=letters.__getitem__)
    return max(few, key=lambda position: SequenceMatcher(None, text, compared[position], autojunk=False).ratio(), default=None)


def differences(ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """What differs between two requests, a line for each field."""
    ours, recorded = (with_hashes(without_delivery(request)) for request in (ours, recorded))
    names = sorted(name for name in ours.keys() | recorded.keys() if ours.get(name) != recorded.get(name))
    return [f"{name}: {_short(recorded.get(name))} is recorded, {_short(ours.get(name))} is asked" for name in names]


def _text(request: Mapping[str, Any]) -> str:
    return json.dumps(with_hashes(without_delivery(request)), sort_keys=True)[:2000]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
