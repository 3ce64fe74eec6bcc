"""The conversations of a notebook in one journal, and the parents of its questions.

A cell that was asked before a restart, under another id, or under another name of its notebook
keeps its place.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse

from aiml_magic.api.responses import question_text
from aiml_magic.errors import BadInput, JournalError
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.session.conversation import Conversation
from aiml_magic.session.question import NO_ID, Plan, Question


class Chats:
    """The conversations of a notebook, one for each chat."""

    def __init__(self, session: str, notebook: str, journal: Journal) -> None:
        self._session = session
        self._notebook = notebook
        self._journal = journal
        self._conversations: dict[str, Conversation] = {}

    def parent(self, question: Question) -> Row | None:
        """The row that a question continues. Raises BadInput for one that does not exist."""
        conversation, place = self._conversation(question), question.place
        if (
            conversation is not None
            and not conversation.has(place.cell)
            and not place.cell.startswith(NO_ID)
        ):
            self._take_up(question, conversation)
        if place.continues is not None:
            return self._journal.row(place.continues)
        if place.after is not None:
            return self._journal.row(self._journal.find_id(place.after))
        if conversation is None or place.is_new:
            return None
        parent = conversation.parent(place.cell)
        return None if parent is None else self._journal.row(parent)

    def before(self, question: Question) -> str | None:
        """The cell that a question continues, if any."""
        conversation, place = self._conversation(question), question.place
        if conversation is None or place.is_new or place.after is not None:
            return None
        return conversation.before(place.cell)

    def chain(self, question: Question, plan: Plan) -> str | None:
        """The form of the conversation: "id" if the server has the parent, else "transcript"."""
        parent = plan.parent
        if parent is None:
            return None
        # An unfinished parent may still get an id.
        has_id = parent.response_id is not None or not parent.is_over
        if question.delivery.chain != "auto":
            return "id" if question.delivery.chain == "id" and has_id else "transcript"
        is_kept = (
            parent.server == plan.server
            and has_id
            and bool(parent.request.get("store", True))
            and "store_refused" not in parent.notices
        )
        is_lost = is_kept and self._journal.has_lost_chain(self._session, plan.server)
        return "id" if is_kept and not is_lost else "transcript"

    def note(self, question: Question, parent: Row | None, row_id: int) -> tuple[str, ...]:
        """Adds a row to its cell's place; returns a notice if later cells continue an older row."""
        conversation, place = self._conversation(question), question.place
        if conversation is None:
            return ()
        if place.after is not None and parent is not None:
            conversation.fork(place.cell, parent.id)
        elif place.is_new:
            conversation.start_afresh(place.cell)
        conversation.note(place.cell, row_id)
        if question.delivery.background:
            conversation.expect(row_id)
        is_stale = conversation.later_cells(place.cell, row_id)
        return ("later_cells_stale",) if is_stale else ()

    def check_not_lost(self, question: Question, parent: Row | None) -> None:
        """Raises BadInput if a cell begins a conversation that it continued in a lost notebook.

        The notebook may have been renamed and the cell edited, or it may be another notebook: only
        the person knows, unless the other one still exists. Copies, and notebooks made by one
        program, share the ids of cells.
        """
        conversation, place = self._conversation(question), question.place
        if conversation is None or conversation.has_begun or parent is not None or place.is_new:
            return
        rows = self._journal.elsewhere(self._notebook, place.chat, place.cell, limit=1)
        if not rows or rows[0].parent is None or _is_file(rows[0].notebook):
            return
        name = rows[0].notebook
        raise BadInput(
            f"This cell continued the conversation of {name}; here it would begin a new one. "
            "Nothing was sent.",
            f"%aiml resume {name} continues that one, if it is this notebook's earlier name; "
            "--new begins a new one.",
        )

    def head(self, chat: str) -> int | None:
        """The id of the last answer of a chat: of this session, else of this notebook."""
        conversation = self._conversations.get(chat)
        head = conversation.head() if conversation else None
        if head is not None:
            return head
        turns = self._journal.turns(self._notebook, chat)
        return next((row.id for row in reversed(turns) if row.can_continue), None)

    def names(self) -> list[str]:
        """The names of the conversations, also of earlier sessions if the journal can be read."""
        earlier: list[str] = []
        if self._journal.path.exists():
            with contextlib.suppress(JournalError):
                earlier = self._journal.chats(self._notebook)
        return list(dict.fromkeys(["main", *self._conversations, *earlier]))

    def resume(self, earlier: str = "") -> dict[str, int]:
        """Restores the conversations of this notebook; returns the number of answers by chat.

        `earlier` is a former name of the notebook. Raises BadInput if it has no questions.
        """
        if earlier and not self._journal.chats(earlier):
            raise BadInput(
                f"The journal has no question of a notebook {earlier[:200]}.",
                "Give its name as in the journal, usually the whole path.",
            )
        if earlier and earlier != self._notebook:
            self._journal.note_past(self._notebook, earlier)
        names = self._journal.chats(self._notebook)
        chats = {chat: self._journal.turns(self._notebook, chat) for chat in names}
        for chat, rows in chats.items():
            self._conversations[chat] = Conversation(self._journal)
            self._conversations[chat].restore(rows)
        return {chat: sum(row.can_continue for row in rows) for chat, rows in chats.items()}

    def forget(self, row_id: int) -> None:
        """Stops all conversations from continuing from this row."""
        for conversation in self._conversations.values():
            conversation.forget(row_id)

    def _conversation(self, question: Question) -> Conversation | None:
        if question.place.chat is None:
            return None
        return self._conversations.setdefault(question.place.chat, Conversation(self._journal))

    def _take_up(self, question: Question, conversation: Conversation) -> None:
        """Restores the place that a cell had before, maybe under another id or notebook name."""
        cell, chat = question.place.cell, question.place.chat
        asked = None if question.items else question_text(question.request())
        is_known = self._journal.has_cell(self._notebook, chat, cell)
        if not is_known:
            elsewhere = self._journal.elsewhere(self._notebook, chat, cell)
            if (row := next((row for row in elsewhere if row.question == asked), None)) is not None:
                self._journal.note_past(self._notebook, row.notebook)
                is_known = True
        if not is_known and not conversation.may_have_new_ids:
            return
        turns = self._journal.turns(self._notebook, chat)
        same: dict[int, str | None] = {}
        if conversation.may_have_new_ids:
            same = {
                row.id: row.cell
                for row in turns
                if row.question == asked and _may_be_renamed(row.cell, cell)
            }
        if is_known or same:
            conversation.restore(turns)
        if cell not in same.values() and (former := conversation.find(same.keys())) is not None:
            conversation.rename(former, cell)


def _may_be_renamed(cell: str | None, name: str) -> bool:
    """Whether a front end may have changed the id of a cell to `name`.

    VS Code's ids contain the notebook: while its file exists, its cells keep their ids.
    """
    notebook = (cell or "").rpartition("#")[0]
    return notebook in ("", name.rpartition("#")[0]) or not _is_file(
        urllib.parse.unquote(notebook.partition(":")[2])
    )


def _is_file(notebook: str) -> bool:
    return os.path.isfile(notebook)  # noqa: PTH113  # Path raises for some texts
