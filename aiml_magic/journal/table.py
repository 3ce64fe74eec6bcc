"""Rows of the journal as a lazy sequence of answers, and answers as records of a data frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from aiml_magic.api.responses import (
    Raw,
    Response,
    Usage,
    as_object,
    as_text,
    format_of,
    question_text,
)
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.queries import Queries
from aiml_magic.journal.rows import read_row
from aiml_magic.text import plain

TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_CHUNK = 1000  # rows in memory at once
# The columns for a record of a data frame. Others have paid the cost of a recorded answer.
_COST = "CASE WHEN origin = 'asked' THEN cost_usd END AS cost_usd"
_COLUMNS = f"id, asked_at, chat, cell, {_COST}, seconds, state, error, text, request, response"


class StoredAnswers(Sequence[Answer]):
    """Answers of the journal by the ids of their rows."""

    def __init__(self, journal: Queries, ids: Sequence[int]) -> None:
        self._journal = journal
        self._ids = ids

    def __getitem__(self, index: Any) -> Any:
        """The answer at a position, or the answers of a slice."""
        if isinstance(index, slice):
            return StoredAnswers(self._journal, self._ids[index])
        return self._journal.answers([self._journal.row(self._ids[index])])[0]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Answer]:
        for ids in self._chunks():
            yield from self._journal.answers(list(map(read_row, self._journal.raw_rows(ids))))

    def _chunks(self) -> Iterator[Sequence[int]]:
        return (self._ids[start : start + _CHUNK] for start in range(0, len(self), _CHUNK))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The records of a data frame: see `line_of`."""
        for raw in chain.from_iterable(
            self._journal.raw_rows(ids, _COLUMNS) for ids in self._chunks()
        ):
            request, response = _object(raw["request"]), _object(raw["response"])
            read = Response(response)
            yield line(
                request,
                read.usage,
                text=read.text or _part(raw),
                parsed=None,
                id=raw["id"],
                asked_at=datetime.fromtimestamp(raw["asked_at"], timezone.utc),
                model=request.get("model") or read.model,
                chat=raw["chat"],
                cell=raw["cell"],
                cost_usd=raw["cost_usd"],
                seconds=raw["seconds"],
                status=read.status if raw["state"] == "done" else raw["state"],
                replayed=False,
                error=_object(raw["error"]).get("message"),
            )


def line_of(answer: Answer) -> dict[str, Any]:
    """An answer as a record of a data frame, with control characters made visible."""
    return line(
        answer.request,
        answer.usage,
        text=answer.text,
        parsed=answer.parsed,
        id=answer.journal_id,
        asked_at=answer.asked_at,
        model=answer.request.get("model") or answer.model,
        chat=answer.chat,
        cell=answer.cell,
        cost_usd=answer.cost_usd,
        seconds=answer.seconds,
        status=answer.status,
        replayed=answer.replayed,
        error=answer.error,
    )


def line(
    request: Raw, usage: Usage | None, *, text: str, parsed: Any, **fields: Any
) -> dict[str, Any]:
    for name, value in fields.items():
        if type(value) is str:
            fields[name] = plain(value)
    fields["effort"] = _plain(as_object(request.get("reasoning")).get("effort"))
    fields["question"] = plain(question_text(request))
    fields["text"] = plain(text)
    for name in TOKENS:
        fields[name] = getattr(usage, name, None)
    for name, value in _parsed_fields(request, text, parsed).items():
        fields[_column(str(name))] = _plain(value)
    return fields


@lru_cache(maxsize=1000)
def _column(name: str) -> str:
    """The column of a field of a parsed answer; the prefix keeps it apart from the others."""
    return f"parsed.{plain(name)}"


def _parsed_fields(request: Raw, text: str, parsed: Any) -> Mapping[str, Any]:
    """The fields of a parsed answer by name; a value without fields has the name `value`."""
    if parsed is None and format_of(request) == "json_schema":
        parsed = _loaded(text)  # the class for it may not exist any more
    if parsed is None:
        return {}
    if isinstance(parsed, Mapping):
        return parsed
    if is_dataclass(parsed):  # also one with slots
        return {field.name: getattr(parsed, field.name) for field in fields(parsed)}
    return getattr(parsed, "__dict__", None) or {"value": parsed}


def _part(raw: Any) -> str:
    """The text received of an unfinished answer."""
    return "" if raw["state"] == "done" else as_text(_loaded(raw["text"]))


def _object(text: str | None) -> Mapping[str, Any]:
    value = _loaded(text)
    return value if isinstance(value, dict) else {}


def _loaded(text: str | None) -> Any:
    """The value of a JSON text; `None` for an empty or invalid one."""
    if not text:
        return None
    for read in _readers():
        try:
            return read(text)
        except (ValueError, RecursionError):
            pass
    return None


@cache
def _readers() -> tuple[Callable[[str], Any], ...]:
    """The parsers of JSON: pydantic's, three times as fast; then json's, for lone surrogates."""
    try:
        from pydantic_core import from_json
    except ImportError:  # not preinstalled in Pyodide
        return (json.loads,)
    return from_json, json.loads


def _plain(value: Any) -> Any:
    """A value with control characters made visible in all its texts."""
    match value:
        case str() if type(value) is str:
            return plain(value)
        case dict():
            return {_plain(name): _plain(entry) for name, entry in value.items()}
        case list():
            return [_plain(entry) for entry in value]
        case _:
            return value
