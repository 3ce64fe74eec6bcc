"""Model text as Markdown and HTML without active content.

A notebook that was just run is trusted: JupyterLab executes what its `text/markdown` and
`text/html` contain. So the answer's Markdown is parsed, and new Markdown is written from the
tokens. Every mark in the result is ours, and each character of the model's is part of one of these:

* Text, with an entity for each character that Markdown, HTML or MathJax could read as a mark.
* Code, in a fence if all front ends read it alike, else in entities.
* A URL that begins with https, http, mailto or #, with all characters encoded that could end it.
* Mathematics of known commands that only set type; any other formula is shown as code.

Raw HTML is text, a picture is a link (showing it would fetch it), and the names of languages that
make a front end draw are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic.show.definitions import expand_definitions, is_defining
from aiml_magic.show.formulas import source_of
from aiml_magic.show.parse import each, parser
from aiml_magic.show.spans import begun, entities, entity, formula, inline, linked
from aiml_magic.show.typeset import typeset
from aiml_magic.text import fence_for, plain, plain_line

if TYPE_CHECKING:
    from markdown_it.token import Token

_LANGUAGES = frozenset("""
    bash c c++ clojure cmake console cpp cs csharp css dart diff docker dockerfile elixir erlang
    fortran fsharp go graphql haskell haskell html http ini java javascript js json jsx julia
    kotlin latex lisp lua make makefile markdown matlab md nix nim objc ocaml pascal perl php
    powershell prolog proto ps1 py pycon python python3 r rb rs ruby rust sas scala scheme sh
    shell sql stan swift tcl tex text toml ts tsx typescript verilog vhdl vim xml yaml yml zig
