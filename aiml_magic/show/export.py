"""A conversation as a file: Markdown, HTML that stands alone, or JSON lines; fit for the appendix of a paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from aiml_magic.api.responses import question_text
from aiml_magic.errors import BadInput
from aiml_magic.files import write_private
from aiml_magic.journal.answer import Answer
from aiml_magic.question.attachments import labels
from aiml_magic.show import safe
from aiml_magic.text import cut, plain

_STYLE = """\
body{max-width:46em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif;color:#111;background:#fff;overflow-wrap:break-word}
h1,h2{line-height:1.2}h3{font-size:1.2em}h4{font-size:1.1em}h5,h6{font-size:1em}
pre{overflow:auto;background:#f4f4f4;padding:.6em}code{font-size:.9em}
table{display:block;overflow:auto;border-collapse:collapse}
td,th{border-bottom:1px solid #ccc;padding:.2em .6em}th{text-align:left}
blockquote{border-left:3px solid #ccc;margin-left:0;padding-left:1em}.question{white-space:pre-wrap}
.about{color:#555;font-size:85%}nav,.footnote{font-size:90%}
@media print{body{margin:0;max-width:none}pre{white-space:pre-wrap}table{display:table;overflow-wrap:anywhere}
h2,h3,h4,h5,h6{break-after:avoid}tr{break-inside:avoid}}
"""


def write(path: Path, turns: Sequence[Answer]) -> None:
    """Writes the turns of a conversation, oldest first.

    Raises BadInput for another ending, or a file that cannot be written.
    """
    forms = {".md": _markdown, ".html": _html, ".jsonl": _json_lines}
    form, name = forms.get(path.suffix.lower()), plain(path.name)
    if form is None:
        raise BadInput(
            f"{name} ends with none of {', '.join(forms)}.",
            "Its ending says what to write; try talk.md.",
        )
    text = form(turns)
    try:
        write_private(path.expanduser(), text)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # no disk takes such a name, or there is no such user
        raise BadInput(f"{name} cannot be written: {error}.", "Name another file.") from error


def _about(turn: Answer) -> str:
    """Model, date, id, tokens and cost of a turn, on one line."""
    usage = turn.usage
    tokens = (
        "tokens not reported" if usage.total_tokens is None else f"{usage.total_tokens:,} tokens"
    )
    cost = "cost not reported" if turn.cost_usd is None else f"${turn.cost_usd:,.4f}"
    named = [
        turn.model or "unknown model",
        f"{turn.asked_at:%Y-%m-%d %H:%M} UTC",
        turn.id or "no id",
        tokens,
        cost,
    ]
    return plain(" · ".join(named))


def _question(turn: Answer) -> str:
    attached = "".join(f"\n[attached: {label}]" for label in labels(turn.request))
    return plain(question_text(turn.request) + attached)


def _markdown(turns: Sequence[Answer]) -> str:
    parts = ["# Conversation"]
    for number, turn in enumerate(turns, start=1):
        quoted = "\n".join(f"> {line}" for line in safe.markdown(_question(turn)).split("\n"))
        parts += [f"## {number}", quoted, safe.markdown(turn.text), f"*{safe.line(_about(turn))}*"]
    return "\n\n".join(parts) + "\n"


def _html(turns: Sequence[Answer]) -> str:
    from aiml_magic.show.pages import Page

    page = Page()
    parts, contents = [], []
    for number, turn in enumerate(turns, start=1):
        question = f'<blockquote class="question">{safe.escape(_question(turn))}</blockquote>'
        parts.append(f'<h2 id="turn{number}">{number}</h2>{question}{page.html(turn.text)}')
        parts.append(f'<p class="about">{safe.escape(_about(turn))}</p>')
        inside = "".join(_entry(heading, _first_words(words)) for heading, words in page.headings)
        contents.append(
            _entry(
                f"turn{number}",
                _first_words(_question(turn)),
                f"<ul>{inside}</ul>" if inside else "",
            )
        )
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    size = '<meta name="viewport" content="width=device-width">'
    head = f'<meta charset="utf-8">{policy}{size}<title>Conversation</title><style>{_STYLE}{page.style}</style>'
    body = f"<h1>Conversation</h1><nav><ol>{''.join(contents)}</ol></nav>{''.join(parts)}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _entry(place: str, words: str, inside: str = "") -> str:
    """An entry of the table of contents."""
    return f'<li><a href="#{safe.escape(place)}">{safe.escape(words)}</a>{inside}</li>'


def _first_words(text: str) -> str:
    return cut(" ".join(text.split()), 70)


def _json_lines(turns: Sequence[Answer]) -> str:
    lines = (
        {
            "question": question_text(turn.request),
            "attachments": labels(turn.request),
            "answer": turn.text,
            "model": turn.model,
            "asked_at": turn.asked_at.isoformat(),
            "id": turn.id,
            "usage": vars(turn.usage),
            "cost_usd": turn.cost_usd,
            "seconds": turn.seconds,
        }
        for turn in turns
    )
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)
