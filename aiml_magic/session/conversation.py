"""The conversation of a notebook: the answer that each cell continues.

A conversation is a tree of answers, but a notebook is a list of cells, each run many times. So a
cell keeps its place: run again, it continues from the newest answer of the same cell as before; a
new cell continues from the cell run last. If every cell continued the last answer, a cell that is
run again would continue its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from aiml_magic.journal.queries import Queries
from aiml_magic.journal.rows import Row


@dataclass
class Place:
    """A cell in a conversation: the cell before it, or the answer from which it forks.

    `rows` are the ids of its rows in the journal, oldest first.
    """

    before: str | None
    fork: int | None = None
    rows: list[int] = field(default_factory=list)


class Conversation:
    """The cells of one chat in this session."""

    def __init__(self, journal: Queries) -> None:
        self._journal = journal
        self._places: dict[str, Place] = {}
        self._run_order: list[str] = []
        self._whole: dict[int, int | None] = {}  # the parents of complete rows, by row
        self._expected: set[int] = set()  # rows being answered in the background
        self._run_here: set[str] = set()  # cells run by this kernel
        # Cells with a new id: some front ends change the ids when a notebook is opened.
        self._new_ids: set[str] = set()

    @property
    def has_begun(self) -> bool:
        """A cell was run here, or restored."""
        return bool(self._run_order)

    @property
    def may_have_new_ids(self) -> bool:
        """A cell may have had another id: no cell was run here yet, or others have new ids.

        Else an unknown id is of a new cell, even if its question was asked before.
        """
        return bool(self._new_ids) or not self._run_here

    def has(self, cell: str) -> bool:
        """Whether the place of this cell is known."""
        is_here = cell in self._run_here or cell in self._new_ids
        return is_here or (cell in self._places and not self._new_ids)

    def parent(self, cell: str) -> int | None:
        """The id of the row that `cell` continues; `None` if it begins the conversation."""
        place = self._places.get(cell)
        if place is not None:
            return place.fork if place.fork is not None else self._answer_at(place.before)
        for earlier in reversed(self._run_order):
            if (row_id := self._newest_answer(earlier)) is not None:
                return row_id
        return None

    def before(self, cell: str) -> str | None:
        """The cell that `cell` continues, or would if it were run now."""
        place = self._places.get(cell)
        return self._last_answered() if place is None else place.before

    def note(self, cell: str, row_id: int) -> None:
        """Notes that `row_id` was asked or replayed in `cell`, which is now the cell run last."""
        if cell not in self._places:
            self._places[cell] = Place(self._last_answered())
        self._places[cell].rows.append(row_id)
        self._run_here.add(cell)
        if cell in self._run_order:
            self._run_order.remove(cell)
        self._run_order.append(cell)

    def expect(self, row_id: int) -> None:
        """Lets later cells continue the row while it is being answered."""
        self._expected.add(row_id)

    def forget(self, row_id: int) -> None:
        """Drops the cached parent of a row whose texts were removed."""
        self._whole.pop(row_id, None)

    def start_afresh(self, cell: str) -> None:
        """Makes `cell` the beginning of the conversation for all cells run later."""
        self._run_order.clear()
        self._move(cell, Place(None))

    def fork(self, cell: str, row_id: int) -> None:
        """Makes `cell` continue the answer `row_id` of any cell or session."""
        self._move(cell, Place(None, row_id))

    def later_cells(self, cell: str, row_id: int) -> list[str]:
        """The stale cells after `cell`: their answers continue another answer of it than `row_id`.

        Only cells run since the restart: *Run All* is about to run the others again.
        """
        stale = []
        for name in [name for name, place in self._places.items() if place.before == cell]:
            newest = self._newest_answer(name)
            if newest is not None and self._continued(self._places[name], newest) != row_id:
                stale += [name, *self._after(name)]
        return [name for name in stale if name in self._run_here]

    def head(self) -> int | None:
        """The journal id of the last answer."""
        cell = self._last_answered()
        return None if cell is None else self._newest_answer(cell)

    def restore(self, rows: Iterable[Row]) -> None:
        """Restores places from the rows of earlier sessions, oldest first.

        Places of cells that were run here stay as they are.
        """
        rounds: dict[int | None, str] = {}  # the cells of rows that wait for results of tools
        known = {row_id for place in self._places.values() for row_id in place.rows}
        order = {cell: None for cell in self._run_order if cell not in self._run_here}
        for row in rows:
            cell = row.cell or f"row {row.id}"
            if row.id in known or cell in self._run_here:
                continue
            if row.waits_for_tools:
                rounds[row.id] = cell
            if rounds.get(row.parent) == cell:
                pass  # later rounds have the place of the first
            elif row.before is None or (
                row.before in self._places and cell not in self._ancestry(row.before)
            ):
                fork = row.parent if row.before is None else None
                self._move(cell, Place(row.before, fork))
            self._places.setdefault(cell, Place(None, row.parent)).rows.append(row.id)
            if not row.is_over:
                self.expect(row.id)
            order.pop(cell, None)
            order[cell] = None
        self._run_order = [*order, *(cell for cell in self._run_order if cell in self._run_here)]

    def find(self, row_ids: Collection[int]) -> str | None:
        """The cell of one of these rows that was not run here yet."""
        cells = (cell for cell in self._places if cell not in self._run_here)
        return next(
            (cell for cell in cells if not set(self._places[cell].rows).isdisjoint(row_ids)), None
        )

    def rename(self, cell: str, name: str) -> None:
        """Gives a cell another id; a cell that has it now keeps its place under a made-up id."""
        if name in self._places:
            self.rename(name, f"{name} earlier")
            self._new_ids.remove(f"{name} earlier")
        self._places[name] = self._places.pop(cell)
        for place in self._places.values():
            place.before = name if place.before == cell else place.before
        self._run_order = [name if entry == cell else entry for entry in self._run_order]
        self._new_ids.add(name)

    def _move(self, cell: str, place: Place) -> None:
        place.rows = self._places[cell].rows if cell in self._places else []
        self._places[cell] = place

    def _after(self, cell: str) -> list[str]:
        """The cells that continue `cell`, directly or not."""
        cells = [cell]
        for name in cells:
            cells += [other for other, place in self._places.items() if place.before == name]
        return cells[1:]

    def _last_answered(self) -> str | None:
        return next(
            (cell for cell in reversed(self._run_order) if self._newest_answer(cell) is not None),
            None,
        )

    def _ancestry(self, cell: str | None) -> Iterator[str]:
        """The cell and its ancestors."""
        while cell is not None:
            yield cell
            cell = self._places[cell].before

    def _answer_at(self, cell: str | None) -> int | None:
        answers = (self._newest_answer(name) for name in self._ancestry(cell))
        return next((row_id for row_id in answers if row_id is not None), None)

    def _newest_answer(self, cell: str) -> int | None:
        return next(
            (row_id for row_id in reversed(self._places[cell].rows) if self._fate(row_id)[0]),
            None,
        )

    def _continued(self, place: Place, row_id: int) -> int | None:
        """The parent of the first of the rounds that ended with this row."""
        parent = self._fate(row_id)[1]
        while parent in place.rows:
            parent = self._fate(parent)[1]
        return parent

    def _fate(self, row_id: int) -> tuple[bool, int | None]:
        """Whether the row can be continued, now or soon, and its parent.

        Complete rows are cached: only `forget` changes them.
        """
        if row_id in self._whole:
            return True, self._whole[row_id]
        row = self._journal.row(row_id)
        # Earlier versions continued empty answers: their conversations are replayed as they were.
        is_whole = row.can_continue or (row.is_empty and self._journal.is_continued(row_id))
        if is_whole:
            self._whole[row_id] = row.parent
        return is_whole or (row_id in self._expected and row.is_alive), row.parent


def tree(rows: Iterable[Row]) -> list[tuple[int, Row, bool]]:
    """The rows of a notebook as a tree: depth, row, and whether it is stale; parents first.

    Of a row's children, the one with the largest subtree comes last and stays at the row's depth:
    a long conversation is not indented, and n rows are at most log2(n) deep. An answer is stale if
    the cell that it continues has a newer one.
    """
    known = {row.id: row for row in rows}
    newest: dict[tuple[str | None, str | None], int] = {
        (row.chat, row.cell): row.id for row in known.values() if row.can_continue and row.cell
    }
    children: dict[int | None, list[Row]] = {}
    for row in known.values():
        children.setdefault(row.parent if row.parent in known else None, []).append(row)
    sizes: dict[int, int] = {}  # of each subtree, from the newest row: parents are older
    for row_id in sorted(known, reverse=True):
        sizes[row_id] = 1 + sum(sizes[child.id] for child in children.get(row_id, []))
    entries: list[tuple[int, Row, bool]] = []
    waiting = [(0, row, False) for row in reversed(children.get(None, []))]
    while waiting:
        depth, row, is_stale = waiting.pop()
        entries.append((depth, row, is_stale))
        is_replaced = row.can_continue and newest.get((row.chat, row.cell), row.id) != row.id
        if below := children.get(row.id):
            longest = max(below, key=lambda child: (sizes[child.id], child.id))
            forks = [child for child in below if child is not longest]
            depths = [(depth, longest), *((depth + 1, child) for child in reversed(forks))]
            waiting += [(deep, child, is_stale or is_replaced) for deep, child in depths]
    return entries
