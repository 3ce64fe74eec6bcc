"""Formulas in the Markdown of a model: their marks, as distinct from dollar signs of amounts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# The closing mark by the opening mark of a formula; empty for an environment, which has its own.
CLOSERS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$", "": ""}
_MAX_IN_LINE = 4000  # characters of a formula within a line
_MAX_FORMULA, _MAX_LINES = 16_000, 400  # characters and lines of a formula of whole lines
_MAX_CLOSERS = 40  # dollars that are escaped, or within the braces of a formula


def source_of(token: Token) -> str:
    """A formula with its marks, as the model wrote it."""
    return token.markup + token.content + CLOSERS[token.markup]


def read_formulas(parser: MarkdownIt) -> None:
    """Adds the tokens `formula` and `formula_block` to the parser, with their opening marks."""
    parser.inline.ruler.before("escape", "formula", _inline_formula)
    parser.core.ruler.before("block", "bars", _bars)
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.block.ruler.before(
        "fence", "formula", _display_formula, {"alt": ["paragraph", "list", "blockquote"]}
    )


def _inline_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # markdown-it's form
    formula = read_formula(state.src, state.pos, state.posMax)
    if formula is None:
        return False
    opener, content, end = formula
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = content, opener
    state.pos = end
    return True


def read_formula(source: str, start: int, stop: int) -> tuple[str, str, int] | None:
    """The opening mark, the content and the end of the formula in a line, if one begins here."""
    formula = _formula(source, start, min(start + _MAX_IN_LINE, stop))
    if formula is None:
        return None
    opener, content, end = formula
    after = source[end : end + 1]
    if opener == "$":
        return formula if is_between_dollars(content, after) else None
    is_escaped = opener == "\\[" and (_CITATION.fullmatch(content) or after == "(")
    is_words = opener in ("\\[", "\\(") and not _TEX.search(content) and _is_prose(content)
    return None if is_escaped or is_words else formula


def _display_formula(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001
    """Reads a formula of whole lines, which otherwise could be read as lists and headings."""
    begin = state.bMarks[first] + state.tShift[first]
    if state.src[begin : begin + 1] not in ("$", "\\"):
        return False
    closer = CLOSERS.get(state.src[begin : begin + 2], "")
    if environment := _BEGIN.match(state.src, begin):
        closer = f"\\end{{{environment[1]}}}"
    if len(closer) < 2 or state.src.find(closer, begin + 2, begin + _MAX_FORMULA) < 0:
        return False
    numbers, lines = zip(*_lines(state, first, last, closer), strict=True)
    source = "\n".join(lines)
    formula = _formula(source, 0, len(source))
    if formula is None:
        return False
    opener, content, end = formula
    if source[end:].partition("\n")[0].strip():
        return False
    count = source.count("\n", 0, end) + 1
    # The line continues the paragraph of a list item without its indentation.
    is_lazy = silent and state.sCount[first] < state.blkIndent
    has_blanks = numbers[count - 1] >= first + count
    if is_lazy and not any(map(_BLOCK.match, lines[1:count])):
        return False
    if (is_lazy or has_blanks) and any(map(_is_prose, lines[:count])):
        return False
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content, token.markup = content, opener
        state.line = numbers[count - 1] + 1
        token.map = [first, state.line]
    return True


def _bars(state: StateCore) -> None:
    """Stores the source for tables, with bars of formulas replaced in rows of too many cells."""
    state.env["tables"] = state.src if "|" in state.src else None
    if "|" not in state.src or not re.search(r"\$|\\[(\[]", state.src):
        return
    lines, columns = state.src.split("\n"), 0
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if "|" in line and _RULE.fullmatch(following):
            columns = _count_cells(following)
        elif not line.strip():
            columns = 0
        if columns and _count_cells(line) > columns:
            lines[number] = _without_bars(line)
    state.env["tables"] = "\n".join(lines)


def _count_cells(line: str) -> int:
    return len(_BAR.findall(_EDGES.sub("", line))) + 1


def _without_bars(line: str) -> str:
    """The line with the bars of its formulas replaced."""
    text, end, position = "", 0, 0
    while match := _IN_DOLLARS.search(line, position):
        position = match.end()
        if match[1] and not is_between_dollars(match[2], line[match.end() : match.end() + 1]):
            position = match.start() + len(match[1])  # the other dollar may begin a formula
        elif match[0][0] != "`":
            text += line[end : match.start()] + _BAR.sub(_HIDDEN_BAR, match[0])
            end = match.end()
    return text + line[end:]


def _table(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001
    """As the library's rule for tables, but a bar in a formula does not end a cell."""
    if state.env["tables"] is None:
        return False
    from markdown_it.rules_block import table

    source, count = state.src, len(state.tokens)
    state.src = state.env["tables"]
    is_table = table(state, first, last, silent)
    state.src = source
    for token in state.tokens[count:]:
        token.content = token.content.replace(_HIDDEN_BAR, "|")
    return is_table


