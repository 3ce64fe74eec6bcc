"""Answers on disk: one SQLite file, one row per request.

A row is written before its request is sent, so that a crash leaves a trace of what may have been paid. It holds the
request without its conversation: `parent` names the row that it continues, and the way in which the conversation is sent
(by the parent's response id, or as a transcript) is decided when it is sent. Neither the API key nor any header is in it.

The state of a row:

    queued      on disk, never sent
    sent        the request is on its way, or was when its runner died
    done        a response came, whatever its status
    failed      it came to nothing; `error` says why and whether it may be charged
    cancelled   the person stopped it
    forgotten   the person had its texts removed; that it was asked, and what it cost, is left

Each step is one short transaction, so that any number of kernels and runners may write at once.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

from aiml_magic import errors, safe
from aiml_magic.addresses import make_private_folder, short
from aiml_magic.answer import Answer
from aiml_magic.responses import Cost, Response, Usage, dump, question_text

_APPLICATION_ID = 0x41494D4C  # "AIML"
_HINT = "Name another file with %config O3Pro.journal or AIML_MAGIC_JOURNAL, or mend this one."
_BUSY = 5.0  # seconds to wait for another writer
TAIL = 1500  # characters of the newest text that a panel shows
HEARTBEAT = 5.0  # seconds between two signs of life of a runner
_SILENT = 4 * HEARTBEAT  # seconds after which it is taken for dead
# Scripts that leave no blanks between words (Thai to Burmese, Khmer, East Asia), and emoji: an index of words does not find them.
_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")

_MIGRATIONS = [
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
]


@dataclass(frozen=True)
class Row:
    """A request as the journal knows it. JSON columns are read; times are seconds, `asked_at` since 1970."""

    id: int
    state: str
    base_url: str
    server: str
    request: Mapping[str, Any]
    client_request_id: str
    parent: int | None
    chain: str | None
    notebook: str
    chat: str | None
    cell: str | None
    before: str | None
    key: str | None
    asked_at: float
    response_id: str | None
    text: str
    response: Mapping[str, Any]
    notices: tuple[str, ...]
    cost_usd: float | None
    seconds: float | None
    error: Mapping[str, Any] | None
    alive_at: float | None

    @property
    def is_alive(self) -> bool:
        """A runner works on it, or did a moment ago. A time that is yet to come is no sign of life: a clock was set back."""
        return not self.is_over and self.alive_at is not None and abs(time.time() - self.alive_at) < _SILENT

    @property
    def is_settled(self) -> bool:
        """Nothing is to be done for it: it is over, or it was sent and nobody works on it any more."""
        return not (self.state == "queued" or self.is_alive)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled", "forgotten")

    @property
    def link(self) -> str | None:
        """What the key of a request that continues it holds of it; while it is not over, or when it is forgotten, its number."""
        return (self.is_over and (self.response_id or self.key)) or f"row {self.id}"

    @property
    def question(self) -> str:
        """What was asked, in words."""
        return question_text(self.request)

    @property
    def has_unknown_cost(self) -> bool:
        """It may have been charged, and nobody has said what."""
        if self.cost_usd is not None or self.state in ("queued", "forgotten"):
            return False
        if self.state == "sent":
            return True
        return self.seconds is not None if self.error is None else bool(self.error.get("may_cost"))

    @property
    def is_round(self) -> bool:
        """The model waits for results of tools, or for an approval: what continues it belongs to the same question."""
        return self.state == "done" and Response(self.response).outcome in ("tool_calls", "approval")

    @property
    def advances(self) -> bool:
        """A conversation may go on from it: a whole answer, which is no refusal and waits for nothing."""
        response = Response(self.response)
        return self.state == "done" and response.status == "completed" and response.outcome == "answer"

    def answer(self) -> Answer:
        """What a person gets of it, which is as much as came."""
        response = Response(self.response)
        return Answer(
            text=response.text if self.response else self.text,
            reasoning="\n\n".join(response.summaries),
            usage=response.usage or Usage(),
            cost_usd=self.cost_usd,
            seconds=self.seconds,
            status=response.status or (None if self.is_over else "in_progress"),
            id=self.response_id,
            model=response.model,
            parsed=None,
            replayed=False,
            asked_at=datetime.fromtimestamp(self.asked_at, timezone.utc),
            raw=self.response,
            request=self.request,
            journal_id=self.id,
            server=self.server,
            chat=self.chat,
            notices=self.notices,
        )


@dataclass(frozen=True)
class NewRow:
    """What is known of a request before it is sent."""

    base_url: str
    server: str
    request: Mapping[str, Any]
    client_request_id: str
    parent: int | None
    chain: str | None
    session: str
    notebook: str
    chat: str | None
    cell: str | None
    before: str | None
    key: str
    asked_at: float


@dataclass(frozen=True)
class Came:
    """What came of a request. `state` is done, failed or cancelled, `seconds` the time since it was sent, if it was."""

    state: str
    response: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    notices: tuple[str, ...] = ()
    cost: Cost | None = None
    error: errors.RequestFailed | None = None


class Journal:
    """The journal in the file `path`. Every method raises JournalError if the file does not serve."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._place: tuple[int, ...] = ()
        self._is_open = False  # a transaction, by the thread that has the lock

    def add(self, new: NewRow) -> Row:
        """Writes a request that is about to be sent; gives its row. It is synced with the claim, without which it is not sent."""
        with self._transaction("NORMAL") as db:
            cursor = db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, parent, chain,
                                      session, notebook, chat, cell, before, key, asked_at, alive_at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (
                    new.base_url, new.server, dump(new.request), new.client_request_id, new.parent, new.chain,
                    new.session, new.notebook, new.chat, new.cell, new.before, new.key, new.asked_at, time.time(),
                ),
            )  # fmt: skip
            return _row(db.execute("SELECT * FROM requests WHERE id = ?", (cursor.lastrowid,)).fetchone())

    def claim(self, row_id: int) -> Row | None:
        """Marks a queued row as sent, and gives it; `None` if it may not be sent.

        It was sent or withdrawn already, or the answer that it continues is not there yet.
        """
        with self._transaction() as db:
            cursor = db.execute(
                """
                UPDATE requests SET state = 'sent', alive_at = ?
                WHERE id = ? AND state = 'queued' AND NOT EXISTS (
                    SELECT 1 FROM requests AS before WHERE before.id = requests.parent AND before.state <> 'done'
                )
                """,
                (time.time(), row_id),
            )
            if cursor.rowcount != 1:
                return None
            return _row(db.execute("SELECT * FROM requests WHERE id = ?", (row_id,)).fetchone())

    def withdraw(self, row_id: int) -> bool:
        """Takes back a row that was not sent yet; `False` if it was."""
        with self._transaction() as db:
            return (
                db.execute("UPDATE requests SET state = 'cancelled' WHERE id = ? AND state = 'queued'", (row_id,)).rowcount == 1
            )

    def note_unwanted(self, row_id: int) -> None:
        """Asks the runner that works on the row, whichever kernel's that is, to stop."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET is_unwanted = 1 WHERE id = ?", (row_id,))

    def note_alive(self, row_ids: Collection[int]) -> list[int]:
        """A sign of life of the runner that works on these rows; gives those of them that are unwanted."""
        with self._transaction() as db:
            db.executemany("UPDATE requests SET alive_at = ? WHERE id = ?", [(time.time(), row_id) for row_id in row_ids])
            unwanted = db.execute("SELECT id FROM requests WHERE is_unwanted AND state IN ('queued', 'sent')")
            return [found["id"] for found in unwanted if found["id"] in row_ids]

    def note_key(self, row_id: int, key: str) -> None:
        """Keeps the key of a row, which is known when the answer that it continues is there."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET key = ? WHERE id = ? AND state IN ('queued', 'sent')", (key, row_id))

    def note_response_id(self, row_id: int, response_id: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE requests SET response_id = ? WHERE id = ? AND state IN ('queued', 'sent')", (response_id, row_id))

    def note_text(self, row_id: int, text: str) -> None:
        """Keeps what was streamed so far."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET text = ? WHERE id = ? AND state IN ('queued', 'sent')", (dump(text), row_id))

    def note_chain(self, row_id: int, chain: str, notice: str) -> None:
        """Keeps that the conversation is sent in another way than was planned, and why."""
        with self._transaction() as db:
            db.execute(
                """
                UPDATE requests SET chain = ?, notices = json_insert(notices, '$[#]', ?)
                WHERE id = ? AND state IN ('queued', 'sent')
                """,
                (chain, notice, row_id),
            )

    def finish(self, row_id: int, came: Came) -> None:
        """Keeps what came of a request, before anybody sees it. A row that is over stays as it is."""
        read, cost = Response(came.response), came.cost
        with self._transaction() as db:
            known = db.execute("SELECT notices, request FROM requests WHERE id = ?", (row_id,)).fetchone()
            every = dict.fromkeys([*json.loads(known["notices"]), *came.notices]) if known else {}
            cursor = db.execute(
                """
                UPDATE requests
                SET state = ?, response = ?, response_id = coalesce(?, response_id), status = ?, notices = ?,
                    cost_usd = ?, cost_credits = ?, cost_source = ?, seconds = ?, error = ?
                WHERE id = ? AND state IN ('queued', 'sent')
                """,
                (
                    came.state, dump(came.response) if came.response else None, read.id, read.status, dump(list(every)),
                    cost and cost.usd, cost and cost.credits, cost and cost.source, came.seconds,
                    dump(came.error.as_dict()) if came.error else None, row_id,
                ),
            )  # fmt: skip
            if read.text and cursor.rowcount:
                _index(db, row_id, json.loads(known["request"]), read.text)

    def rescue(self, row: Row, came: Came) -> tuple[Row, str | None]:
        """As `finish`, where that failed: the row as it would be, and the private file beside the journal that now holds it.

        The file is `None` if that failed too.
        """
        unkept = replace(
            row,
            state=came.state,
            response=came.response,
            response_id=Response(came.response).id,
            notices=(*came.notices, "not_in_journal"),
            cost_usd=came.cost.usd if came.cost else None,
            seconds=came.seconds,
            error=came.error.as_dict() if came.error else None,
        )
        path = self.path.with_name(f"answer-{row.client_request_id[-8:]}.json")
        try:
            file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w")
        except OSError:
            return unkept, None
        try:
            with file:
                file.write(dump(asdict(unkept)))
        except OSError:
            with suppress(OSError):
                path.unlink()  # a part of it is no copy
            return unkept, None
        return unkept, str(path)

    def recover(self, row_id: int, response: Mapping[str, Any], cost: Cost | None) -> None:
        """Keeps an answer that the server still had for a request whose connection was lost."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET state = 'sent', error = NULL WHERE id = ? AND state <> 'forgotten'", (row_id,))
        self.finish(row_id, Came("done", response, cost=cost))

    def note_free(self, row_id: int) -> None:
        """The server says that the request failed and cost nothing, so it may be asked again."""
        error = errors.ServerError("The request failed at the server. Nothing was charged.", "Run the cell again.", retry="ask")
        with self._transaction() as db:
            db.execute(
                """
                UPDATE requests SET state = 'failed', cost_usd = 0, cost_source = 'log', error = ?
                WHERE id = ? AND state <> 'forgotten'
                """,
                (dump(error.as_dict()), row_id),
            )

    def note_cost(self, row_id: int, cost: Cost) -> None:
        """What the server's log says was charged for a request whose answer did not come."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET cost_usd = ?, cost_credits = ?, cost_source = ? WHERE id = ?",
                (cost.usd, cost.credits, cost.source, row_id),
            )

    def row(self, row_id: int) -> Row:
        """The row of this id. Raises BadInput if there is none."""
        with self._transaction() as db:
            found = db.execute("SELECT * FROM requests WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            raise errors.BadInput(
                f"The journal has no answer {row_id}.", f"%aiml history lists those of this notebook, in {short(self.path)}."
            )
        return _row(found)

    def find(self, *keys: str) -> Row | None:
        """The newest whole answer to the request of these keys."""
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT * FROM requests
                WHERE key IN (SELECT value FROM json_each(?)) AND status = 'completed' AND state = 'done'
                ORDER BY id DESC LIMIT 1
                """,
                (dump(keys),),
            ).fetchone()
        return None if found is None else _row(found)

    def find_open(self, *keys: str) -> Row | None:
        """The newest row of these keys, if it is not answered yet, or may have been charged in vain."""
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT * FROM requests WHERE key IN (SELECT value FROM json_each(?))
                ORDER BY id DESC LIMIT 1
                """,
                (dump(keys),),
            ).fetchone()
        if found is None:
            return None
        row = _row(found)
        is_doubtful = row.error is not None and bool(row.error.get("may_cost"))
        return row if is_doubtful or not row.is_over else None

    def unfinished(self, notebook: str) -> list[Row]:
        """The rows of a notebook that are queued or sent, oldest first."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT * FROM requests WHERE state IN ('queued', 'sent') AND notebook = ? ORDER BY id", (notebook,)
            ).fetchall()
        return [_row(entry) for entry in found]

    def find_id(self, name: str) -> int:
        """The id of the row that a person calls `name`: its number, or its response's id. Raises BadInput."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT id FROM requests WHERE id = :number OR response_id = :name ORDER BY id = :number DESC, id DESC LIMIT 1",
                {"number": int(name) if name.isdecimal() and len(name) < 19 else None, "name": name},
            ).fetchone()
        if found is None:
            raise errors.BadInput(f"The journal has no answer {name[:60]}.", "%aiml history lists those of this notebook.")
        return int(found["id"])

    def history(self, notebook: str | None = None, limit: int = 1000) -> list[Row]:
        """The newest rows, oldest first: those of one notebook, or all; without those that are forgotten."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT * FROM requests WHERE state <> 'forgotten' AND (? IS NULL OR notebook = ?) ORDER BY id DESC LIMIT ?",
                (notebook, notebook, limit),
            ).fetchall()
        return [_row(entry) for entry in reversed(found)]

    def turns(self, notebook: str, chat: str | None) -> list[Row]:
        """All that was asked in a chat of a notebook, oldest first; without what is forgotten."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT * FROM requests WHERE notebook = ? AND chat = ? AND state <> 'forgotten' ORDER BY id", (notebook, chat)
            ).fetchall()
        return [_row(entry) for entry in found]

    def chats(self, notebook: str) -> list[str]:
        """The names of a notebook's conversations, in the order in which they began."""
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT chat FROM requests WHERE notebook = ? AND chat IS NOT NULL AND state <> 'forgotten'
                GROUP BY chat ORDER BY MIN(id)
                """,
                (notebook,),
            ).fetchall()
        return [entry["chat"] for entry in found]

    def search(self, words: str, limit: int = 20) -> list[Row]:
        """Rows whose question or answer holds all the words, the best first.

        A word of a script that leaves no blanks is looked for in all texts, and what holds nothing else comes newest first.
        """
        every = _searchable(words).split()
        parts = [word for word in every if _UNSPACED.search(word)]
        query = " ".join('"' + word.replace('"', '""') + '"' for word in every if word not in parts)
        match, order = ("texts MATCH :query", "texts.rank") if query else (":query = ''", "texts.rowid DESC")
        with self._transaction() as db:
            found = db.execute(
                f"""
                SELECT requests.* FROM texts JOIN requests ON requests.id = texts.rowid
                WHERE {match} AND NOT EXISTS (
                    SELECT 1 FROM json_each(:parts) WHERE instr(lower(question || ' ' || answer), lower(value)) = 0
                )
                ORDER BY {order} LIMIT :limit
                """,  # noqa: S608  # each of the two is one of ours
                {"query": query, "parts": dump(parts), "limit": limit},
            ).fetchall()
        return [_row(entry) for entry in found]

    def forget(self, row_id: int) -> None:
        """Removes the texts of a row from the disk; that it was asked and what it cost stays, and so does its place.

        The rounds of its cell that led to it go with it: the question is in the first.
        Raises BadInput while it is being answered, and JournalError while a reader keeps what was written before in the log.
        """
        with self._transaction() as db:
            row = self.row(row_id)
            if row.is_alive:
                raise errors.BadInput(
                    f"Question {row_id} is being answered. Nothing was forgotten.",
                    f"%aiml cancel {row_id} stops it; its answer can be forgotten when it is over.",
                )
            before = reversed(self.ancestors(row_id)[:-1])
            rounds = takewhile(lambda earlier: earlier.is_round and earlier.cell == row.cell, before)
            ids = [(one.id,) for one in (row, *rounds)]
            db.execute("PRAGMA secure_delete = ON")
            db.executemany(
                """
                UPDATE requests
                SET state = 'forgotten', request = '{}', text = NULL, response = NULL, error = NULL, key = NULL,
                    response_id = NULL, status = NULL, cell = NULL, before = NULL
                WHERE id = ?
                """,
                ids,
            )
            db.executemany("DELETE FROM texts WHERE rowid = ?", ids)
            db.execute("INSERT INTO texts (texts) VALUES ('optimize')")  # the index is written anew, without the words
        with self._transaction() as db:  # what was written before is still in the log until it is emptied
            is_busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise errors.JournalError(
                f"Answer {row_id} is forgotten, but its texts are still in the log beside the journal, which somebody reads.",
                f"Close what reads it, then %aiml forget {row_id} again.",
            )

    def take(self, row: NewRow, parent: str | None, answer: Mapping[str, Any]) -> None:
        """Takes over an answer of a recording, unless it is there already.

        `parent` is the id of the response that it continues (or the key of a request that has none), `answer` has the
        columns of what came.
        """
        with self._transaction() as db:
            known = db.execute("SELECT 1 FROM requests WHERE key = ? AND status = 'completed'", (row.key,)).fetchone()
            if known is not None:
                return
            response = answer["response"]
            before = db.execute(
                "SELECT id FROM requests WHERE response_id = ? OR key = ? ORDER BY id DESC LIMIT 1", (parent, parent)
            ).fetchone()
            cursor = db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, parent, session, notebook, key, asked_at,
                                      origin, state, response, response_id, status, notices, cost_usd, seconds)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'recording', 'done', ?, ?, ?, ?, ?, ?)
                """,
                (
                    row.base_url, row.server, dump(row.request), row.client_request_id, before and before["id"], row.session,
                    row.notebook, row.key,
                    row.asked_at, dump(response), Response(response).id, Response(response).status, dump(answer["notices"]),
                    answer["cost_usd"], answer["seconds"],
                ),
            )  # fmt: skip
            _index(db, int(cursor.lastrowid or 0), row.request, Response(response).text)

    def ancestors(self, row_id: int) -> list[Row]:
        """The conversation that ends with this row, oldest first, the row included."""
        with self._transaction() as db:
            found = db.execute(
                """
                WITH RECURSIVE line (id, depth) AS (
                    SELECT ?, 0
                    UNION
                    SELECT requests.parent, depth + 1
                    FROM line JOIN requests ON requests.id = line.id
                    WHERE requests.parent < requests.id  -- a file of somebody else may have circles
                )
                SELECT requests.* FROM line JOIN requests ON requests.id = line.id ORDER BY depth DESC
                """,
                (row_id,),
            ).fetchall()
        return [_row(entry) for entry in found]

    def has_cell(self, notebook: str, chat: str | None, cell: str) -> bool:
        """Something was asked in this cell of a chat."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT 1 FROM requests WHERE notebook = ? AND chat = ? AND cell = ?", (notebook, chat, cell)
            ).fetchone()
        return found is not None

    def has_answered(self, notebook: str, request: Mapping[str, Any], key: str) -> bool:
        """The notebook has an answer to the same request behind another answer."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT 1 FROM requests WHERE notebook = ? AND request = ? AND key <> ? AND status = 'completed'",
                (notebook, dump(request), key),
            ).fetchone()
        return found is not None

    def has_lost_chain(self, session: str, server: str) -> bool:
        """In this session the server refused or ignored a response id."""
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT 1 FROM requests
                WHERE session = ? AND server = ? AND (notices LIKE '%chain_refused%' OR notices LIKE '%chain_ignored%')
                """,
                (session, server),
            ).fetchone()
        return found is not None

    def spent(
        self, server: str, *, session: str | None = None, notebook: str | None = None, since: float = 0.0
    ) -> tuple[float, int]:
        """Dollars that this server says it charged, and the number of answers of unknown cost.

        In a session, in a notebook, or since a time in seconds since 1970; without any, ever.
        """
        with self._transaction() as db:
            usd, unknown = db.execute(
                """
                SELECT coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL AND state IN ('done', 'sent'))
                FROM requests
                WHERE server = ? AND origin = 'asked' AND asked_at >= ?
                  AND (? IS NULL OR session = ?) AND (? IS NULL OR notebook = ?)
                """,
                (server, since, session, session, notebook, notebook),
            ).fetchone()
        return float(usd), int(unknown)

    @contextmanager
    def together(self, sync: str = "FULL") -> Iterator[None]:
        """Makes the steps of the block one transaction, which is kept even if the block ends early, but for a JournalError.

        Nobody else writes meanwhile. A disk that syncs two hundred times a second keeps thousands of answers a second this way.
        """
        with self._transaction(sync) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException as error:
                if not isinstance(error, errors.JournalError):
                    db.commit()
                raise

    @contextmanager
    def _transaction(self, sync: str = "FULL") -> Iterator[sqlite3.Connection]:
        """One step. Synced in `FULL` it survives a power cut; `NORMAL` leaves that to the next step that is."""
        try:
            with self._lock:
                if self._is_open:
                    assert self._db is not None
                    yield self._db
                    return
                db = self._connection()
                db.execute(f"PRAGMA synchronous = {sync}")
                self._is_open = True
                try:
                    with db:
                        yield db
                finally:
                    self._is_open = False
        except (sqlite3.Error, OSError, UnicodeError) as error:  # sqlite3 reads and writes texts, and error messages
            why = " ".join(safe.plain(str(error)).split())  # a file of somebody else may say anything, on any number of lines
            raise errors.JournalError(f"The journal {short(self.path)} cannot be used: {why}.", _HINT) from error

    def _connection(self) -> sqlite3.Connection:
        """The connection, which stays: each new one would read the schema anew, and each last one fold the log up."""
        if self._db is None or self._place != self._current_place():
            self._db = self._made()
            self._place = self._current_place()
            weakref.finalize(self, self._db.close)
        return self._db

    def _current_place(self) -> tuple[int, ...]:
        """The process and the file that a connection is of: it must not be used after a fork, nor for a file that is gone."""
        file = self.path.stat()
        return os.getpid(), file.st_dev, file.st_ino

    def _made(self) -> sqlite3.Connection:
        """Makes the file if there is none, and brings it to the newest form. A file of somebody else stays as it is."""
        make_private_folder(self.path.parent)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if not self.path.is_file():  # a pipe would never answer
                raise sqlite3.DatabaseError("it is no file") from None
            with self.path.open("rb") as file:
                if file.read(16) not in (b"", b"SQLite format 3\x00"):
                    raise sqlite3.DatabaseError("it is no SQLite file") from None
        if not os.access(self.path, os.W_OK) or not self.path.stat().st_mode & stat.S_IWUSR:  # the latter holds for root too
            raise sqlite3.OperationalError("it is read-only")
        db = sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=_BUSY, check_same_thread=False)
        try:
            db.execute("PRAGMA trusted_schema = OFF")  # a file of somebody else may define what has side effects
            _bring_up_to_date(db)
        except BaseException:
            db.close()
            raise
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        return db


def _version(db: sqlite3.Connection) -> int:
    """The number of migrations that the file has seen. Raises DatabaseError if it is no journal, or a newer one."""
    # One statement: another kernel may be making the file at this moment.
    application, version, tables, active = db.execute(
        """
        SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master),
               (SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view'))
        FROM pragma_application_id, pragma_user_version
        """
    ).fetchone()
    if active:
        raise sqlite3.DatabaseError("it holds a trigger or a view, which no journal does")
    if application != _APPLICATION_ID and (application or tables):
        raise sqlite3.DatabaseError("it is the database of another program")
    if version > len(_MIGRATIONS):
        raise sqlite3.DatabaseError("a newer version of aiml_magic wrote it; upgrade this one")
    return int(version)


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Runs the migrations that the file has not seen. Turning the log on does not wait for others, so it is tried again."""
    deadline = time.monotonic() + _BUSY
    while _version(db) < len(_MIGRATIONS):
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
    for number, migration in enumerate(_MIGRATIONS[version:], start=version + 1):
        for statement in filter(str.strip, migration.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number}")
    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.execute("COMMIT")


def _index(db: sqlite3.Connection, row_id: int, request: Mapping[str, Any], answer: str) -> None:
    """Makes question and answer searchable."""
    db.execute(
        "INSERT OR REPLACE INTO texts (rowid, question, answer) VALUES (?, ?, ?)",
        (row_id, _searchable(question_text(request)), _searchable(answer)),
    )


def _searchable(text: str) -> str:
    """The text as the index has it: what is no text (a lone surrogate, NUL) is left out of it, not of the row."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


_JSON = {"request": "{}", "text": '""', "response": "{}", "notices": "[]", "error": "null"}  # columns, and what NULL stands for
_KINDS: Mapping[str, Any] = {
    "id": int, "state": str, "base_url": str, "server": str, "request": dict, "client_request_id": str, "parent": int | None,
    "chain": str | None, "notebook": str, "chat": str | None, "cell": str | None, "before": str | None, "key": str | None,
    "asked_at": float, "response_id": str | None, "text": str, "response": dict, "notices": list, "cost_usd": float | None,
    "seconds": float | None, "error": dict | None, "alive_at": float | None,
}  # fmt: skip
_FAR = 5e10  # seconds or dollars: more than there ever are, and still a date


def _row(found: sqlite3.Row) -> Row:
    """The row as a value. Raises JournalError if anything else stands in it than was ever written: the file may be anybody's."""
    try:
        values = {name: json.loads(found[name] or _JSON[name]) if name in _JSON else found[name] for name in _KINDS}
        wrong = [name for name, kind in _KINDS.items() if not isinstance(values[name], kind)]
        wrong += [name for name, value in values.items() if isinstance(value, float) and not abs(value) < _FAR]
        wrong += ["parent"] * (not wrong and (values["parent"] or 0) >= values["id"])  # it would be its own ancestor
    except IndexError:
        wrong = sorted(_KINDS.keys() - found.keys())
    except (ValueError, TypeError, RecursionError):
        wrong = list(_JSON)
    if wrong:
        raise errors.JournalError(f"Row {found['id']} of the journal is damaged, in its {' or '.join(wrong)}.", _HINT)
    return Row(**values | {"notices": tuple(map(str, values["notices"]))})
