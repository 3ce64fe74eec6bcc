"""Recordings: files of answers that are distributed with a tutorial, one JSON object a line.

A line has the parts of a request that its replay key covers, and its response; an attachment is its
name, its size and its hash. It has no API key, no header, no user name and no path. A line whose
key does not fit its request is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.errors import BadInput
from aiml_magic.files import append_private, check_no_database, why, write_private
from aiml_magic.journal.replay import request_key, request_keys, with_hashes
from aiml_magic.text import cut, plain

_MOST = 5e10  # seconds or dollars: an upper bound that is still a valid date
# Bounds on memory: bytes of a line, bytes of all texts (as wide as their widest character), values.
_MAX_LINE, _MAX_TEXT, _MAX_VALUES = 16 * 2**20, 64 * 2**20, 2**19
# Characters that take four bytes in memory, and two; as UTF-8 or as escapes.
_WIDTHS = (
    (4, re.compile(rb"[\xf0-\xf4]|\\u[dD][89aAbB]")),
    (2, re.compile(rb"[\xc4-\xef]|\\u")),
)

_NAME_ANOTHER = "Name a file that %aiml record has written."


@dataclass(frozen=True)
class Record:
    """One answer.

    `parent` is the id of the response that it continues, `asked_at` is in seconds since 1970,
    `seconds` its duration.
    """

    server: str
    request: Raw
    parent: str | None
    response: Raw
    notices: tuple[str, ...]
    cost_usd: float | None
    seconds: float | None
    asked_at: float

    @property
    def key(self) -> str:
        return request_key(self.server, self.request, self.parent)


def read(path: Path) -> dict[str, Record]:
    """The records of a file by key, in order. Raises BadInput for any other file."""
    name = cut(plain(path.name))
    check_no_database(path)
    try:
        if not path.is_file():  # a device never ends
            raise BadInput(f"{name} is not a file.", _NAME_ANOTHER)
        return dict(
            _read_line(line, f"{name}, line {number}")
            for number, line in _lines(path)
            if line.strip()
        )
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {why(error)}.", _NAME_ANOTHER) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a file. Raises BadInput if they take more memory than a recording."""
    text = values = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b""), start=1):
            size = len(line) * next((width for width, sign in _WIDTHS if sign.search(line)), 1)
            text += size
            values += 1 + sum(map(line.count, (b"{", b"[", b",")))  # 1: blank lines take time too
            if size > _MAX_LINE or text > _MAX_TEXT or values > _MAX_VALUES:
                raise BadInput(
                    f"{plain(path.name)}, line {number}: it is larger than any recording.",
                    _NAME_ANOTHER,
                )
            yield number, line


def write(path: Path, records: Mapping[str, Record]) -> dict[str, str]:
    """Replaces a recording; returns its lines by key. Raises BadInput."""
    lines = {record.key: line_of(record) for record in records.values()}
    with _as_bad_input(path):
        write_private(path, "".join(lines.values()))
    return lines


def append(path: Path, line: str) -> None:
    """Adds the line of one record to a file. Raises BadInput if it cannot be written."""
    with _as_bad_input(path):
        append_private(path, line)


def line_of(record: Record) -> str:
    """A record as a line; texts of an earlier version become hashes."""
    request = with_hashes(record.request)
    return json.dumps({"key": record.key, **vars(record), "request": request}) + "\n"


@contextmanager
def _as_bad_input(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        raise BadInput(
            f"{cut(plain(path.name))} cannot be written: {why(error)}.",
            "The answer is in the journal; name another file to record to.",
        ) from error


def _read_line(line: bytes, where: str) -> tuple[str, Record]:
    try:
        raw = json.loads(line.decode())
        record = Record(
            server=_text(raw["server"]),
            request=dict(raw["request"]),
            parent=None if raw["parent"] is None else _text(raw["parent"]),
            response=dict(raw["response"]),
            notices=tuple(map(str, raw["notices"])),
            cost_usd=None if raw["cost_usd"] is None else _number(raw["cost_usd"]),
            seconds=None if raw["seconds"] is None else _number(raw["seconds"]),
            asked_at=_number(raw["asked_at"]),
        )
        key = str(raw["key"])
        is_changed = key not in request_keys(record.server, record.request, record.parent)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"{where} is not a recorded answer.", _NAME_ANOTHER) from error
    if is_changed:
        raise BadInput(
            f"{where} was changed after it was recorded.",
            "Record it again, or take the file's older version.",
        )
    return key, record


def _text(value: Any) -> str:
    """`value` as text. Raises ValueError for lone surrogates, which SQLite refuses."""
    return str(value).encode().decode()


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) < _MOST:
        raise ValueError(value)
    return number
