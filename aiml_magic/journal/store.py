"""Answers on disk: one SQLite file, one row per request.

A row is written before its request is sent, so that a crash leaves a trace of what may have been
paid. It holds the request without its conversation: `parent` names the row that it continues, and
the way in which the conversation is sent (by the parent's response id, or as a transcript) is
decided when it is sent. Neither the API key nor any header is in it.

The state of a row:

    queued      on disk, never sent
    sent        the request is on its way, or was when its runner died
    done        a response came, whatever its status
    failed      it came to nothing; `error` says why and whether it may be charged
    cancelled   the person stopped it
    forgotten   the person had its texts removed; that it was asked, and what it cost, is left

Each step is one short transaction, so that any number of kernels and runners may write at once.

The file, its log and their index are opened by SQLite alone: whoever closes another handle of such
a file drops all locks that this process has on it, and then another one removes the log under its
feet (https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import tempfile
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

from aiml_magic import errors
from aiml_magic.api.responses import Cost, Response, Usage, question_text
from aiml_magic.files import check_no_database, databases, make_private_folder, short, write_private
from aiml_magic.journal.answer import Answer
from aiml_magic.text import MAX_JSON, dump, load, plain

_APPLICATION_ID = 0x41494D4C  # "AIML"
_HINT = "Name another file with %config O3Pro.journal or AIML_MAGIC_JOURNAL, or mend this one."
_BUSY = 5.0  # seconds to wait for another writer
_PATIENCE = 60.0  # seconds that a journal is given to take what is in a file beside it
TAIL = 1500  # characters of the newest text that a panel shows
HEARTBEAT = 5.0  # seconds between two signs of life of a runner
_SILENT = 4 * HEARTBEAT  # seconds after which it is taken for dead
# Scripts that leave no blanks between words (Thai to Burmese, Khmer, East Asia), and emoji: an
# index of words does not find them.
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
]

# A notebook's rows are those under its name, and of each name that it had before those up to a row:
# the file was renamed, or copied, and then the original goes on under that name.
_NAMES = """
    WITH names (name, until) AS (
        SELECT :notebook, 9223372036854775807
        UNION ALL
        SELECT earlier, until FROM pasts WHERE notebook = :notebook
    )
"""
_OF_NOTEBOOK = (
    "names CROSS JOIN requests ON requests.notebook = names.name AND requests.id <= names.until"
)


@dataclass(frozen=True)
class Row:
    """A request as the journal knows it.

    JSON columns are read; times are seconds, `asked_at` since 1970.

    `attempts` is how many times it was sent at most, `None` where nobody knows.
    """

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
    cluster: str | None = None  # from which it was sent, if from one
    origin: str = "asked"  # or "recording": it was recorded elsewhere
    attempts: int | None = None

    @property
    def is_alive(self) -> bool:
        """A runner works on it, or did a moment ago.

        A time that is yet to come is no sign of life: a clock was set back.
        """
        return (
            not self.is_over
            and self.alive_at is not None
            and abs(time.time() - self.alive_at) < _SILENT
        )

    @property
    def is_settled(self) -> bool:
        """Nothing is to be done for it: it is over, or it was sent and nobody works on it any more."""
        return not (self.state == "queued" or self.is_alive)

    @property
    def is_taken(self) -> bool:
        """The server took it, and may give out its answer by the response's id."""
        if self.response_id is None:
            return False
        if self.state == "sent":
            return bool(
                self.response or (self.request.get("background") and self.request.get("store"))
            )
        if self.state != "failed" or self.error is None:
            return False
        return (
            self.error.get("retry") == "resume" or self.error.get("class") == "RetrieveUnsupported"
        )

    @property
    def can_go_on(self) -> bool:
        """The server took it, and nobody waits for its answer any more."""
        return self.is_taken and not self.is_alive

    @property
    def is_doubtful(self) -> bool:
        """It failed, and may have been charged."""
        return self.error is not None and bool(self.error.get("may_cost"))

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
        return self.seconds is not None if self.error is None else self.is_doubtful

    @property
    def is_round(self) -> bool:
        """The model waits for results of tools, or for an approval: what continues it belongs to the same question."""
        return self.state == "done" and Response(self.response).outcome in (
            "tool_calls",
            "approval",
        )

    @property
    def is_kept(self) -> bool:
        """It is shown again instead of being asked again: whatever came, unless more of it can be had for a higher limit."""
        return self.state == "done" and Response(self.response).outcome != "incomplete"

    @property
    def advances(self) -> bool:
        """A conversation may go on from it: a whole answer, which is no refusal and waits for nothing."""
        response = Response(self.response)
        return (
            self.state == "done" and response.status == "completed" and response.outcome == "answer"
        )

    def answer(self) -> Answer:
        """What a person gets of it, which is as much as came."""
        response = Response(self.response)
        return Answer(
            text=response.text if self.state == "done" else response.text or self.text,
            reasoning="\n\n".join(response.summaries),
            usage=response.usage or Usage(),
            cost_usd=self.cost_usd,
            seconds=self.seconds,
            status=_plain(response.status) or (None if self.is_over else "in_progress"),
            id=_plain(self.response_id),
            model=_plain(response.model),
            parsed=None,
            replayed=False,
            asked_at=datetime.fromtimestamp(self.asked_at, timezone.utc),
            raw=self.response,
            request=self.request,
            journal_id=self.id,
            server=self.server,
            chat=self.chat,
            notices=self.notices,
            recorded=self.origin == "recording",
        )


