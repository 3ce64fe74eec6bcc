"""Which answer a cell continues.

A conversation is a tree of answers, but a notebook is a list of cells, and a cell is run many times. So a cell keeps its
place: run again, it continues from the same cell as before, whatever that cell's newest answer is; a new cell continues from
the last one run. "The last answer" would make a cell that is run again the child of its own answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiml_magic.journal import Journal


@dataclass
class Place:
    """A cell in a conversation: the cell before it, and the journal ids of what was asked there, oldest first."""

    before: str | None
    rows: list[int] = field(default_factory=list)


class Conversation:
    """One chat of this session, by cells."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._run_order: list[str] = []

    def parent(self, cell: str, journal: Journal) -> int | None:
        """The journal id of the answer that `cell` continues, or `None` if it begins the conversation."""
        place = self._places.get(cell)
        if place is not None:
            return self._answer_at(place.before, journal)
        for earlier in reversed(self._run_order):
            if (row_id := self._newest_answer(earlier, journal)) is not None:
                return row_id
        return None

    def note(self, cell: str, row_id: int, journal: Journal) -> None:
        """Remembers that `row_id` was asked in `cell`, which has now been run last."""
        if cell not in self._places:
            self._places[cell] = Place(self._last_answered(journal))
        self._places[cell].rows.append(row_id)
        if cell in self._run_order:
            self._run_order.remove(cell)
        self._run_order.append(cell)

    def start_afresh(self, cell: str) -> None:
        """Makes `cell` the beginning; the cells that were run before no longer lead to it."""
        self._run_order.clear()
        rows = self._places[cell].rows if cell in self._places else []
        self._places[cell] = Place(None, rows)

    def _last_answered(self, journal: Journal) -> str | None:
        return next((cell for cell in reversed(self._run_order) if self._newest_answer(cell, journal) is not None), None)

    def _answer_at(self, cell: str | None, journal: Journal) -> int | None:
        while cell is not None:
            if (row_id := self._newest_answer(cell, journal)) is not None:
                return row_id
            cell = self._places[cell].before
        return None

    def _newest_answer(self, cell: str, journal: Journal) -> int | None:
        return next((row_id for row_id in reversed(self._places[cell].rows) if journal.row(row_id).advances), None)
