"""Exports of conversations with all parameters, such as for the appendix of a paper.

Markdown, self-contained HTML, LaTeX, BibTeX, or JSON lines.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aiml_magic.api.responses import question_text
from aiml_magic.errors import BadInput
from aiml_magic.files import why, write_private
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.replay import with_hashes, without_delivery
from aiml_magic.question.attachments import labels
from aiml_magic.show import latex, safe
from aiml_magic.show.answers import money, total_tokens
from aiml_magic.show.safe import escape
from aiml_magic.text import cut, one_line, plain

_STYLE = """\
body{max-width:46em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif;color:#111;
background:#fff;overflow-wrap:break-word}
h1,h2{line-height:1.2}h3{font-size:1.2em}h4{font-size:1.1em}h5,h6{font-size:1em}
pre{overflow:auto;background:#f4f4f4;padding:.6em}code{font-size:.9em}
table{display:block;overflow:auto;border-collapse:collapse}
td,th{border-bottom:1px solid #ccc;padding:.2em .6em}th{text-align:left}
blockquote{border-left:3px solid #ccc;margin-left:0;padding-left:1em}
.question{white-space:pre-wrap}
.about{color:#555;font-size:85%}nav,.footnote{font-size:90%}
@media print{body{margin:0;max-width:none}pre{white-space:pre-wrap}
table{display:table;overflow-wrap:anywhere}
h2,h3,h4,h5,h6{break-after:avoid}tr{break-inside:avoid}}
"""

_HEAD = (
    '<meta charset="utf-8"><meta name="generator" content="aiml_magic {version}">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width">'
    "<title>Conversation</title><style>{style}</style>"
)
_VERSION = sys.modules["aiml_magic"].__version__  # an import would break the layers
_HASH = re.compile(r"sha256,([0-9a-f]{64})")
_NO_FILE = "is a folder, a device or a pipe"
_MARKED = 4096  # first bytes of a file, which hold the mark of an export
_MARK = re.compile(
    rb"# [^\n]*\n\n<!-- aiml_magic |# Conversation\n\n## 1\n|"
    rb'<!doctype html>.*<title>Conversation</title>|\{"question": |% aiml_magic '
)


def write(path: Path, turns: Sequence[Answer], *, may_replace: bool = False) -> None:
    """Writes turns, oldest first, in the format of the extension of `path`; all or nothing.

    Raises BadInput for another extension, for a path that is not a file or cannot be written, and,
    unless `may_replace`, for a link and a file that is read-only, another user's, or not an export.
    """
    form, name = _FORMS.get(path.suffix.lower()), cut(plain(path.name))
    if form is None:
        raise BadInput(
            f"{name} has no extension of {', '.join(_FORMS)}.",
            "The extension decides the format; try talk.md.",
        )
    text = form(turns)
    try:
        path = path.expanduser()
        if os.path.lexists(path) and (obstacle := _obstacle(path, may_replace=may_replace)):
            hint = "Name another file"
            if not (may_replace or obstacle == _NO_FILE):
                hint += ", or replace this one with --overwrite"
            raise BadInput(f"{name} {obstacle}. Nothing was written.", f"{hint}.")
        write_private(path, text)
    except (OSError, ValueError, RuntimeError) as error:  # an impossible name, an unknown user
        raise BadInput(f"{name} cannot be written: {why(error)}.", "Name another file.") from error


def _obstacle(path: Path, *, may_replace: bool) -> str | None:
    """The reason not to replace the file at `path`; `None` if there is none."""
    status = path.lstat()
    is_link = stat.S_ISLNK(status.st_mode)
    if not (is_link or stat.S_ISREG(status.st_mode)):
        return _NO_FILE
    if may_replace:
        return None
    if is_link:
        return "is a symbolic link"
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "is another user's"
    if not status.st_mode & stat.S_IWUSR:  # not os.access: root may write to any file
        return "is read-only"
    return None if _is_export(path) else "is there already, and was not written by %aiml export"


def _is_export(path: Path) -> bool:
    """Whether a file is empty or an export, also one of an earlier version."""
    with path.open("rb") as file:
        start = file.read(_MARKED)
    return not start.strip() or _MARK.match(start) is not None


def parameters(turn: Answer) -> dict[str, str]:
    """The parameters of an answer's request, and its id, tokens, cost and time, by name."""
    request, usage = with_hashes(turn.request), turn.usage
    hashes = ", ".join(dict.fromkeys(_HASH.findall(json.dumps(request.get("input")))))
    given = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in without_delivery(request).items()
        if name not in ("input", "model")
    }
    counted = {name.removesuffix("_tokens"): count for name, count in vars(usage).items()}
    rows = {
        "model": str(request.get("model") or ""),
        "answered by": turn.model,
        "server": turn.server,
        "asked at": f"{turn.asked_at:%Y-%m-%d %H:%M:%S} UTC",
        **given,
        "attachments": "; ".join(labels(request)),
        "sha256 of attachments": hashes,
        "chat": turn.chat,
        "status": turn.status,
        "error": turn.error,
        "response": turn.id,
        "key": turn.key,
        "tokens": ", ".join(f"{name} {n:,}" for name, n in counted.items() if n is not None),
        "cost": None if turn.cost_usd is None else f"${turn.cost_usd:,.6f}",
        "seconds": None if turn.seconds is None else f"{turn.seconds:.1f}",
        "aiml_magic": _VERSION,
    }
    return {name: plain(value) for name, value in rows.items() if value}


def _about(turn: Answer) -> str:
    """Model, date, id, tokens and cost of a turn, on one line."""
    model, id_ = turn.model or "unknown model", turn.id or "no id"
    asked, tokens = f"{turn.asked_at:%Y-%m-%d %H:%M} UTC", total_tokens(turn.usage)
    return plain(" · ".join([model, asked, id_, tokens, money(turn.cost_usd)]))


def _question(turn: Answer) -> str:
    attached = "".join(f"\n[attached: {label}]" for label in labels(turn.request))
    return plain(question_text(turn.request) + attached)


def _chats(turns: Sequence[Answer]) -> Iterator[tuple[str, list[tuple[int, Answer]]]]:
    """The turns of each chat under its title, numbered through all chats."""
    numbered = list(enumerate(turns, start=1))
    chats = list(dict.fromkeys(turn.chat for turn in turns))
    if len(chats) < 2:
        yield "Conversation", numbered
        return
    for chat in chats:
        own = [(number, turn) for number, turn in numbered if turn.chat == chat]
        yield "Alone" if chat is None else f"Conversation {chat}", own


def _markdown(turns: Sequence[Answer]) -> str:
    parts = []
    for title, numbered in _chats(turns):
        parts += [f"# {safe.line(title)}", f"<!-- aiml_magic {_VERSION} -->"]
        for number, turn in numbered:
            quoted = "\n".join(f"> {line}" for line in safe.markdown(_question(turn)).split("\n"))
            rows = "\n".join(
                f"| {safe.line(name)} | {safe.line(value)} |"
                for name, value in parameters(turn).items()
            )
            about = f"*{safe.line(_about(turn))}*"
            table = f"| parameter | value |\n|---|---|\n{rows}"
            parts += [f"## {number}", quoted, safe.markdown(turn.text), about, table]
    return "\n\n".join(parts) + "\n"


def _html(turns: Sequence[Answer]) -> str:
    try:
        from aiml_magic.show.pages import Page
    except ImportError as error:
        raise BadInput(
            f"A page needs {error.name}, which is not installed here. Nothing was written.",
            f"Run %pip install {error.name}, or write Markdown: its name ends with .md.",
        ) from error
    page = Page()
    parts, contents = [], []
    for title, numbered in _chats(turns):
        parts.append(f"<h1>{escape(title)}</h1>")
        for number, turn in numbered:
            question = f'<blockquote class="question">{escape(_question(turn))}</blockquote>'
            parts.append(f'<h2 id="turn{number}">{number}</h2>{question}{page.html(turn.text)}')
            parts.append(f'<p class="about">{escape(_about(turn))}</p>{_rows(turn)}')
            inside = "".join(_entry(anchor, one_line(words, 70)) for anchor, words in page.headings)
            below = f"<ul>{inside}</ul>" if inside else ""
            contents.append(_entry(f"turn{number}", one_line(_question(turn), 70), below))
    head = _HEAD.format(version=_VERSION, style=_STYLE + page.style)
    title, *rest = parts
    body = f"{title}<nav><ol>{''.join(contents)}</ol></nav>{''.join(rest)}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _rows(turn: Answer) -> str:
    rows = (
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in parameters(turn).items()
    )
    return f'<table class="about">{"".join(rows)}</table>'


def _entry(anchor: str, words: str, inside: str = "") -> str:
    """An entry of the table of contents."""
    return f'<li><a href="#{escape(anchor)}">{escape(words)}</a>{inside}</li>'


def _json_lines(turns: Sequence[Answer]) -> str:
    """A line for each turn, with its request; `key` is its replay key."""
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
            "status": turn.status,
            "error": turn.error,
            "chat": turn.chat,
            "server": turn.server,
            "request": with_hashes(turn.request),
            "parent": turn.continues,
            "key": turn.key,
            "aiml_magic": _VERSION,
        }
        for turn in turns
    )
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)


def _tex(turns: Sequence[Answer]) -> str:
    parts = []
    for title, numbered in _chats(turns):
        parts.append(latex.heading(title))
        for number, turn in numbered:
            rows = [
                [latex.escape(name), latex.breakable(value)]
                for name, value in parameters(turn).items()
            ]
            question, answer = latex.quote(_question(turn)), latex.markdown(turn.text)
            parts += [latex.heading(str(number), 2), question, answer, latex.table(rows)]
    return f"% aiml_magic {_VERSION}\n" + latex.document("\n\n".join(parts))


def _bib(turns: Sequence[Answer]) -> str:
    entries = (
        latex.entry(
            f"aiml-{turn.journal_id or number}",
            {
                "author": str(turn.request.get("model") or turn.model or "unknown model"),
                "title": one_line(question_text(turn.request), 70),
                "year": f"{turn.asked_at:%Y}",
                "month": f"{turn.asked_at:%m}",
                "howpublished": f"answer of a language model, by {turn.server}",
                "note": f"{_about(turn)}; aiml_magic {_VERSION}",
            },
        )
        for number, turn in enumerate(turns, start=1)
    )
    return "\n".join([f"% aiml_magic {_VERSION}", *entries])


_FORMS: dict[str, Callable[[Sequence[Answer]], str]] = {
    ".md": _markdown,
    ".html": _html,
    ".jsonl": _json_lines,
    ".tex": _tex,
    ".bib": _bib,
}
