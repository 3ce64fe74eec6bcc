"""The Markdown of a model as tokens: CommonMark with tables, formulas and bare addresses.

Raw HTML is text, except for a few tags without attributes that only place text. Blocks beyond a
depth are read as code, so that the time grows linearly with the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from aiml_magic.show.formulas import read_formula, read_formulas, source_of
from aiml_magic.show.links import is_address, read_links
from aiml_magic.text import plain

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

    InlineRule = Callable[[StateInline, bool], bool]

_UNCHANGED = ("text", "softbreak", "inline", "paragraph_open", "paragraph_close")
# Bidirectional isolates: right-to-left text needs them, but in code they can deceive.
_ISOLATES = dict.fromkeys(range(0x2066, 0x206A), "\ufffd")
_CODE = ("code_inline", "code_block", "fence", "formula", "formula_block")
_MAX_LABELS = 6  # levels of links and pictures in one another
MAX_DEPTH = 40  # levels of nested quotes and lists, where a list counts twice


def tokens(text: str) -> list[Token]:
    """The tokens of a model's Markdown for a terminal; formulas, HTML and pictures are text."""
    parsed = parser().parse(plain(text))
    for token in each(parsed):
        match token.type:
            case "formula":
                _make_text(token, source_of(token))
            case "formula_block":
                token.type, token.content, token.info = "fence", source_of(token), "latex"
            case "sub_open" | "sup_open" | "sub_close" | "sup_close":
                _make_text(token, f"<{'/' * (token.nesting < 0)}{token.tag}>", token.tag)
            case "image":
                _make_text(token, f"{title_of(token)} ({token.attrs.get('src')})")
            case _:
                pass
    return parsed


@cache
def parser() -> MarkdownIt:
    """The parser of models' Markdown."""
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import emphasis

    # markdown-it drops blocks beyond maxNesting; a list takes two levels.
    reader = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_DEPTH + 2}).enable(
        ["table", "strikethrough"]
    )
    reader.disable("html_block")
    reader.block.ruler.before("table", "depth", _line_too_deep)
    reader.block.ruler.after("depth", "line", _line_of_words)
    reader.block.ruler.at("reference", _reference, {"alt": []})
    reader.core.ruler.before("text_join", "signs", _plain_signs)
    reader.inline.ruler.before("autolink", "tag", _tag)
    reader.inline.ruler.at("emphasis", _emphasis(emphasis.tokenize))
    read_links(reader)
    read_formulas(reader)
    _read_by_sign(reader)
    return reader


# The rules that may match at each character; at others only text can begin.
_BY_SIGN = {
    "\n": ("newline",), "\\": ("formula", "escape"), "$": ("formula",), "`": ("backticks",),
    "~": ("strikethrough",), "*": ("emphasis",), "_": ("emphasis",), "[": ("link",),
    "!": ("image",), "<": ("tag", "autolink"), "&": ("entity",), "]": (),
    "h": ("address", "text"), "w": ("address", "text"),
}  # fmt: skip


