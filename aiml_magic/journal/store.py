"""The journal: one SQLite file with every request and its answer, one row each.

A row is written before its request is sent, so that a crash leaves a trace of a possible charge. It
holds the request without its conversation: `parent` names the row that it continues, and the form
of the conversation (the parent's response id, or a transcript) is decided when it is sent. Neither
the API key nor any header is in it.

Each step is one short transaction, so that any number of kernels and runners may write at once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import cast

from aiml_magic.api.responses import Cost, Raw, Response
from aiml_magic.errors import BadInput, JournalError, ServerError
from aiml_magic.journal import index, rescue
from aiml_magic.journal.costs import IS_UNKNOWN, Costs
from aiml_magic.journal.database import find_living, opening
from aiml_magic.journal.recording import Record
from aiml_magic.journal.replay import request_keys
from aiml_magic.journal.rows import Result, Row, read_row
from aiml_magic.text import dump


class Journal(Costs):
    """The journal in the file `path`.

    Every method raises JournalError if the file cannot be used.
    """

    def add(
        self,
        *,
        base_url: str,
        server: str,
        request: Raw,
        client_request_id: str,
        session: str,
        notebook: str,
        key: str,
        asked_at: float,
        parent: int | None = None,
        chain: str | None = None,
        chat: str | None = None,
        cell: str | None = None,
        before: str | None = None,
        worst_usd: float | None = None,
    ) -> Row:
        """Adds the row of a request that is about to be sent; the claim syncs it to the disk."""
        with self._transaction("NORMAL") as db:
            cursor = db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, parent, chain,
                                      session, notebook, chat, cell, before, key, asked_at,
                                      alive_at, worst_usd)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (
                    base_url, server, dump(request), client_request_id, parent, chain, session,
                    notebook, chat, cell, before, key, asked_at, time.time(), worst_usd,
                ),
            )  # fmt: skip
            return self._written(db, int(cursor.lastrowid or 0))

    def claim(
        self, row_id: int, cluster: str | None = None, attempts: int | None = None
    ) -> Row | None:
        """Marks a queued row as sent (from `cluster`, if named); `None` if it may not be sent.

        It may not if it was sent or withdrawn already, or if its parent has no answer. `attempts`
        is the number of this attempt, by default the next one; from a cluster it is unknown.
        """
        with self._transaction() as db:
            cursor = db.execute(
                """
                UPDATE requests
                SET state = 'sent', alive_at = ?1, cluster = ?2,
                    attempts = CASE WHEN ?2 IS NULL THEN coalesce(?3, attempts + 1, 1) END
                WHERE id = ?4 AND state = 'queued' AND NOT EXISTS (
                    SELECT 1 FROM requests AS before
                    WHERE before.id = requests.parent AND before.state <> 'done'
                )
                """,
                (time.time(), cluster, attempts, row_id),
            )
            return self._written(db, row_id) if cursor.rowcount == 1 else None

    def release(self, row_id: int) -> None:
        """Marks a claimed row as queued again: it was not sent, or the server refused it."""
        self._execute(
            """
            UPDATE requests SET state = 'queued', cluster = NULL WHERE id = ? AND state = 'sent'
            """,
            row_id,
        )

    def end_heartbeat(self, row_id: int) -> None:
        """Ends the heartbeat of a row at once, so that no kernel waits until it is stale."""
        self._execute("UPDATE requests SET alive_at = NULL WHERE id = ? AND state = 'sent'", row_id)

    def take_over(self, row: Row) -> bool:
        """Takes over a row with a stale heartbeat; `False` if another runner was faster."""
        if row.is_alive:
            return False
        changed = self._execute(
            """
            UPDATE requests SET state = 'sent', alive_at = ?
            WHERE id = ? AND state = ? AND alive_at IS ?
            """,
            time.time(), row.id, row.state, row.alive_at,
        )  # fmt: skip
        return changed == 1

    def take_over_accepted(self, row_id: int) -> Row | None:
        """Takes over a row whose request the server accepted; `None` if it cannot be resumed."""
        row = self.row(row_id)
        return row if row.can_go_on and self.take_over(row) else None

    def withdraw(self, row_id: int) -> bool:
        """Cancels a row that was not sent yet; `False` if it was sent."""
        changed = self._execute(
            "UPDATE requests SET state = 'cancelled' WHERE id = ? AND state = 'queued'", row_id
        )
        return changed == 1

    def note_unwanted(self, row_id: int) -> None:
        """Asks the runner of the row, maybe of another kernel, to cancel it."""
        self._execute("UPDATE requests SET is_unwanted = 1 WHERE id = ?", row_id)

    def note_alive(self, row_ids: Collection[int]) -> list[int]:
        """Writes the heartbeat of these rows; returns the ids of those to cancel."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE requests SET alive_at = ? WHERE id = ?",
                [(time.time(), row_id) for row_id in row_ids],
            )
            unwanted = db.execute(
                """
                SELECT id FROM requests
                WHERE id IN (SELECT value FROM json_each(?))
                  AND (state = 'cancelled' OR is_unwanted AND state IN ('queued', 'sent'))
                """,
                (dump(list(row_ids)),),
            )
            return [row["id"] for row in unwanted]

    def note_key(self, row_id: int, key: str) -> None:
        """Sets the final key of a row, after its parent is over."""
        self._execute(
            "UPDATE requests SET key = ? WHERE id = ? AND state IN ('queued', 'sent')", key, row_id
        )

    def note_attempts(self, row_id: int, attempts: int) -> None:
        """Sets the number of attempts, before the last one is made."""
        self._execute(
            "UPDATE requests SET attempts = ? WHERE id = ? AND state = 'sent'", attempts, row_id
        )

    def note_pending(self, row_id: int, response: Raw) -> None:
        """Stores an unfinished response, so that the row can be resumed."""
        self._execute(
            """
            UPDATE requests
            SET response = ?,
                error = CASE WHEN json_valid(error) THEN json_set(error, '$.retry', 'resume') END
            WHERE id = ? AND state IN ('sent', 'failed')
            """,
            dump(response), row_id,
        )  # fmt: skip

    def note_response_id(self, row_id: int, response_id: str) -> None:
        self._execute(
            "UPDATE requests SET response_id = ? WHERE id = ? AND state IN ('queued', 'sent')",
            response_id, row_id,
        )  # fmt: skip

    def note_text(self, row_id: int, text: str) -> None:
        """Stores the text streamed so far."""
        self._execute(
            "UPDATE requests SET text = ? WHERE id = ? AND state IN ('queued', 'sent')",
            dump(text), row_id,
        )  # fmt: skip

    def note_chain(self, row_id: int, chain: str, notice: str) -> None:
        """Stores a new form of the conversation, and the notice that says why."""
        self._execute(
            """
            UPDATE requests SET chain = ?, notices = json_insert(notices, '$[#]', ?)
            WHERE id = ? AND state IN ('queued', 'sent')
            """,
            chain, notice, row_id,
        )  # fmt: skip

    def finish(self, row_id: int, result: Result) -> None:
        """Stores a result, before it is shown; a row that is over is not changed."""
        response, cost, error = Response(result.response), result.cost, result.error
        with self._transaction() as db:
            known = self._first("SELECT notices, request FROM requests WHERE id = :row", row=row_id)
            earlier = json.loads(known["notices"]) if known else []
            cursor = db.execute(
                """
                UPDATE requests
                SET state = ?, response = coalesce(?, response),
                    response_id = coalesce(?, response_id), text = coalesce(?, text), status = ?,
                    notices = ?, cost_usd = coalesce(?, cost_usd),
                    cost_credits = coalesce(?, cost_credits),
                    cost_source = coalesce(?, cost_source),
                    seconds = ?, error = ?, attempts = coalesce(?, attempts)
                WHERE id = ? AND state IN ('queued', 'sent')
                """,
                (
                    result.state, dump(result.response) if result.response else None,
                    response.id or result.response_id,
                    None if result.text is None else dump(result.text), response.status,
                    dump(list(dict.fromkeys([*earlier, *result.notices]))), cost and cost.usd,
                    cost and cost.credits, cost and cost.source,
                    result.seconds, error and dump(error.as_dict()), result.attempts,
                    row_id,
                ),
            )  # fmt: skip
            if response.text and cursor.rowcount:
                index.add(db, row_id, json.loads(known["request"]), response.text)

    def rescue(self, row: Row, result: Result) -> tuple[Row, str | None]:
        """As `finish`, but into a rescue file, which `import_rescued` reads later."""
        return rescue.rescue(self._folder, row, result)

    def import_rescued(self) -> None:
        """Imports the rescue files of all processes, and removes those whose rows are over.

        A file for a row that this journal does not have, or never sent, stays.
        """
        with suppress(JournalError):  # retried when the connection is opened again
            for path in rescue.rescue_files(self._folder):
                self._import_file(path)

    def _import_file(self, path: Path) -> None:
        with suppress(OSError, ValueError, BadInput):
            row, result = rescue.read(path)
            with self._transaction():
                if self._import_result(row, result):
                    self._obsolete.append(path)

    def _import_result(self, row: Row, result: Result) -> bool:
        """Stores a result, unless the row has a better one; `False` if it was never sent here."""
        with self._transaction():
            raw = self._first(
                """
                SELECT * FROM requests
                WHERE id = :id AND asked_at = :asked_at AND server = :server
                  AND (request = :request OR state = 'forgotten')
                """,
                id=row.id,
                asked_at=row.asked_at,
                server=row.server,
                request=dump(row.request),
            )
            if raw is None or (known := read_row(raw)).state == "queued":
                return False
            if result.state == "done" and known.state == "failed" and known.has_unknown_cost:
                self.recover(row.id, result.response, result.cost)
            self.finish(row.id, result)
        return True

    def recover(self, row_id: int, response: Raw, cost: Cost | None) -> None:
        """Stores an answer fetched from the server after its connection was lost."""
        with self._transaction() as db:
            db.execute(
                """
                UPDATE requests SET state = 'sent', error = NULL
                WHERE id = ? AND state <> 'forgotten'
                """,
                (row_id,),
            )
            self.finish(row_id, Result("done", response, cost=cost))

    def note_free(self, row_id: int) -> None:
        """Marks a request as failed and free of charge, so that it may be sent again."""
        error = ServerError(
            "The request failed at the server. Nothing was charged.",
            "Run the cell again.",
            retry="ask",
        )
        self._execute(
            """
            UPDATE requests SET state = 'failed', cost_usd = 0, cost_source = 'log', error = ?
            WHERE id = ? AND state <> 'forgotten'
            """,
            dump(error.as_dict()), row_id,
        )  # fmt: skip

    def known(
        self, keys: Sequence[str], base_url: str, recorded: Mapping[str, int] = MappingProxyType({})
    ) -> Row | None:
        """The row that answers a request, or that may do so later.

        The newest answer that was asked here; else that of a recording (`recorded`: ids of rows by
        key); else the newest row, if it is unfinished or may have been charged without an answer.
        """
        with self._transaction() as db:
            rows = self._asked(db, keys)
            newest = next(rows, None)
            if newest is not None and newest.state in ("sent", "failed"):
                path = rescue.rescue_file(self._folder, newest)
                if path.exists():  # its runner may have ended before it could write the row
                    self._import_file(path)
                    rows = self._asked(db, keys)
                    newest = next(rows)
            asked = [] if newest is None else chain([newest], rows)
            imported = (self.row(recorded[key]) for key in keys if key in recorded)
            answers = chain(
                (row for row in asked if row.is_replayable),
                (row for row in imported if row.state == "done"),
            )
            if (answer := next(answers, None)) is not None:
                return answer
            is_open = newest is not None and self._is_open_for(newest, keys, base_url)
            return newest if is_open else None

    def _is_open_for(self, row: Row, keys: Sequence[str], base_url: str) -> bool:
        """Whether the row is unfinished, or may have been charged without an answer.

        The request of a queued row must fit its key: a forged journal may hold any pair.
        """
        if row.state != "queued":
            return row.is_doubtful or not row.is_over
        parents: list[str | None] = [None]
        if row.parent is not None:
            parents = [f"row {row.parent}", self.row(row.parent).identity]
        return row.base_url == base_url and any(
            key in keys
            for parent in parents
            for key in request_keys(row.server, row.request, parent)
        )

    def forget(self, row_id: int) -> None:
        """Removes the texts of a row and of its earlier rounds from the journal and its files.

        Time, cost, notebook and chat of the request stay. Raises BadInput while it is being
        answered, and JournalError while another reader keeps the texts in the log.
        """
        with self._transaction() as db:
            if self.row(row_id).is_alive:
                raise BadInput(
                    f"Question {row_id} is being answered. Nothing was forgotten.",
                    f"%aiml cancel {row_id} stops it; its answer can be forgotten when it is over.",
                )
            ids = [(row.id,) for row in self.with_rounds(row_id)]
            db.executemany(
                f"""
                UPDATE requests
                SET state = 'forgotten', request = '{{}}', text = NULL, response = NULL,
                    error = NULL, key = NULL, response_id = NULL, status = NULL, cell = NULL,
                    before = NULL,
                    worst_usd = CASE WHEN state = 'forgotten' OR {IS_UNKNOWN} THEN worst_usd END
                WHERE id = ?
                """,  # noqa: S608  # ours
                ids,
            )
            is_sound = index.remove(db, ids)
        self.import_rescued()  # removes rescue files, which hold the same texts
        with self._transaction() as db:
            if not is_sound:  # a damaged index may leave its texts in unused pages
                db.execute("VACUUM")
            # The log holds earlier versions of these pages.
            is_busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise JournalError(
                f"Answer {row_id} is forgotten, but its texts are still in the log beside the "
                "journal, which another program reads.",
                f"Close that program, then run %aiml forget {row_id} again.",
            )

    def import_recorded(self, key: str, record: Record) -> int:
        """Adds an answer of a recording, unless it is there already; returns the id of its row.

        Its `parent` is the response id or the key of the row that it continues.
        """
        response = Response(record.response)
        with self._transaction() as db:
            known = self._first(
                """
                SELECT id FROM requests
                WHERE key = :key AND response = :response AND origin = 'recording'
                ORDER BY id DESC LIMIT 1
                """,
                key=key,
                response=dump(record.response),
            )
            if known is not None:
                return int(known["id"])
            before = self._first(
                """
                SELECT id FROM requests WHERE response_id = :parent OR key = :parent
                ORDER BY id DESC LIMIT 1
                """,
                parent=record.parent,
            )
            cursor = db.execute(
                """
                INSERT INTO requests (base_url, server, request, client_request_id, parent, session,
                                      notebook, key, asked_at, origin, state, response, response_id,
                                      status, notices, cost_usd, seconds)
                VALUES (?, ?, ?, ?, ?, 'recording', '', ?, ?, 'recording', 'done', ?, ?, ?, ?, ?, ?)
                """,
                (
                    record.server, record.server, dump(record.request), uuid.uuid4().hex,
                    before and before["id"], key, record.asked_at, dump(record.response),
                    response.id, response.status, dump(record.notices), record.cost_usd,
                    record.seconds,
                ),
            )  # fmt: skip
            row_id = int(cursor.lastrowid or 0)
            index.add(db, row_id, record.request, response.text)
            return row_id

    def note_past(self, notebook: str, earlier: str) -> None:
        """Stores that a notebook was named `earlier` until now, or is a copy of that one."""
        with self._transaction() as db:
            db.execute(
                """
                INSERT OR REPLACE INTO pasts (notebook, earlier, until)
                SELECT ?, ?, coalesce(max(id), 0) FROM requests
                """,
                (notebook, earlier),
            )
            db.execute(
                """
                INSERT OR IGNORE INTO pasts (notebook, earlier, until)
                SELECT ?, earlier, until FROM pasts WHERE notebook = ? AND earlier <> ?
                """,
                (notebook, earlier, notebook),
            )


def journal_at(path: Path) -> Journal:
    """The journal in the file `path`: one object per file and process, also after a reload."""
    with opening:  # two threads may be the first
        return cast("Journal | None", find_living(path)) or Journal(path)
