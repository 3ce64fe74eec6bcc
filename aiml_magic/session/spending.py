"""Budgets in dollars, and the check of a question against them.

The journal has the sums: charges count, and an unsettled request counts with its highest cost. A
day begins at midnight in the time zone of this machine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from aiml_magic.api.responses import Raw, Response
from aiml_magic.errors import NOTHING_SENT, BadInput, BudgetExceeded, Interrupted
from aiml_magic.journal.costs import Scope
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.session.budget import Price, WorstCase, most_output, tokens_of, unpriced
from aiml_magic.session.prices import Prices
from aiml_magic.session.question import SANDBOX, Delivery
from aiml_magic.text import agreed, dollars

_MOST_DOLLARS = 1e9  # more than any limit, and still a number that a journal can store


class Limit(NamedTuple):
    """A limit in dollars, with the dollars spent, and those reserved for unsettled requests."""

    setting: str
    usd: float
    where: str
    spent: float
    reserved: float

    def has_room(self, usd: float) -> bool:
        # Rounded, since sums of cents are not exact in binary.
        return round(self.spent + self.reserved + usd - self.usd, 9) <= 0

    @property
    def used(self) -> str:
        reserved = f", up to {dollars(self.reserved)} not settled" if self.reserved else ""
        return f"{dollars(self.spent)} spent {self.where}{reserved}"

    def __str__(self) -> str:
        left = max(0.0, self.usd - self.spent - self.reserved)
        reserved = f", up to ${self.reserved:,.4f} not settled" if self.reserved else ""
        return (
            f"${self.usd:,.4f} {self.where}: ${self.spent:,.4f} spent{reserved}, ${left:,.4f} left"
        )


class Terms(NamedTuple):
    """The price for a question, and the dollars that the person agreed to."""

    price: Price | None
    is_final: bool = False  # whether a missing price was requested from the server
    agreed_usd: float = -math.inf


@dataclass(frozen=True)
class Spending:
    """The money of a session and of its notebook in one journal."""

    session: str
    notebook: str
    journal: Journal
    prices: Prices

    def worst_case(self, request: Raw, parent: int | None, price: Price | None) -> WorstCase:
        """The highest cost of a request; its whole conversation counts as input."""
        _, most = most_output(price, request.get("max_output_tokens"))
        what = unpriced(request)
        usd = None if price is None or what else self._estimate(request, parent, price)
        return WorstCase(usd, most, what)

    def _estimate(self, request: Raw, parent: int | None, price: Price) -> float:
        """The highest cost of a request's tokens, without the costs of its server's tools."""
        written, _ = most_output(price, request.get("max_output_tokens"))
        read = tokens_of(request) + self._tokens_before(parent, price)
        return min(read * price.input + written * price.output, _MOST_DOLLARS)

    def limits(self, delivery: Delivery, server: str) -> list[Limit]:
        """The limits that are set, and their use."""
        return [self._limit(name, usd, server, None) for name, usd in _set_limits(delivery)]

    def worst_within(
        self,
        delivery: Delivery,
        server: str,
        request: Raw,
        parent: int | None,
        terms: Terms,
        *,
        row: Row | None = None,
        held: Collection[int] = (),
    ) -> WorstCase:
        """The highest cost of a request that fits the limits. Raises BudgetExceeded.

        Called in the transaction that adds its row, or that sends the queued row `row`. If there is
        no room, queued rows of a dead kernel lose their reservations, but not those in `held`.
        """
        worst = self.worst_case(request, parent, terms.price)
        row_id = -1 if row is None else row.id
        for name, usd in _set_limits(delivery):
            if worst.usd is None:
                raise BudgetExceeded(
                    f"The server lists no price for {worst.unpriced or request['model']}, so a "
                    f"budget cannot be kept. {NOTHING_SENT}",
                    f"%config O3Pro.{name} = None asks without one.",
                )
            limit = self._limit(name, usd, server, terms.price, besides=row_id)
            if not limit.has_room(worst.usd):
                self.journal.lapse(self._scope(name, server)[1], [*held, row_id])
                limit = self._limit(name, usd, server, terms.price, besides=row_id)
            if not limit.has_room(worst.usd):
                raise _exceeded(worst, limit)
        return worst

    def reserve_again(
        self, row: Row, delivery: Delivery, terms: Terms, held: Collection[int]
    ) -> bool:
        """Reserves the cost of a queued row before it is sent.

        `False` if a limit has no room for it, or the person would have to confirm it.
        """

        def step() -> bool:
            about = row.server, row.request, row.parent, terms
            worst = self.worst_within(delivery, *about, row=row, held=held)
            if asks_first(delivery, worst, terms):
                return False
            self.journal.reserve(row.id, self.session, worst.usd)
            return True

        try:
            return self.journal.decide(step)
        except BudgetExceeded:
            return False

    def _limit(
        self,
        name: str,
        usd: float,
        server: str,
        price: Price | None,
        besides: int = -1,
    ) -> Limit:
        where, scope = self._scope(name, server)
        sums = self.journal.sums(scope, besides=besides)
        if sums.unpriced:
            self._reserve_unpriced(scope, price)
            sums = self.journal.sums(scope, besides=besides)
        return Limit(name, usd, where, sums.usd, sums.reserved_usd)

    def _reserve_unpriced(self, scope: Scope, price: Price | None) -> None:
        """Reserves for rows asked without a known price; `price` is for models without one."""
        for row in self.journal.unpriced(scope):
            listed = self.prices.known(row.server, str(row.request.get("model"))) or price
            if listed is not None:
                usd = self._estimate(row.request, row.parent, listed)
                self.journal.note_worst(row.id, usd)

    def _scope(self, name: str, server: str) -> tuple[str, Scope]:
        """The scope of a limit: in words, and as the rows that count."""
        servers = account_of(server)
        match name:
            case "budget_usd":
                return "in this session", Scope(servers, session=self.session)
            case "budget_usd_per_notebook":
                return "in this notebook", Scope(servers, notebook=self.notebook)
            case _:
                return "today", Scope(servers, since=midnight())

    def _tokens_before(self, row_id: int | None, price: Price) -> float:
        """The tokens of the conversation that ends with a row.

        As its server counted them, else estimated from the texts; an unfinished answer counts with
        its highest number.
        """
        tokens = 0.0
        while row_id is not None:
            row = self.journal.row(row_id)
            response = Response(row.response)
            if row.is_over and response.usage and response.usage.total_tokens:
                return tokens + response.usage.total_tokens
            tokens += tokens_of(row.request.get("input", ""))
            if row.is_over:
                calls = "".join(call.arguments for call in response.calls)
                tokens += tokens_of(row.answer().text + calls)
            else:
                tokens += most_output(price, row.request.get("max_output_tokens"))[0]
            row_id = row.parent
        return tokens


def needs_price(delivery: Delivery) -> bool:
    """Whether a setting of the question depends on its cost."""
    return delivery.confirm_above_usd is not None or any(_set_limits(delivery))


def asks_first(delivery: Delivery, worst: WorstCase, terms: Terms) -> bool:
    """Whether the person must confirm this highest cost."""
    if delivery.confirm_above_usd is None:
        return False
    return _usd(worst) > max(delivery.confirm_above_usd, terms.agreed_usd)


def confirm(delivery: Delivery, worst: WorstCase, terms: Terms) -> Terms:
    """The terms after the person has confirmed the highest cost.

    Raises BadInput if they do not, or if no person can be asked.
    """
    is_agreed = None
    is_attended = delivery.is_attended and not delivery.background
    if is_attended and threading.current_thread() is threading.main_thread():
        try:
            is_agreed = agreed(f"{worst}. Send it?")
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"Interrupted: {NOTHING_SENT}", "Run the cell again to be asked once more."
            ) from error
    if is_agreed:
        return terms._replace(agreed_usd=_usd(worst))
    why = "it cannot be confirmed here" if is_agreed is None else "you did not confirm it"
    remedy = "Lower --max-output-tokens, or raise %config O3Pro.confirm_above_usd."
    if worst.usd is None:
        remedy = "%config O3Pro.confirm_above_usd = None asks without confirmation."
    raise BadInput(f"{worst}, and {why}. {NOTHING_SENT}", remedy)


def confirm_together(delivery: Delivery, worst_cases: Iterable[WorstCase | None]) -> Delivery:
    """The delivery of the questions of one cell, after one confirmation of their summed cost.

    The worst case of a replayed question is `None`. Raises BadInput if it is not confirmed.
    """
    known = [_usd(worst) for worst in worst_cases if worst is not None]
    usd, limit = sum(known), delivery.confirm_above_usd
    if limit is None or usd <= limit:
        return delivery
    together = WorstCase(None if usd == math.inf else usd, f"{len(known)} answers together")
    confirm(delivery, together, Terms(None))
    return replace(delivery, confirm_above_usd=None)


def _usd(worst: WorstCase) -> float:
    return math.inf if worst.usd is None else worst.usd


def account_of(server: str) -> str | None:
    """The servers whose dollars are summed together: the sandbox, or `None` for all others."""
    return SANDBOX if server == SANDBOX else None


def midnight() -> float:
    """The beginning of this day in seconds since 1970, also when daylight saving time begins."""
    today = datetime.now().astimezone().date()
    return datetime(today.year, today.month, today.day).timestamp()  # noqa: DTZ001  # local


def _set_limits(delivery: Delivery) -> Iterator[tuple[str, float]]:
    """The limits that are set, by the names of their settings."""
    for name in ("budget_usd", "budget_usd_per_notebook", "budget_usd_per_day"):
        if (usd := getattr(delivery, name)) is not None:
            yield name, usd


def _exceeded(worst: WorstCase, limit: Limit) -> BudgetExceeded:
    hint = f"Lower --max-output-tokens, or raise the budget with %config O3Pro.{limit.setting}."
    if limit.reserved:
        hint += " %aiml jobs and %aiml check ID show unsettled questions."
    return BudgetExceeded(
        f"{worst}; with {limit.used}, that passes the budget of {dollars(limit.usd)}. "
        f"{NOTHING_SENT}",
        hint,
    )