def _plain(name: str | None) -> str | None:
    """A name that a server gave, which acts on no terminal that it is printed to."""
    return None if name is None else plain(name)


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
    """What came of a request.

    `state` is done, failed or cancelled, `seconds` the time since it was sent, if it was.

    `response_id` and `text` are what had come of a response that did not come whole.
    `attempts` is how many times it was sent; `None` leaves that as it is known.
    """

    state: str
    response: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    notices: tuple[str, ...] = ()
    cost: Cost | None = None
    error: errors.RequestFailed | None = None
    response_id: str | None = None
    text: str | None = None
    attempts: int | None = None


class Journal:
    """The journal in the file `path`.

    Every method raises JournalError if the file does not serve.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._close: Callable[[], object] = _nothing
        self._place: tuple[int, ...] = ()
        self._newest: tuple[int, float] | None = None  # the row written last, and when it was asked
        self._written_now: tuple[int, float] | None = (
            None  # the same in a transaction, which may fail
        )
        self._is_open = False  # a transaction, by the thread that has the lock
        self._is_index_sound = False  # as far as was looked
        with _opening:
            _living.add(self)

    def add(self, new: NewRow) -> Row:
        """Writes a request that is about to be sent; gives its row.

        It is synced with the claim, without which it is not sent.
        """
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
            return self._written(db, int(cursor.lastrowid or 0))

    def claim(self, row_id: int, cluster: str | None = None) -> Row | None:
        """Marks a queued row as sent, from `cluster` if one is named, and gives it; `None` if it may not be sent.

        It was sent or withdrawn already, or the answer that it continues is not there yet. How many
        times a worker of a cluster then sends it nobody knows, if the worker dies.
        """
        with self._transaction() as db:
            cursor = db.execute(
                """
                UPDATE requests SET state = 'sent', alive_at = ?, cluster = ?, attempts = ?
                WHERE id = ? AND state = 'queued' AND NOT EXISTS (
                    SELECT 1 FROM requests AS before WHERE before.id = requests.parent AND before.state <> 'done'
                )
                """,
                (time.time(), cluster, 1 if cluster is None else None, row_id),
            )
            return self._written(db, row_id) if cursor.rowcount == 1 else None

    def release(self, row_id: int) -> None:
        """Marks a row that was claimed as queued again: its cluster knows that it was never sent."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'queued', cluster = NULL WHERE id = ? AND state = 'sent'",
                (row_id,),
            )

    def let_go(self, row_id: int) -> None:
        """Tells other kernels that nobody works on the row any more, without the time that they would wait for a sign of life."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET alive_at = NULL WHERE id = ? AND state = 'sent'", (row_id,)
            )

    def take_over(self, row: Row) -> bool:
        """Takes a row that shows no sign of life into our hands, as sent; `False` if it does, or somebody else was faster."""
        if row.is_alive:
            return False
        with self._transaction() as db:
            taken = db.execute(
                "UPDATE requests SET state = 'sent', alive_at = ? WHERE id = ? AND state = ? AND alive_at IS ?",
                (time.time(), row.id, row.state, row.alive_at),
            )
            return taken.rowcount == 1

    def take_up(self, row_id: int) -> Row | None:
        """Takes a row that the server took into our hands, and gives it as it was; `None` if there is nothing to go on with."""
        row = self.row(row_id)
        return row if row.can_go_on and self.take_over(row) else None

    def withdraw(self, row_id: int) -> bool:
        """Takes back a row that was not sent yet; `False` if it was."""
        with self._transaction() as db:
            return (
                db.execute(
                    "UPDATE requests SET state = 'cancelled' WHERE id = ? AND state = 'queued'",
                    (row_id,),
                ).rowcount
                == 1
            )

    def note_unwanted(self, row_id: int) -> None:
        """Asks the runner that works on the row, whichever kernel's that is, to stop."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET is_unwanted = 1 WHERE id = ?", (row_id,))

    def note_alive(self, row_ids: Collection[int]) -> list[int]:
        """A sign of life of the runner that works on these rows; gives those of them that are unwanted."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE requests SET alive_at = ? WHERE id = ?",
                [(time.time(), row_id) for row_id in row_ids],
            )
            unwanted = db.execute(
                "SELECT id FROM requests WHERE is_unwanted AND state IN ('queued', 'sent')"
            )
            return [found["id"] for found in unwanted if found["id"] in row_ids]

    def note_key(self, row_id: int, key: str) -> None:
        """Keeps the key of a row, which is known when the answer that it continues is there."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET key = ? WHERE id = ? AND state IN ('queued', 'sent')",
                (key, row_id),
            )

    def note_attempts(self, row_id: int, attempts: int) -> None:
        """Keeps how many times a request was sent, before it is sent for the last of these times."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET attempts = ? WHERE id = ? AND state = 'sent'",
                (attempts, row_id),
            )

    def note_pending(self, row_id: int, response: Mapping[str, Any]) -> None:
        """Keeps what is known of a response that the server works on and gives out by its id: the row can go on with it."""
        with self._transaction() as db:
            db.execute(
                """
                UPDATE requests
                SET response = ?, error = CASE WHEN json_valid(error) THEN json_set(error, '$.retry', 'resume') END
                WHERE id = ? AND state IN ('sent', 'failed')
                """,
                (dump(response), row_id),
            )

    def note_response_id(self, row_id: int, response_id: str) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET response_id = ? WHERE id = ? AND state IN ('queued', 'sent')",
                (response_id, row_id),
            )

    def note_text(self, row_id: int, text: str) -> None:
        """Keeps what was streamed so far."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET text = ? WHERE id = ? AND state IN ('queued', 'sent')",
                (dump(text), row_id),
            )

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
        """Keeps what came of a request, before anybody sees it.

        A row that is over stays as it is.
        """
        read, cost = Response(came.response), came.cost
        with self._transaction() as db:
            known = db.execute(
                "SELECT notices, request FROM requests WHERE id = ?", (row_id,)
            ).fetchone()
            every = dict.fromkeys([*json.loads(known["notices"]), *came.notices]) if known else {}
            cursor = db.execute(
                """
                UPDATE requests
                SET state = ?, response = coalesce(?, response), response_id = coalesce(?, response_id),
                    text = coalesce(?, text), status = ?, notices = ?, cost_usd = coalesce(?, cost_usd),
                    cost_credits = coalesce(?, cost_credits), cost_source = coalesce(?, cost_source), seconds = ?, error = ?,
                    attempts = coalesce(?, attempts)
                WHERE id = ? AND state IN ('queued', 'sent')
                """,
                (
                    came.state, dump(came.response) if came.response else None, read.id or came.response_id,
                    None if came.text is None else dump(came.text), read.status, dump(list(every)),
                    cost and cost.usd, cost and cost.credits, cost and cost.source, came.seconds,
                    dump(came.error.as_dict()) if came.error else None, came.attempts, row_id,
                ),
            )  # fmt: skip
            if read.text and cursor.rowcount:
                _index(db, row_id, json.loads(known["request"]), read.text)

    def rescue(self, row: Row, came: Came) -> tuple[Row, str | None]:
        """As `finish`, where that failed: the row as it would be, and the private file beside the journal that now holds it.

        The file is `None` if that failed too. The next journal that is opened here takes it in, as
        `take_in` does.
        """
        unkept = replace(
            row,
            state=came.state,
            response=came.response,
            response_id=Response(came.response).id or came.response_id or row.response_id,
            text=row.text if came.text is None else came.text,
            notices=(*came.notices, "not_in_journal"),
            cost_usd=came.cost.usd if came.cost else None,
            seconds=came.seconds,
            error=came.error.as_dict() if came.error else None,
        )
        cost = came.cost or Cost(0.0, None, "")
        kept = dump(asdict(unkept) | {"cost_credits": cost.credits, "cost_source": cost.source})
        path = self._rescue_file(row)
        try:
            if not path.exists():
                write_private(path, kept)
            elif _read_bounded(path) != kept.encode():
                return unkept, None  # it holds another answer
        except (OSError, errors.BadInput):
            return unkept, None
        return unkept, str(path)

    def _rescue_file(self, row: Row) -> Path:
        name = re.sub(r"[^0-9a-f]", "", row.client_request_id)[
            -8:
        ]  # a journal of somebody else names no other file
        return self._folder / f"answer-{name}.json"

    def take_in(self) -> None:
        """Takes over what `rescue` wrote, whoever did, and removes the files whose rows are over.

        What is no such file, or of no row of this journal that was sent, is left alone.
        """
        with suppress(errors.JournalError):  # the next journal does
            for path in _listed(self._folder, "answer-*.json"):
                with suppress(OSError, ValueError, errors.BadInput):
                    if self._takes(*_rescued(path)):
                        path.unlink(missing_ok=True)

    def _takes(self, row: Row, came: Came) -> bool:
        """Keeps what came of a row, unless more is known of it; `False` if the journal has no such row, or never sent it."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT * FROM requests WHERE id = ? AND asked_at = ? AND server = ? AND (request = ? OR state = 'forgotten')",
                (row.id, row.asked_at, row.server, dump(row.request)),
            ).fetchone()
            if found is None or (known := _row(found)).state == "queued":
                return False
            if came.state == "done" and known.state == "failed" and known.has_unknown_cost:
                self.recover(row.id, came.response, came.cost)
            self.finish(row.id, came)
        return True

    def recover(self, row_id: int, response: Mapping[str, Any], cost: Cost | None) -> None:
        """Keeps an answer that the server still had for a request whose connection was lost."""
        with self._transaction() as db:
            db.execute(
                "UPDATE requests SET state = 'sent', error = NULL WHERE id = ? AND state <> 'forgotten'",
                (row_id,),
            )
            self.finish(row_id, Came("done", response, cost=cost))

    def note_free(self, row_id: int) -> None:
        """The server says that the request failed and cost nothing, so it may be asked again."""
        error = errors.ServerError(
            "The request failed at the server. Nothing was charged.",
            "Run the cell again.",
            retry="ask",
        )
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
                f"The journal has no answer {row_id}.",
                f"%aiml history lists those of this notebook, in {short(self.path)}.",
            )
        return _row(found)

    def find(self, *keys: str) -> Row | None:
        """The newest answer to the request of these keys that was asked here and is kept; not one of a recording."""
        with self._transaction() as db:
            found = db.execute(
                f"""
                SELECT * FROM requests
                WHERE key IN ({", ".join("?" for _ in keys)}) AND state = 'done' AND origin = 'asked'
                ORDER BY id DESC
                """,  # noqa: S608  # question marks
                keys,
            )
            return next((row for row in map(_row, found) if row.is_kept), None)

    def find_open(self, *keys: str) -> Row | None:
        """The newest row of these keys, if it is not answered yet, or may have been charged in vain."""
        row = self._newest_of(keys)
        if (
            row is not None
            and row.state in ("sent", "failed")
            and not self._is_open
            and self._rescue_file(row).exists()
        ):
            self.take_in()  # whoever wrote it may have ended since
            row = self._newest_of(keys)
        if row is None:
            return None
        return row if row.is_doubtful or not row.is_over else None

    def _newest_of(self, keys: Collection[str]) -> Row | None:
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT * FROM requests WHERE key IN (SELECT value FROM json_each(?)) AND origin = 'asked'
                ORDER BY id DESC LIMIT 1
                """,
                (dump(keys),),
            ).fetchone()
        return None if found is None else _row(found)

    def unfinished(self, notebook: str) -> list[Row]:
        """The rows of a notebook that are queued or sent, oldest first."""
        with self._transaction() as db:
            found = db.execute(
                f"""{_NAMES}
                SELECT requests.* FROM {_OF_NOTEBOOK}
                WHERE state IN ('queued', 'sent') ORDER BY requests.id
                """,  # noqa: S608  # both are ours
                {"notebook": notebook},
            ).fetchall()
        return [_row(entry) for entry in found]

    def sent_by(self, cluster: str) -> list[Row]:
        """The rows that were sent from a cluster and are not over, oldest first."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT * FROM requests WHERE state = 'sent' AND cluster = ? ORDER BY id",
                (cluster,),
            ).fetchall()
        return [_row(entry) for entry in found]

    def find_id(self, name: str) -> int:
        """The id of the row that a person calls `name`: its number, or its response's id.

        Raises BadInput.

        A recording may name any response; one that was asked here goes before it.
        """
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT id FROM requests WHERE id = :number OR response_id = :name
                ORDER BY id = :number DESC, origin = 'asked' DESC, id DESC LIMIT 1
                """,
                {
                    "number": int(name) if name.isdecimal() and len(name) < 19 else None,
                    "name": name,
                },
            ).fetchone()
        if found is None:
            raise errors.BadInput(
                f"The journal has no answer {name[:60]}.",
                "%aiml history lists those of this notebook.",
            )
        return int(found["id"])

    def history(self, notebook: str | None = None, limit: int = 1000) -> list[Row]:
        """The newest rows, oldest first: those of one notebook, or all; without those that are forgotten."""
        with self._transaction() as db:
            found = db.execute(
                f"""{_NAMES}
                SELECT requests.* FROM {"requests" if notebook is None else _OF_NOTEBOOK}
                WHERE state <> 'forgotten' ORDER BY requests.id DESC LIMIT :limit
                """,  # noqa: S608  # both are ours
                {"notebook": notebook, "limit": limit},
            ).fetchall()
        return [_row(entry) for entry in reversed(found)]

    def turns(self, notebook: str, chat: str | None) -> list[Row]:
        """All that was asked in a chat of a notebook, oldest first; without what is forgotten."""
        with self._transaction() as db:
            found = db.execute(
                f"""{_NAMES}
                SELECT requests.* FROM {_OF_NOTEBOOK}
                WHERE chat = :chat AND state <> 'forgotten' ORDER BY requests.id
                """,  # noqa: S608  # both are ours
                {"notebook": notebook, "chat": chat},
            ).fetchall()
        return [_row(entry) for entry in found]

    def chats(self, notebook: str) -> list[str]:
        """The names of a notebook's conversations, in the order in which they began."""
        with self._transaction() as db:
            found = db.execute(
                f"""{_NAMES}
                SELECT chat FROM {_OF_NOTEBOOK} WHERE chat IS NOT NULL AND state <> 'forgotten'
                GROUP BY chat ORDER BY MIN(requests.id)
                """,  # noqa: S608  # both are ours
                {"notebook": notebook},
            ).fetchall()
        return [entry["chat"] for entry in found]

    def search(self, words: str, limit: int = 20) -> list[Row]:
        """Rows whose question or answer holds all the words, the best first.

        A word of a script that leaves no blanks is looked for in all texts, and what holds nothing
        else comes newest first.
        """
        with self._transaction() as db:
            try:
                found = _matching(db, words, limit)
                is_sound = bool(found) or self._is_index_sound or _is_sound(db)
            except sqlite3.DatabaseError as error:
                is_sound = not _is_damage(error)
                if is_sound:
                    raise
            if not is_sound:
                _make_index(db)
                found = _matching(db, words, limit)
            self._is_index_sound = (
                self._is_index_sound or not found
            )  # looked at once: it takes time that grows with the journal
        return [_row(entry) for entry in found]

    def with_rounds(self, row_id: int) -> list[Row]:
        """A row, and the rounds of its cell that led to it, newest first: the question is in the last of them."""
        row, *before = reversed(self.ancestors(row_id))
        return [
            row,
            *takewhile(lambda earlier: earlier.is_round and earlier.cell == row.cell, before),
        ]

    def forget(self, row_id: int) -> None:
        """Removes the texts of a row from the journal, and from the file that took its answer when the journal could not.

        That it was asked and what it cost stays, and so does its place. The rounds that led to it
        go with it. Raises BadInput while it is being answered, and JournalError while a reader
        keeps what was written before in the log.
        """
        with self._transaction() as db:
            if self.row(row_id).is_alive:
                raise errors.BadInput(
                    f"Question {row_id} is being answered. Nothing was forgotten.",
                    f"%aiml cancel {row_id} stops it; its answer can be forgotten when it is over.",
                )
            ids = [(row.id,) for row in self.with_rounds(row_id)]
            db.executemany(
                """
                UPDATE requests
                SET state = 'forgotten', request = '{}', text = NULL, response = NULL, error = NULL, key = NULL,
                    response_id = NULL, status = NULL, cell = NULL, before = NULL
                WHERE id = ?
                """,
                ids,
            )
            is_sound = _remove_from_index(db, ids)
        self.take_in()  # of these rows no file may hold more than the journal
        with (
            self._transaction() as db
        ):  # what was written before is still in the log until it is emptied
            if not is_sound:
                db.execute(
                    "VACUUM"
                )  # what a damaged index held may be in pages that belong to nothing any more
            is_busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise errors.JournalError(
                f"Answer {row_id} is forgotten, but its texts are still in the log beside the journal, which somebody reads.",
                f"Close what reads it, then %aiml forget {row_id} again.",
            )

    def take(self, row: NewRow, parent: str | None, answer: Mapping[str, Any]) -> int:
        """Takes over an answer of a recording, unless this very answer is there already; gives the id of its row.

        `parent` is the id of the response that it continues (or the key of a request that has
        none), `answer` has the columns of what came.
        """
        response = answer["response"]
        with self._transaction() as db:
            known = db.execute(
                "SELECT id FROM requests WHERE key = ? AND response = ? AND origin = 'recording' ORDER BY id DESC LIMIT 1",
                (row.key, dump(response)),
            ).fetchone()
            if known is not None:
                return int(known["id"])
            before = db.execute(
                "SELECT id FROM requests WHERE response_id = ? OR key = ? ORDER BY id DESC LIMIT 1",
                (parent, parent),
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
            row_id = int(cursor.lastrowid or 0)
            _index(db, row_id, row.request, Response(response).text)
            return row_id

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
                f"{_NAMES} SELECT 1 FROM {_OF_NOTEBOOK} WHERE chat = :chat AND cell = :cell",  # noqa: S608  # both are ours
                {"notebook": notebook, "chat": chat, "cell": cell},
            ).fetchone()
        return found is not None

    def elsewhere(self, notebook: str, chat: str | None, cell: str, limit: int = 50) -> list[Row]:
        """What was asked in a cell of this id, in this chat, under other names of the notebook, newest first."""
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT * FROM requests
                WHERE cell = ? AND chat = ? AND notebook <> ? AND state <> 'forgotten' ORDER BY id DESC LIMIT ?
                """,
                (cell, chat, notebook, limit),
            ).fetchall()
        return [_row(entry) for entry in found]

    def note_past(self, notebook: str, earlier: str) -> None:
        """Keeps that a notebook was called `earlier` until now, or is a copy of that one."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO pasts (notebook, earlier, until) SELECT ?, ?, coalesce(max(id), 0) FROM requests",
                (notebook, earlier),
            )
            db.execute(
                """
                INSERT OR IGNORE INTO pasts (notebook, earlier, until)
                SELECT ?, earlier, until FROM pasts WHERE notebook = ? AND earlier <> ?
                """,
                (notebook, earlier, notebook),
            )

    def has_answered(self, notebook: str, request: Mapping[str, Any], key: str) -> bool:
        """The notebook has an answer to the same request behind another answer."""
        with self._transaction() as db:
            found = db.execute(
                f"""{_NAMES}
                SELECT 1 FROM {_OF_NOTEBOOK} WHERE request = :request AND key <> :key AND status = 'completed'
                """,  # noqa: S608  # both are ours
                {"notebook": notebook, "request": dump(request), "key": key},
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
        self,
        server: str,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float = 0.0,
    ) -> tuple[float, int]:
        """Dollars that this server says it charged, and the number of answers of unknown cost.

        In a session, in a notebook, or since a time in seconds since 1970; without any, ever.
        """
        with self._transaction() as db:
            usd, unknown = db.execute(
                """
                SELECT coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL AND (
                    state IN ('done', 'sent')
                    OR (state = 'cancelled' AND seconds IS NOT NULL)
                    OR (state = 'failed' AND CASE WHEN json_valid(error) THEN json_extract(error, '$.may_cost') END)
                ))
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

        Nobody else writes meanwhile. A disk that syncs two hundred times a second keeps thousands
        of answers a second this way.
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
        """One step.

        Synced in `FULL` it survives a power cut; `NORMAL` leaves that to the next step that is.
        """
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
                    self._newest = self._written_now
                finally:
                    self._is_open, self._written_now = False, self._newest
        except (
            sqlite3.Error,
            OSError,
            UnicodeError,
        ) as error:  # sqlite3 reads and writes texts, and error messages
            why = " ".join(
                plain(str(error)).split()
            )  # a file of somebody else may say anything, on any number of lines
            raise errors.JournalError(
                f"The journal {short(self.path)} cannot be used: {why}.", _HINT
            ) from error

    def _connection(self) -> sqlite3.Connection:
        """The connection, which stays: each new one would read the schema anew, and each last one fold the log up."""
        if self._place and self._place != self._current_place():
            self._leave()  # before there is another: the logs of both have one name
        if self._db is None:
            self._db = self._made()
            databases.append(self.path)
            self._close = weakref.finalize(self, _close, self._db, self.path, os.getpid())
            self._place = self._current_place()
            self.take_in()
        return self._db

    def _leave(self) -> None:
        """Closes the connection; the next step opens another."""
        self._close()
        self._db = None

    def rest(self) -> bool:
        """Closes the connection and lets no step begin until `go_on`; `False` if one lasts for long, and then nothing is done."""
        if not self._lock.acquire(timeout=_BUSY):
            return False
        if not self._is_open:
            self._leave()
        return True

    def go_on(self) -> None:
        self._lock.release()

    def begin_anew(self) -> None:
        """In a process that was forked off: what it inherited is its parent's, and neither used nor closed."""
        self._lock, self._is_open, self._written_now = threading.RLock(), False, self._newest

    def _current_place(self) -> tuple[int, ...]:
        """The process and the file that a connection is of: it must not be used after a fork, nor for a file that is gone."""
        file = self.path.stat()
        return os.getpid(), file.st_dev, file.st_ino

    def _made(self) -> sqlite3.Connection:
        """Makes the file if there is none, and brings it to the newest form.

        A file of somebody else stays as it is.
        """
        make_private_folder(self.path.parent)
        if os.path.lexists(self.path):
            if not self.path.is_file():  # a pipe would never answer
                raise sqlite3.DatabaseError("it is no file")
            if (
                not os.access(self.path, os.W_OK) or not self.path.stat().st_mode & stat.S_IWUSR
            ):  # the latter holds for root too
                raise sqlite3.OperationalError("it is read-only")
            if (
                self.path.stat().st_nlink > 1
            ):  # SQLite would keep a log for each (howtocorrupt.html, 2.5)
                raise sqlite3.DatabaseError(
                    "it has a second name, by a hard link; remove one of the two, or make it a copy"
                )
            with closing(
                self._connected("ro", immutable="1")
            ) as file:  # without the log, which may be of what lay here before
                _check_file(file)
            db = self._connected("rw")
        else:
            with tempfile.NamedTemporaryFile(prefix="journal-", dir=self.path.parent) as private:
                db = self._connected(
                    "rwc", modeof=private.name
                )  # a file that SQLite makes is as private as that one
        try:
            db.execute(
                "PRAGMA trusted_schema = OFF"
            )  # a file of somebody else may define what has side effects
            db.execute("PRAGMA secure_delete = ON")  # what is forgotten may have been moved before
            _bring_up_to_date(db)
            self._check_rows(db)
        except BaseException:
            db.close()
            raise
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        return db

    def _connected(self, mode: str, **options: str) -> sqlite3.Connection:
        address = f"{self.path.as_uri()}?{urllib.parse.urlencode({'mode': mode, **options}, quote_via=urllib.parse.quote)}"
        return sqlite3.connect(address, uri=True, timeout=_BUSY, check_same_thread=False)

    def _written(self, db: sqlite3.Connection, row_id: int) -> Row:
        row = _row(db.execute("SELECT * FROM requests WHERE id = ?", (row_id,)).fetchone())
        self._written_now = row.id, row.asked_at
        return row

    def _check_rows(self, db: sqlite3.Connection) -> None:
        """Refuses another journal in the place of this one: the numbers of rows mean others there.

        A copy is as good.
        """
        if (
            self._newest
            and not db.execute(
                "SELECT 1 FROM requests WHERE id = ? AND asked_at = ?", self._newest
            ).fetchone()
        ):
            raise sqlite3.DatabaseError(
                "another journal has taken its place; restart the kernel to use that one"
            )

    @property
    def _folder(self) -> Path:
        """Where the file is, by whatever link it is called."""
        return Path(os.path.realpath(self.path)).parent


class Unkept:
    """What the journal could not take when it came: tried again until it does, and meanwhile in a file beside it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: dict[int, tuple[Row, Came, str | None]] = {}

    @property
    def rows(self) -> set[int]:
        return set(self._held)

    def need_time(self, waited: float) -> bool:
        """It is worth waiting on, after so many seconds: without end for what is on no disk yet, unless its folder is gone.

        What a file holds is safe, and waited for a minute only, if there is a journal at all.
        """
        if all(copy for _, _, copy in self._held.values()):
            return bool(self._held) and waited < _PATIENCE and self._journal.path.exists()
        return self._journal.path.parent.exists()

    def add(self, row: Row, came: Came) -> tuple[Row, str | None]:
        """As `Journal.rescue`; where no file can take it either, that is tried again, too."""
        unkept, copy = self._journal.rescue(row, came)
        self._held[row.id] = row, came, copy
        return unkept, copy

    def try_again(self) -> None:
        """Has the journal take what it can take now. What was in a file goes from there."""
        is_taking = True
        for row, came, _ in list(self._held.values()):
            try:
                if is_taking:
                    self._journal.finish(row.id, came)
                    del self._held[row.id]
            except errors.JournalError:
                is_taking = False  # nor will it take the next
            if not is_taking:
                self.add(row, came)
        if is_taking:
            self._journal.take_in()


def journal_at(path: Path) -> Journal:
    """The journal in the file `path`: in a process one, by whatever name it is called, and over reloads of the extension."""
    with _opening:
        for journal in _living:
            if _is_same(journal.path, path):
                return journal
    return Journal(path)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return os.path.realpath(path) == os.path.realpath(other)


# Of this process; a reload of this module finds those that were there before it.
_living: weakref.WeakSet[Journal] = globals().get("_living", weakref.WeakSet())
_opening = threading.RLock()
_inherited: list[sqlite3.Connection] = []
_at_rest: list[Journal] = []  # while the process is being forked


def _nothing() -> None:
    """Closes no connection."""


def _close(db: sqlite3.Connection, path: Path, pid: int) -> None:
    """Closes a connection, but never that of another process: what this one inherited is the other's."""
    if os.getpid() == pid:
        db.close()
        databases.remove(path)
    else:
        _inherited.append(db)  # or Python would close it


def _rest() -> None:
    """Before a fork, which no connection survives: a child would believe to have the locks that its parent has."""
    _opening.acquire()
    _at_rest.extend(journal for journal in _living if journal.rest())


def _go_on() -> None:
    while _at_rest:
        _at_rest.pop().go_on()
    _opening.release()


def _begin_anew() -> None:
    """In the child, which has none of the threads that could end a step."""
    for journal in _living:
        journal.begin_anew()
    databases.clear()
    _at_rest.clear()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_rest, after_in_parent=_go_on, after_in_child=_begin_anew)