def _shallow(rule: InlineRule) -> InlineRule:
    """The rule for a link or picture; labels that are nested too deeply end the search for a link.

    Each level costs the time of the whole rule, at each opening bracket.
    """

    def shallow(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
        if silent and state.level > _MAX_LABELS:
            state.pos = state.posMax
            return True
        return rule(state, silent)

    return shallow


def _read_by_sign(reader: MarkdownIt) -> None:
    """Makes the parser try only the rules for a character, in a third of the time."""
    ruler = reader.inline.ruler
    known = dict(zip(ruler.get_active_rules(), ruler.getRules(""), strict=True))
    for name in ("link", "image"):
        known[name] = _shallow(known[name])
    by_sign = {sign: [known[name] for name in names] for sign, names in _BY_SIGN.items()}
    words = [known["text"]]

    def rule(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
        for one in by_sign.get(state.src[state.pos], words):  # noqa: SIM110  # as any() it is slower
            if one(state, silent):
                return True
        return False

    ruler.push("sign", rule)
    ruler.enableOnly("sign")


def each(tokens: Iterable[Token]) -> Iterator[Token]:
    return (token for block in tokens for token in (block, *(block.children or [])))


def _plain_signs(state: StateCore) -> None:
    """Makes control characters of decoded entities visible, and replaces isolates in code.

    Emphasis nested too deeply becomes text, and so does a picture in a link, since its link would
    be nested.
    """
    is_linked = False
    for token in each(state.tokens):
        if token.type in _UNCHANGED:
            continue
        if token.type == "text_special":
            token.content = re.sub(r"[\n\t]", " ", plain(token.content))
        elif token.type in _CODE:
            token.content = token.content.translate(_ISOLATES)
        elif token.type in ("link_open", "link_close"):
            is_linked = is_address(str(token.attrs.get("href", "")))
        elif token.type == "image" and is_linked:
            _make_text(token, title_of(token))
        elif token.tag in ("em", "strong", "s") and token.level > MAX_DEPTH:
            _make_text(token, token.markup)


def title_of(image: Token) -> str:
    """The words that stand for a picture."""
    return f"picture: {image.content or 'untitled'}"


def _make_text(token: Token, content: str, tag: str = "") -> None:
    token.type, token.tag, token.content = "text", tag, content
    token.nesting, token.children = 0, None


def _reference(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001  # markdown-it calls it so
    """Reads CommonMark's link definitions, but not footnotes (`[^1]: …`): their text is kept."""
    begin = state.bMarks[first] + state.tShift[first]
    if not state.src.startswith("[", begin) or state.src.startswith("[^", begin):
        return False
    from markdown_it.rules_block import reference

    return reference(state, first, last, silent)


def _line_too_deep(state: StateBlock, first: int, _: int, silent: bool) -> bool:  # noqa: FBT001  # markdown-it calls it so
    """Reads a line that is nested too deeply as code."""
    if state.level < MAX_DEPTH:
        return False
    if not silent:
        token = state.push("code_block", "code", 0)
        token.content = state.getLines(first, first + 1, state.blkIndent, keepLastLF=False)
        token.map = [first, first + 1]
        state.line = first + 1
    return True


def _line_of_words(state: StateBlock, first: int, _: int, silent: bool) -> bool:  # noqa: FBT001
    """Reads a paragraph of one line that begins with a letter, without trying other rules."""
    begin = state.bMarks[first] + state.tShift[first]
    is_last = first + 1 >= state.lineMax or state.isEmpty(first + 1)
    if silent or not is_last or not state.src[begin : begin + 1].isalpha():
        return False
    if state.sCount[first] - state.blkIndent >= 4:
        return False
    state.line = first + 1
    state.push("paragraph_open", "p", 1).map = [first, first + 1]
    token = state.push("inline", "", 0)
    token.map, token.children = [first, first + 1], []
    token.content = state.src[begin : state.eMarks[first]].strip()
    state.push("paragraph_close", "p", -1)
    return True


def _emphasis(tokenize: InlineRule) -> InlineRule:
    """The library's rule, but a formula beside the marks counts as a letter, not punctuation."""

    def rule(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
        count, tokens = len(state.delimiters), state.tokens
        is_after = bool(tokens) and not state.pending and tokens[-1].type == "formula"
        if not tokenize(state, silent):
            return False
        following = state.src[state.pos : state.pos + 1]
        is_before = following in ("$", "\\") and (
            read_formula(state.src, state.pos, state.posMax) is not None
        )
        if is_before or is_after:
            for delimiter in state.delimiters[count:]:
                if delimiter.marker == ord("*"):
                    delimiter.open = delimiter.open or is_before
                    delimiter.close = delimiter.close or is_after
        return True

    return rule


_TAG = re.compile(r"<(?:(br) ?/?>\s*|(sub|sup)>)", re.IGNORECASE)
_MAX_SCRIPT = 200  # characters in a superscript or subscript


def _tag(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    """Reads `<br>`, `<sub>…</sub>` and `<sup>…</sup>`, without attributes, on one line."""
    match = _TAG.match(state.src, state.pos, state.posMax)
    if match is None or state.level >= MAX_DEPTH:
        return False
    if match[1]:
        if not silent:
            state.push("hardbreak", "br", 0)
        state.pos = match.end()
        return True
    name, stop = match[2].lower(), state.posMax
    end = _end_of_script(state.src[match.end() : min(match.end() + _MAX_SCRIPT, stop)], name)
    if end <= 0:
        return False
    if not silent:
        state.push(f"{name}_open", name, 1)
        state.pos, state.posMax = match.end(), match.end() + end
        state.md.inline.tokenize(state)
        state.push(f"{name}_close", name, -1)
    state.pos, state.posMax = match.end() + end + len("</sub>"), stop
    return True


def _end_of_script(text: str, name: str) -> int:
    """The end of a superscript or subscript; -1 if it is not on this line."""
    depth = 1
    for tag in re.finditer(rf"\n|<(/?){name}>", text, re.IGNORECASE):
        depth += 0 if tag[0] == "\n" else -1 if tag[1] else 1
        if depth == 0 or tag[0] == "\n":
            return tag.start() if depth == 0 else -1
    return -1
