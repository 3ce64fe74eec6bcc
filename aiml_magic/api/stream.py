"""The events of a stream, and the response that they make up; pure.

A stream ends with its terminal event. Its status is the worse one of the event and of the response
inside it. The output is that of this response, but its empty parts are filled from what was
streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiml_magic.api.responses import (
    ENDS,
    TEXT_PARTS,
    Raw,
    Response,
    as_count,
    as_object,
    as_objects,
    as_text,
    cost,
    is_error,
    is_response,
    status_of,
    type_of,
)
from aiml_magic.text import dump

# Texts that are streamed in deltas, by the stem of their events' names: the type of the item, the
# list in it and the type of the part (both empty outside a list), and the field of the text.
_PIECES = {
    "output_text": ("message", "content", "output_text", "text"),
    "refusal": ("message", "content", "refusal", "refusal"),
    "reasoning_text": ("reasoning", "content", "reasoning_text", "text"),
    "reasoning_summary_text": ("reasoning", "summary", "summary_text", "text"),
    "function_call_arguments": ("function_call", "", "", "arguments"),
    "mcp_call_arguments": ("mcp_call", "", "", "arguments"),
    "custom_tool_call_input": ("custom_tool_call", "", "", "input"),
    "code_interpreter_call_code": ("code_interpreter_call", "", "", "code"),
}
_BEGINNINGS: Mapping[str, Raw] = {
    kind: {"type": kind, "status": "in_progress"} for kind, _, _, _ in _PIECES.values()
} | {
    "message": {"type": "message", "role": "assistant", "status": "in_progress"},
    "reasoning": {"type": "reasoning"},
}
_STEMS = {part: stem for stem, (_, _, part, _) in _PIECES.items() if part}
_STEMS |= dict.fromkeys(TEXT_PARTS, "output_text")

_PENDING = ("queued", "in_progress")
_BADNESS = {"completed": 0, "incomplete": 2, "cancelled": 3, "failed": 4}  # other ends: 1
_NEWEST_COUNTS = {"status", "error", "incomplete_details"}  # fields replaced even by empty values
_LABELS = set("type id status role phase name call_id server_label".split())
_DEEPEST = 8  # levels of an item that are compared
_MAX_PAIRS = 1_000_000  # of final and streamed items that are compared
_ENTRY = 100  # bytes of an entry in a dictionary

_Slot = tuple[str, int]


@dataclass(frozen=True)
class TextDelta:
    """A piece of the model's text or of its refusal."""

    text: str


@dataclass(frozen=True)
class Created:
    """The server has the request, under this id."""

    id: str


@dataclass(frozen=True)
class Thinking:
    """The model reasons, or a tool runs; `what` is the type of the item."""

    what: str


Event = TextDelta | Created | Thinking


class Whole(NamedTuple):
    """The response of a stream; its terminal event may hold another text, or leave parts out."""

    response: Raw
    differs_from_final: bool
    fills_final: bool


