"""URLs in the Markdown of a model: those that may be linked, and the end of bare ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

# Word characters outside ASCII.
_FOREIGN = (
    "\u00c0-\u060b\u060d-\u061a\u0620-\u06d3\u06d5-\u0963\u0966-\u1fff\u200c\u200d\u2c00-\u2dff\u3005-\u3007\u3041-\ud7ff"
    "\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff"
)
# It ends as in GitHub's Markdown: before final punctuation, and with balanced parentheses. But its
# host ends in ASCII, since Chinese and Japanese continue after it without a space.
_BARE_HOST = rf"(?:[\w.~:@!&*+,;=%{_FOREIGN}-]*[.:@])?[\w-]+(?![\w-]|[.:@][\w{_FOREIGN}])"
_BARE_SIGN = rf"(?:[\w.:/?#@!&+,;=%{_FOREIGN}-]|\*(?!\*)|~(?!~))"
BARE_LINK = re.compile(
    rf"(?:https?://|(?<![\w.@/:-])www\.){_BARE_HOST}(?:[/?#](?:{_BARE_SIGN}|\({_BARE_SIGN}*\))*(?:[\w/#=&%{_FOREIGN}-]|(?<=\)))|/)?",
    re.ASCII,
)
_SOURCE_LINK = re.compile(
    BARE_LINK.pattern.replace(_BARE_SIGN, rf"(?:{_BARE_SIGN}|\\[_*~&])"), re.ASCII
)
_WORDS_END = re.compile(r"[\n!$&*<\[\\\]_`~]")  # at which a rule of the parser may begin
_ADDRESS_BEGINS = re.compile(r"(?<![A-Za-z])https?://|www\.")
_ADDRESS = re.compile(r"(?:https?://|mailto:|#)[!-~]*", re.IGNORECASE)


def is_address(url: str) -> bool:
    """Whether a link to `url` is allowed."""
    return _ADDRESS.fullmatch(url) is not None


def encoded(url: str) -> str:
    """`url` with all characters encoded that could end it, in Markdown or in HTML."""
    return re.sub(
        r"[^\w.~:/?#@!&+,;=%-]",
        lambda sign: "".join(f"%{byte:02X}" for byte in sign.group().encode()),
        url,
        flags=re.ASCII,
    )


def with_scheme(address: str) -> str:
    """A bare URL with `http://` before `www.`."""
    return "http://" + address if address.startswith("www.") else address


def read_links(parser: MarkdownIt) -> None:
    """Adds rules to the parser that read a bare URL as text without emphasis."""
    parser.inline.ruler.before("text", "address", _address)
    parser.inline.ruler.at("text", _words)


def _address(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    """Reads a bare URL without emphasis; it ends at the emphasis mark before it."""
    from markdown_it.common.utils import unescapeAll

    if not state.src.startswith(("http", "www."), state.pos):
        return False
    match = _SOURCE_LINK.match(state.src, state.pos, state.posMax)
    if match is None:
        return False
    address, before = match[0], state.src[max(state.pos - 1, 0) : state.pos]
    if before and before in "*_~":
        address = address.partition(before)[0] if before != "_" else address.rstrip("_")
    if not silent:
        state.pending += unescapeAll(address)
    state.pos += len(address)
    return True


def _words(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    """Reads text up to a possible mark or the beginning of a URL."""
    source, begin = state.src, state.pos
    if source[begin] in "\n!$&*<[\\]_`~":
        return False
    match = _WORDS_END.search(source, begin + 1, state.posMax)
    end = match.start() if match else state.posMax
    if source.find("http", begin + 1, end) > 0 or source.find("www.", begin + 1, end) > 0:
        address = _ADDRESS_BEGINS.search(source, begin + 1, end)
        end = address.start() if address else end
    if not silent:
        state.pending += source[begin:end]
    state.pos = end
    return True
