"""The schema of a journal: a list of migrations; the file has the number of those applied.

A file of another program, or of a newer version, is refused before it is changed.
"""

from __future__ import annotations

import sqlite3
import time

APPLICATION_ID = 0x41494D4C  # "AIML"
BUSY = 5.0  # seconds to wait for another writer

MIGRATIONS = [
    """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        state TEXT NOT NULL DEFAULT 'queued',
        base_url TEXT NOT NULL,
        server TEXT NOT NULL,
        request TEXT NOT NULL,
        client_request_id TEXT NOT NULL UNIQUE,
        parent INTEGER REFERENCES requests (id),
        chain TEXT,
        session TEXT NOT NULL,
        notebook TEXT NOT NULL,
        chat TEXT,
        cell TEXT,
        asked_at REAL NOT NULL,
        response_id TEXT,
        text TEXT,
        response TEXT,
        status TEXT,
        notices TEXT NOT NULL DEFAULT '[]',
        cost_usd REAL,
        cost_credits INTEGER,
        cost_source TEXT,
        seconds REAL,
        error TEXT
    );
    CREATE INDEX requests_by_response_id ON requests (response_id);
    CREATE INDEX requests_by_session ON requests (session);
    """,
    """
    ALTER TABLE requests ADD COLUMN key TEXT;
    ALTER TABLE requests ADD COLUMN before TEXT;
    ALTER TABLE requests ADD COLUMN origin TEXT NOT NULL DEFAULT 'asked';
    ALTER TABLE requests ADD COLUMN alive_at REAL;
    CREATE INDEX requests_by_key ON requests (key);
    CREATE INDEX requests_by_notebook ON requests (notebook, id);
    CREATE INDEX requests_by_cell ON requests (notebook, chat, cell);
    CREATE VIRTUAL TABLE texts USING fts5 (question, answer);
    """,
    """
    ALTER TABLE requests ADD COLUMN is_unwanted INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX requests_unfinished ON requests (state) WHERE state IN ('queued', 'sent');
    """,
    """
    ALTER TABLE requests ADD COLUMN cluster TEXT;
    """,
    """
    CREATE TABLE pasts (
        notebook TEXT NOT NULL,
        earlier TEXT NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (notebook, earlier)
    );
    CREATE INDEX requests_by_place ON requests (cell, chat);
    """,
    """
    ALTER TABLE requests ADD COLUMN attempts INTEGER;
    """,
    """
    ALTER TABLE requests ADD COLUMN worst_usd REAL;
    ALTER TABLE requests ADD COLUMN reserved_at REAL;
    DROP INDEX requests_by_session;
    DROP INDEX requests_by_notebook;
    CREATE INDEX requests_by_session ON requests (session, origin, server, cost_usd);
    CREATE INDEX requests_by_notebook ON requests (notebook, id, origin, server, cost_usd);
    CREATE INDEX requests_by_day
        ON requests (coalesce(reserved_at, asked_at), origin, server, cost_usd);
    """,
]


def check_file(file: sqlite3.Connection) -> None:
    """Raises DatabaseError for a file that is not a journal.

    A torn page passes: the log may hold the complete one.
    """
    try:
        _version(file)
    except sqlite3.DatabaseError as error:
        if (code := getattr(error, "sqlite_errorcode", None)) == sqlite3.SQLITE_NOTADB:
            raise sqlite3.DatabaseError("it is not an SQLite file") from error
        if code is None:  # raised by `_version`
            raise


def _version(db: sqlite3.Connection) -> int:
    """The number of migrations applied to the file.

    Raises DatabaseError for a database of another program or of a newer version.
    """
    # One statement, since another kernel may be creating the file now.
    application, version, tables, active = db.execute(
        """
        SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master),
               (SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view'))
        FROM pragma_application_id, pragma_user_version
        """
    ).fetchone()
    if active:
        raise sqlite3.DatabaseError("it holds a trigger or a view, which no journal does")
    if application != APPLICATION_ID and (application or tables):
        raise sqlite3.DatabaseError("it is the database of another program")
    if version > len(MIGRATIONS):
        raise sqlite3.DatabaseError("a newer version of aiml_magic wrote it; upgrade this one")
    return int(version)


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Runs the missing migrations.

    SQLite does not wait for the lock when it switches to WAL, so that is retried.
    """
    deadline = time.monotonic() + BUSY
    while _version(db) < len(MIGRATIONS):
        try:
            db.execute("PRAGMA journal_mode = WAL")
            _migrate(db)
        except sqlite3.OperationalError as error:
            db.rollback()
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")  # two kernels may start at once
    version = _version(db)
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in filter(str.strip, migration.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("COMMIT")
