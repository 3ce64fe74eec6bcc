"""Answers that the journal could not take, with retries."""

from __future__ import annotations

from aiml_magic import errors
from aiml_magic.journal.rows import Result, Row
from aiml_magic.journal.store import Journal

_FILE_WAIT = 60.0  # seconds to wait for a journal while rescue files hold the answers


class Unkept:
    """The answers of a runner that are in no journal yet, each in a rescue file if possible."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: dict[int, tuple[Row, Result, str | None]] = {}

    @property
    def rows(self) -> set[int]:
        return set(self._held)

    def need_time(self, waited: float) -> bool:
        """Whether the runner must stay alive, after waiting so many seconds.

        An answer that is in no file keeps it alive, unless the folder is gone. Answers in rescue
        files are safe: they keep it for a minute, if the journal exists.
        """
        if all(copy for _, _, copy in self._held.values()):
            return bool(self._held) and waited < _FILE_WAIT and self._journal.path.exists()
        return self._journal.path.parent.exists()

    def add(self, row: Row, result: Result) -> tuple[Row, str | None]:
        """As `Journal.rescue`, and retried if that fails."""
        unkept, copy = self._journal.rescue(row, result)
        self._held[row.id] = row, result, copy
        return unkept, copy

    def try_again(self) -> None:
        """Writes the answers to the journal, as far as it takes them, then the rescue files."""
        is_taking = True
        for row, result, _ in list(self._held.values()):
            try:
                if is_taking:
                    self._journal.finish(row.id, result)
                    del self._held[row.id]
            except errors.JournalError:
                is_taking = False  # it would not take the next one either
            if not is_taking:
                self.add(row, result)
        if is_taking:
            self._journal.take_in()
