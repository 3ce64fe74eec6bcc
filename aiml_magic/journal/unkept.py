"""Answers that the journal could not take: tried again until it does."""

from __future__ import annotations

from aiml_magic import errors
from aiml_magic.journal.rows import Result, Row
from aiml_magic.journal.store import Journal

_FILE_WAIT = 60.0  # seconds to wait for a journal whose rescue files hold the answers


class Unkept:
    """The answers of a runner that are in no journal yet, each in a rescue file if possible."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: dict[int, tuple[Row, Result, str | None]] = {}

    @property
    def rows(self) -> set[int]:
        return set(self._held)

    def need_time(self, waited: float) -> bool:
        """Whether to wait on, after so many seconds.

        Without end for an answer on no disk, unless its folder is gone. An answer in a rescue file
        is safe, and waits for a minute only, and only if a journal exists.
        """
        if all(copy for _, _, copy in self._held.values()):
            return bool(self._held) and waited < _FILE_WAIT and self._journal.path.exists()
        return self._journal.path.parent.exists()

    def add(self, row: Row, result: Result) -> tuple[Row, str | None]:
        """As `Journal.rescue`; a failure of that is tried again, too."""
        unkept, copy = self._journal.rescue(row, result)
        self._held[row.id] = row, result, copy
        return unkept, copy

    def try_again(self) -> None:
        """Has the journal take what it can take now, also from rescue files."""
        is_taking = True
        for row, result, _ in list(self._held.values()):
            try:
                if is_taking:
                    self._journal.finish(row.id, result)
                    del self._held[row.id]
            except errors.JournalError:
                is_taking = False  # nor will it take the next
            if not is_taking:
                self.add(row, result)
        if is_taking:
            self._journal.take_in()
