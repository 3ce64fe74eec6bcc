"""The answer that a cell continues: laws for any order of running cells."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.session.conversation import Conversation, tree


class Rows:
    """A journal that knows which rows are complete answers."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def row(self, row_id: int) -> SimpleNamespace:
        return SimpleNamespace(
            can_continue=self.whole[row_id], is_empty=False, parent=None, is_over=True
        )


def run(
    conversation: Conversation,
    rows: Rows,
    cell: str,
    *,
    is_whole: bool = True,
    is_new: bool = False,
) -> tuple[int, int | None]:
    if is_new:
        conversation.start_afresh(cell)
    parent = conversation.parent(cell)
    rows.whole.append(is_whole)
    row_id = len(rows.whole) - 1
    conversation.note(cell, row_id)
    return row_id, parent


runs = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.booleans()), max_size=20)


@given(runs)
def test_laws(order):
    """A parent is an earlier complete answer of another cell, and a cell keeps the place of its first run until it starts afresh."""
    rows, cell_of, place = Rows(), {}, {}
    conversation = Conversation(rows)
    for cell, is_whole, is_new in order:
        row_id, parent = run(conversation, rows, cell, is_whole=is_whole, is_new=is_new)
        cell_of[row_id] = cell
        if is_new:
            place[cell] = None
        assert place.setdefault(cell, cell_of.get(parent)) == cell_of.get(parent)
        if parent is not None:
            assert rows.whole[parent]
            assert cell != cell_of[parent]
            assert parent == max(
                row for row in range(row_id) if cell_of[row] == cell_of[parent] and rows.whole[row]
            )


@given(st.lists(st.sampled_from("abcde"), unique=True, min_size=1))
def test_straight_run(cells):
    """Cells run in order continue each other; run again in the same order, each continues the newest answer before it."""
    rows = Rows()
    conversation = Conversation(rows)
    for _ in range(2):
        parents = [run(conversation, rows, cell) for cell in cells]
        assert parents[0][1] is None
        assert [row_id for row_id, _ in parents[:-1]] == [parent for _, parent in parents[1:]]


@given(runs, st.sampled_from("abcde"), st.sampled_from("abcdef"))
def test_new_id(order, cell, name):
    """A cell with a new id keeps its place, as do the cells after it, and the cell that had this id before."""
    rows = Rows()
    conversation = Conversation(rows)
    for ran, is_whole, is_new in order:
        run(conversation, rows, ran, is_whole=is_whole, is_new=is_new)
    ran_here = {ran for ran, _, _ in order}
    if cell in ran_here and cell != name:
        names = {other: other for other in sorted(ran_here)}
        before = [conversation.parent(other) for other in names]
        conversation.rename(cell, name)
        names |= {name: f"{name} earlier", cell: name} if name in names else {cell: name}
        assert before == [conversation.parent(other) for other in names.values()]


def test_tree():
    """A tree shows each parent before its children, the longest line of turns at one depth, other forks deeper; what continues a
    replaced answer is stale, and so is all behind it."""

    def row(row_id, cell, parent=None):
        return SimpleNamespace(id=row_id, chat="main", cell=cell, parent=parent, can_continue=True)

    rows = [row(1, "a"), row(2, "b", 1), row(3, "c", 2), row(4, "a"), row(5, "d", 2)]
    shown = [(depth, row.id, is_stale) for depth, row, is_stale in tree(rows)]
    assert [(0, 1, False), (0, 2, True), (1, 3, True), (0, 5, True), (0, 4, False)] == shown


@given(st.lists(st.integers(0, 99), max_size=100))
def test_tree_holds_every_row(parents):
    """Every row is shown once, after its parent if that exists, and at most log2(n) deep."""
    rows = [
        SimpleNamespace(
            id=number,
            chat="main",
            cell=None,
            parent=parent if parent < number else None,
            can_continue=True,
        )
        for number, parent in enumerate(parents)
    ]
    entries = tree(rows)
    assert all(2**depth <= len(rows) for depth, _, _ in entries)
    shown = [row.id for _, row, _ in entries]
    assert sorted(shown) == list(range(len(rows)))
    assert all(row.parent is None or shown.index(row.parent) < shown.index(row.id) for row in rows)


def test_rerun_of_the_last_cell():
    """The last cell, run again, does not continue its own answer."""
    rows = Rows()
    conversation = Conversation(rows)
    first, _ = run(conversation, rows, "a")
    assert first == run(conversation, rows, "b")[1] == run(conversation, rows, "b")[1]
