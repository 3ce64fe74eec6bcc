"""The Responses API as frozen values and events; pure.

Reading is tolerant: every field may be missing, null or of another type; unknown items are kept and
named; nothing here raises on a JSON object. A `Response` is a view of the raw object, which is
never changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

from aiml_magic.text import MASK, dump, rows_of

Raw = Mapping[str, Any]

_MAX_STATUS = 60  # characters of a status that is not a string
_TOO_MUCH = 2.0**62  # of tokens, credits or dollars: SQLite's integers end there

# The API's statuses, each before the words that servers use for it. Other words stay as they are:
# some are final, as those in `ENDS`, and others mean that the work goes on.
_STATUS_OF_WORD = {word: row[0] for row in rows_of("""
    completed complete succeeded success successful done finished ended ok
    failed failure error errored
    incomplete truncated
    cancelled canceled
    queued in_queue enqueued pending scheduled waiting accepted submitted created
    in_progress inprogress running processing started starting working generating streaming
    in_progress thinking reasoning active executing cancelling canceling
""") for word in row}  # fmt: skip

ENDS = set("""
    expired timeout timed_out moderated blocked rejected refused denied aborted stopped terminated
    interrupted deleted lost unknown
""".split())  # fmt: skip

_KNOWN_ITEMS = set("""
    message reasoning function_call web_search_call file_search_call computer_call
    computer_call_output image_generation_call code_interpreter_call local_shell_call
    mcp_list_tools mcp_call mcp_approval_request
