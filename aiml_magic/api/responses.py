"""The Responses API as frozen values and events; pure.

Tolerant in reading: every field may be missing, null or of another type, what is unknown is kept
and named, and nothing here raises on a JSON object. A `Response` is a view of the raw object, which
stays as it came. A `Stream` folds the events of one stream into such an object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any

from aiml_magic.credentials import MASK
from aiml_magic.text import dump

Raw = Mapping[str, Any]

_MAX_STATUS = 60  # characters of a status that is no text
_TOO_MUCH = 2.0**62  # of tokens, credits or dollars; a database takes no more

# The words for a status that servers use, and the API's own for each. What is not among them keeps
# its own name.
_STATUS_OF_WORD = {
    word: status
    for status, words in {
        "completed": "completed complete succeeded success successful done finished ended ok",
        "failed": "failed failure error errored",
        "incomplete": "incomplete",
        "cancelled": "cancelled canceled",
        "queued": "queued pending",
        "in_progress": "in_progress running processing started",
    }.items()
    for word in words.split()
}

_KNOWN_ITEMS = {
    "message", "reasoning", "function_call", "web_search_call", "file_search_call", "computer_call",
    "computer_call_output", "image_generation_call", "code_interpreter_call", "local_shell_call",
    "mcp_list_tools", "mcp_call", "mcp_approval_request",
}  # fmt: skip


_KNOWN_ANNOTATIONS = {"url_citation", "file_citation", "container_file_citation", "file_path"}


@dataclass(frozen=True)
class Usage:
    """Tokens, as the server counted them; `None` where it did not say."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None


def sum_of(usages: Iterable[Usage]) -> Usage:
    """The tokens of several responses together; what one of them did not report is not known of all."""
    columns = zip(*(astuple(usage) for usage in usages), strict=True)
    return Usage(*(None if None in column else sum(column) for column in columns))


@dataclass(frozen=True)
class Cost:
    """What the server says it charged. `source` is the place where it said so."""

    usd: float
    credits: int | None
    source: str


def sum_of_costs(costs: Iterable[Cost]) -> Cost | None:
    """What several charges come to; `None` if there is none."""
    every = list(costs)
    if not every:
        return None
    counted = [spent.credits for spent in every if spent.credits is not None]
    return Cost(
        sum(spent.usd for spent in every),
        sum(counted) if len(counted) == len(every) else None,
        every[0].source,
    )