@dataclass
class Stream:
    """Folds the events of one stream into its response.

    `has_worked`: the model has begun its output. `size`: bytes held in memory.
    """

    terminal: str | None = None
    meta: dict[str, Any] | None = None
    error: Raw | None = None
    has_worked: bool = False
    size: int = 0
    _status: str = "completed"
    _response: dict[str, Any] = field(default_factory=dict)
    _added: dict[object, Raw] = field(default_factory=dict)
    _done: dict[object, Raw] = field(default_factory=dict)
    _parts: dict[object, dict[_Slot, list[str]]] = field(default_factory=dict)
    _notes: dict[tuple[object, _Slot], list[Any]] = field(default_factory=dict)
    _index_of: dict[str, object] = field(default_factory=dict)
    _last_seen: Event | None = None

    def add(self, event: Raw) -> Event | None:
        """Adds one event; returns the progress that it shows, if any."""
        seen = self._fold(event)
        if isinstance(seen, Thinking):
            if seen == self._last_seen:
                return None
            self.size += _ENTRY  # a listener may keep it
        self._last_seen = seen or self._last_seen
        return seen

    @property
    def has_begun(self) -> bool:
        """A part of an answer was streamed, or its announcement."""
        return bool(self._response or self.has_worked)

    @property
    def has_ended(self) -> bool:
        return self.terminal is not None

    @property
    def has_cost(self) -> bool:
        return cost(self._response, {}, self.meta) is not None

    def whole(self) -> Whole:
        """The response so far, filled from the streamed items; empty if nothing was received."""
        final, streamed = self._response, self._items()
        known = with_streamed(final, streamed)
        text, final_text = Response({"output": streamed}).text, Response(final).text
        has_output = self.has_ended and isinstance(final.get("output"), list)
        is_filled = has_output and known is not final and _content(known) != _content(final)
        if self.has_ended:
            status = _worse(self._status, Response(known).status)
            if status_of(known.get("status")) != status:
                known = {**known, "status": status}
        return Whole(known, bool(text and final_text and text != final_text), is_filled)

    def _fold(self, event: Raw) -> Event | None:
        kind, response = type_of(event), as_object(event.get("response"))
        if not kind and is_response(event):  # a response outside an event
            kind = f"response.{Response(event).status or 'completed'}"
            response = event
        word = kind.removeprefix("response.")
        self._fold_meta(event, word)
        if word == "error" or (not kind and is_error(event)):
            self.error = as_object(event.get("error")) or event
        elif word == "created" or ("." not in word and status_of(word) in _PENDING):
            return self._begin(response)
        elif kind.startswith("response.") and _is_end(word, response):
            self.terminal = kind
            status = status_of(word)
            self._status = _worse(
                self._status, status if status in ENDS | _BADNESS.keys() else None
            )
            return self._begin(response)
        elif "." not in word and response:
            return self._begin(response)
        elif kind.startswith("response."):
            self.has_worked = True
            return self._fold_output(event, word)
        return None

    def _fold_output(self, event: Raw, word: str) -> Event | None:
        stem, _, step = word.rpartition(".")
        item, part = as_object(event.get("item")), as_object(event.get("part"))
        match stem, step:
            case "output_item", "added":
                self._set_item(self._added, event, item)
                return Thinking(type_of(item))
            case "output_item", "done":
                self._set_item(self._done, event, item)
            case "output_text.annotation", "added":
                notes = self._notes.setdefault((self._key(event), _slot(event, "output_text")), [])
                notes.append(self._counted(event.get("annotation")))
            case (("content_part" | "reasoning_summary_part"), "done"):
                if known := _STEMS.get(type_of(part)):
                    self._replace(event, known, part)
            case _, "delta" if stem in _PIECES:
                return self._append(event, stem)
            case _, "done" if stem in _PIECES:
                self._replace(event, stem, event)
        return None

    def _set_item(self, items: dict[object, Raw], event: Raw, item: Raw) -> None:
        key = self._key(event)
        items[key] = self._counted(item, items.get(key))

    def _begin(self, response: Raw) -> Event | None:
        """Merges the fields of a response; empty values do not replace earlier ones."""
        fields = {
            name: value
            for name, value in response.items()
            if name in _NEWEST_COUNTS or not (_is_empty(value) and self._response.get(name))
        }
        is_first = not self._response
        self._merge(self._response, fields)
        known = Response(self._response).id
        return Created(known) if is_first and known else None

    def _fold_meta(self, event: Raw, word: str) -> None:
        meta = as_object(event.get("meta")) or (event if word == "meta" else {})
        if meta:
            self.meta = {} if self.meta is None else self.meta
            self._merge(self.meta, meta)

    def _merge(self, known: dict[str, Any], fields: Raw) -> None:
        """Sets newer fields and counts their size, not that of all known fields again."""
        for name, value in fields.items():
            self.size += 0 if name in known else _ENTRY + len(name)
            known[name] = self._counted(value, known.get(name))

    def _append(self, event: Raw, stem: str) -> Event | None:
        delta, key = as_text(event.get("delta")), self._key(event)
        add_piece(self._pieces(key, _slot(event, stem)), self._counted(delta))
        kind = _PIECES[stem][0]
        if kind != "message":
            return Thinking(kind)
        if as_text(self._added.get(key, {}).get("phase")) == "commentary":
            return Thinking("commentary")
        return TextDelta(delta)

    def _replace(self, event: Raw, stem: str, part: Raw) -> None:
        """Replaces the pieces of a part by the complete part."""
        slot, key = _slot(event, stem), self._key(event)
        text = as_text(part.get(_PIECES[stem][3])) or as_text(part.get("text"))
        if text:
            pieces = self._pieces(key, slot)
            pieces[:] = [self._counted(text, "".join(pieces))]
        if notes := as_objects(part.get("annotations")):
            self._notes[key, slot] = self._counted(notes, self._notes.get((key, slot)))

    def _pieces(self, key: object, slot: _Slot) -> list[str]:
        if slot not in self._parts[key]:
            self.size += _ENTRY
        return self._parts[key].setdefault(slot, [])

    def _counted(self, value: Any, former: Any = None) -> Any:
        """`value`, after counting its size in place of `former`'s."""
        self.size += len(dump(value)) - (0 if former is None else len(dump(former)))
        return value

    def _key(self, event: Raw) -> object:
        """The key of an item: its index; else its id, which is all that llama.cpp sends."""
        item = as_object(event.get("item"))
        index: object = as_count(event.get("output_index"))
        known = as_text(event.get("item_id")) or as_text(item.get("id"))
        if index is None:
            index = self._index_of.get(known, known)
        if known not in self._index_of or index not in self._parts:
            self.size += _ENTRY + len(known)
        self._index_of.setdefault(known, index)
        self._parts.setdefault(index, {})
        return index

    def _items(self) -> list[Raw]:
        """The items that were streamed, in order, without those that were only announced."""
        items = []
        for key in self._parts:
            pieces = [streamed] if (streamed := self._assembled(key)) else []
            done = [item] if (item := self._done.get(key)) else []
            items += [(key, item) for item in with_streamed({"output": done}, pieces)["output"][:1]]
        if all(isinstance(key, int) for key, _ in items):
            items.sort(key=lambda pair: pair[0])  # type: ignore[arg-type,return-value]  # all are integers
        return [item for _, item in items]

    def _assembled(self, key: object) -> Raw:
        """An item made of its streamed pieces; empty if there are none."""
        added = self._added.get(key, {})
        item: dict[str, Any] = {}
        lists: dict[str, list[Raw]] = {}
        for slot, pieces in self._parts[key].items():
            kind, list_name, part, name = _PIECES[slot[0]]
            text = "".join(pieces)
            item = item or {**_BEGINNINGS[kind], **added}
            if part:
                notes = self._notes.get((key, slot))
                made = {"type": part, name: text} | ({"annotations": notes} if notes else {})
                lists.setdefault(list_name, []).append(made)
            else:
                item[name] = text
        return {**item, **lists} or ({} if _is_empty(added) else added)