""".split())  # fmt: skip

_SIGNS_OF_ERROR = "error errors statusCode detail fault error_description message msg title".split()
TEXT_PARTS = {"output_text", "text", "input_text"}
_REASONING_PARTS = {"reasoning_text", "summary_text"}
_KNOWN_ANNOTATIONS = {"url_citation", "file_citation", "container_file_citation", "file_path"}


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; `None` if it did not report them."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None


def sum_of(usages: Iterable[Usage]) -> Usage:
    """The sum of several usages; `None` where one of them did not report a number."""
    columns = zip(*(astuple(usage) for usage in usages), strict=True)
    return Usage(*(None if None in column else sum(column) for column in columns))


@dataclass(frozen=True)
class Cost:
    """The charge as the server reports it; `source` is where it did."""

    usd: float
    credits: int | None
    source: str


def sum_of_costs(costs: Iterable[Cost]) -> Cost | None:
    """The sum of several charges; `None` if there are none."""
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

    The indices count code points, and may lie outside the text. A file has a `file_id` instead of a
    `url`; its `title` is its name, if known.
    """

    title: str
    url: str
    start_index: int | None
    end_index: int | None
    file_id: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A function call by the model.

    `arguments` should be JSON; `result` is the text sent back to the model, or `None`.
    """

    id: str
    name: str
    arguments: str
    result: str | None = None


@dataclass(frozen=True)
class Response:
    """A view of one response; `raw` is the object as the server sent it."""

    raw: Raw

    @cached_property
    def id(self) -> str | None:
        """The id at the server; `None` for one that was masked, since it cannot be used."""
        known = _name(self.raw.get("id"))
        return None if MASK in known else known or None

    @cached_property
    def model(self) -> str | None:
        return as_text(self.raw.get("model")) or None

    @cached_property
    def items(self) -> tuple[Raw, ...]:
        """The output items, in order."""
        return tuple(as_objects(self.raw.get("output")))

    @cached_property
    def text(self) -> str:
        """The text of the answer; the response's `output_text` if no item holds text.

        If a message has the phase `final_answer`, the others are not part of the answer. Commentary
        is the answer only if there is nothing else.
        """
        if text := _text_in_own_form(self.raw.get("output")):
            return text
        if texts := [text for _, text in self._answering]:
            return "".join(texts)
        return "" if self.refusal else as_text(self.raw.get("output_text"))

    @cached_property
    def commentary(self) -> tuple[str, ...]:
        """The texts of the messages that are not the answer."""
        return tuple(
            text for pair in self.messages if pair not in self._answering for text in pair[1:]
        )

    @cached_property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """Phase and text of each message that holds text."""
        pairs = (
            (as_text(item.get("phase")), "".join(map(_text_of, _text_parts(item))))
            for item in self.of_type("message")
        )
        return tuple(pair for pair in pairs if pair[1])

    @cached_property
    def _answering(self) -> tuple[tuple[str, str], ...]:
        by_rank = (
            tuple(pair for pair in self.messages if pair[0] == "final_answer"),
            tuple(pair for pair in self.messages if pair[0] != "commentary"),
        )
        return next(filter(None, by_rank), self.messages)

    @cached_property
    def refusal(self) -> str | None:
        """The model's reason for not answering."""
        parts = (part for part in self._parts("message") if part.get("type") == "refusal")
        return "".join(as_text(part.get("refusal")) or _text_of(part) for part in parts) or None

    @cached_property
    def summaries(self) -> tuple[str, ...]:
        """The summaries of the reasoning, in Markdown, without raw reasoning text."""
        return tuple(filter(None, map(_text_of, self._parts("reasoning", "summary"))))

    @cached_property
    def reasoning_texts(self) -> tuple[str, ...]:
        """The raw reasoning of open models, from reasoning items and from messages."""
        kinds = {"reasoning": _REASONING_PARTS | TEXT_PARTS, "message": _REASONING_PARTS}
        parts = (
            part for kind in kinds for part in self._parts(kind) if type_of(part) in kinds[kind]
        )
        return tuple(filter(None, map(_text_of, parts)))

    @cached_property
    def reasoning(self) -> str:
        """The summaries of the reasoning, else the reasoning itself."""
        return "\n\n".join(self.summaries or self.reasoning_texts)

    @cached_property
    def error(self) -> Raw | None:
        """`code` and `message` of a failed run."""
        error = self.raw.get("error")
        if isinstance(error, str) and error:
            return {"message": error}
        return error if isinstance(error, Mapping) and any(error.values()) else None

    @cached_property
    def incomplete_reason(self) -> str | None:
        details = self.raw.get("incomplete_details")
        return as_text(details) or as_text(as_object(details).get("reason")) or None

    @cached_property
    def status(self) -> str | None:
        """The API's word for the server's status; an unknown one unchanged.

        An error or incomplete details outweigh the status "completed".
        """
        is_sound = not self.raw.get("error") and not self.raw.get("incomplete_details")
        if is_sound and self.raw.get("status") == "completed":
            return (
                "completed"  # a shortcut for nearly all responses, of which a journal may have many
            )
        status = status_of(self.raw.get("status"))
        if status is not None and status != "completed":
            return status
        if self.error:
            return "failed"
        if self.incomplete_reason or (status is None and self.raw.get("incomplete_details")):
            return "incomplete"
        return "completed" if status or self.text or self.refusal or self.items else None

    @cached_property
    def outcome(self) -> str:
        """The kind of response.

        One of answer, refusal, tool_calls, approval, incomplete, failed, cancelled, pending
        and unknown.
        """
        if self.status in ("queued", "in_progress"):
            return "pending"
        if self.status in ("failed", "incomplete", "cancelled"):
            return self.status
        if self.status != "completed":
            return "pending" if self._may_go_on else "unknown"
        if self.refusal:
            return "refusal"
        if self.of_type("mcp_approval_request"):
            return "approval"
        return "tool_calls" if self.of_type("function_call") else "answer"

    @property
    def is_empty(self) -> bool:
        """It is a complete answer without a text, image or unknown part to show."""
        return self.outcome == "answer" and not (self.text or self.images or self.unknown_types)

    @cached_property
    def _may_go_on(self) -> bool:
        """It has an id, no output, and a status that is not known to be final."""
        is_word = self.status is not None and self.status.lower().replace(" ", "_") not in ENDS
        is_over = bool(self.error or self.raw.get("completed_at"))
        return is_word and self.id is not None and not self.has_begun and not is_over

    @cached_property
    def usage(self) -> Usage | None:
        usage = self.raw.get("usage")
        if not isinstance(usage, (dict, Mapping)):
            return None
        given, written = as_count(usage.get("input_tokens")), as_count(usage.get("output_tokens"))
        total = as_count(usage.get("total_tokens"))
        if total is None and given is not None and written is not None:
            total = given + written
        return Usage(
            input_tokens=given,
            cached_tokens=as_count(
                as_object(usage.get("input_tokens_details")).get("cached_tokens")
            ),
            output_tokens=written,
            reasoning_tokens=as_count(
                as_object(usage.get("output_tokens_details")).get("reasoning_tokens")
            ),
            total_tokens=total,
        )

    @cached_property
    def citations(self) -> tuple[Citation, ...]:
        return tuple(
            Citation(
                title=as_text(note.get("title") or note.get("filename")),
                url=as_text(note.get("url")),
                start_index=as_count(note.get("start_index", note.get("index"))),
                end_index=as_count(note.get("end_index")),
                file_id=as_text(note.get("file_id")),
            )
            for note in self._annotations
            if type_of(note) in _KNOWN_ANNOTATIONS
        )

    @cached_property
    def _annotations(self) -> tuple[Raw, ...]:
        """The annotations of all texts; chat completions nest their fields under their type."""
        return tuple(
            {**note, **as_object(note.get(type_of(note)))}
            for item in self.of_type("message")
            for part in _text_parts(item)
            for note in as_objects(
                part.get("annotations") or as_object(part.get("text")).get("annotations")
            )
        )

    @cached_property
    def unknown_types(self) -> tuple[str, ...]:
        """The unknown types among items, parts and annotations, each once, sorted."""
        known_parts = TEXT_PARTS | _REASONING_PARTS | {"refusal"}
        unknown = _types_of(self._read) - _KNOWN_ITEMS
        unknown |= _types_of(self._parts("message")) - known_parts
        unknown |= _types_of(self._annotations) - _KNOWN_ANNOTATIONS
        return tuple(sorted(unknown))

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """The function calls of the model, in order."""
        return tuple(
            ToolCall(
                id=as_text(item.get("call_id")) or as_text(item.get("id")),
                name=as_text(item.get("name")),
                arguments=_arguments(item.get("arguments")),
            )
            for item in self.of_type("function_call")
        )

    @cached_property
    def has_output(self) -> bool:
        """There is a text, a refusal, reasoning, or any other item such as a call."""
        others = any(item.get("type") not in ("message", "reasoning") for item in self._read)
        return bool(self.text or self.refusal or self.reasoning or others)

    @cached_property
    def has_begun(self) -> bool:
        """The model has worked: there is output, or counted tokens, or an uncounted item."""
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
        return tuple(item for item in self._read if item.get("type") == kind)

    def _parts(self, kind: str, field: str = "content") -> list[Raw]:
        """The parts of all items of a type."""
        return [part for item in self.of_type(kind) for part in as_objects(item.get(field))]

    @cached_property
    def _read(self) -> tuple[Raw, ...]:
        """The output items in the API's own form, also if the server sent another known form."""
        return tuple(
            read for item in _listed(self.raw.get("output")) for read in _in_own_form(item)
        )

    def warnings(self, request: Raw) -> tuple[str, ...]:
        """The codes of the warnings about this response to `request`."""
        return tuple(code for code, holds in self._claims(request) if holds)

    def _claims(self, request: Raw) -> Iterator[tuple[str, bool]]:
        is_completed = self.status == "completed"
        calls = self.of_type("function_call")
        yield "status_missing", status_of(self.raw.get("status")) is None
        statuses = [item.get("status") for item in self.of_type("message")]
        yield (
            "item_not_completed",
            is_completed and any(status not in (None, "completed") for status in statuses),
        )
        yield from self._claims_of_tokens(request)
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
            any(not self._is_in_text(note) for note in self._annotations),
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

    def _claims_of_tokens(self, request: Raw) -> Iterator[tuple[str, bool]]:
        written = self.usage.output_tokens if self.usage else None
        cap = as_count(self.raw.get("max_output_tokens"))
        asked_cap = request.get("max_output_tokens")
        yield "usage_missing", self.status == "completed" and self.usage is None
        yield (
            "usage_exceeds_max_output_tokens",
            written is not None and cap is not None and written > cap,
        )
        yield (
            "max_output_tokens_changed",
            asked_cap is not None and cap is not None and cap < asked_cap,
        )

    def _is_in_text(self, note: Raw) -> bool:
        """An annotation's range lies in the text; those without a range pass."""
        start, end = as_count(note.get("start_index")), as_count(note.get("end_index"))
        if type_of(note) not in _KNOWN_ANNOTATIONS or (start is None and end is None):
            return True
        longest = max(len(self.text), *(len(text) for _, text in self.messages), 0)
        start = 0 if start is None else start
        return 0 <= start <= (start if end is None else end) <= longest


