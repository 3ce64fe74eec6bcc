"""The money of a journal: what rows cost, and what those that are not settled may cost at most.

A row reserves its worst case in the transaction that adds it, so that no two kernels pass a limit
together. The reservation counts until the cost is known, and no longer than the row may be sent.
The sandbox's play money is counted apart.
"""

from __future__ import annotations

import time

from aiml_magic import errors
from aiml_magic.journal.queries import NAMES, OF_NOTEBOOK, Queries
from aiml_magic.journal.rows import STALE, Row
from aiml_magic.text import dump

# The request may have been charged, and its cost is unknown.
IS_UNKNOWN = """
    cost_usd IS NULL AND (
        state IN ('done', 'sent')
        OR (state = 'cancelled' AND seconds IS NOT NULL)
        OR (state = 'failed'
            AND CASE WHEN json_valid(error) THEN json_extract(error, '$.may_cost') END)
    )
"""
# What was forgotten keeps its reservation only if its cost was unknown.
_IS_RESERVED = f"({IS_UNKNOWN}) OR state = 'queued' OR (state = 'forgotten' AND cost_usd IS NULL)"
_LAPSED = errors.RunnerDied(
    "Nobody was about to send this question any more, so another one got its part of the budget. "
    "Nothing was sent.",
    "Run the cell again.",
    retry="auto",
)


class Costs(Queries):
    """What the rows of a journal cost.

    Each method is about the rows of one server, or (`None`) of all but the sandbox: those of a
    session, of a notebook, or asked since a time in seconds since 1970; else all of them.
    """

    def spent(
        self,
        server: str | None,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
    ) -> tuple[float, int]:
        """The dollars that were charged, and the number of answers of unknown cost."""
        with self._transaction() as db:
            usd, unknown = db.execute(
                f"""{NAMES}
                SELECT coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE {IS_UNKNOWN})
                FROM {_those(server, session, notebook, since)}
                """,  # noqa: S608  # all are ours
                {"server": server, "session": session, "notebook": notebook, "since": since},
            ).fetchone()
        return float(usd), int(unknown)

    def reserved(
        self,
        server: str | None,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
        besides: int = -1,
    ) -> float:
        """The dollars that rows without a known cost may cost at most, one row left out."""
        with self._transaction() as db:
            (usd,) = db.execute(
                f"""{NAMES}
                SELECT coalesce(sum(max(worst_usd, 0)), 0)
                FROM {_those(server, session, notebook, since)}
                  AND requests.id <> :besides AND ({_IS_RESERVED})
                """,  # noqa: S608  # all are ours
                {"server": server, "session": session, "notebook": notebook, "since": since,
                 "besides": besides},
            ).fetchone()  # fmt: skip
        return float(usd)

    def unpriced(
        self,
        server: str | None,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
    ) -> list[Row]:
        """The rows without a known cost that were asked when no price was known."""
        return self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {_those(server, session, notebook, since)}
              AND worst_usd IS NULL AND state <> 'forgotten' AND ({_IS_RESERVED})
            """,  # noqa: S608  # all are ours
            server=server,
            session=session,
            notebook=notebook,
            since=since,
        )

    def note_worst(self, row_id: int, usd: float) -> None:
        """Keeps what a row may cost at most."""
        self._execute("UPDATE requests SET worst_usd = ? WHERE id = ?", usd, row_id)

    def reserve(self, row_id: int, session: str, usd: float | None) -> Row:
        """Reserves anew for a queued row that a session sends now; it counts there and then."""
        self._execute(
            """
            UPDATE requests SET session = ?, worst_usd = ?, reserved_at = ?, alive_at = ?
            WHERE id = ? AND state = 'queued'
            """,
            session, usd, time.time(), time.time(), row_id,
        )  # fmt: skip
        return self.row(row_id)

    def lapse(
        self,
        server: str | None,
        held: list[int],
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
    ) -> None:
        """Ends the reservations of queued rows whose runner or kernel is gone, except `held` ones.

        Such a row fails, so that a runner that was only asleep does not send it all the same.
        """
        with self._transaction() as db:
            db.execute(
                f"""
                UPDATE requests SET state = 'failed', error = :error
                WHERE id IN (
                    {NAMES} SELECT requests.id FROM {_those(server, session, notebook, since)}
                      AND state = 'queued'
                      AND (alive_at IS NULL OR abs(alive_at - :now) >= :stale)
                      AND requests.id NOT IN (SELECT value FROM json_each(:held))
                )
                """,  # noqa: S608  # all are ours
                {"server": server, "session": session, "notebook": notebook, "since": since,
                 "held": dump(held), "error": dump(_LAPSED.as_dict()), "now": time.time(),
                 "stale": STALE},
            )  # fmt: skip


def _those(
    server: str | None, session: str | None, notebook: str | None, since: float | None
) -> str:
    """The table and the condition of the rows that count; written so that an index is used."""
    conditions = ["origin = 'asked'", "server = :server" if server else "server <> 'sandbox'"]
    if session is not None:
        conditions.append("session = :session")
    if since is not None:
        conditions.append("coalesce(reserved_at, asked_at) >= :since")
    table = "requests" if notebook is None else OF_NOTEBOOK
    return f"{table} WHERE {' AND '.join(conditions)}"
