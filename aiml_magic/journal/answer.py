"""An answer: a response, and how a person came by it."""

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
    """What a person gets for a question.

    `seconds` counts from the request to the last byte; `cost_usd` is what the server says it
    charged, `None` if it did not say; `id` is the response's id, `journal_id` that of its row in
    the journal. `notices` are codes of what to know of it, `calls` the functions of the notebook
    that were called on the way, `recorded` says that it comes from a recording and was not asked
    here. `raw` is the response as the server sent it, `request` what was asked, without the
    conversation.
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
        """The text made plain, for `print`; `text` is the text of the model."""
        return plain(self.text)

    def __prompt__(self) -> str:
        """What stands for it in a question: the text as the model wrote it."""
        return self.text

    def __repr__(self) -> str:
        start = cut(self.text)
        status = one_line(self.status)
        return encodable(f"<Answer {self.journal_id}: {status}, {start!r}>")

    @property
    def items(self) -> tuple[Raw, ...]:
        """Every item of the response, as it came."""
        return self.response.items

    @property
    def citations(self) -> tuple[Citation, ...]:
        return self.response.citations

    @property
    def images(self) -> tuple[bytes, ...]:
        """Images that the model made, as far as they can be read."""
        return tuple(filter(None, (_decoded(item["result"]) for item in self.response.images)))

    @cached_property
    def response(self) -> Response:
        """The response, read."""
        return Response(self.raw)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text))
    except ValueError:
        return b""