def status_of(value: Any) -> str | None:
    """The API's word for a server's status; an unknown one unchanged; `None` without one."""
    if value is None or value == "":
        return None
    name = _name(value).strip() if isinstance(value, str) else dump(value)[:_MAX_STATUS]
    return _STATUS_OF_WORD.get(re.sub(r"[ -]", "_", name.lower()), name)


def is_response(raw: Raw) -> bool:
    """Whether a JSON object is a response."""
    return (
        raw.get("object") == "response"
        or isinstance(raw.get("output"), list)
        or "output_text" in raw
    )


def is_error(raw: Raw) -> bool:
    """Whether a JSON object is an error, in one of the shapes of servers and gateways."""
    return any(map(raw.get, _SIGNS_OF_ERROR))


def is_web_link(url: str) -> bool:
    return url.startswith(("https://", "http://"))


_CREDITS_PER_DOLLAR = 2_000_000  # as AI/ML API counts them


def cost(raw: Raw, headers: Mapping[str, str], meta: Raw | None = None) -> Cost | None:
    """The charge, from the response, the last chunk of a stream (`meta`), or the headers."""
    sources = (
        ("meta.usage", _usage_of_meta(raw.get("meta"))),
        ("stream meta", _usage_of_meta(meta)),
        (
            "headers",
            {
                "usd_spent": headers.get("x-aimlapi-usd-spent"),
                "credits_used": headers.get("x-aimlapi-credits-used"),
            },
        ),
    )
    for source, usage in sources:
        usd, spent = _money(usage.get("usd_spent")), _money(usage.get("credits_used"))
        if usd is None and spent is not None:
            usd = spent / _CREDITS_PER_DOLLAR
        if usd is not None:
            return Cost(usd, None if spent is None else round(spent), source)
    return None