def _check_file(file: sqlite3.Connection) -> None:
    """Raises DatabaseError for a file of somebody else.

    What is torn here may be whole in the log.
    """
    try:
        _version(file)
    except sqlite3.DatabaseError as error:
        if (code := getattr(error, "sqlite_errorcode", None)) == sqlite3.SQLITE_NOTADB:
            raise sqlite3.DatabaseError("it is no SQLite file") from error
        if code is None:  # our own words
            raise


def _version(db: sqlite3.Connection) -> int:
    """The number of migrations that the file has seen.

    Raises DatabaseError if it is no journal, or a newer one.
    """
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
    """Runs the migrations that the file has not seen.

    Turning the log on does not wait for others, so it is tried again.
    """
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
    """Makes question and answer searchable.

    An index that is damaged costs no answer: it goes, and `search` makes another.
    """
    try:
        with _apart(db):
            _insert(db, row_id, request, answer)
    except sqlite3.DatabaseError as error:
        if not db.in_transaction or not _is_damage(error):
            raise
        with suppress(sqlite3.DatabaseError):
            _drop_index(db)


def _insert(db: sqlite3.Connection, row_id: int, request: Mapping[str, Any], answer: str) -> None:
    db.execute(
        "INSERT OR REPLACE INTO texts (rowid, question, answer) VALUES (?, ?, ?)",
        (row_id, _searchable(question_text(request)), _searchable(answer)),
    )


