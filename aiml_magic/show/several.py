"""Several answers: a table of their differing options, with the answers folded below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiml_magic.api.responses import as_object, question_text
from aiml_magic.journal.answer import Answer
from aiml_magic.show import safe
from aiml_magic.show.answers import answer_bundle
from aiml_magic.text import cut, one_line, plain

_FOLDED, _NAMED = 20, 200  # answers below the table, and rows in it
_WORDS = 60  # characters of a question, or of an answer, in the table


def bundle(answers: Sequence[Any], *, is_live: bool = False) -> dict[str, str]:
    """The answers, and the errors among them, as Markdown and as plain text.

    Replays are marked only if `is_live`: a saved notebook is compared with a new run.
    """
    shown = list(answers[:_NAMED])  # read once: they may be in the journal
    rows = _table(shown, is_live=is_live)
    return {
        "text/markdown": _markdown(rows, shown, len(answers)),
        "text/plain": _text(rows, shown),
    }


def _table(answers: Sequence[Any], *, is_live: bool) -> list[list[str]]:
    """A header and a row for each answer: its differing options, first words and usage."""
    differing = [
        (name, values)
        for name, read in _OPTIONS.items()
        if len(set(values := [read(answer) for answer in answers])) > 1
    ]
    header = ["", *(name for name, _ in differing), *_COLUMNS]
    rows = [_cells(answer, is_live=is_live) for answer in answers]
    lines = [
        [str(number + 1), *(values[number] for _, values in differing), *row]
        for number, row in enumerate(rows)
    ]
    return [header, *lines]


def _option(*path: str) -> Callable[[Any], str]:
    def read(answer: Any) -> str:
        value: Any = answer.request if isinstance(answer, Answer) else {}
        for name in path:
            value = as_object(value).get(name)
        return "" if value is None else str(value)

    return read


_OPTIONS: dict[str, Callable[[Any], str]] = {
    "model": _option("model"),
    "effort": _option("reasoning", "effort"),
    "mode": _option("reasoning", "mode"),
    "question": lambda one: question_text(one.request) if isinstance(one, Answer) else "",
}
_NUMBERS = ("tokens", "dollars", "seconds")
_COLUMNS = ("answer", *_NUMBERS, "status")


def _cells(answer: Any, *, is_live: bool) -> list[str]:
    if not isinstance(answer, Answer):
        status, part = "failed" if answer else "not answered", getattr(answer, "answer", None)
        usage = ["", "", ""] if part is None else _cells(part, is_live=is_live)[1:-1]
        return [one_line(answer, _WORDS), *usage, status]
    tokens, usd, seconds = answer.usage.total_tokens, answer.cost_usd, answer.seconds
    return [
        one_line(answer.text, _WORDS),
        "" if tokens is None else f"{tokens:,}",
        "" if usd is None else f"{usd:,.4f}",
        "" if seconds is None else f"{seconds:,.1f}",
        f"{answer.status or 'unknown'}{', replayed' if answer.replayed and is_live else ''}",
    ]


def _markdown(rows: Sequence[list[str]], answers: Sequence[Any], count: int) -> str:
    lines = rows[1:]
    cells = [[cut(cell, _WORDS) for cell in row] for row in rows]
    # Pandoc makes the columns of a wide table as wide as their rulers.
    ruler = [
        "-" * max(2, *map(len, column)) + (":" if column[0] in _NUMBERS else "-")
        for column in zip(*cells, strict=True)
    ]
    head, *body = [[safe.line(cell) for cell in row] for row in cells]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *body])
    folded = list(map(_folded, lines[:_FOLDED], answers[:_FOLDED]))
    left = count - len(folded)
    more = [f"{left:,} more are in `to_frame()`, and available by index."] if left > 0 else []
    return "\n\n".join([drawn, *folded, *more])


def _folded(line: list[str], answer: Any) -> str:
    """One folded answer; the blank lines make its content Markdown."""
    number, *options = line[: -len(_COLUMNS)]
    words, status = line[-len(_COLUMNS)], line[-1]
    title = " · ".join(filter(None, [number, *options, words or status]))
    inside = "\n\n".join(
        answer_bundle(part)["text/markdown"] if isinstance(part, Answer) else safe.markdown(part)
        for part in _parts(answer)
    )
    summary = safe.escape(cut(title, 2 * _WORDS))
    return f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>"


def _parts(answer: Any) -> list[Answer | str]:
    """An answer, or the message of an error after the answer that it has, if any."""
    if isinstance(answer, Answer):
        return [answer]
    part = getattr(answer, "answer", None)
    return [str(answer)] if part is None else [part, str(answer)]


def _text(rows: Sequence[list[str]], answers: Sequence[Any]) -> str:
    cells = [[plain(cut(cell, _WORDS)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    whole = [
        f"[{number}] {plain(chr(10).join(map(str, _parts(answer))))}"
        for number, answer in enumerate(answers[:_FOLDED], start=1)
    ]
    return "\n\n".join(["\n".join(lines), *whole])