@dataclass(frozen=True)
class Citation:
    """A page or a file that the text cites.

    The indices count code points; a server may give some outside the text.

    Of a file there is `file_id`, and no `url`; its `title` is its name, if that is known.
    """

    title: str
    url: str
    start_index: int | None
    end_index: int | None
    file_id: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called.

    `arguments` should be JSON; `result` is what the model was told, or `None`.
    """

    id: str
    name: str
    arguments: str
    result: str | None = None


@dataclass(frozen=True)
class Response:
    """One response: `raw` as it came, and what can be read from it."""

    raw: Raw

    @cached_property
    def id(self) -> str | None:
        """The id by which the server knows it.

        One that held a secret is masked, and leads nowhere.
        """
        known = _name(self.raw.get("id"))
        return None if MASK in known else known or None

    @cached_property
    def model(self) -> str | None:
        return _text(self.raw.get("model")) or None

    @cached_property
    def items(self) -> tuple[Raw, ...]:
        """The output items, in order."""
        return tuple(_objects(self.raw.get("output")))

    @cached_property
    def text(self) -> str:
        """What the model wrote: all `output_text` parts, joined; `output_text` of the response only if there is no item."""
        if not self.items:
            return _text(self.raw.get("output_text"))
        return "".join(_text(part.get("text")) for part in self._parts("output_text"))

    @cached_property
    def refusal(self) -> str | None:
        """Why the model would not answer, in its words."""
        return "".join(_text(part.get("refusal")) for part in self._parts("refusal")) or None

    @cached_property
    def summaries(self) -> tuple[str, ...]:
        """The summaries of the reasoning, Markdown. Raw reasoning text is never among them."""
        parts = (
            part for item in self.of_type("reasoning") for part in _objects(item.get("summary"))
        )
        return tuple(text for part in parts if (text := _text(part.get("text"))))

    @cached_property
    def error(self) -> Raw | None:
        """`code` and `message` of a failed run."""
        error = self.raw.get("error")
        return error if isinstance(error, Mapping) else None

    @cached_property
    def incomplete_reason(self) -> str | None:
        details = _object(self.raw.get("incomplete_details"))
        return _text(details.get("reason")) or None

    @cached_property
    def is_status_inferred(self) -> bool:
        """The vendor's own sample has no status (contract of 2025)."""
        return status_of(self.raw.get("status")) is None

    @cached_property
    def status(self) -> str | None:
        """The API's word for how it stands, also where the server has another; one that nobody knows, as it came."""
        if (said := status_of(self.raw.get("status"))) is not None:
            return said
        if self.error:
            return "failed"
        if self.raw.get("incomplete_details"):
            return "incomplete"
        return "completed" if self.text or self.refusal or self.items else None

    @cached_property
    def outcome(self) -> str:
        """What came of it: answer, refusal, tool_calls, approval, incomplete, failed, cancelled, pending or unknown."""
        if self.status in ("queued", "in_progress"):
            return "pending"
        if self.status in ("failed", "incomplete", "cancelled"):
            return self.status
        if self.status != "completed":
            return "unknown"
        if self.refusal:
            return "refusal"
        if self.of_type("mcp_approval_request"):
            return "approval"
        return "tool_calls" if self.of_type("function_call") else "answer"

    @cached_property
    def usage(self) -> Usage | None:
        usage = self.raw.get("usage")
        if not isinstance(usage, Mapping):
            return None
        given, written = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
        total = _count(usage.get("total_tokens"))
        if total is None and given is not None and written is not None:
            total = given + written
        return Usage(
            input_tokens=given,
            cached_tokens=_count(_object(usage.get("input_tokens_details")).get("cached_tokens")),
            output_tokens=written,
            reasoning_tokens=_count(
                _object(usage.get("output_tokens_details")).get("reasoning_tokens")
            ),
            total_tokens=total,
        )

    @cached_property
    def citations(self) -> tuple[Citation, ...]:
        notes = (
            note
            for part in self._parts("output_text")
            for note in _objects(part.get("annotations"))
        )
        return tuple(
            Citation(
                title=_text(note.get("title") or note.get("filename")),
                url=_text(note.get("url")),
                start_index=_count(note.get("start_index", note.get("index"))),
                end_index=_count(note.get("end_index")),
                file_id=_text(note.get("file_id")),
            )
            for note in notes
            if _text(note.get("type")) in _KNOWN_ANNOTATIONS
        )

    @cached_property
    def unknown_types(self) -> tuple[str, ...]:
        """Types of items that this package does not know, each once, sorted."""
        return tuple(
            sorted({_text(item.get("type")) or "(no type)" for item in self.items} - _KNOWN_ITEMS)
        )

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """The functions that the model wants called, in order."""
        return tuple(
            ToolCall(
                id=_text(item.get("call_id")) or _text(item.get("id")),
                name=_text(item.get("name")),
                arguments=_arguments(item.get("arguments")),
            )
            for item in self.of_type("function_call")
        )

    @cached_property
    def has_output(self) -> bool:
        """Something of an answer is there, be it a call, or a summary of the reasoning."""
        others = any(item.get("type") not in ("message", "reasoning") for item in self.items)
        return bool(self.text or self.refusal or self.summaries or others)

    @cached_property
    def has_begun(self) -> bool:
        """The model has worked on it: there is output, or tokens of it were counted, or nobody counted and an item is there."""
        counted = self.usage and (
            self.usage.total_tokens
            if self.usage.output_tokens is None
            else self.usage.output_tokens
        )
        return self.has_output or bool(self.items if counted is None else counted)

    @property
    def images(self) -> tuple[Raw, ...]:
        return tuple(item for item in self.of_type("image_generation_call") if item.get("result"))

    def of_type(self, kind: str) -> tuple[Raw, ...]:
        return tuple(item for item in self.items if item.get("type") == kind)

    def warnings(self, request: Raw) -> tuple[str, ...]:
        """What a person should know of this response, as codes, given the `request` that it answers."""
        return tuple(code for code, holds in self._claims(request) if holds)

    def _claims(self, request: Raw) -> Iterator[tuple[str, bool]]:
        is_completed = self.status == "completed"
        written = self.usage.output_tokens if self.usage else None
        cap, asked_cap = _count(self.raw.get("max_output_tokens")), request.get("max_output_tokens")
        calls = self.of_type("function_call")
        yield "status_missing", self.is_status_inferred
        yield (
            "item_not_completed",
            is_completed
            and any(
                item.get("status") not in (None, "completed") for item in self.of_type("message")
            ),
        )
        yield "usage_missing", is_completed and self.usage is None
        yield (
            "usage_exceeds_max_output_tokens",
            written is not None and cap is not None and written > cap,
        )
        yield (
            "max_output_tokens_changed",
            asked_cap is not None and cap is not None and cap < asked_cap,
        )
        yield (
            "background_not_honoured",
            bool(request.get("background")) and self.outcome != "pending",
        )
        yield (
            "tool_arguments_not_json",
            any(not _is_json(_arguments(call.get("arguments"))) for call in calls),
        )
        yield (
            "citation_out_of_range",
            any(not self._is_in_text(citation) for citation in self.citations),
        )
        yield (
            "citation_unsafe_url",
            any(not (citation.file_id or is_web_link(citation.url)) for citation in self.citations),
        )
        yield (
            "mcp_error",
            any(
                item.get("error")
                for kind in ("mcp_list_tools", "mcp_call")
                for item in self.of_type(kind)
            ),
        )

    def _is_in_text(self, citation: Citation) -> bool:
        start, end = citation.start_index, citation.end_index
        return start is not None and end is not None and 0 <= start <= end <= len(self.text)

    def _parts(self, kind: str) -> Iterator[Raw]:
        for item in self.of_type("message"):
            yield from (part for part in _objects(item.get("content")) if part.get("type") == kind)