def _remove_from_index(db: sqlite3.Connection, ids: Iterable[tuple[int]]) -> bool:
    """Removes rows from the index and their words from the disk; `False` if it was not sound, and is gone as a whole."""
    try:
        with _apart(db):
            db.executemany("DELETE FROM texts WHERE rowid = ?", ids)
            db.execute(
                "INSERT INTO texts (texts) VALUES ('optimize')"
            )  # the index is written anew, without the words
            db.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        if not db.in_transaction or not _is_damage(error):
            raise
        _drop_index(db)
        return False
    return True


def _matching(db: sqlite3.Connection, words: str, limit: int) -> list[sqlite3.Row]:
    """The rows that the index finds."""
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
            SELECT 1 FROM json_each(:parts) WHERE instr(lower(question || ' ' || answer), lower(value)) = 0
        )
        ORDER BY {order} LIMIT :limit
        """,  # noqa: S608  # each of the two is one of ours
        {"query": query, "parts": dump(parts), "limit": limit},
    ).fetchall()


def _is_sound(db: sqlite3.Connection) -> bool:
    """The index is what it was made of. One that is damaged may just find nothing."""
    try:
        db.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        return not _is_damage(error)
    return True


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """What failed is the index, rather than the disk or the moment."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF not in _OF_THE_MOMENT


