"""Inline content as safe Markdown: text, links, code and formulas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from string import punctuation
from typing import TYPE_CHECKING

from aiml_magic.show.formulas import CLOSERS
from aiml_magic.show.links import BARE_LINK, encoded, is_address, with_scheme
from aiml_magic.show.parse import parser, title_of
from aiml_magic.show.typeset import typeset

if TYPE_CHECKING:
    from markdown_it.token import Token

# MathJax 2 and 3 ignore the content of this element.
_IGNORED = '<span class="mathjax_ignore tex2jax_ignore">{}</span>'
_MARKS = re.compile(
    r"[<>&*`\[\]{~|$]|\\(?!(?!begin|end|ref|eqref)[A-Za-z0-9])|(?<![^\W_])_|_(?![^\W_])|@(?=@)|!(?=\[)|(?<!http)(?<!https):(?=//)"
)
_NO_MATHEMATICS = frozenset(punctuation + " \n") - frozenset("()[]$\\")  # after a backslash
_SIGNS_APART = {"![", "@@", ":/", "//"}  # two characters that are, or begin, a mark
_LINE_START = re.compile(r"(\s*)([#+=:-]|\d{1,9}[.)])")
_SIGNS = re.compile(r"[<>&*`\[\]{~|$\\_@!:]")  # text without them has no marks
_ALL_SIGNS = re.compile(r"[^\w \u0080-\U0010ffff]|_")
_MARKS_OF = {"em": "*", "strong": "**", "s": "~~"}


def inline(tokens: Iterable[Token], *, in_table: bool) -> str:
    """The content of a paragraph, a heading or a cell.

    It has no break at its end, since a tag alone on its line begins a block of raw HTML.
    """
    text = _spans(iter(tokens), in_table=in_table).rstrip()
    while text.endswith("<br>"):
        text = text.removesuffix("<br>").rstrip()
    if "\n" not in text:
        return begun(text.strip(" "))
    return "\n".join(begun(line.strip(" ")) for line in text.split("\n"))


def begun(line: str) -> str:
    """A line of inline content; an entity at its start if it would begin a block."""
    start = None if line[:1].isalpha() else _LINE_START.match(line)
    if start is None:
        return line
    return f"{start[1]}{start[2][:-1]}&#{ord(start[2][-1])};{line[start.end() :]}"


def _spans(tokens: Iterator[Token], *, in_table: bool, in_link: bool = False) -> str:
    """The spans up to the end of their container."""

    def written() -> Iterator[str]:
        for token in tokens:
            if token.nesting < 0:
                return
            yield _span(token, tokens, in_link=in_link, in_table=in_table)

    return _joined(written())


def _joined(spans: Iterable[str]) -> str:
    """The joined spans, without new marks between two, as between "!" and a link."""
    text = before = ""
    for span in spans:
        if not span:
            continue
        if text and (span[0] in "[@/$*~" or text[-1] in "*~$"):
            joint = text[-1] + span[0]
            if joint in _SIGNS_APART or _is_lost_beside(text[-1], span):
                text = text[:-1] + entity(text[-1])
            first = entity(span[0]) if _is_lost_beside(span[0], before[::-1]) else span[0]
            text += " " * (joint == "$$") + first + span[1:]
        else:
            text += span
        before = span
    return text


def _is_lost_beside(sign: str, span: str) -> bool:
    """Whether the marks of a span are ignored beside this letter, which then is an entity.

    VS Code ignores the dollars of a formula there; CommonMark those of emphasis with punctuation
    inside (flanking rule, 6.2).
    """
    if span[0] == "$":
        return sign.isascii() and (sign.isalnum() or sign == "_")
    inside = span.lstrip("*~")
    return (
        inside != span
        and inside[:1] in punctuation
        and sign not in punctuation
        and not sign.isspace()
    )


def _span(token: Token, tokens: Iterator[Token], *, in_link: bool, in_table: bool) -> str:
    match token.type:
        case "text" | "text_special":
            return _literal(token.content) if in_link else linked(token.content)
        case "formula":
            return formula(token.content, token.markup, in_table=in_table)
        case "softbreak":
            return "\n"
        case "hardbreak":
            return "<br>"  # with the line going on
        case "code_inline":
            return _code(token.content)
        case "em_open" | "strong_open" | "s_open":
            mark = _MARKS_OF[token.type.removesuffix("_open")]
            return mark + _spans(tokens, in_link=in_link, in_table=in_table) + mark
        case "sub_open" | "sup_open":
            inside = _spans(tokens, in_link=in_link, in_table=in_table)
            return f"<{token.tag}>{inside}</{token.tag}>"
        case "link_open":
            address = str(token.attrs.get("href", ""))
            is_link = in_link or is_address(address)  # links cannot be nested
            return _link(_spans(tokens, in_link=is_link, in_table=in_table), address)
        case "image":
            return _link(_literal(title_of(token)), str(token.attrs.get("src", "")))
        case _:
            return entities(token.content)


def linked(text: str) -> str:
    """Text without marks, with bare URLs as links."""
    if "http" not in text and "www." not in text:
        return _literal(text)
    pieces, end = [], 0
    for match in BARE_LINK.finditer(text):
        pieces += [
            _literal(text[end : match.start()]),
            _link(_literal(match[0]), parser().normalizeLink(with_scheme(match[0]))),
        ]
        end = match.end()
    return _joined([*pieces, _literal(text[end:])])


def _literal(text: str) -> str:
    """Text without marks; a backslash stays if neither Markdown nor MathJax reads it."""
    if _SIGNS.search(text) is None:
        return text
    return _MARKS.sub(lambda mark: entity(mark[0], text[mark.end() : mark.end() + 1]), text)


def entity(sign: str, following: str = "") -> str:
    """A character as an entity; `following` is the next character."""
    names = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    entity = names.get(sign, f"&#{ord(sign)};")
    is_mathematics = sign == "$" or (sign == "\\" and following not in _NO_MATHEMATICS)
    return _IGNORED.format(entity) if is_mathematics else entity


def entities(text: str, signs: re.Pattern[str] = _ALL_SIGNS) -> str:
    """`text` with all these characters as entities, so that no front end reads a mark in it."""
    return signs.sub(lambda sign: f"&#{ord(sign[0])};", text)


def _code(content: str) -> str:
    if (
        re.fullmatch(r"[^`$<>&|\\\n\[\]@]*[^`$<>&|\\\n\[\]@ ][^`$<>&|\\\n\[\]@]*", content)
        and content == content.strip()
    ):
        return f"`{content}`"
    return f"<code>{entities(content)}</code>"


def _link(text: str, url: str) -> str:
    if not is_address(url):
        return text
    # Without angle brackets, which a front end could read as a tag.
    return f"[{text}]({encoded(url).replace('&', '&amp;')})"


def formula(content: str, opener: str, *, in_table: bool = False) -> str:
    """Mathematics, or code if it may do more than set type."""
    line = typeset(content, in_table=in_table)
    is_displayed = opener in ("$$", "\\[", "") or "\\tag" in content
    dollars = "$$" if is_displayed else "$"
    return (
        _code(opener + content + CLOSERS[opener]) if line is None else f"{dollars}{line}{dollars}"
    )