def status_of(value: Any) -> str | None:
    """The API's word for what a server calls a status; `None` if it says nothing, and what nobody knows as it came."""
    if value is None or value == "":
        return None
    name = _name(value).strip() if isinstance(value, str) else dump(value)[:_MAX_STATUS]
    return _STATUS_OF_WORD.get(re.sub(r"[ -]", "_", name.lower()), name)


def is_response(raw: Raw) -> bool:
    """A JSON object that is a response, not an error body nor something else."""
    return (
        raw.get("object") == "response"
        or isinstance(raw.get("output"), list)
        or "output_text" in raw
    )


def is_web_link(url: str) -> bool:
    return url.startswith(("https://", "http://"))


_CREDITS_PER_DOLLAR = 2_000_000  # as AI/ML API counts them


def cost(raw: Raw, headers: Mapping[str, str], meta: Raw | None = None) -> Cost | None:
    """What the server says it charged: in the response, in the last chunk of a stream (`meta`), or in the headers."""
    places = (
        ("meta.usage", _object(_object(raw.get("meta")).get("usage"))),
        ("stream meta", _object(_object(meta).get("usage"))),
        (
            "headers",
            {
                name: headers.get(f"x-aimlapi-{name.replace('_', '-')}")
                for name in ("usd_spent", "credits_used")
            },
        ),
    )
    for source, usage in places:
        usd, spent = _money(usage.get("usd_spent")), _money(usage.get("credits_used"))
        if usd is None and spent is not None:
            usd = spent / _CREDITS_PER_DOLLAR
        if usd is not None:
            return Cost(usd, None if spent is None else round(spent), source)
    return None


def log_entries(page: Any) -> tuple[list[Raw], bool]:
    """The entries of one page of the server's log, and whether there are more pages."""
    return _objects(_object(page).get("data")), bool(
        _object(_object(page).get("pagination")).get("has_more")
    )


def logged_cost(entry: Raw) -> Cost | None:
    """What a log entry says was charged."""
    spent = _object(entry.get("cost"))
    usd = _money(spent.get("usd"))
    return None if usd is None else Cost(usd, _count(spent.get("credits")), "log")


def attempt_id(client_request_id: str, attempt: int) -> str:
    """The id that goes with an attempt to ask a question; the first has the question's own."""
    return client_request_id if attempt == 1 else f"{client_request_id}.{attempt}"


def attempt_of(client_request_id: str, entry: Raw) -> int | None:
    """Which attempt a log entry is of; `None` if it is of another question."""
    base, _, number = _text(entry.get("client_request_id")).partition(f"{client_request_id}.")
    if base == client_request_id:
        return 1
    return int(number) if not base and number.isdecimal() and len(number) < 7 else None