_OF_THE_MOMENT = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_MISUSE,
}  # fmt: skip


def _make_index(db: sqlite3.Connection) -> None:
    """Makes the index anew of the rows; what stands in none of them as it was written is left out."""
    if not db.in_transaction:
        db.execute("BEGIN IMMEDIATE")
    with _apart(db):
        _drop_index(db)
        db.execute("CREATE VIRTUAL TABLE texts USING fts5 (question, answer)")
        for found in db.execute(
            "SELECT * FROM requests WHERE response IS NOT NULL AND state <> 'forgotten'"
        ):
            with suppress(errors.JournalError):
                row = _row(found)
                if text := Response(row.response).text:
                    _insert(db, row.id, row.request, text)


def _drop_index(db: sqlite3.Connection) -> None:
    """Removes the index, whatever is left of it: a damaged one cannot be dropped, so its parts are, and then its name."""
    with _apart(db):
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE name GLOB 'texts_*' OR name = 'texts' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        ).fetchall()
        for (name,) in tables:
            db.execute(f'DROP TABLE "{name}"')
        db.execute("PRAGMA writable_schema = ON")
        try:
            db.execute("DELETE FROM sqlite_master WHERE name = 'texts'")
        finally:
            db.execute("PRAGMA writable_schema = RESET")


