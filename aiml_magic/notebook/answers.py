"""Several answers as one sequence, with a data frame and a way to ask them again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, overload

from aiml_magic.errors import BadInput
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.table import TOKENS, StoredAnswers, line_of
from aiml_magic.text import plain

_BEFORE = "id asked_at model effort chat cell question text".split()
_AFTER = (*TOKENS, "cost_usd", "seconds", "status", "replayed", "error")


class Answers(Sequence[Any]):
    """Answers in order; with `on_error="keep"` an error is in the place of its answer."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self._entries = entries

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Answers: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Answers(self._entries[index])
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # like a list

    def __repr__(self) -> str:
        return f"Answers({list(self[:20])!r})" if len(self) <= 20 else f"<{len(self):,} answers>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from aiml_magic.show.several import bundle

        return bundle(self)

    def to_frame(self) -> Any:
        """A DataFrame (pandas) with a line for each answer.

        Columns: id (in the journal), asked_at (UTC), model, effort, chat, cell, question, text,
        `parsed.NAME` for each field of a parsed answer, tokens (input, cached, output, reasoning),
        cost_usd, seconds, status, replayed, error. Unknown values are empty. In texts, control
        characters are made visible; `text` of each answer has them unchanged.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise BadInput(
                f"A data frame needs {error.name}, which is not installed here.",
                f"Run %pip install {error.name}.",
            ) from error
        lines = list(self._lines())
        kinds = dict.fromkeys(map(tuple, lines))  # most lines have the same columns
        parsed = dict.fromkeys(name for kind in kinds for name in kind if name[:7] == "parsed.")
        return pd.DataFrame(lines, columns=[*_BEFORE, *parsed, *_AFTER])

    def again(self, **options: Any) -> Answers:
        """The same questions with other options; each continues the same answer as before.

        With `samples`, several samples of one question count as one question. Options are those of
        `ask`, and of `ask.map` (on_error, progress). Raises BadInput before
        anything is sent for incomplete questions: with attachments of a recording, or functions of
        a notebook.
        """
        ask = sys.modules["aiml_magic"].ask  # an import would be circular
        again: Answers = ask.again(self, **options)
        return again

    def _lines(self) -> Iterable[dict[str, Any]]:
        if isinstance(self._entries, StoredAnswers):
            return self._entries.lines()
        return map(_line, self)


def _line(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Answer):
        return line_of(answer)
    paid = getattr(answer, "answer", None)  # of an error, such as a reply that its schema rejects
    known = {"replayed": False} if paid is None else line_of(paid)
    return known | {"error": plain(str(answer or "not answered"))}
