"""An answer: a response, and how a person came by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from aiml_magic.responses import Raw, Response, Usage


@dataclass(frozen=True)
class Answer:
    """What a person gets for a question.

    `seconds` counts from the request to the last byte; `cost_usd` is what the server says it charged, `None` if it did not
    say; `id` is the response's id, `journal_id` that of its row in the journal. `notices` are codes of what to know of it.
    `raw` is the response as the server sent it, `request` what was asked, without the conversation.
    """

    text: str
    reasoning: str
    usage: Usage
    cost_usd: float | None
    seconds: float | None
    status: str | None
    id: str | None
    model: str | None
    parsed: Any
    replayed: bool
    asked_at: datetime
    raw: Raw = field(repr=False)
    request: Raw = field(repr=False)
    journal_id: int | None = None
    server: str = ""
    chat: str | None = None
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        start = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"<Answer {self.journal_id}: {self.status}, {start!r}>"

    @cached_property
    def response(self) -> Response:
        """The response, read."""
        return Response(self.raw)