def add_piece(pieces: list[str], piece: str) -> None:
    """Adds a piece of a text; neighbours of like size are joined, so a long text is few objects."""
    pieces.append(piece)
    while len(pieces) > 1 and len(pieces[-2]) <= len(pieces[-1]):
        pieces[-2:] = [pieces[-2] + pieces[-1]]


def with_streamed(response: Raw, streamed: Sequence[Raw]) -> Raw:
    """`response`, with empty and missing parts of its output filled from the streamed items."""
    final = as_objects(response.get("output"))
    if not streamed or (response.get("output") and not final):
        return response
    if not final:
        return {**response, "output": list(streamed)}
    if len(final) * len(streamed) > _MAX_PAIRS:
        return response
    filled = {**response, "output": _joined(final, streamed)}
    return response if _content(filled) == _content(response) else filled


def _joined(final: Sequence[Raw], streamed: Sequence[Raw]) -> list[Raw]:
    """The final items, each filled from its streamed one, and the streamed ones left over."""
    items, unmatched, left = list(final), list(range(len(final))), list(enumerate(streamed))
    finals, streams = (
        [_content({"output": [item]}) for item in some] for some in (final, streamed)
    )
    tests: tuple[Callable[[int, int], bool], ...] = (
        lambda at, position: _has_same_id(final[at], streamed[position]),
        lambda at, position: finals[at] == streams[position],
        lambda at, _: _is_empty(final[at]),
        lambda *_: True,
    )
    for is_same in tests:
        for position, item in left[:]:
            kind = item.get("type")
            twins = (at for at in unmatched if final[at].get("type") == kind)
            twin = next((at for at in twins if is_same(at, position)), None)
            if twin is None:
                continue
            unmatched.remove(twin)
            left.remove((position, item))
            if is_same is not tests[-1]:
                items[twin] = _filled(items[twin], item)
    text = "".join(text for _, text in Response({"output": items}).messages)
    for position, item in left:
        content = "".join(text for _, text in Response({"output": [item]}).messages)
        is_there = content in text if item.get("type") == "message" else _is_empty(item)
        if not is_there or item.get("type") not in ("message", "reasoning"):
            items.insert(min(position, len(items)), item)
    return items


