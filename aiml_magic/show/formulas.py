"""Formulas of a model: where one begins and ends in Markdown, and which are shown typeset.

A formula passes if every command in it only sets type: MathJax also fetches and covers the page. It
is written on one line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

_COMMANDS = frozenset(
    # letters
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi omicron pi varpi rho "
    "varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
    "aleph beth gimel ell hbar hslash imath jmath wp Re Im partial nabla infty emptyset varnothing complement digamma eth "
    # relations and operators
    "le leq leqslant ge geq geqslant ne neq lt gt ll gg lll ggg approx approxeq sim simeq cong equiv propto prec succ preceq "
    "succeq subset supset subseteq supseteq subsetneq supsetneq sqsubseteq sqsupseteq in notin ni mid nmid parallel nparallel "
    "perp vdash dashv models asymp doteq bowtie not times div pm mp cdot cdotp ast star circ bullet oplus ominus otimes oslash "
    "odot cup cap uplus sqcup sqcap vee wedge lor land lnot neg setminus wr amalg dagger ddagger diamond triangle triangleleft "
    "triangleright bigtriangleup bigtriangledown lhd rhd trianglelefteq trianglerighteq square Box blacksquare lozenge angle "
    "measuredangle therefore because forall exists nexists top bot prime backprime degree checkmark surd flat natural sharp "
    "clubsuit diamondsuit heartsuit spadesuit colon coloneqq vcentcolon triangleq lesssim gtrsim "
    # arrows
    "to gets leftarrow rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow longrightarrow "
    "longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow mapsto longmapsto uparrow downarrow updownarrow "
    "Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow hookleftarrow hookrightarrow leftharpoonup "
    "rightharpoonup rightleftharpoons leadsto implies impliedby iff xrightarrow xleftarrow "
    # big operators and functions
    "sum prod coprod int iint iiint oint bigcup bigcap bigvee bigwedge bigoplus bigotimes bigsqcup limits nolimits lim limsup "
    "liminf varlimsup varliminf max min sup inf arg det dim ker deg gcd hom exp ln log lg sin cos tan cot sec csc arcsin arccos "
    "arctan sinh cosh tanh coth Pr mod bmod pmod operatorname argmax argmin "
    # structures
    "frac dfrac tfrac cfrac sqrt root of binom dbinom tbinom choose over atop stackrel overset underset substack overline "
    "underline overbrace underbrace overrightarrow overleftarrow widehat widetilde hat check tilde acute grave dot ddot dddot "
    "breve bar vec mathring boxed cancel bcancel left right middle big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr biggr Biggr "
    "bigm Bigm lvert rvert lVert rVert vert Vert langle rangle lfloor rfloor lceil rceil lbrace rbrace lbrack rbrack "
    "ulcorner urcorner llcorner lrcorner backslash begin end hline cr nonumber notag tag displaystyle textstyle scriptstyle "
    # letters in another shape, space, dots
    "text textrm textbf textit texttt textsf mathrm mathbf mathit mathsf mathtt mathbb mathcal mathfrak mathscr mathnormal "
    "boldsymbol bm rm bf it sf tt cal quad qquad enspace thinspace phantom hphantom vphantom ldots cdots vdots ddots dots "
    "dotsc dotsb dotsm dotsi dotso".split()
)
_ENVIRONMENTS = frozenset(
    "equation align aligned alignat alignedat gather gathered multline split cases rcases array matrix pmatrix bmatrix Bmatrix "
    "vmatrix Vmatrix smallmatrix".split()
)
CLOSERS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}  # by what opens a formula
_MAX_FORMULA = 4000  # characters


def read_formulas(parser: MarkdownIt) -> None:
    """Has the parser know formulas: tokens of the types `formula` and `formula_block`, whose markup is what opens them."""
    parser.inline.ruler.before("escape", "formula", _inline_formula)
    parser.block.ruler.before(
        "fence", "formula", _display_formula, {"alt": ["paragraph", "list", "blockquote"]}
    )


def _inline_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # markdown-it calls it so
    opener = next((mark for mark in CLOSERS if state.src.startswith(mark, state.pos)), None)
    if opener is None:
        return False
    start = state.pos + len(opener)
    end = _end_of_formula(state.src, start, state.posMax, CLOSERS[opener])
    if end < 0 or (opener == "$" and not _is_between_dollars(state.src, start, end)):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = state.src[start:end], opener
    state.pos = end + len(CLOSERS[opener])
    return True


def _display_formula(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001
    """A formula that begins a line and may go on over many, which would else be read as lists and headings."""
    begin = state.bMarks[first] + state.tShift[first]
    opener = state.src[begin : begin + 2]
    if opener not in ("$$", "\\["):
        return False
    end = _end_of_formula(state.src, begin + 2, state.eMarks[last - 1], CLOSERS[opener])
    after = next((line for line in range(first, last) if state.eMarks[line] >= end + 2), last)
    if end < 0 or after >= last or state.src[end + 2 : state.eMarks[after]].strip():
        return False
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content, token.markup = state.src[begin + 2 : end], opener
        token.map = [first, after + 1]
        state.line = after + 1
    return True


def _end_of_formula(source: str, start: int, stop: int, closer: str) -> int:
    window = source[start : min(start + _MAX_FORMULA, stop)]
    for found in re.finditer(re.escape(closer), window):
        content = window[: found.start()]
        backslashes = len(content) - len(content.rstrip("\\"))
        if closer.startswith("$") and backslashes % 2:
            continue
        return start + found.start() if content.strip() and "\n\n" not in content else -1
    return -1


def _is_between_dollars(source: str, start: int, end: int) -> bool:
    """`$x$`, not the money in "$5 and $6": no space inside the dollars, no digit behind them, no amount before a space."""
    content = source[start:end]
    if content[0].isspace() or content[-1].isspace() or source[end + 1 : end + 2].isdigit():
        return False
    return re.match(r"\d[\d.,]*\s", content) is None


def typeset(content: str, *, in_table: bool = False) -> str | None:
    """The formula on one line, or `None` if it holds anything that does more than set type, or cannot be written here."""
    line = " ".join(re.sub(r"(?<!\\)%.*", "", content).split())
    line = _ROW_SPACE.sub(r"\\\\ ", line)
    has_bars = in_table and "|" in line
    spelt = _spelt(line, _SPELLINGS | _SPELLINGS_IN_TABLE if has_bars else _SPELLINGS)
    if spelt is None or (has_bars and "{array}" in line):  # where a bar may be a rule
        return None
    is_known = all(
        name in _COMMANDS if name.isalpha() else name in "\\,;:! {}|%#_&"
        for name in re.findall(r"\\([A-Za-z]+|.)", spelt, re.DOTALL)
    )
    environments = re.findall(r"\\(?:begin|end)\s*\{([^}]*)\}?", spelt)
    begins = len(re.findall(r"\\(?:begin|end)(?![A-Za-z])", spelt))
    if (
        not is_known
        or begins != len(environments)
        or {name.rstrip("*") for name in environments} - _ENVIRONMENTS
    ):
        return None
    if re.search(r"\\\\\s*\[|[`$@<>]|://|&#|\\$", spelt) or not _is_balanced(spelt):
        return None
    return spelt.replace("](", "] (").replace("![", "! [")


_ROW_SPACE = re.compile(r"(?<!\\)\\\\ ?\[ ?-?[\d.]+ ?(?:pt|em|ex|mu|mm|cm|in|px) ?\] ?")
_SPELLINGS = {"<": r"\lt", ">": r"\gt"}
_SPELLINGS_IN_TABLE = {"|": r"\vert", r"\|": r"\Vert"}  # where a bar ends a cell
_WORDS = re.compile(r"(?<!\\)(\\text(?:rm|bf|it|tt|sf)?\s*\{)([^{}]*)\}")
_DEEP_WORDS = re.compile(_WORDS.pattern.removesuffix(r"\}") + r"\{|\\tag\*?\s*\{[^{}]*[<>|]")


def _spelt(line: str, spellings: dict[str, str]) -> str | None:
    """A formula with these signs as commands, which end words and begin them anew; `None` if they cannot be ended."""

    def spell(text: str, before: str = "", after: str = " ") -> str:
        return re.sub(
            r"\\.|[<>|]",
            lambda sign: f"{before}{name}{after}" if (name := spellings.get(sign[0])) else sign[0],
            text,
        )

    def spell_in_words(words: re.Match[str]) -> str:
        spelt = spell(words[2], before="}{", after="}" + words[1])
        return words[0] if spelt == words[2] else f"{{{words[1]}{spelt}}}}}"

    if spell(line) == line:
        return line
    return None if _DEEP_WORDS.search(line) else spell(_WORDS.sub(spell_in_words, line)).rstrip()


def _is_balanced(line: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", line.replace("\\\\", "  ")):
        depth += 1 if brace == "{" else -1
        if not 0 <= depth <= 40:
            return False
    return depth == 0