""".split())  # fmt: skip
# Characters up to which code of a page is highlighted: Pygments takes quadratic time for longer
# lines or code in some languages. (In Terraform it is slower still, so that is not in the list.)
_LONG_LINE, _LONG_CODE = 1000, 10_000
# Code that would be harmless if it were read as Markdown, or as mathematics by MathJax.
_HARMLESS = re.compile(
    r"(?:[\w \n.,;=+*()'\"#%^?/>{}\[|!~-]|\](?![(\[:])|@(?!@)|:(?!//)|&(?![#\w])|<(?![a-zA-Z/!?])"
    r"|\\(?!begin|end|ref|eqref|[\\()\[\]{}$]))*"
)
_SIGNS_IN_CODE = re.compile(r"[^\w ,;()'\"?%\u0080-\U0010ffff]|_|(?<=\d)\)")  # could be marks
_TASK = re.compile("^&#91;([ xX])&#93;(?= )")
_BOXES = {" ": "\N{BALLOT BOX}", "x": "\N{BALLOT BOX WITH CHECK}"}
_LISTS = ("bullet_list_open", "ordered_list_open")
_CONTAINERS = (*_LISTS, "blockquote_open")


def markdown(text: str, *, is_for_page: bool = False) -> str:
    """The Markdown `text` of a model as Markdown without active content.

    For a page, which Python-Markdown reads, lists are indented by four columns, and code in lists
    and quotes is HTML.
    """
    tokens = parser().parse(plain(text))
    if is_defining(text):
        expand_definitions(each(tokens))
    _show_as_code(tokens)
    writer = _Writer(tokens, is_for_page=is_for_page)
    return "\n\n".join(_apart(writer.blocks(at_margin=True)))


def line(text: str) -> str:
    """`text` as one line of Markdown without marks."""
    return begun(linked(plain_line(text)))


def escape(value: Any) -> str:
    """Any scalar as escaped HTML text."""
    import html

    return html.escape(plain(str(value)), quote=True)


class _Block(NamedTuple):
    kind: str  # the type of its first token
    text: str
    is_tight: bool = False


class _Writer:
    """Writes safe Markdown for the blocks of an answer, from its tokens in order."""

    def __init__(self, tokens: Sequence[Token], *, is_for_page: bool) -> None:
        self._tokens = iter(tokens)
        self._is_for_page = is_for_page
        self._tagged = set() if is_for_page else _tagged(tokens)

    def blocks(self, *, at_margin: bool = False) -> list[_Block]:
        """The blocks up to the end of their container."""
        blocks = []
        for token in self._tokens:
            if token.nesting < 0:
                break
            blocks.append(_Block(token.type, self._block(token, at_margin), token.hidden))
        return blocks

    def _block(self, token: Token, at_margin: bool) -> str:  # noqa: FBT001
        match token.type:
            case "paragraph_open":
                return self._content()
            case "heading_open":
                text = self._content().replace("\n", " ")
                # A # at its end would be dropped.
                return "#" * int(token.tag[1]) + " " + re.sub("#$", entity("#"), text)
            case "bullet_list_open" | "ordered_list_open":
                return self._list(token)
            case "blockquote_open" if id(token) in self._tagged:
                return _within("blockquote", self.blocks(at_margin=True))
            case "blockquote_open":
                return _indented("> ", "> ", "\n\n".join(_apart(self.blocks())))
            case "fence" | "code_block":
                return self._code(token, at_margin)
            case "formula_block":
                return formula(token.content, token.markup)
            case "table_open":
                return self._table()
            case "hr":
                return "* * *"
            case _:
                return entities(token.content)

    def _content(self, *, in_table: bool = False) -> str:
        text = inline(next(self._tokens).children or (), in_table=in_table)
        next(self._tokens)  # the end of the paragraph, heading or cell
        return text

    def _list(self, token: Token) -> str:
        if id(token) in self._tagged:
            start = f' start="{int(token.attrs["start"])}"' if "start" in token.attrs else ""
            tagged = (_within("li", item) for item in self._items(at_margin=True))
            return "\n".join([f"<{token.tag}{start}>", *tagged, f"</{token.tag}>"])
        items = list(self._items())
        first = int(token.attrs.get("start", 1)) if token.type == "ordered_list_open" else None
        lines, texts = [], list(map(_item, items))
        for number, text in enumerate(texts, first or 0):
            # CommonMark allows nine digits.
            mark = "- " if first is None else f"{min(number, 999_999_999)}. "
            mark = mark.ljust(4 if self._is_for_page else 0)
            lines.append(_indented(mark, " " * len(mark), text))
        is_tight = all(
            block.is_tight for item in items for block in item if block.kind == "paragraph_open"
        )
        # Python-Markdown takes the mark of an item for text of the block above it.
        is_below_block = self._is_for_page and any("\n\n" in text for text in texts)
        return ("\n" if is_tight and not is_below_block else "\n\n").join(lines)

    def _items(self, *, at_margin: bool = False) -> Iterator[list[_Block]]:
        """The blocks of each item; the mark of a task is a box, which all front ends show."""
        for item in self._tokens:
            if item.nesting < 0:
                return
            blocks = self.blocks(at_margin=at_margin)
            if blocks and blocks[0].kind == "paragraph_open":
                text = _TASK.sub(lambda task: _BOXES[task[1].lower()], blocks[0].text)
                blocks[0] = blocks[0]._replace(text=text)
            yield blocks

    def _table(self) -> str:
        rows, alignments, cells = [], [], []
        for token in self._tokens:
            if token.type in ("th_open", "td_open"):
                if token.type == "th_open":
                    alignments.append(_alignment(token))
                cells.append(self._content(in_table=True).replace("\n", " "))
            elif token.type == "tr_close":
                rows.append(f"| {' | '.join(cells)} |")
                cells = []
            elif token.type == "table_close":
                break
        return "\n".join([rows[0], f"|{'|'.join(alignments)}|", *rows[1:]])

    def _code(self, token: Token, at_margin: bool) -> str:  # noqa: FBT001
        """Code in a fence if all front ends read it alike, else as HTML, which LaTeX drops."""
        is_fence = "@@" not in token.content if at_margin else _HARMLESS.fullmatch(token.content)
        if is_fence and (at_margin or not self._is_for_page):
            return self._fenced(token)
        content = token.content.removesuffix("\n")
        return f"<pre><code>{entities(content, _SIGNS_IN_CODE)}</code></pre>"

    def _fenced(self, token: Token) -> str:
        content = token.content.removesuffix("\n")
        language = token.info.split()[0].lower() if token.info.split() else ""
        is_long = len(content) > _LONG_CODE or max(map(len, content.split("\n"))) > _LONG_LINE
        # JupyterLab takes an environment out of code, and does not find its place in coloured code.
        is_plain = (self._is_for_page and is_long) or "\\begin" in content
        if language not in _LANGUAGES or is_plain:
            language = "text"  # without a name MyST-NB reads Python, and VS Code marks each line
        ticks = fence_for(content)
        return f"{ticks}{language}\n{content}\n{ticks}"


def _show_as_code(tokens: Iterable[Token]) -> None:
    """Makes code of each formula of several lines that is not typeset, so that its lines stay."""
    for token in tokens:
        is_long = token.type == "formula_block" and "\n" in token.content.strip()
        if is_long and typeset(token.content) is None:
            token.type, token.info = "fence", "latex"
            token.content = f"{source_of(token)}\n"


def _tagged(tokens: Iterable[Token]) -> set[int]:
    """The quotes and lists, by identity, that hold a table, or code that cannot be a fence there.

    They are written as tags of HTML with their blocks at the margin: nbconvert reads no table in a
    quote or list, and LaTeX drops code that is HTML.
    """
    containers: list[Token] = []
    tagged: set[int] = set()
    for token in tokens:
        is_code = token.type in ("fence", "code_block")
        if token.type in _CONTAINERS:
            containers.append(token)
        elif token.type.replace("_close", "_open") in _CONTAINERS:
            containers.pop()
        elif token.type == "table_open" or (is_code and not _HARMLESS.fullmatch(token.content)):
            tagged.update(map(id, containers))
    return tagged


def _within(tag: str, blocks: Sequence[_Block]) -> str:
    """Blocks at the margin, between tags of HTML."""
    return "\n\n".join([f"<{tag}>", *_apart(blocks), f"</{tag}>"])


def _apart(blocks: Sequence[_Block]) -> Iterator[str]:
    """Each block, with a comment between adjacent lists, which otherwise would be one."""
    for number, block in enumerate(blocks, 1):
        following = blocks[number].kind if number < len(blocks) else ""
        is_apart = block.kind in _LISTS and following in (*_LISTS, "code_block")
        yield block.text + "\n\n<!-- -->" * is_apart


def _item(blocks: Sequence[_Block]) -> str:
    """The blocks of a list item; a list follows its tight paragraph without a blank line."""
    text, is_below_tight = "", False
    for block, written in zip(blocks, _apart(blocks), strict=True):
        is_tight = is_below_tight and block.kind in _LISTS
        text += ("\n" if is_tight else "\n\n" if text else "") + written
        is_below_tight = bool(text) and block.is_tight
    return text


def _indented(first: str, rest: str, text: str) -> str:
    return (first + text.replace("\n", "\n" + rest)).rstrip(" ")


def _alignment(cell: Token) -> str:
    style = str(cell.attrs.get("style", ""))
    return {"text-align:left": ":--", "text-align:center": ":-:", "text-align:right": "--:"}.get(
        style, "---"
    )