def user_message(text: str, attached: Iterable[Raw] = ()) -> dict[str, Any]:
    """An input item: what a person says, and the parts that go with it."""
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}, *attached],
    }


def assistant_message(text: str, item_id: str) -> dict[str, Any]:
    """An input item: what the model said before."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "role": "assistant",
        "id": item_id,
        "status": "completed",
        "content": [part],
    }


def input_texts(request: Raw) -> list[str]:
    """The texts of what was sent: the question, then what is told of its attachments."""
    asked = request.get("input", "")
    if isinstance(asked, str):
        return [asked]
    return [
        _text(part.get("text"))
        for item in _objects(asked)
        for part in _objects(item.get("content"))
    ]


def question_text(request: Raw) -> str:
    """What was asked, in words, without attachments."""
    return next(iter(input_texts(request)), "(results of tools)")


def call_result(call: ToolCall, result: str) -> dict[str, Any]:
    """An input item: what came of a call."""
    return {"type": "function_call_output", "call_id": call.id, "output": result}


def approval(request: Raw, *, is_approved: bool) -> dict[str, Any]:
    """An input item: whether a call to an MCP server may be made."""
    return {
        "type": "mcp_approval_response",
        "approval_request_id": _text(request.get("id")),
        "approve": is_approved,
    }


def transcript(turns: Iterable[tuple[Any, Response]], question: Any) -> list[Any]:
    """The `input` that tells a whole conversation: of each turn its own input, then its answer and calls; then `question`."""
    items: list[Any] = []
    for number, (asked, response) in enumerate(turns, start=1):
        items += _as_items(asked)
        if response.text or not response.calls:
            items.append(assistant_message(response.text, f"msg_{number}"))
        items += [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }
            for call in response.calls
        ]
    return items + _as_items(question)


def _as_items(asked: Any) -> list[Any]:
    return [user_message(asked)] if isinstance(asked, str) else _objects(asked)


@dataclass(frozen=True)
class TextDelta:
    """A piece of what the model writes for the person (its text or its refusal)."""

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


@dataclass
class Stream:
    """Folds the events of one stream into its response.

    The response inside the terminal event decides; where it has no output, and where no terminal
    event came, the output is put together from what was streamed.
    """

    terminal: str | None = None
    last_sequence_number: int | None = None
    meta: Raw | None = None
    error: Raw | None = None
    _response: dict[str, Any] = field(default_factory=dict)
    _done: dict[object, Raw] = field(default_factory=dict)
    _parts: dict[object, dict[tuple[str, int], list[str]]] = field(default_factory=dict)
    _index_of: dict[str, object] = field(default_factory=dict)

    def add(self, event: Raw) -> Event | None:
        """Takes one event; gives what of it a person may want to see at once."""
        number = _count(event.get("sequence_number"))
        self.last_sequence_number = self.last_sequence_number if number is None else number
        kind = _text(event.get("type"))
        match kind.removeprefix("response."):
            case "queued" | "created" | "in_progress":
                return self._begin(_object(event.get("response")))
            case "error":
                self.error = _object(event.get("error")) or event
            case word if kind.startswith("response.") and _is_end(
                word, _object(event.get("response"))
            ):
                self.terminal = kind
                return self._begin(_object(event.get("response")))
            case "output_item.added":
                self._key(event)
                return Thinking(_text(_object(event.get("item")).get("type")))
            case "output_item.done":
                self._done[self._key(event)] = _object(event.get("item"))
            case "output_text.delta" | "refusal.delta" | "reasoning_summary_text.delta":
                return self._append(event, kind.removeprefix("response.").removesuffix(".delta"))
            case "output_text.done" | "refusal.done" | "reasoning_summary_text.done":
                part = kind.removeprefix("response.").removesuffix(".done")
                text = _text(event.get("refusal" if part == "refusal" else "text"))
                self._parts[self._key(event)][_slot(event, part)] = [text]
            case _:
                self._take_untyped(event, kind)
        return None

    @property
    def text(self) -> str:
        """What was streamed for the person so far."""
        return Response({"output": self._items()}).text

    @property
    def has_begun(self) -> bool:
        """Something of an answer was streamed, be it only that there will be one."""
        return bool(self._response or self._parts)

    @property
    def has_items(self) -> bool:
        """An item of the answer was streamed, be it only that there will be one."""
        return bool(self._parts)

    @property
    def has_ended(self) -> bool:
        return self.terminal is not None

    def response(self) -> dict[str, Any]:
        """The response as far as it is known; empty if nothing of it came.

        A terminal event decides how it ended.
        """
        known, items = self._response, self._items()
        if items and not known.get("output"):
            known = known | {"output": items}
        if self.terminal and (
            Response(known).is_status_inferred or Response(known).outcome == "pending"
        ):
            known = known | {"status": self.terminal.removeprefix("response.")}
        return known

    @property
    def differs_from_final(self) -> bool:
        """The terminal response holds another text than was streamed."""
        final = Response(self._response).text
        return bool(self.text and final and self.text != final)

    def _begin(self, response: Raw) -> Event | None:
        is_first = not self._response
        self._response = self._response | dict(response)
        known = Response(self._response).id
        return Created(known) if is_first and known else None

    def _take_untyped(self, event: Raw, kind: str) -> None:
        if not kind and isinstance(event.get("meta"), Mapping):
            self.meta = event["meta"]
        elif not kind and ("statusCode" in event or "error" in event or "detail" in event):
            self.error = event

    def _append(self, event: Raw, kind: str) -> Event | None:
        delta = _text(event.get("delta"))
        self._parts[self._key(event)].setdefault(_slot(event, kind), []).append(delta)
        return Thinking("reasoning") if kind == "reasoning_summary_text" else TextDelta(delta)

    def _key(self, event: Raw) -> object:
        """One key for an item, whether an event names it by its index, by its id (llama.cpp) or by both."""
        item = _object(event.get("item"))
        index: object = _count(event.get("output_index"))
        known = _text(event.get("item_id")) or _text(item.get("id"))
        if index is None:
            index = self._index_of.get(known, known)
        self._index_of.setdefault(known, index)
        self._parts.setdefault(index, {})
        return index

    def _items(self) -> list[Raw]:
        streamed = (
            (key, self._done.get(key) or _assembled(parts)) for key, parts in self._parts.items()
        )
        items = [(key, item) for key, item in streamed if item]
        if all(isinstance(key, int) for key, _ in items):
            items.sort(key=lambda pair: pair[0])  # type: ignore[arg-type,return-value]  # all are integers
        return [item for _, item in items]


def _is_end(word: str, response: Raw) -> bool:
    """An event of this name ends a stream: by its name, or because its response has ended in words that nobody knows."""
    if status_of(word) in ("completed", "incomplete", "failed", "cancelled"):
        return True
    return Response(response).outcome == "unknown" and not Response(response).is_status_inferred


def _slot(event: Raw, kind: str) -> tuple[str, int]:
    name = "summary_index" if kind == "reasoning_summary_text" else "content_index"
    return kind, _count(event.get(name)) or 0


def _assembled(parts: Mapping[tuple[str, int], list[str]]) -> Raw | None:
    """An item made of streamed text, for one that was cut off before it was done."""
    if not parts:
        return None
    names = {"output_text": "text", "refusal": "refusal", "reasoning_summary_text": "text"}
    content = [{"type": kind, names[kind]: "".join(pieces)} for (kind, _), pieces in parts.items()]
    if content[0]["type"] == "reasoning_summary_text":
        return {
            "type": "reasoning",
            "summary": [part | {"type": "summary_text"} for part in content],
        }
    return {"type": "message", "role": "assistant", "status": "in_progress", "content": content}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """The arguments of a call as JSON text, however they came: some servers send an object, or nothing for none."""
    if isinstance(value, str) and value.strip():
        return value
    return dump(value) if isinstance(value, Mapping) else "{}"


def _name(value: Any) -> str:
    """A text that is written where a lone surrogate cannot be: into an address, or a column of the journal."""
    return _text(value).encode("utf-8", "replace").decode()


def _object(value: Any) -> Raw:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Raw]:
    return (
        [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
    )


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _TOO_MUCH:
        return None
    return int(value)


def _money(value: Any) -> float | None:
    try:
        amount = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return amount if 0 <= amount < _TOO_MUCH and not isinstance(value, bool) else None


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