def _has_same_id(final: Raw, streamed: Raw) -> bool:
    names = [name for name in ("id", "call_id") if final.get(name)]
    return any(final[name] == streamed.get(name) for name in names)


def _content(response: Raw) -> object:
    """The parts of a response that a person or a tool reads, for comparison."""
    read = Response(response)
    others = [
        (item.get("type"), _is_empty(item))
        for item in read.items
        if item.get("type") not in ("message", "reasoning")
    ]
    return (
        read.messages, read.refusal, read.calls, read.summaries,
        read.reasoning_texts, read.citations,
        others,
    )  # fmt: skip


def _is_empty(value: Any, depth: int = 0) -> bool:
    """Whether a value holds no text and no number, except in labels, at any depth."""
    if isinstance(value, str):
        return value.strip() in ("", "{}")
    if depth == _DEEPEST or not isinstance(value, list | Mapping):
        return value is None
    if isinstance(value, list):
        return all(_is_empty(entry, depth + 1) for entry in value)
    return all(name in _LABELS or _is_empty(entry, depth + 1) for name, entry in value.items())


def _filled(final: Any, streamed: Any, depth: int = 0) -> Any:
    """`final`, with its empty parts filled from `streamed`."""
    if depth == _DEEPEST or _is_empty(streamed):
        return streamed if final is None else final
    if isinstance(final, Mapping) and isinstance(streamed, Mapping):
        return {
            name: _filled(final.get(name), streamed.get(name), depth + 1)
            for name in {**streamed, **final}
            if name != "status" or name in final
        }
    if isinstance(final, list) and isinstance(streamed, list) and len(final) == len(streamed):
        return [_filled(*pair, depth + 1) for pair in zip(final, streamed, strict=True)]
    return streamed if _is_empty(final) else final


def _worse(*statuses: str | None) -> str:
    """The worst of the final statuses among `statuses`."""
    ends = [status for status in statuses if status and status not in _PENDING]
    return max(ends, key=lambda status: _BADNESS.get(status, 1))


def _is_end(word: str, response: Raw) -> bool:
    """Whether an event of this name ends a stream: by its name, or by the status inside it."""
    if "." in word:  # most events are of an item or a part
        return False
    if status_of(word) in _BADNESS:
        return True
    return status_of(response.get("status")) not in (None, *_PENDING)


def _slot(event: Raw, stem: str) -> _Slot:
    name = "summary_index" if stem == "reasoning_summary_text" else "content_index"
    return stem, as_count(event.get(name)) or 0
