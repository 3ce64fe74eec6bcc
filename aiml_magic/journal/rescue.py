"""Rescue files: private files beside the journal, each with one answer that it could not take.

A file may be forged, so it is validated as strictly as a row of the journal.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aiml_magic import errors
from aiml_magic.api.responses import Cost, Raw, Response
from aiml_magic.files import check_no_database, write_private
from aiml_magic.journal.rows import JSON_COLUMNS, KINDS, Result, Row, row_of, wrong_columns
from aiml_magic.text import MAX_JSON, dump, load

_MAX_BYTES = 4 * MAX_JSON  # of a file, with request, attachments and response


def rescue_file(folder: Path, row: Row) -> Path:
    """The path of a row's file; a forged id cannot move it to another folder."""
    name = re.sub(r"[^0-9a-f]", "", row.client_request_id)[-8:]
    return folder / f"answer-{name}.json"


def rescue(folder: Path, row: Row, result: Result) -> tuple[Row, str | None]:
    """The row as `finish` would leave it, and the rescue file that now holds it, else `None`."""
    unkept = replace(
        row,
        state=result.state,
        response=result.response,
        response_id=Response(result.response).id or result.response_id or row.response_id,
        text=row.text if result.text is None else result.text,
        notices=(*result.notices, "not_in_journal"),
        cost_usd=result.cost.usd if result.cost else None,
        seconds=result.seconds,
        error=result.error.as_dict() if result.error else None,
    )
    cost = result.cost or Cost(0.0, None, "")
    content = dump(asdict(unkept) | {"cost_credits": cost.credits, "cost_source": cost.source})
    path = rescue_file(folder, row)
    try:
        if not path.exists():
            write_private(path, content)
        elif _read_bounded(path) != content.encode():
            return unkept, None  # the file holds another answer
    except (OSError, errors.BadInput):
        return unkept, None
    return unkept, str(path)


def rescue_files(folder: Path) -> list[Path]:
    """The files in a folder that are named as rescue files."""
    try:
        return sorted(folder.glob("answer-*.json"))
    except OSError:
        return []


def read(path: Path) -> tuple[Row, Result]:
    """The row and the result in a rescue file. Raises OSError, ValueError or BadInput."""
    raw = load(_read_bounded(path), _MAX_BYTES)
    if not isinstance(raw, dict):
        raise ValueError(path)
    earlier = {"origin": "asked"}  # a version without that column wrote no other rows
    values: dict[str, Any] = {name: (earlier | raw).get(name) for name in KINDS}
    is_known = values["state"] in ("done", "failed", "cancelled")
    columns = KINDS.keys() - JSON_COLUMNS.keys()
    if wrong_columns(values) or not is_known or not all(_fits(values[name]) for name in columns):
        raise ValueError(path)
    row = row_of(values)
    return row, Result(
        state=row.state,
        response=row.response,
        seconds=row.seconds,
        notices=tuple(notice for notice in row.notices if notice != "not_in_journal"),
        cost=None if row.cost_usd is None else _cost(row.cost_usd, raw),
        error=None if row.error is None else errors.error_from_dict(row.error),
        response_id=row.response_id,
        text=row.text or None,
    )


def _cost(usd: float, raw: Raw) -> Cost:
    number, source = raw.get("cost_credits"), raw.get("cost_source")
    return Cost(
        usd,
        number if isinstance(number, int) and _fits(number) else None,
        source if isinstance(source, str) and _fits(source) else "rescued",
    )


def _fits(value: object) -> bool:
    """Whether SQLite can hold a value: no integer over 64 bits, no lone surrogate."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def _read_bounded(path: Path) -> bytes:
    """The content of a regular file that only this user can write.

    Raises OSError or BadInput for any other: a link, a pipe, a file of another user.
    """
    check_no_database(path)
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    with os.fdopen(os.open(path, sum(flags, os.O_RDONLY)), "rb") as file:
        status = os.fstat(file.fileno())
        is_ours = not hasattr(os, "geteuid") or (
            status.st_uid == os.geteuid() and not status.st_mode & 0o022
        )
        if not stat.S_ISREG(status.st_mode) or not is_ours or status.st_size > _MAX_BYTES:
            raise OSError(f"{path} is not a rescue file of this user")
        return file.read(_MAX_BYTES)
