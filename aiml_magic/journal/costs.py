"""The costs of a journal's rows, and reservations for unsettled ones.

A row reserves its highest cost in the transaction that adds it, so that two kernels cannot pass a
limit together. The reservation counts until the cost is known, or the row cannot be sent any more.
The sandbox's play money is counted separately.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from aiml_magic import errors
from aiml_magic.api.responses import Cost
from aiml_magic.journal.queries import NAMES, OF_NOTEBOOK, Queries
from aiml_magic.journal.rows import STALE, Row
from aiml_magic.text import dump

# The request may have been charged, and its cost is unknown. The cost comes first, since it is in
# the indexes: the rest of the row is read only if it is NULL.
IS_UNKNOWN = """
    cost_usd IS NULL AND (
        state IN ('done', 'sent')
        OR (state = 'cancelled' AND seconds IS NOT NULL)
        OR (state = 'failed'
            AND CASE WHEN json_valid(error) THEN json_extract(error, '$.may_cost') END)
    )
"""
# A forgotten row keeps its reservation only if its cost was unknown.
_IS_RESERVED = f"""
    cost_usd IS NULL AND requests.id <> :besides
    AND (state = 'queued' OR (state = 'forgotten' AND worst_usd IS NOT NULL) OR ({IS_UNKNOWN}))
"""
_LAPSED = errors.RunnerDied(
    "No runner was left to send this question, so another one got its part of the budget. "
    "Nothing was sent.",
    "Run the cell again.",
    retry="auto",
)


class Scope(NamedTuple):
    """The rows of a server, or for `None` of all servers but the sandbox.

    Of a session, of a notebook, or since a time in seconds since 1970; else all.
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
    """Dollars charged and reserved, and the numbers of rows of unknown cost and of unpriced rows.

    An unpriced row lacks its reservation, since no price was known when it was asked.
    """

    usd: float
    unknown: int
    reserved_usd: float
    unpriced: int


class Costs(Queries):
    """The costs of a journal's rows."""

    def spent(
        self,
        server: str | None,
        *,
        session: str | None = None,
        notebook: str | None = None,
        since: float | None = None,
    ) -> tuple[float, int]:
        """The dollars charged, and the number of answers of unknown cost; see `Scope`."""
        sums = self.sums(Scope(server, session, notebook, since))
        return sums.usd, sums.unknown

    def sums(self, scope: Scope, *, besides: int = -1) -> Sums:
        """The sums of the rows of a scope, without the reservation of the row `besides`."""
        return Sums(
            *self._first(
                f"""{NAMES}
            SELECT coalesce(sum(cost_usd), 0.0),
                   count(*) FILTER (WHERE {IS_UNKNOWN}),
                   coalesce(sum(max(worst_usd, 0.0)) FILTER (WHERE {_IS_RESERVED}), 0.0),
                   count(*) FILTER (WHERE {_IS_RESERVED} AND worst_usd IS NULL)
            FROM {scope.rows}
            """,  # noqa: S608  # all are ours
                **scope._asdict(),
                besides=besides,
            )
        )

    def unpriced(self, scope: Scope) -> list[Row]:
        """The unpriced rows of a scope."""
        return self._rows(
            f"""{NAMES}
            SELECT requests.* FROM {scope.rows} AND worst_usd IS NULL AND {_IS_RESERVED}
            """,  # noqa: S608  # all are ours
            **scope._asdict(),
            besides=-1,
        )

    def note_cost(self, row_id: int, cost: Cost) -> None:
        """Sets the cost, from the server's log, of a request without an answer."""
        self._execute(
            "UPDATE requests SET cost_usd = ?, cost_credits = ?, cost_source = ? WHERE id = ?",
            cost.usd, cost.credits, cost.source, row_id,
        )  # fmt: skip

    def note_worst(self, row_id: int, usd: float) -> None:
        """Stores the highest cost of a row."""
        self._execute("UPDATE requests SET worst_usd = ? WHERE id = ?", usd, row_id)

    def reserve(self, row_id: int, session: str, usd: float | None) -> Row:
        """Reserves the cost of a queued row for the session that sends it now."""
        self._execute(
            """
            UPDATE requests SET session = ?, worst_usd = ?, reserved_at = ?, alive_at = ?
            WHERE id = ? AND state = 'queued'
            """,
            session, usd, time.time(), time.time(), row_id,
        )  # fmt: skip
        return self.row(row_id)

    def lapse(self, scope: Scope, held: list[int]) -> None:
        """Ends the reservations of queued rows without a live runner, except `held` ones.

        These rows fail, so that a runner that was only asleep does not send them.
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
