"""A question of a notebook and its request; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiml_magic import errors
from aiml_magic.api.responses import Raw, user_message
from aiml_magic.journal.replay import SAMPLE
from aiml_magic.journal.rows import Row
from aiml_magic.question.tools import NO_TOOLS, Tools

if TYPE_CHECKING:
    from aiml_magic.question.schemas import Schema

SANDBOX = "sandbox"  # the one server of this name, on any port
NO_ID = "run "  # prefix of a cell whose front end sends no id: its place ends with the session


@dataclass(frozen=True)
class Place:
    """The place of a question in its notebook, and the answer that it continues.

    `chat` is `None` outside every conversation. Without `after`, the id of an answer, and
    `continues`, the id of its row, the conversation decides.
    """

    cell: str
    chat: str | None = "main"
    is_new: bool = False
    after: str | None = None
    continues: int | None = None


@dataclass(frozen=True)
class Delivery:
    """How a question is sent, awaited and paid; no part of it decides the answer."""

    replay: str = "auto"
    stream: bool = True
    store: bool = True
    chain: str = "auto"
    background: bool = False
    timeout: float = 3600.0  # seconds of silence
    max_concurrency: int = 64
    max_tool_rounds: int = 8
    budget_usd: float | None = None
    budget_usd_per_notebook: float | None = None
    budget_usd_per_day: float | None = None
    confirm_above_usd: float | None = None
    is_attended: bool = True  # a person waits, and can confirm the cost


@dataclass(frozen=True)
class Question:
    """A question: the fields that decide its answer, its place, and its delivery.

    `text` has all `{{names}}` filled in, `attached` are the parts of its attachments. `items`, such
    as results of tools, are sent instead of both. `settings` has the options that come from
    settings: the value and the default of each, by the setting's name.
    """

    text: str
    model: str
    place: Place
    delivery: Delivery = Delivery()
    attached: Sequence[Raw] = ()
    items: Sequence[Raw] = ()
    schema: Schema | None = None
    tools: Tools = NO_TOOLS
    tool_choice: Any = None
    effort: str | None = None
    mode: str | None = None
    summary: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    params: Raw = field(default_factory=dict)
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    sample: int = 1

    def unattended(self) -> Question:
        """The question without a person who could confirm its cost."""
        return replace(self, delivery=replace(self.delivery, is_attended=False))

    def as_asked(self, request: Raw, **changes: Any) -> Question:
        """The question with the fields of an earlier request instead of its own options."""
        return replace(
            self,
            params={name: value for name, value in request.items() if name != "input"},
            effort=None,
            mode=None,
            summary=None,
            instructions=None,
            max_output_tokens=None,
            **changes,
        )

    def check_not_empty(self) -> None:
        """Raises BadInput for an empty question."""
        if not self.text.strip() and not self.items:
            raise errors.BadInput(
                "The question is empty, so nothing was sent.", "Write it below the %%o3pro line."
            )

    def request(self) -> dict[str, Any]:
        """The body of the POST, without the conversation.

        `store` is always sent, since servers' defaults differ.
        """
        reasoning = {"effort": self.effort, "summary": self.summary, "mode": self.mode}
        body: dict[str, Any] = {
            "model": self.model,
            "input": list(self.items)
            or ([user_message(self.text, self.attached)] if self.attached else self.text),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "reasoning": {name: value for name, value in reasoning.items() if value} or None,
            "text": {"format": self.schema.format} if self.schema else None,
            "tools": list(self.tools.specifications) or None,
            "tool_choice": self.tool_choice,
            "stream": self.delivery.stream or None,
            SAMPLE: self.sample if self.sample > 1 else None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return {**given, "store": self.delivery.store, **self.params}


@dataclass(frozen=True)
class Plan:
    """A question before it is sent: its request, its parent, and the known row for it.

    `known` is answered, unfinished, or may have been charged without an answer. `hidden` has the
    secrets of the request, which are sent but never stored.
    """

    server: str
    base_url: str
    request: Raw
    hidden: Raw
    parent: Row | None
    key: str
    known: Row | None

    @property
    def parent_id(self) -> int | None:
        return self.parent.id if self.parent else None
