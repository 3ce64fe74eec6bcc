"""The money of a journal: what rows cost, and what those that are not settled may cost at most.

A row reserves its worst case in the transaction that adds it, so that no two kernels pass a limit
together. The reservation counts until the cost is known, and no longer than the row may be sent.
The sandbox's play money is counted apart.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from aiml_magic import errors
from aiml_magic.journal.queries import NAMES, OF_NOTEBOOK, Queries
from aiml_magic.journal.rows import STALE, Row
from aiml_magic.text import dump

# The request may have been charged, and its cost is unknown. The cost comes first: it is in the
# indexes, and the rest of a row is read only without it.
IS_UNKNOWN = """
    cost_usd IS NULL AND (
        state IN ('done', 'sent')
        OR (state = 'cancelled' AND seconds IS NOT NULL)
        OR (state = 'failed'
            AND CASE WHEN json_valid(error) THEN json_extract(error, '$.may_cost') END)
    )
"""
# What was forgotten keeps its reservation only if its cost was unknown.
_IS_RESERVED = f"""
    cost_usd IS NULL AND requests.id <> :besides
    AND (state = 'queued' OR (state = 'forgotten' AND worst_usd IS NOT NULL) OR ({IS_UNKNOWN}))
"""
_LAPSED = errors.RunnerDied(
    "Nobody was about to send this question any more, so another one got its part of the budget. "
    "Nothing was sent.",
    "Run the cell again.",
    retry="auto",
)


class Scope(NamedTuple):
    """Rows of one server, or (`None`) of all but the sandbox.

    Those of a session, of a notebook, or asked since a time in seconds since 1970; else all.
    """

    server: str | None
    session: str | None = None
    notebook: str | None = None
    since: float | None = None

    @property
    def rows(self) -> str:
        """The rows as SQL, written so that an index is used."""
        conditions = ["origin = 'asked'", "server = :server" if self.server else _NO_SANDBOX]
        if self.session is not None:
            conditions.append("session = :session")
        if self.since is not None:
            conditions.append("coalesce(reserved_at, asked_at) >= :since")
        table = "requests" if self.notebook is None else OF_NOTEBOOK
        return f"{table} WHERE {' AND '.join(conditions)}"


_NO_SANDBOX = "server <> 'sandbox'"


class Sums(NamedTuple):
    """Dollars that were charged, and that are reserved; answers of unknown cost, and unpriced rows.

    An unpriced row should have a reservation, and was asked when no price was known.
    """

    usd: float
    unknown: int
    reserved_usd: float
    unpriced: int


class Costs(Queries):
    """What the rows of a journal cost."""

    def spent(
        self,
        server: str | None,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
    ) -> tuple[float, int]:
        """The dollars that were charged, and the number of answers of unknown cost; see `Scope`."""
        sums = self.sums(Scope(server, session, notebook, since))
        return sums.usd, sums.unknown

    def sums(self, scope: Scope, *, besides: int = -1) -> Sums:
        """The sums of the rows of a scope; one row counts in no reservation."""
        with self._transaction() as db:
            found = db.execute(
                f"""{NAMES}
                SELECT coalesce(sum(cost_usd), 0.0),
                       count(*) FILTER (WHERE {IS_UNKNOWN}),
                       coalesce(sum(max(worst_usd, 0.0)) FILTER (WHERE {_IS_RESERVED}), 0.0),
                       count(*) FILTER (WHERE {_IS_RESERVED} AND worst_usd IS NULL)
                FROM {scope.rows}
                """,  # noqa: S608  # all are ours
                {**scope._asdict(), "besides": besides},
            ).fetchone()
        return Sums(*found)

    def unpriced(self, scope: Scope) -> list[Row]:
        """The rows without a known cost that were asked when no price was known."""
        return self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {scope.rows} AND worst_usd IS NULL AND {_IS_RESERVED}
            """,  # noqa: S608  # all are ours
            **scope._asdict(),
            besides=-1,
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

    def lapse(self, scope: Scope, held: list[int]) -> None:
        """Ends the reservations of queued rows whose runner or kernel is gone, except `held` ones.

        Such a row fails, so that a runner that was only asleep does not send it all the same.
        """
        with self._transaction() as db:
            db.execute(
                f"""
                UPDATE requests SET state = 'failed', error = :error
                WHERE id IN (
                    {NAMES} SELECT requests.id FROM {scope.rows} AND state = 'queued'
                      AND (alive_at IS NULL OR abs(alive_at - :now) >= :stale)
                      AND requests.id NOT IN (SELECT value FROM json_each(:held))
                )
                """,  # noqa: S608  # all are ours
                {**scope._asdict(), "held": dump(held), "error": dump(_LAPSED.as_dict()),
                 "now": time.time(), "stale": STALE},
            )  # fmt: skip
