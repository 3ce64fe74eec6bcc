"""The queries of a journal: rows by key, by notebook, by conversation, by words.

Each method is one read transaction, or a part of the open transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.errors import BadInput
from aiml_magic.files import short
from aiml_magic.journal import index
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.database import Database
from aiml_magic.journal.rows import Row, read_row
from aiml_magic.text import dump

# A notebook's rows are those under its name and, for each former name, those up to a row: the file
# was renamed, or it is a copy, whose original adds rows under the former name.
NAMES = """
    WITH names (name, until) AS (
        SELECT :notebook, 9223372036854775807
        UNION ALL
        SELECT earlier, until FROM pasts WHERE notebook = :notebook
    )
"""
OF_NOTEBOOK = (
    "names CROSS JOIN requests ON requests.notebook = names.name AND requests.id <= names.until"
)

_ANCESTRY = """
    WITH RECURSIVE ancestry (id) AS (
        SELECT :row
        UNION ALL
        SELECT requests.parent FROM ancestry JOIN requests ON requests.id = ancestry.id
        WHERE requests.parent < requests.id  -- a forged file may have circles
    )
"""
_OF_ANCESTRY = "FROM ancestry JOIN requests ON requests.id = ancestry.id ORDER BY requests.id"


class Queries(Database):
    """The queries of a journal. Every method raises JournalError if the file cannot be used."""

    _is_index_sound = False  # whether the index passed its check

    def row(self, row_id: int) -> Row:
        """The row of this id. Raises BadInput if there is none."""
        raw = self._first("SELECT * FROM requests WHERE id = :row", row=row_id)
        if raw is None:
            raise BadInput(
                f"The journal has no answer {row_id}.",
                f"%aiml history lists those of this notebook, in {short(self.path)}.",
            )
        return read_row(raw)

    def unfinished(self, notebook: str) -> list[Row]:
        """The rows of a notebook that are queued or sent, oldest first."""
        return self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {OF_NOTEBOOK}
            WHERE state IN ('queued', 'sent') ORDER BY requests.id
            """,  # noqa: S608  # both are ours
            notebook=notebook,
        )

    def sent_by(self, cluster: str) -> list[Row]:
        """The unfinished rows that a cluster sent, oldest first."""
        return self._rows(
            "SELECT * FROM requests WHERE state = 'sent' AND cluster = :cluster ORDER BY id",
            cluster=cluster,
        )

    def is_continued(self, row_id: int) -> bool:
        """Whether an answer continues the row."""
        return self._has(
            "SELECT 1 FROM requests WHERE id > :row AND parent = :row AND state = 'done'",
            row=row_id,
        )

    def find_id(self, name: str) -> int:
        """The id of the row with the number or the response id `name`. Raises BadInput.

        A recording may claim any response id, so a row that was asked here comes first.
        """
        raw = self._first(
            """
            SELECT id FROM requests WHERE id = :number OR response_id = :name
            ORDER BY id = :number DESC, origin = 'asked' DESC, id DESC LIMIT 1
            """,
            number=int(name) if name.isdecimal() and len(name) < 19 else None,
            name=name,
        )
        if raw is None:
            raise BadInput(
                f"The journal has no answer {name[:60]}.",
                "%aiml history lists those of this notebook.",
            )
        return int(raw["id"])

    def history(self, notebook: str | None = None, limit: int = 1000) -> list[Row]:
        """The newest rows of a notebook, or of all, oldest first; without forgotten ones."""
        newest_first = self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {"requests" if notebook is None else OF_NOTEBOOK}
            WHERE state <> 'forgotten' ORDER BY requests.id DESC LIMIT :limit
            """,  # noqa: S608  # both are ours
            notebook=notebook,
            limit=limit,
        )
        return newest_first[::-1]

    def select(
        self,
        *,
        notebook: str | None = None,
        chat: str | None = None,
        words: str | None = None,
        since: float | None = None,
    ) -> list[int]:
        """The ids of the rows that meet all conditions, in the order in which they were asked."""
        rows = self._all(
            f"""{NAMES}
            SELECT requests.id FROM {"requests" if notebook is None else OF_NOTEBOOK}
            WHERE (:chat IS NULL OR chat = :chat) AND (:since IS NULL OR asked_at >= :since)
            ORDER BY requests.id
            """,  # noqa: S608  # both are ours
            notebook=notebook,
            chat=chat,
            since=since,
        )
        ids = [row["id"] for row in rows]
        if words is None:
            return ids
        matching = {row.id for row in self.search(words, limit=len(ids))}
        return [row_id for row_id in ids if row_id in matching]

    def raw_rows(self, ids: Sequence[int], columns: str = "*") -> list[sqlite3.Row]:
        """The rows of these ids, or some of their columns, as SQLite returns them."""
        return self._all(
            f"""
            SELECT {columns} FROM requests
            WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id
            """,  # noqa: S608  # they are ours
            ids=dump(ids),
        )

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answers of rows; each names, as its key does, the response that it continues."""
        ids = {row.parent for row in rows if row.parent is not None}
        parents = {raw["id"]: read_row(raw) for raw in self.raw_rows([*ids])} if ids else {}
        return [
            replace(row.answer(), continues=parents[row.parent].identity)
            if row.parent in parents
            else row.answer()
            for row in rows
        ]

    def turns(self, notebook: str, chat: str | None) -> list[Row]:
        """The rows of a chat of a notebook, oldest first; without forgotten ones."""
        return self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {OF_NOTEBOOK}
            WHERE chat = :chat AND state <> 'forgotten' ORDER BY requests.id
            """,  # noqa: S608  # both are ours
            notebook=notebook,
            chat=chat,
        )

    def chats(self, notebook: str) -> list[str]:
        """The names of a notebook's conversations, in the order in which they began."""
        rows = self._all(
            f"""{NAMES}
            SELECT chat FROM {OF_NOTEBOOK} WHERE chat IS NOT NULL AND state <> 'forgotten'
            GROUP BY chat ORDER BY MIN(requests.id)
            """,  # noqa: S608  # both are ours
            notebook=notebook,
        )
        return [row["chat"] for row in rows]

    def search(self, words: str, limit: int = 20) -> list[Row]:
        """The rows with all the words in question or answer, best first.

        Words of scripts without spaces are not indexed: they are searched for in all texts, and
        alone they give the newest rows first.
        """
        with self._transaction() as db:
            rows = index.search(db, words, limit, is_sound=self._is_index_sound)
            self._is_index_sound = self._is_index_sound or not rows
        return list(map(read_row, rows))

    def with_rounds(self, row_id: int) -> list[Row]:
        """A row and the rounds of its cell before it, newest first; the last has the question."""
        row, *before = reversed(self.ancestors(row_id))
        return [
            row,
            *takewhile(
                lambda earlier: earlier.waits_for_tools and earlier.cell == row.cell, before
            ),
        ]

    def ancestors(self, row_id: int) -> list[Row]:
        """The conversation that ends with this row, oldest first, the row included."""
        return self._rows(f"{_ANCESTRY} SELECT requests.* {_OF_ANCESTRY}", row=row_id)

    def states(self, row_id: int) -> dict[int, str]:
        """The states of the same rows, by id: the texts of a long conversation are not read."""
        rows = self._all(f"{_ANCESTRY} SELECT requests.id, state {_OF_ANCESTRY}", row=row_id)
        return dict(map(tuple, rows))

    def has_cell(self, notebook: str, chat: str | None, cell: str) -> bool:
        """Whether this cell of a chat has a row."""
        return self._has(
            f"""{NAMES}
            SELECT 1 FROM {OF_NOTEBOOK} WHERE chat = :chat AND cell = :cell
            """,  # noqa: S608  # both are ours
            notebook=notebook,
            chat=chat,
            cell=cell,
        )

    def elsewhere(self, notebook: str, chat: str | None, cell: str, limit: int = 50) -> list[Row]:
        """The rows of this cell and chat under other names of the notebook, newest first."""
        return self._rows(
            """
            SELECT * FROM requests
            WHERE cell = :cell AND chat = :chat AND notebook <> :notebook AND state <> 'forgotten'
            ORDER BY id DESC LIMIT :limit
            """,
            cell=cell,
            chat=chat,
            notebook=notebook,
            limit=limit,
        )

    def has_answered(self, notebook: str, request: Raw, key: str) -> bool:
        """Whether the notebook has a complete answer to the same request under another key."""
        return self._has(
            f"""{NAMES}
            SELECT 1 FROM {OF_NOTEBOOK}
            WHERE request = :request AND key <> :key AND status = 'completed'
            """,  # noqa: S608  # both are ours
            notebook=notebook,
            request=dump(request),
            key=key,
        )

    def has_lost_chain(self, session: str, server: str) -> bool:
        """Whether the server refused or ignored a response id in this session."""
        return self._has(
            """
            SELECT 1 FROM requests
            WHERE session = :session AND server = :server
              AND (notices LIKE '%chain_refused%' OR notices LIKE '%chain_ignored%')
            """,
            session=session,
            server=server,
        )

    def _all(self, statement: str, **values: Any) -> list[sqlite3.Row]:
        with self._transaction() as db:
            return db.execute(statement, _encodable(values)).fetchall()

    def _rows(self, statement: str, **values: Any) -> list[Row]:
        return list(map(read_row, self._all(statement, **values)))

    def _first(self, statement: str, **values: Any) -> Any:
        """The first row, or `None`."""
        with self._transaction() as db:
            return db.execute(statement, _encodable(values)).fetchone()

    def _has(self, statement: str, **values: Any) -> bool:
        return self._first(statement, **values) is not None

    @staticmethod
    def _asked(db: sqlite3.Connection, keys: Sequence[str]) -> Iterator[Row]:
        """The rows that were asked here under one of these keys, newest first."""
        rows = db.execute(
            """
            SELECT * FROM requests
            WHERE key IN (SELECT value FROM json_each(?)) AND origin = 'asked'
            ORDER BY id DESC
            """,
            (dump(keys),),
        )
        return map(read_row, rows)


def _encodable(values: dict[str, Any]) -> dict[str, Any]:
    """Values with escapes for lone surrogates, which SQLite cannot store."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }
