"""The search index of a journal: a copy of questions and answers in SQLite's FTS5.

A damaged index loses no answer: it is dropped, and the next search rebuilds it from the rows. Every
function takes the connection of an open transaction.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from aiml_magic import errors
from aiml_magic.api.responses import Raw, Response, question_text
from aiml_magic.journal.rows import read_row
from aiml_magic.text import dump

# Scripts without spaces between words (Thai to Burmese, Khmer, East Asia), and emoji: FTS5 does not
# tokenize them.
_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")


def add(db: sqlite3.Connection, row_id: int, request: Raw, answer: str) -> None:
    """Adds a question and its answer to the index; a damaged index is dropped."""
    try:
        with _savepoint(db):
            _insert(db, row_id, request, answer)
    except sqlite3.DatabaseError as error:
        if not db.in_transaction or not _is_damage(error):
            raise
        with suppress(sqlite3.DatabaseError):
            _drop(db)


def _insert(db: sqlite3.Connection, row_id: int, request: Raw, answer: str) -> None:
    db.execute(
        "INSERT OR REPLACE INTO texts (rowid, question, answer) VALUES (?, ?, ?)",
        (row_id, _searchable(question_text(request)), _searchable(answer)),
    )


def remove(db: sqlite3.Connection, ids: Iterable[tuple[int]]) -> bool:
    """Removes rows from the index, and their words from the disk.

    `False` if the index was damaged, and was dropped.
    """
    try:
        with _savepoint(db):
            db.executemany("DELETE FROM texts WHERE rowid = ?", ids)
            # Rewrites the index, without the deleted words.
            db.execute("INSERT INTO texts (texts) VALUES ('optimize')")
            db.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        if not db.in_transaction or not _is_damage(error):
            raise
        _drop(db)
        return False
    return True


def search(db: sqlite3.Connection, words: str, limit: int, *, is_sound: bool) -> list[sqlite3.Row]:
    """The rows with all the words, best first; a damaged index is rebuilt.

    An index that is known to be sound is not checked again: the check takes time.
    """
    try:
        rows = _matching(db, words, limit)
        is_usable = bool(rows) or is_sound or _is_sound(db)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        is_usable = False
    if is_usable:
        return rows
    _rebuild(db)
    return _matching(db, words, limit)


def _matching(db: sqlite3.Connection, words: str, limit: int) -> list[sqlite3.Row]:
    """The rows with all the words, by rank."""
    every = _searchable(words).split()
    parts = [word for word in every if _UNSPACED.search(word)]
    query = " ".join('"' + word.replace('"', '""') + '"' for word in every if word not in parts)
    match, order = (
        ("texts MATCH :query", "texts.rank") if query else (":query = ''", "texts.rowid DESC")
    )
    return db.execute(
        f"""
        SELECT requests.* FROM texts JOIN requests ON requests.id = texts.rowid
        WHERE {match} AND NOT EXISTS (
            SELECT 1 FROM json_each(:parts)
            WHERE instr(lower(question || ' ' || answer), lower(value)) = 0
        )
        ORDER BY {order} LIMIT :limit
        """,  # noqa: S608  # both are constants
        {"query": query, "parts": dump(parts), "limit": limit},
    ).fetchall()


def _is_sound(db: sqlite3.Connection) -> bool:
    """Whether the index passes SQLite's check: a damaged index may find nothing, without error."""
    try:
        db.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        return not _is_damage(error)
    return True


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error is of the index itself, not of the disk or a lock."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF not in _PASSING


_PASSING = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_MISUSE,
}  # fmt: skip


def _rebuild(db: sqlite3.Connection) -> None:
    """Builds the index from all undamaged rows."""
    if not db.in_transaction:
        db.execute("BEGIN IMMEDIATE")
    with _savepoint(db):
        _drop(db)
        db.execute("CREATE VIRTUAL TABLE texts USING fts5 (question, answer)")
        for raw in db.execute(
            "SELECT * FROM requests WHERE response IS NOT NULL AND state <> 'forgotten'"
        ):
            with suppress(errors.JournalError):
                row = read_row(raw)
                if text := Response(row.response).text:
                    _insert(db, row.id, row.request, text)


def _drop(db: sqlite3.Connection) -> None:
    """Removes the index, even a damaged one: its tables, then its entry in the schema."""
    with _savepoint(db):
        tables = db.execute(
            """
            SELECT name FROM sqlite_master
            WHERE name GLOB 'texts_*' OR name = 'texts' AND sql NOT LIKE 'CREATE VIRTUAL%'
            """
        ).fetchall()
        for (name,) in tables:
            db.execute(f'DROP TABLE "{name}"')
        db.execute("PRAGMA writable_schema = ON")
        try:
            db.execute("DELETE FROM sqlite_master WHERE name = 'texts'")
        finally:
            db.execute("PRAGMA writable_schema = RESET")


@contextmanager
def _savepoint(db: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction that is rolled back alone if it fails."""
    db.execute("SAVEPOINT part")
    try:
        yield
        db.execute("SAVEPOINT written")  # makes FTS5 flush its buffer, and fail here if it does
    except BaseException:
        if db.in_transaction:  # a full disk ends the whole transaction
            db.execute("ROLLBACK TO part")
        raise
    finally:
        if db.in_transaction:
            db.execute("RELEASE part")


def _searchable(text: str) -> str:
    """The text without lone surrogates and NUL, which FTS5 refuses; the row keeps them."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")
