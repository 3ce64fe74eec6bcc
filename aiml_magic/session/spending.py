"""The budget of a session: what was spent, and what the questions on their way may cost."""

from __future__ import annotations

from collections.abc import Container

from aiml_magic import errors
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.session.budget import Price, characters
from aiml_magic.session.question import Plan, Question


class Spending:
    """The dollars of a session in one journal; an unknown cost counts as the worst case."""

    def __init__(self, session: str, journal: Journal) -> None:
        self._session = session
        self._journal = journal
        self._at_risk: dict[int, float] = {}  # the worst case of each row on its way

    def note(self, row: Row, worst: float) -> None:
        self._at_risk[row.id] = worst

    def check(
        self, question: Question, plan: Plan, price: Price | None, running: Container[int]
    ) -> float:
        """The worst case of a question.

        Raises BudgetExceeded if it passes the budget, with what was spent and what is `running`.
        """
        if price is None:
            raise errors.BudgetExceeded(
                f"The server lists no price for {question.model}, so a budget cannot be kept. "
                "Nothing was sent.",
                "%config O3Pro.budget_usd = None asks without one.",
            )
        self._at_risk = {
            row_id: worst
            for row_id, worst in self._at_risk.items()
            if row_id in running or self._journal.row(row_id).has_unknown_cost
        }
        spent, _ = self._journal.spent(plan.server, session=self._session)
        spent += sum(self._at_risk.values())
        worst, budget = self.worst_case(question, plan, price), question.budget_usd or 0.0
        if spent + worst > budget:
            raise errors.BudgetExceeded(
                f"It may cost up to ${worst:,.2f}; with ${spent:,.2f} spent, that passes the "
                f"budget of ${budget:,.2f}. Nothing was sent.",
                "Lower --max-output-tokens, or raise the budget with %config O3Pro.budget_usd.",
            )
        return worst

    def worst_case(self, question: Question, plan: Plan, price: Price) -> float:
        """The highest cost of a request; its conversation counts as input, in any form."""
        turns = self._journal.ancestors(plan.parent.id) if plan.parent else []
        told = sum(len(row.question) + len(row.answer().text) for row in turns)
        return price.worst_case(characters(plan.request) + told, question.max_output_tokens)