def _usage_of_meta(meta: Any) -> Raw:
    return as_object(as_object(meta).get("usage")) or as_object(meta)


def log_entries(page: Any) -> tuple[list[Raw], bool]:
    """The entries of one page of the server's log, and whether there are more pages."""
    return as_objects(as_object(page).get("data")), bool(
        as_object(as_object(page).get("pagination")).get("has_more")
    )


def logged_cost(entry: Raw) -> Cost | None:
    """The charge in a log entry."""
    spent = as_object(entry.get("cost"))
    usd = _money(spent.get("usd"))
    return None if usd is None else Cost(usd, as_count(spent.get("credits")), "log")


def attempt_id(client_request_id: str, attempt: int) -> str:
    """The client request id of an attempt; the first attempt has the question's own."""
    return client_request_id if attempt == 1 else f"{client_request_id}.{attempt}"


def attempt_of(client_request_id: str, entry: Raw) -> int | None:
    """The number of the attempt in a log entry; `None` if it is of another question."""
    base, _, number = as_text(entry.get("client_request_id")).partition(f"{client_request_id}.")
    if base == client_request_id:
        return 1
    return int(number) if not base and number.isdecimal() and len(number) < 7 else None


def user_message(text: str, attached: Iterable[Raw] = ()) -> dict[str, Any]:
    """An input item: a person's text, then the parts attached to it."""
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}, *attached],
    }


def assistant_message(text: str, item_id: str, phase: str = "") -> dict[str, Any]:
    """An input item: an earlier answer of the model."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "type": "message",
        "role": "assistant",
        "id": item_id,
        "status": "completed",
        "content": [part],
    }
    return message | ({"phase": phase} if phase else {})


def input_texts(request: Raw) -> list[str]:
    """The texts of a request's input: the question, then those of its attachments."""
    asked = request.get("input", "")
    if isinstance(asked, str):
        return [asked]
    return [
        as_text(part.get("text"))
        for item in as_objects(asked)
        for part in as_objects(item.get("content"))
    ]


def format_of(request: Raw) -> str:
    """The type of the format in which a request wants its text; empty for plain text."""
    return type_of(as_object(as_object(request.get("text")).get("format")))


def question_text(request: Raw) -> str:
    """The question as text, without attachments."""
    return next(iter(input_texts(request)), "(results of tools)")


def call_result(call: ToolCall, result: str) -> dict[str, Any]:
    """An input item: the result of a call."""
    return {"type": "function_call_output", "call_id": call.id, "output": result}


def approval(request: Raw, *, is_approved: bool) -> dict[str, Any]:
    """An input item: whether the person approves a call to an MCP server."""
    return {
        "type": "mcp_approval_response",
        "approval_request_id": as_text(request.get("id")),
        "approve": is_approved,
    }