_HIDDEN_BAR = "\ufdd0"  # a noncharacter, not used in text
_BAR = re.compile(r"(?<!\\)\|")
_EDGES = re.compile(r"^[\s>]*\||(?<!\\)\|\s*$")
_RULE = re.compile(r"[\s>]*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_IN_DOLLARS = re.compile(
    r"(\$\$?)((?:[^$\\]|\\.){1,400}?)\1|\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]|`+[^`]*`+"
)


def _lines(state: StateBlock, first: int, last: int, closer: str) -> Iterator[tuple[int, str]]:
    """The lines of a formula up to its closing mark, without the marks of its containers.

    Blank lines are left out; after one a formula goes on if its opening mark is alone or differs
    from the closing one.
    """
    begin, size = state.bMarks[first] + state.tShift[first], 0
    may_be_apart = (
        state.src[begin] == "\\" or state.src[begin : state.eMarks[first]].strip() == "$$"
    )
    for line in range(first, min(first + _MAX_LINES, last)):
        if state.isEmpty(line):
            if may_be_apart:
                continue
            return
        is_outside = line > first and state.sCount[line] < min(state.blkIndent, state.sCount[first])
        if is_outside or size > _MAX_FORMULA:
            return
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
        size += len(text)
        yield line, text
        if closer in (text if line > first else text[2:]):
            return


def _is_prose(line: str) -> bool:
    return _PROSE.search(_NAMED.sub(" ", line)) is not None


def _formula(source: str, start: int, stop: int) -> tuple[str, str, int] | None:
    """The opening mark, the content and the end of the formula that begins here, if any."""
    environment = None
    if source.startswith("\\begin{", start):
        environment = _BEGIN.match(source, start, stop)
    opener = _OPENER.match(source, start, stop)
    mark = "" if environment else opener and opener[0]
    if mark is None or (mark[:1] == "$" and "$$$" in source[max(start - 2, 0) : start + 3]):
        return None
    closer = f"\\end{{{environment[1]}}}" if environment else CLOSERS[mark]
    end = _end_of_formula(source, start + len(mark), stop, closer)
    if end < 0:
        return None
    after = end + len(closer)
    content = source[start + len(mark) : end]
    if (mark == "$$" and _is_between_prices(content)) or _BETWEEN.fullmatch(content):
        return None
    return mark, source[start:after] if environment else content, after


def _end_of_formula(source: str, start: int, stop: int, closer: str) -> int:
    """The position of the closing mark; a dollar within braces, as in words, does not count."""
    first, at = -1, start - 1
    for _ in range(_MAX_CLOSERS):
        at = source.find(closer, at + 1, stop)
        content = source[start : max(at, start)]
        if not content.strip() or "\n\n" in content:
            break
        if closer[0] == "$" and (len(content) - len(content.rstrip("\\"))) % 2:
            continue
        if closer != "$" or content.count("{") <= content.count("}"):
            return at
        first = at if first < 0 else first
    return first


