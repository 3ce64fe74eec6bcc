"""Which answer a cell continues: laws over any order of running cells."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.conversation import Conversation


class Rows:
    """Rows as a journal knows them: which of them are whole answers."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def row(self, row_id: int) -> SimpleNamespace:
        return SimpleNamespace(advances=self.whole[row_id], parent=None, is_over=True)


def run(
    conversation: Conversation, rows: Rows, cell: str, *, is_whole: bool = True, is_new: bool = False
) -> tuple[int, int | None]:
    if is_new:
        conversation.start_afresh(cell)
    parent = conversation.parent(cell, rows)
    rows.whole.append(is_whole)
    row_id = len(rows.whole) - 1
    conversation.note(cell, row_id, rows)
    return row_id, parent


runs = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.booleans()), max_size=20)


@given(runs)
def test_laws(order):
    """A parent is an earlier whole answer of another cell, and a cell's place is that of its first run until it starts afresh."""
    conversation, rows, cell_of, place = Conversation(), Rows(), {}, {}
    for cell, is_whole, is_new in order:
        row_id, parent = run(conversation, rows, cell, is_whole=is_whole, is_new=is_new)
        cell_of[row_id] = cell
        if is_new:
            place[cell] = None
        assert place.setdefault(cell, cell_of.get(parent)) == cell_of.get(parent)
        if parent is not None:
            assert rows.whole[parent]
            assert cell != cell_of[parent]
            assert parent == max(row for row in range(row_id) if cell_of[row] == cell_of[parent] and rows.whole[row])


@given(st.lists(st.sampled_from("abcde"), unique=True, min_size=1))
def test_straight_run(cells):
    """Cells run one after the other continue each other; run all again in the same order, each continues the newest before it."""
    conversation, rows = Conversation(), Rows()
    for _ in range(2):
        parents = [run(conversation, rows, cell) for cell in cells]
        assert parents[0][1] is None
        assert [row_id for row_id, _ in parents[:-1]] == [parent for _, parent in parents[1:]]


def test_rerun_of_the_last_cell():
    """The last cell, run again, is no child of its own answer."""
    conversation, rows = Conversation(), Rows()
    first, _ = run(conversation, rows, "a")
    assert first == run(conversation, rows, "b")[1] == run(conversation, rows, "b")[1]
