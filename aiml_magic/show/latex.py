"""Untrusted text as LaTeX without its commands, and answers as entries of BibTeX.

Formulas are shown as source text. Lists are indented paragraphs, since LaTeX refuses deeply nested
lists. pdfLaTeX shows a character that its fonts lack by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aiml_magic.show import parse
from aiml_magic.text import plain, plain_line, rows_of

if TYPE_CHECKING:
    from markdown_it.token import Token

# BibTeX counts each brace, even after a backslash; \char34 is in every encoding of fonts; two
# hyphens would be a dash.
_SIGNS = str.maketrans({sign: rf"\{sign}" for sign in "$&%#_"} | dict(rows_of(r"""
    \ \textbackslash{}
    { \textbraceleft{}
    } \textbraceright{}
    ^ \textasciicircum{}
    ~ \textasciitilde{}
    < \textless{}
    > \textgreater{}
    | \textbar{}
    " \char34{}
    ` \textasciigrave{}
    - -{}
""")))  # fmt: skip
_BREAK = "\\leavevmode\\\\{}\n"
_SCRIPTS = {"sub": r"\textsubscript{", "sup": r"\textsuperscript{"}
_MARKS = {"strong": r"\textbf{", "em": r"\emph{", "s": "{"}
_IN_FONTS = "‘’“”–—…€•"  # beyond Latin-1, with pdfLaTeX
_MAX_INDENT = 8
_PREAMBLE = r"""\documentclass{article}
\usepackage{iftex,longtable,array}
\ifPDFTeX
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{textcomp}
%s\fi
\setlength{\parindent}{0pt}\setlength{\parskip}{4pt}\sloppy
\begin{document}
"""


def escape(text: str) -> str:
    """`text` as characters of one paragraph."""
    return plain_line(text).translate(_SIGNS)


def document(body: str) -> str:
    """A document for pdfLaTeX, XeLaTeX and LuaLaTeX."""
    beyond = sorted({sign for sign in body if ord(sign) > 0xFF and sign not in _IN_FONTS})
    declared = (
        rf"\DeclareUnicodeCharacter{{{ord(sign):04X}}}{{[U+{ord(sign):04X}]}}" for sign in beyond
    )
    return "\n".join([_PREAMBLE.replace("%s", "\n".join(declared)), body, r"\end{document}", ""])


def heading(text: str, level: int = 1) -> str:
    return rf"\{'sub' * (level - 1)}section*{{{escape(text)}}}"


def preformatted(text: str) -> str:
    """Lines in a monospaced font, with all blanks."""
    lines = [_spaced(line) or r"\mbox{}" for line in plain(text).rstrip("\n").split("\n")]
    return "{\\ttfamily\\raggedright " + "\\\\*{}\n".join(lines) + "\\par}"


def quote(text: str) -> str:
    return rf"{{\leftskip=2em\itshape {preserved(text)}\par}}"


def preserved(text: str) -> str:
    """Text with its line breaks."""
    lines = [escape(line) or r"\mbox{}" for line in plain(text).strip("\n").split("\n")]
    return "\\\\{}\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of escaped cells, as a table that may span pages."""
    columns = max(map(len, rows), default=1)
    width = rf">{{\raggedright\arraybackslash}}p{{{0.9 / columns:.3f}\linewidth}}"
    lines = (" & ".join(f"{{}}{cell}" for cell in row) + r" \\" for row in rows)
    return "\n".join(
        [rf"\begin{{longtable}}{{*{{{columns}}}{{{width}}}}}", *lines, r"\end{longtable}"]
    )


def breakable(text: str) -> str:
    """`text` as one paragraph; long words may break at each eighth character."""
    words = (re.findall(".{1,8}", word) for word in plain(text).split())
    return " ".join(r"\allowbreak{}".join(map(escape, pieces)) for pieces in words)


def entry(key: str, fields: Mapping[str, str]) -> str:
    """An entry of BibTeX; double braces keep the capitals of its texts."""
    lines = "".join(f"  {name} = {{{{{escape(text)}}}}},\n" for name, text in fields.items())
    return f"@misc{{{key},\n{lines}}}\n"


def markdown(text: str) -> str:
    """The Markdown `text` of a model."""
    return "\n\n".join(_blocks(iter(parse.tokens(text)), 0))


def _spaced(line: str) -> str:
    """A line with all its blanks."""
    runs = re.split(r"(^ +| {2,})", line.expandtabs(4))
    return "".join(r"\ " * len(run) if run.isspace() else run.translate(_SIGNS) for run in runs)


def _blocks(tokens: Iterator[Token], depth: int) -> Iterator[str]:
    """The blocks up to the end of their container; `depth` counts lists and quotes around them."""
    number: int | None = None
    for token in tokens:
        match token.type:
            case "heading_open":
                yield rf"\textbf{{{_inline(next(tokens))}}}\par"
            case "paragraph_open":
                yield rf"{_inline(next(tokens))}\par"
            case "fence" | "code_block":
                yield preformatted(token.content)
            case "hr":
                yield r"\hrulefill\par"
            case "table_open":
                yield table(list(_rows(tokens)))
            case "ordered_list_open":
                number = int(token.attrs.get("start", 1))
                yield _indented(_items(tokens, depth, number), depth)
            case "bullet_list_open":
                yield _indented(_items(tokens, depth, None), depth)
            case "blockquote_open":
                yield _indented(_blocks(tokens, depth + 1), depth)
            case "blockquote_close" | "list_item_close":
                return
            case _:
                pass  # the ends of headings and paragraphs


def _items(tokens: Iterator[Token], depth: int, number: int | None) -> Iterator[str]:
    for token in tokens:
        if token.type.endswith("list_close"):
            return
        if token.type == "list_item_open":
            mark = r"\textbullet" if number is None else f"{number}."
            number = None if number is None else number + 1
            yield rf"\leavevmode\llap{{{mark}\ }}" + "\n\n".join(_blocks(tokens, depth + 1))


def _indented(blocks: Iterable[str], depth: int) -> str:
    inside = "\n\n".join(blocks)
    if depth >= _MAX_INDENT:
        return inside
    return rf"{{\advance\leftskip by 2em\relax {inside}\par}}"


def _rows(tokens: Iterator[Token]) -> Iterator[list[str]]:
    row: list[str] = []
    cell = "{}"
    for token in tokens:
        match token.type:
            case "table_close":
                return
            case "tr_open":
                row = []
            case "th_open" | "td_open":
                cell = r"\textbf{{{}}}" if token.tag == "th" else "{}"
            case "inline":
                # In a cell, two backslashes would end the row.
                row.append(cell.format(_inline(token).replace(_BREAK, r"\newline{}")))
            case "tr_close":
                yield row
            case _:
                pass


def _inline(token: Token) -> str:
    spans, address = [], ""
    for span in token.children or ():
        if span.type == "link_open":
            address = str(span.attrs.get("href", ""))
        elif span.type == "link_close":
            spans.append(rf" (\texttt{{{address.translate(_SIGNS)}}})")
        else:
            spans.append(_span(span))
    return "".join(spans)


def _span(token: Token) -> str:
    name, _, end = token.type.rpartition("_")
    if name in _MARKS:
        return _MARKS[name] if end == "open" else "}"
    match token.type:
        case "text" if token.tag in _SCRIPTS:
            return "}" if token.content.startswith("</") else _SCRIPTS[token.tag]
        case "code_inline":
            return rf"\texttt{{{token.content.translate(_SIGNS)}}}"
        case "softbreak":
            return "\n"
        case "hardbreak":
            return _BREAK
        case _:
            return token.content.translate(_SIGNS)
