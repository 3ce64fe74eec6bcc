"""An answer: a response with its cost, its duration and its row in the journal."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from aiml_magic.api.responses import Citation, Raw, Response, ToolCall, Usage
from aiml_magic.text import cut, encodable, one_line, plain


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    `seconds` counts from the request to the last byte; `cost_usd` is the charge that the server
    reports, else `None`; `id` is the response's id, `journal_id` that of its row in the journal.
    `notices` are the codes of its warnings, `calls` the calls of the notebook's functions, and
    `recorded` marks an answer from a recording. `raw` is the response as the server sent it,
    `request` the request without the conversation.
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
    calls: tuple[ToolCall, ...] = ()
    recorded: bool = False
    cell: str | None = None
    key: str | None = None
    continues: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        """The text for `print`, with control characters made visible."""
        return plain(self.text)

    def __prompt__(self) -> str:
        """The text for `{{answer}}` in a question, unchanged."""
        return self.text

    def __repr__(self) -> str:
        start = cut(self.text)
        status = one_line(self.status)
        return encodable(f"<Answer {self.journal_id}: {status}, {start!r}>")

    @property
    def items(self) -> tuple[Raw, ...]:
        """The output items of the response, unchanged."""
        return self.response.items

    @property
    def citations(self) -> tuple[Citation, ...]:
        return self.response.citations

    @property
    def images(self) -> tuple[bytes, ...]:
        """The images that the model made, without damaged ones."""
        return tuple(filter(None, (_decoded(item["result"]) for item in self.response.images)))

    @cached_property
    def response(self) -> Response:
        """The view of `raw`."""
        return Response(self.raw)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text))
    except ValueError:
        return b""
