"""Answers that could not be written to the journal, with retries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiml_magic import errors
from aiml_magic.journal.rows import Result, Row
from aiml_magic.journal.store import Journal

_FILE_WAIT = 60.0  # seconds to wait for a journal while rescue files hold the answers


class Unkept:
    """A runner's answers that are not in the journal yet, each in a rescue file if possible."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: dict[int, tuple[Row, Result, dict[str, Any]]] = {}

    @property
    def rows(self) -> set[int]:
        return set(self._held)

    def need_time(self, waited: float) -> bool:
        """Whether the runner must stay alive, after waiting so many seconds.

        An answer without a file keeps it alive, unless the folder is gone. Answers in rescue files
        are safe: they keep it alive for a minute, if the journal exists.
        """
        if all(event["copy"] for _, _, event in self._held.values()):
            return bool(self._held) and waited < _FILE_WAIT and self._journal.path.exists()
        return self._journal.path.parent.exists()

    def add(self, row: Row, result: Result, why: str) -> dict[str, Any]:
        """As `Journal.rescue`, and retried if that fails; returns the event for a kernel."""
        unkept, copy = self._journal.rescue(row, result)
        event = {"event": "unkept", "came": asdict(unkept), "copy": copy, "why": why}
        self._held[row.id] = row, result, event
        return event

    def event(self, row_id: int) -> dict[str, Any] | None:
        """The event for a kernel that asks again for an answer held here."""
        return self._held[row_id][2] if row_id in self._held else None

    def try_again(self) -> None:
        """Writes the answers to the journal, as far as possible, then imports the rescue files."""
        is_writable = True
        for row, result, event in list(self._held.values()):
            try:
                if is_writable:
                    self._journal.finish(row.id, result)
                    del self._held[row.id]
            except errors.JournalError:
                is_writable = False  # the next write would fail as well
            if not is_writable:
                self.add(row, result, event["why"])
        if is_writable:
            self._journal.import_rescued()
