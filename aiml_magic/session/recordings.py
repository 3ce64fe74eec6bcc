"""The recordings that a session writes; the last one is in use."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiml_magic.errors import BadInput
from aiml_magic.journal import recording
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.recording import Record
from aiml_magic.journal.replay import with_hashes
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.text import say


class Recordings:
    """The files to which a session has written answers.

    `replayed` are the ids of the recorded rows that were replayed in this session, by journal.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.replayed: defaultdict[Journal, set[int]] = defaultdict(set)
        self._paths: list[Path] = []
        # The files as this session left them, with the hashes of their lines.
        self._left: dict[Path, tuple[tuple[int, ...] | None, dict[str, int]]] = {}
        self._lock = lock  # a thread adds the answers of background jobs

    def start(self, path: Path) -> int:
        """Records every answer from now on in `path`; returns the number of answers in it.

        Raises BadInput.
        """
        is_there = os.path.exists(path)  # noqa: PTH110  # Path raises for some texts
        records = recording.read(path) if is_there else {}
        self._write(path, records)
        self._paths = [*(other for other in self._paths if other != path), path]
        return len(records)

    def keep(self, answer: Answer, journal: Journal) -> None:
        """Adds an answer to the recording in use, if there is one.

        An error is only printed, since the answer is in the journal.
        """
        row_id = answer.journal_id
        if answer.recorded and row_id is not None:
            self.replayed[journal].add(row_id)
        if (
            not self._paths
            or answer.status != "completed"
            or row_id is None
            or "not_in_journal" in answer.notices
        ):
            return
        with self._lock:
            record = _record_of(journal.row(row_id), journal)
            if record is None:
                return
            try:
                self._add(self._paths[-1], record)
            except BadInput as error:
                say(error)

    def remove(self, rows: Sequence[Row]) -> list[Path]:
        """Removes the answers of these rows; returns the changed files. Raises BadInput.

        The caller has the lock until the journal has forgotten the rows as well.
        """
        answers = [(with_hashes(row.request), row.response) for row in rows]
        try:
            files = {path: recording.read(path) for path in self._paths if path.exists()}
            left = {
                path: {
                    key: record
                    for key, record in records.items()
                    if (with_hashes(record.request), record.response) not in answers
                }
                for path, records in files.items()
            }
            changed = [path for path in files if len(left[path]) < len(files[path])]
            for path in changed:
                self._write(path, left[path])
        except BadInput as error:
            hint = "Repair or remove that recording, then try again."
            raise BadInput(f"Nothing was forgotten: {error.message}", hint) from error
        return changed

    def _add(self, path: Path, record: Record) -> None:
        """Appends a record.

        The file is written anew if another kernel has changed it, or for a record that differs.
        """
        line = recording.line_of(record)
        state, lines = self._left.get(path, (None, {}))
        is_ours = state is not None and state == _state_of(path)
        if is_ours and lines.get(record.key) == hash(line):
            return
        if is_ours and record.key not in lines:
            recording.append(path, line)
            lines[record.key] = hash(line)
            self._left[path] = _state_of(path), lines
        else:
            others = recording.read(path) if path.exists() else {}
            self._write(path, others | {record.key: record})

    def _write(self, path: Path, records: Mapping[str, Record]) -> None:
        lines = recording.write(path, records)
        self._left[path] = _state_of(path), {key: hash(line) for key, line in lines.items()}


def _state_of(path: Path) -> tuple[int, ...] | None:
    """The identity, size and time of a file; `None` if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _record_of(row: Row, journal: Journal) -> Record | None:
    """The record of an answer; `None` if its texts, or those of its parent, were removed."""
    parent = None if row.parent is None else journal.row(row.parent)
    if row.state != "done" or (parent is not None and parent.state == "forgotten"):
        return None
    return Record(
        server=row.server,
        request=row.request,
        parent=None if parent is None else parent.identity,
        response=row.response,
        notices=row.notices,
        cost_usd=row.cost_usd,
        seconds=row.seconds,
        asked_at=row.asked_at,
    )