@contextmanager
def _apart(db: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction: where it fails, nothing of it stays, and the rest does."""
    db.execute("SAVEPOINT part")
    try:
        yield
        db.execute(
            "SAVEPOINT written"
        )  # has the index write what it holds back: what fails is to fail here
    except BaseException:
        if db.in_transaction:  # a full disk ends it as a whole
            db.execute("ROLLBACK TO part")
        raise
    finally:
        if db.in_transaction:
            db.execute("RELEASE part")


def _searchable(text: str) -> str:
    """The text as the index has it: what is no text (a lone surrogate, NUL) is left out of it, not of the row."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


_JSON = {
    "request": "{}",
    "text": '""',
    "response": "{}",
    "notices": "[]",
    "error": "null",
}  # columns, and what NULL stands for
_KINDS: Mapping[str, Any] = {
    "id": int, "state": str, "base_url": str, "server": str, "request": dict, "client_request_id": str, "parent": int | None,
    "chain": str | None, "notebook": str, "chat": str | None, "cell": str | None, "before": str | None, "key": str | None,
    "asked_at": float, "response_id": str | None, "text": str, "response": dict, "notices": list, "cost_usd": float | None,
    "seconds": float | None, "error": dict | None, "alive_at": float | None, "cluster": str | None, "origin": str,
    "attempts": int | None,
}  # fmt: skip
_FAR = 5e10  # seconds or dollars: more than there ever are, and still a date


def _row(found: sqlite3.Row) -> Row:
    """The row as a value.

    Raises JournalError if anything else stands in it than was ever written: the file may be
    anybody's.
    """
    try:
        values = {
            name: json.loads(found[name] or _JSON[name]) if name in _JSON else found[name]
            for name in _KINDS
        }
        wrong = _wrong(values)
    except IndexError:
        wrong = sorted(_KINDS.keys() - found.keys())
    except (ValueError, TypeError, RecursionError):
        wrong = list(_JSON)
    if wrong:
        raise errors.JournalError(
            f"Row {found['id']} of the journal is damaged, in its {' or '.join(wrong)}.", _HINT
        )
    return Row(**values | {"notices": tuple(map(str, values["notices"]))})


def _wrong(values: Mapping[str, Any]) -> list[str]:
    """The names of those values of a row that were never written as they are."""
    wrong = [name for name, kind in _KINDS.items() if not isinstance(values[name], kind)]
    wrong += [
        name for name, value in values.items() if isinstance(value, float) and not abs(value) < _FAR
    ]
    wrong += ["parent"] * (
        not wrong and (values["parent"] or 0) >= values["id"]
    )  # it would be its own ancestor
    return wrong


_MAX_RESCUED = 4 * MAX_JSON  # bytes: a request, with what is attached, and its response


def _rescued(path: Path) -> tuple[Row, Came]:
    """The row that a file of `Journal.rescue` holds, and what came of it.

    Raises OSError, ValueError or BadInput for another.
    """
    found = load(_read_bounded(path), _MAX_RESCUED)
    if not isinstance(found, dict):
        raise ValueError(path)
    earlier = {"origin": "asked"}  # of which a version without that column knew no other
    values: dict[str, Any] = {name: (earlier | found).get(name) for name in _KINDS}
    is_known = values["state"] in ("done", "failed", "cancelled")
    if (
        _wrong(values)
        or not is_known
        or not all(_fits(values[name]) for name in _KINDS.keys() - _JSON.keys())
    ):
        raise ValueError(path)
    row = Row(**values | {"notices": tuple(map(str, values["notices"]))})
    return row, Came(
        state=row.state,
        response=row.response,
        seconds=row.seconds,
        notices=tuple(notice for notice in row.notices if notice != "not_in_journal"),
        cost=None if row.cost_usd is None else _rescued_cost(row.cost_usd, found),
        error=None if row.error is None else errors.from_dict(row.error),
        response_id=row.response_id,
        text=row.text or None,
    )


def _fits(value: object) -> bool:
    """A column takes it: no number of more than 64 bits, no text with half a character."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


def _rescued_cost(usd: float, found: Mapping[str, Any]) -> Cost:
    number, source = found.get("cost_credits"), found.get("cost_source")
    return Cost(
        usd,
        number if isinstance(number, int) and _fits(number) else None,
        source if isinstance(source, str) and _fits(source) else "rescued",
    )


def _read_bounded(path: Path) -> bytes:
    """The content of a file that this user wrote.

    Raises OSError or BadInput for any other: a link, a pipe, a stranger's.
    """
    check_no_database(path)
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    with os.fdopen(os.open(path, sum(flags, os.O_RDONLY)), "rb") as file:
        found = os.fstat(file.fileno())
        is_ours = not hasattr(os, "geteuid") or (
            found.st_uid == os.geteuid() and not found.st_mode & 0o022
        )
        if not stat.S_ISREG(found.st_mode) or not is_ours or found.st_size > _MAX_RESCUED:
            raise OSError(f"{path} is no file of ours")
        return file.read(_MAX_RESCUED)


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
