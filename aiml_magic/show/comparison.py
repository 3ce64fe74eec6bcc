"""The differences between two answers: in their requests and in their responses.

Requests are compared field by field, down to the single values of schemas and tools. Longer values,
such as a question or an answer, are compared line by line, prose sentence by sentence, and changed
lines word by word. The output has no active content, and no meaning is in a colour alone. A bounded
part of long texts is compared and shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from aiml_magic.api.responses import question_text
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.replay import SAMPLE, with_hashes
from aiml_magic.show.answers import money
from aiml_magic.show.safe import escape
from aiml_magic.text import count_of, plain

_SHORT = 60  # characters of a value that stands on one line with another
_PROSE = 200  # characters of a line of prose, which is compared by its sentences
_LONGEST = 500  # characters of a line; a longer one is several
_MOST_FIELDS, _MOST_TEXTS = 100, 20  # that are shown
_MOST_LINES, _MOST_CHARACTERS = 200, 20_000  # of each text that are compared
_MOST_WORDS = 300, 5000  # that are compared, of a line and of a text
_MAX_DEPTH = 20  # levels of nested values
_CONTEXT = 2  # equal lines that are shown beside a change
_ALIKE = 0.5  # similarity below which two lines are shown as different, not as one changed
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_NOTHING = "(none)"

_BOX = '<div class="aiml-diff mathjax_ignore tex2jax_ignore" style="line-height:1.5">{}</div>'
_TABLE = '<table style="display:block;overflow:auto;margin:.3em 0;font-size:inherit">{}</table>'
_CELL = "text-align:left;vertical-align:top;padding:.1em 1em .1em 0"
_LINES = '<div style="white-space:pre-wrap;overflow-wrap:anywhere;margin-bottom:.7em">{}</div>'
_BACKGROUND = {"-": "rgba(220,60,60,.15)", "+": "rgba(40,160,80,.18)"}
_CHANGED = {"-": "del", "+": "ins"}


class Line(NamedTuple):
    """A line of the first (-), the second (+) or both (a blank), or a remark (an ellipsis).

    Its parts are texts, each with a flag whether it is changed.
    """

    sign: str
    parts: Sequence[tuple[str, bool]]

    @property
    def text(self) -> str:
        return f"{self.sign} {''.join(text for text, _ in self.parts)}"


class Difference(NamedTuple):
    """A field whose two values differ; a missing value is empty."""

    name: str
    first: str
    second: str

    @property
    def is_long(self) -> bool:
        return max(len(self.first), len(self.second)) > _SHORT or "\n" in self.first + self.second


def bundle(first: Answer, second: Answer, names: tuple[str, str]) -> dict[str, str]:
    """The differences between two answers, as HTML and as text; `names` are as the person typed."""
    sections = {
        "requests": _differences(_request(first), _request(second)),
        "answers": _differences(_response(first), _response(second)),
    }
    return {"text/html": _html(sections, names), "text/plain": _text(sections, names)}


def _request(answer: Answer) -> dict[str, str]:
    request = with_hashes(answer.request)
    sample, asked = request.pop(SAMPLE, ""), request.pop("input", None)
    return {
        **dict(_values(request)),
        "sample": str(sample),
        "server": answer.server,
        "continues": answer.continues or "",
        "attachments": "\n".join(_attached(asked)),
        "question": question_text(answer.request),
    }


def _response(answer: Answer) -> dict[str, str]:
    counted = {name.replace("_", " "): count for name, count in vars(answer.usage).items()}
    return {
        "model": answer.model or "",
        "status": answer.status or "",
        "error": answer.error or "",
        **{name: f"{count:,}" for name, count in counted.items() if count is not None},
        "cost": money(answer.cost_usd),
        "text": answer.text,
    }


def _attached(asked: Any) -> list[str]:
    """The texts of an input after the question; for a file its hash."""
    if not isinstance(asked, list):
        return []
    kinds = ("type", "role", "detail")
    return [text for name, text in _values(asked) if name.rpartition(".")[2] not in kinds][1:]


def _values(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The scalar values of an object with their paths, such as `tools[0].name`."""
    if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
        for name, entry in value.items():
            yield from _values(entry, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(value, list) and value and depth < _MAX_DEPTH:
        for number, entry in enumerate(value):
            yield from _values(entry, f"{path}[{number}]", depth + 1)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[Difference]:
    """The fields that differ: those that fit on a line, then the others."""
    names = dict.fromkeys([*first, *second])
    every = (Difference(name, first.get(name, ""), second.get(name, "")) for name in names)
    return sorted((one for one in every if one.first != one.second), key=lambda one: one.is_long)


def compared(first: str, second: str) -> list[Line]:
    """The differing lines of two texts, with some lines of context."""
    ours, theirs = _lines_of(first, second)
    if ours == theirs:
        return [_about("They differ in line breaks, or in invisible characters.")]
    start = _count_equal(ours, theirs)
    end = _count_equal(reversed(ours[start:]), reversed(theirs[start:]))
    changed = [lines[start : len(lines) - end] for lines in (ours, theirs)]
    bounded = list(map(_bounded, changed))
    left = max(len(whole) - len(part) for whole, part in zip(changed, bounded, strict=True))
    lines = [*_same(ours[:start], before=0), *_changes(*bounded)]
    if left > 0:
        return [*lines, _about(f"{left:,} more lines were not compared.")]
    return [*lines, *_same(ours[len(ours) - end :], after=0)]


def _lines_of(*texts: str) -> Iterator[list[str]]:
    """The lines of each text, or its sentences if it is prose; long ones are split into pieces."""
    every = [plain(text).split("\n") for text in texts]
    is_prose = any(len(line) > _PROSE for lines in every for line in lines)
    for lines in every:
        pieces: list[str] = []
        for line in lines:
            for sentence in _SENTENCE_END.split(line) if is_prose else [line]:
                starts = range(0, len(sentence) or 1, _LONGEST)
                pieces += [sentence[start : start + _LONGEST] for start in starts]
        yield pieces


def _bounded(lines: Sequence[str]) -> Sequence[str]:
    sizes = accumulate(len(line) for line in lines[:_MOST_LINES])
    return lines[: sum(size <= _MOST_CHARACTERS for size in sizes)]


def _count_equal(ours: Iterable[str], theirs: Iterable[str]) -> int:
    """The number of equal lines at the beginning."""
    pairs = zip(ours, theirs, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _same(lines: Sequence[str], before: int = _CONTEXT, after: int = _CONTEXT) -> Iterator[Line]:
    """Equal lines: some after a change, some before the next, and the number of the others."""
    left = len(lines) - before - after
    shown = [_line(" ", line) for line in lines[: None if left <= 1 else before]]
    yield from shown
    if left > 1:
        yield _about(f"{left:,} equal lines")
        yield from (_line(" ", line) for line in lines[len(lines) - after :])


def _changes(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Line]:
    words = 0  # compared so far
    for kind, i, j, k, m in SequenceMatcher(None, ours, theirs).get_opcodes():
        if kind == "equal":
            yield from _same(ours[i:j])
        elif j - i == m - k:
            for pair in zip(ours[i:j], theirs[k:m], strict=True):
                first, second = map(_WORD.findall, pair)
                count = max(len(first), len(second))
                words += count
                can_mark = count <= _MOST_WORDS[0] and words <= _MOST_WORDS[1]
                yield from _marked(first, second, can_mark=can_mark)
        else:
            yield from (_line("-", line) for line in ours[i:j])
            yield from (_line("+", line) for line in theirs[k:m])


def _marked(ours: Sequence[str], theirs: Sequence[str], *, can_mark: bool) -> Iterator[Line]:
    """Two lines, with the differing words marked if the lines are similar enough."""
    matcher = SequenceMatcher(None, ours, theirs)
    if not can_mark or matcher.ratio() < _ALIKE:
        yield _line("-", "".join(ours))
        yield _line("+", "".join(theirs))
        return
    codes = matcher.get_opcodes()
    yield Line("-", [_part(ours[i:j], kind) for kind, i, j, _, _ in codes])
    yield Line("+", [_part(theirs[k:m], kind) for kind, _, _, k, m in codes])


def _part(words: Sequence[str], kind: str) -> tuple[str, bool]:
    """The text of some words, and whether it has changed, as a blank between changes has."""
    text = "".join(words)
    return text, kind != "equal" or text.isspace()


def _line(sign: str, text: str) -> Line:
    return Line(sign, [(text, False)])


def _about(words: str) -> Line:
    return _line("…", words)


def _shown(differences: list[Difference]) -> tuple[list[Difference], list[Difference], str]:
    """The short fields and the long ones that are shown, and a remark about the rest."""
    short = [one for one in differences if not one.is_long]
    rest = differences[len(short) :]
    left = max(0, len(short) - _MOST_FIELDS) + max(0, len(rest) - _MOST_TEXTS)
    more = f"{count_of(left, 'more field')} differ." if left else ""
    return short[:_MOST_FIELDS], rest[:_MOST_TEXTS], more


def _text(sections: Mapping[str, list[Difference]], names: tuple[str, str]) -> str:
    blocks = [f"- {names[0]}\n+ {names[1]}"]
    for what, differences in sections.items():
        short, rest, more = _shown(differences)
        head = f"The {what} differ:" if differences else f"The {what} are the same."
        rows = [f"  {name}: {one or _NOTHING} → {other or _NOTHING}" for name, one, other in short]
        blocks.append("\n".join([head, *rows]))
        for one in rest:
            lines = (line.text for line in compared(one.first, one.second))
            blocks.append("\n".join([f"{one.name}:", *lines]))
        blocks += [more] if more else []
    return plain("\n\n".join(blocks))


def _html(sections: Mapping[str, list[Difference]], names: tuple[str, str]) -> str:
    first, second = map(escape, names)
    blocks = [f"<div>{_colour('-', f'− {first}')} {_colour('+', f'+ {second}')}</div>"]
    for what, differences in sections.items():
        short, rest, more = _shown(differences)
        head = f"The {what} differ:" if differences else f"The {what} are the same."
        blocks.append(f'<div style="margin-top:.7em">{head}</div>')
        rows = "".join(
            f'<tr><th style="{_CELL}">{escape(one.name)}</th>{_value("-", one.first)}'
            f"{_value('+', one.second)}</tr>"
            for one in short
        )
        blocks += [_TABLE.format(rows)] if rows else []
        for one in rest:
            lines = "".join(map(_html_line, compared(one.first, one.second)))
            blocks.append(f"<div><strong>{escape(one.name)}</strong></div>{_LINES.format(lines)}")
        blocks += [f"<div>{more}</div>"] if more else []
    return _BOX.format("".join(blocks))


def _value(sign: str, value: str) -> str:
    shown = _colour(sign, escape(value)) if value else f"<small>{_NOTHING}</small>"
    return f'<td style="{_CELL}">{shown}</td>'


def _colour(sign: str, html: str) -> str:
    return f'<span style="background:{_BACKGROUND[sign]};padding:0 .3em">{html}</span>'


def _html_line(line: Line) -> str:
    if line.sign == "…":
        return f"<div><small>… {escape(line.parts[0][0])}</small></div>"
    tag, ground = _CHANGED.get(line.sign), _BACKGROUND.get(line.sign, "none")
    inside = "".join(
        f"<{tag}>{escape(text)}</{tag}>" if is_changed else escape(text)
        for text, is_changed in line.parts
        if text
    )
    sign = {"-": "−", "+": "+"}.get(line.sign, " ")
    style = f"background:{ground};padding-left:1.2em;text-indent:-1em"
    return f'<div style="{style}">{sign} {inside}</div>'