def turn_items(number: int, asked: Any, response: Response) -> list[Any]:
    """A turn of a conversation as items of an `input`: its question, answer and calls.

    `number` is its position in the conversation, from 1.
    """
    items = as_items(asked)
    if any(phase for phase, _ in response.messages):
        items += [
            assistant_message(text, f"msg_{number}_{position}", phase)
            for position, (phase, text) in enumerate(response.messages, start=1)
        ]
    elif response.text or not response.calls:
        items.append(assistant_message(response.text, f"msg_{number}"))
    return items + [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in response.calls
    ]


def as_items(asked: Any) -> list[Any]:
    return [user_message(asked)] if isinstance(asked, str) else as_objects(asked)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def type_of(raw: Raw) -> str:
    return as_text(raw.get("type"))


def _text_of(part: Raw) -> str:
    """The text of a part; some servers nest it together with its annotations."""
    text = part.get("text")
    return as_text(text) or as_text(as_object(text).get("value"))


def _text_in_own_form(output: Any) -> str:
    """The text of an output of reasoning and of messages of one phase, as most are; else empty.

    It is the same text as from `messages`, in a fifth of the time.
    """
    texts: list[Any] = []
    phases = set()
    for item in output if type(output) is list else ():
        match item:
            case {"type": "message", "content": [*parts]}:
                phases.add(as_text(item.get("phase")))
                for part in parts:
                    if type(part) is not dict or part.get("type") != "output_text":
                        return ""
                    texts.append(part.get("text"))
            case {"type": "reasoning"}:
                pass
            case _:
                return ""
    is_text = len(phases) == 1 and all(type(text) is str for text in texts)
    return "".join(texts) if is_text else ""


def _text_parts(item: Raw) -> Iterator[Raw]:
    """The parts of a message except reasoning and refusals; unknown kinds may hold text."""
    for part in as_objects(item.get("content")):
        if type_of(part) not in _REASONING_PARTS | {"refusal"}:
            yield part


def _types_of(values: Iterable[Raw]) -> set[str]:
    return {type_of(value) or "(no type)" for value in values}


def _listed(value: Any, kind: str = "output_text") -> list[Raw]:
    """`value` as a list of objects; a text becomes a part of the type `kind`."""
    entries = value if isinstance(value, list) else [value]
    texts = (
        {"type": kind, "text": entry} if isinstance(entry, str) else entry for entry in entries
    )
    return [entry for entry in texts if isinstance(entry, Mapping) and entry]


def _in_own_form(item: Raw) -> Iterator[Raw]:
    """An output item in the API's form; a message of chat completions also yields its calls."""
    kind = type_of(item)
    if kind in TEXT_PARTS or kind == "refusal":
        yield {"type": "message", "content": [item]}
    elif kind == "message" or (not kind and ("content" in item or "tool_calls" in item)):
        yield {**item, "type": "message", "content": [*_content_of(item)]}
        yield from map(_call, as_objects(item.get("tool_calls")))
    elif kind == "reasoning":
        texts = {"summary": "summary_text", "content": "reasoning_text"}
        yield {**item} | {name: _listed(item.get(name), part) for name, part in texts.items()}
    elif kind in ("function", "tool_call") or (kind == "function_call" and "function" in item):
        yield _call(item)
    else:
        yield item


def _content_of(message: Raw) -> Iterator[Raw]:
    for part in _listed(message.get("content")):
        yield part if part.get("type") or not _text_of(part) else {**part, "type": "output_text"}
    for name, kind in (("refusal", "refusal"), ("reasoning_content", "reasoning_text")):
        if text := as_text(message.get(name)):
            yield {"type": kind, "text": text}


def _call(call: Raw) -> Raw:
    """A call from the form of chat completions, with name and arguments below `function`."""
    return {**call, **as_object(call.get("function")), "type": "function_call"}


def _arguments(value: Any) -> str:
    """The arguments of a call as JSON text; some servers send an object, or nothing."""
    if isinstance(value, str) and value.strip():
        return value
    return dump(value) if isinstance(value, Mapping) else "{}"


def _name(value: Any) -> str:
    """A text without lone surrogates, for a URL or a column of the journal."""
    return as_text(value).encode("utf-8", "replace").decode()


def as_object(value: Any) -> Raw:
    return value if isinstance(value, (dict, Mapping)) else {}  # a dict is recognized faster


def as_objects(value: Any) -> list[Raw]:
    return (
        [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
    )


def as_count(value: Any) -> int | None:
    is_number = type(value) in (int, float)  # JSON's numbers; a bool is an int as well
    return int(value) if is_number and abs(value) < _TOO_MUCH else None


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