# The text between two marks that are only mentioned, as in "$ and $".
_BETWEEN = re.compile(r"\s*(?:\.{2,}|…)\s*|\s+(?:and|or|to|und|et|ou|или|和|与|或)\s+")
_OPENER = re.compile(r"\$\$?|\\[(\[]")
_BEGIN = re.compile(r"\\begin\{([A-Za-z]+\*?)\}")
_BLOCK = re.compile(r"[-+*#>=]|\d+[.)]\s")  # the beginning of another kind of block
_MONEY = re.compile(
    r"\d[\d.,]*(?:\s+[^\W\d_]{2}|[;?.]\s|[.,]?\s*[^\x00-\u024f\u0370-\u03ff\u2070-\u22ff])|.*[,;]\s*[A-Z]{1,2}$"
)
_FUNCTIONS = re.compile(
    r"(?<![^\W\d_])(?:arc)?(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|log|ln|exp|mod)(?![^\W\d_])"
)
# "5 kg", not "5 US$".
_QUANTITY = re.compile(
    r"\d(?:[\d.,]*\d)?\s(?!(?:US|CA|AU|NZ|HK|SG|NT)D?)[A-Za-zµ]{1,4}"
    r"(?:[\^/]\S+|(?:[ /](?:k?g|[cmk]?m|m?s|mol|k?J|k?N|K|m?L|k?W|k?Pa)(?:\^-?\d)?)+)?"
)
_SENTENCE = re.compile(
    r"[.,;:!?)]\s|[，。；：、！？）」』】》”]"
)  # the rest of a sentence, as in "US$, 6 US$"
_GOES_ON = re.compile(r"\s[=+<>].*\S$")  # as in "100$ + 50$"
_VARIABLES = re.compile(
    r" (?=[^A-Za-z]*[A-Za-z])[^\w\s$]?(?:[A-Za-z](?![A-Za-z])|[\d\s()+*/.,'|-])* "
)
_NAMED = re.compile(r"(?:\\[A-Za-z]+\*?\s*|[_^])\{[^{}]*\}|\\[A-Za-z]+")
_CITATION = re.compile(r"\d+(?:\s?[,–-]\s?\d+)*")  # in escaped brackets
_WORDS = re.compile(r"\\text[a-z]*\s*\{[^{}]*\}")
_OTHER = re.compile(r"`|(?<!\\)\\[(\[]")  # code, or another formula
_WORD = re.compile(r"[^\W\d_]{2}")
_LONG_WORD = re.compile(r"[^\W\d_]{3}")
_PROSE = re.compile(r"[^\W\d_]{2,}[,;]? +[^\W\d_]{2,}")
_MARKUP = re.compile(r"\\[A-Za-z]|[\^_]")
_TEX = re.compile(r"\\[A-Za-z]|[\^_=]")


def _is_between_prices(content: str) -> bool:
    """Whether the content is words, as in "$$ is cheap, $$ is not"."""
    is_spaced = content[0] == " " and "\n" not in content
    return is_spaced and not _TEX.search(content) and _is_prose(_FUNCTIONS.sub("", content))


def _is_visible(sign: str) -> bool:
    return sign.isprintable() and not sign.isspace()


def is_between_dollars(content: str, after: str) -> bool:
    """Whether the content is a formula as in `$x$`, not words as in "$5 and $6"."""
    if after.isdigit() or not any(map(_is_visible, content)):
        return False
    if _OTHER.search(content) and _OTHER.search(_WORDS.sub("", content)):
        return False
    is_amount, ends_apart = content[0].isdigit(), content[-1].isspace()
    if not is_amount and not content[0].isspace() and not ends_apart:
        is_path = content[-1] in ":/" and after.isascii() and after.isalpha()  # $HOME/bin:$PATH
        return not is_path and not _SENTENCE.match(content)
    content = _FUNCTIONS.sub("", content)
    words = _NAMED.sub(" ", content)
    if not is_amount:
        is_text = _PROSE if _MARKUP.search(content) else _LONG_WORD
        is_beside = ends_apart and after.isascii() and after.isalnum()  # $a = $b
        if "\n" in content or is_beside or _GOES_ON.match(content) or is_text.search(words):
            return False
        is_apart = content[0] == content[-1] == " " and _VARIABLES.fullmatch(content)
        return bool(_TEX.search(content) or is_apart)
    if _QUANTITY.fullmatch(content):
        return True
    is_prose = re.search(r"\s", content) and _WORD.search(words) and not _TEX.search(content)
    return not (ends_apart or content[-1] in "([/=:;–—+-" or _MONEY.match(content) or is_prose)
