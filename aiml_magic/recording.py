"""A file of answers that travels with a tutorial: JSON, one answer a line.

It holds what decides an answer and what came, in the order in which they were first asked; of an attachment its name, its size
and its hash; no key, no header, no name of a user and no path. A line is believed only if its key is a key of its request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiml_magic import safe
from aiml_magic.addresses import check_no_database, write_private
from aiml_magic.errors import BadInput
from aiml_magic.replay import request_key, request_keys, with_hashes

_FAR = 5e10  # seconds or dollars: more than there ever are, and still a date
_MAX_FILE = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Record:
    """One answer. `parent` is the id of the response that it continues, `asked_at` seconds since 1970, `seconds` its duration."""

    server: str
    request: Mapping[str, Any]
    parent: str | None
    response: Mapping[str, Any]
    notices: tuple[str, ...]
    cost_usd: float | None
    seconds: float | None
    asked_at: float

    @property
    def key(self) -> str:
        return request_key(self.server, self.request, self.parent)


def read(path: Path) -> dict[str, Record]:
    """The records of a file by key, in order. Raises BadInput for a file that is none."""
    name = safe.plain(path.name)
    check_no_database(path)
    try:
        if not path.is_file() or path.stat().st_size > _MAX_FILE:  # a device never ends
            raise BadInput(f"{name} is no file, or larger than any recording.", "Name a file that %aiml record has written.")
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name} cannot be read: {error}.", "Name a file that %aiml record has written.") from error
    records = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            key, record = _read_line(line, f"{name}, line {number}")
            records[key] = record
    return records


def write(path: Path, records: Mapping[str, Record]) -> None:
    """Writes the whole file anew, with hashes where an earlier version wrote texts. Raises BadInput if that cannot be."""
    hashed = {record.key: {**vars(record), "request": with_hashes(record.request)} for record in records.values()}
    lines = (json.dumps({"key": key, **record}) for key, record in hashed.items())
    try:
        write_private(path, "".join(f"{line}\n" for line in lines))
    except (OSError, ValueError) as error:  # no disk takes such a name
        raise BadInput(
            f"{safe.plain(path.name)} cannot be written: {error}.",
            "The answer is in the journal all the same; name another file to record to.",
        ) from error


def _read_line(line: str, where: str) -> tuple[str, Record]:
    try:
        raw = json.loads(line)
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
        raise BadInput(f"{where} is no recorded answer.", "Name a file that %aiml record has written.") from error
    if is_changed:
        raise BadInput(f"{where} was changed after it was recorded.", "Record it again, or take the file's older version.")
    return key, record


def _text(value: Any) -> str:
    """`value` as text without lone surrogates, which no column takes. Raises ValueError."""
    return str(value).encode().decode()


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) < _FAR:
        raise ValueError(value)
    return number
