"""Formulas of a model: where one begins and ends in Markdown, and which are shown typeset.

A formula passes if every command in it only sets type: MathJax also fetches and covers the page. It
is written on one line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline

_COMMANDS = frozenset(
    # letters
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda "
    "mu nu xi omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega aleph beth gimel ell hbar hslash "
    "imath jmath wp Re Im partial nabla infty emptyset varnothing complement digamma eth "
    # relations and operators
    "le leq leqslant ge geq geqslant ne neq lt gt ll gg lll ggg approx approxeq sim simeq cong "
    "equiv propto prec succ preceq succeq subset supset subseteq supseteq subsetneq supsetneq "
    "sqsubseteq sqsupseteq in notin ni mid nmid parallel nparallel perp vdash dashv models asymp "
    "doteq bowtie not times div pm mp cdot cdotp ast star circ bullet oplus ominus otimes oslash "
    "odot cup cap uplus sqcup sqcap vee wedge lor land lnot neg setminus wr amalg dagger ddagger "
    "diamond triangle triangleleft triangleright bigtriangleup bigtriangledown lhd rhd "
    "trianglelefteq trianglerighteq square Box blacksquare lozenge angle measuredangle therefore "
    "because forall exists nexists top bot prime backprime degree checkmark surd flat natural "
    "sharp clubsuit diamondsuit heartsuit spadesuit colon coloneqq vcentcolon triangleq lesssim "
    "gtrsim "
    # arrows
    "to gets leftarrow rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow "
    "longleftarrow longrightarrow longleftrightarrow Longleftarrow Longrightarrow "
    "Longleftrightarrow mapsto longmapsto uparrow downarrow updownarrow Uparrow Downarrow "
    "Updownarrow nearrow searrow swarrow nwarrow hookleftarrow hookrightarrow leftharpoonup "
    "rightharpoonup rightleftharpoons leadsto implies impliedby iff xrightarrow xleftarrow "
    # big operators and functions
    "sum prod coprod int iint iiint oint bigcup bigcap bigvee bigwedge bigoplus bigotimes "
    "bigsqcup limits nolimits lim limsup liminf varlimsup varliminf max min sup inf arg det dim "
    "ker deg gcd hom exp ln log lg sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh "
    "coth Pr mod bmod pmod operatorname argmax argmin "
    # structures
    "frac dfrac tfrac cfrac sqrt root of binom dbinom tbinom choose over atop stackrel overset "
    "underset substack overline underline overbrace underbrace overrightarrow overleftarrow "
    "widehat widetilde hat check tilde acute grave dot ddot dddot breve bar vec mathring boxed "
    "cancel bcancel left right middle big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr biggr "
    "Biggr bigm Bigm lvert rvert lVert rVert vert Vert langle rangle lfloor rfloor lceil rceil "
    "lbrace rbrace lbrack rbrack ulcorner urcorner llcorner lrcorner backslash begin end hline cr "
    "nonumber notag tag displaystyle textstyle scriptstyle "
    # letters in another shape, space, dots
    "text textrm textbf textit texttt textsf mathrm mathbf mathit mathsf mathtt mathbb mathcal "
    "mathfrak mathscr mathnormal boldsymbol rm bf it sf tt cal quad qquad enspace thinspace "
    "phantom hphantom vphantom ldots cdots vdots ddots dots dotsc dotsb dotsm dotsi dotso "
    # further signs, arrows, accents and shapes that MathJax 3 and KaTeX both know
    "varGamma varDelta varTheta varLambda varXi varPi varSigma varUpsilon varPhi varPsi "
    "varOmega daleth Finv Game Bbbk circledS circledR yen mho maltese diagup diagdown bigstar "
    "blacktriangle blacktriangledown blacktriangleleft blacktriangleright triangledown "
    "vartriangle vartriangleleft vartriangleright blacklozenge sphericalangle leqq geqq lneq "
    "gneq lneqq gneqq nleq ngeq nless ngtr nleqslant ngeqslant lessapprox gtrapprox lessgtr "
    "gtrless lesseqgtr gtreqless eqsim eqcirc circeq doteqdot fallingdotseq risingdotseq "
    "backsim backsimeq thicksim thickapprox bumpeq Bumpeq ncong nsim nprec nsucc npreceq "
    "nsucceq precsim succsim preccurlyeq succcurlyeq curlyeqprec curlyeqsucc precapprox "
    "succapprox nsubseteq nsupseteq subseteqq supseteqq subsetneqq supsetneqq varsubsetneq "
    "Subset Supset sqsubset sqsupset Cap Cup doublecap doublecup curlyvee curlywedge barwedge "
    "veebar doublebarwedge vDash Vdash Vvdash nvdash nvDash nVdash nVDash frown smile "
    "smallfrown smallsmile shortmid shortparallel nshortmid nshortparallel pitchfork between "
    "multimap varpropto ltimes rtimes leftthreetimes rightthreetimes boxplus boxminus boxtimes "
    "boxdot circledast circledcirc circleddash dotplus divideontimes intercal smallsetminus "
    "centerdot bigcirc bigodot biguplus unlhd unrhd Join owns And leftrightarrows "
    "rightleftarrows leftleftarrows rightrightarrows upuparrows downdownarrows "
    "twoheadrightarrow twoheadleftarrow rightarrowtail leftarrowtail looparrowleft "
    "looparrowright curvearrowleft curvearrowright circlearrowleft circlearrowright Lsh Rsh "
    "rightsquigarrow leftrightsquigarrow leftrightharpoons leftharpoondown rightharpoondown "
    "upharpoonleft upharpoonright downharpoonleft downharpoonright restriction nleftarrow "
    "nrightarrow nleftrightarrow nLeftarrow nRightarrow nLeftrightarrow Lleftarrow Rrightarrow "
    "dashrightarrow dashleftarrow injlim projlim varinjlim varprojlim smallint intop lgroup "
    "rgroup lmoustache rmoustache Diamond Doteq negthinspace negmedspace negthickspace "
    "nobreakspace space mathstrut eqcolon Coloneqq Colonapprox coloneq eqqcolon dblcolon "
    "ordinarycolon scriptscriptstyle ket bra Ket Bra braket Braket mathop mathrel mathbin "
    "mathord mathopen mathclose mathpunct mathinner Bbb fbox textup textnormal pmb "
    "overleftrightarrow underleftarrow underrightarrow underleftrightarrow xcancel pod Set set "
    "ddddot xLeftarrow xRightarrow xleftrightarrow xLeftrightarrow xmapsto xhookrightarrow "
    "xhookleftarrow xrightharpoonup xleftharpoonup xrightharpoondown xleftharpoondown "
    "xrightleftharpoons xleftrightharpoons xtwoheadrightarrow xtwoheadleftarrow frak "
    "overbracket underbracket brace brack hspace".split()
)
_ENVIRONMENTS = frozenset(
    "equation align aligned alignat alignedat gather gathered multline split cases rcases array "
    "matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix".split()
)
# By what opens a formula; the content of a bare environment holds its marks itself.
CLOSERS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$", "": ""}
_MAX_FORMULA, _MAX_LINES = 4000, 100  # characters, and lines of a formula that begins a line


def read_formulas(parser: MarkdownIt) -> None:
    """Adds formulas to the parser: tokens `formula`, `formula_block`, with their opening marks."""
    parser.inline.ruler.before("escape", "formula", _inline_formula)
    parser.core.ruler.before("block", "bars", _bars)
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.block.ruler.before(
        "fence", "formula", _display_formula, {"alt": ["paragraph", "list", "blockquote"]}
    )


def _inline_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # markdown-it calls it so
    found = _formula(state.src, state.pos, state.posMax)
    if found is None:
        return False
    opener, content, end = found
    if opener == "$" and not _is_between_dollars(content, state.src[end : end + 1]):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = content, opener
    state.pos = end
    return True


def _display_formula(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001
    """A formula of whole lines, which would else be read as lists and headings."""
    begin = state.bMarks[first] + state.tShift[first]
    starts = state.src.startswith(("$$", "\\[", "\\begin{"), begin)
    if not starts or _formula(state.src, begin, state.eMarks[last - 1]) is None:
        return False
    lines = list(_lines(state, first, last))
    source = "\n".join(lines)
    found = _formula(source, 0, len(source))
    if found is None:
        return False
    opener, content, end = found
    if source[end:].partition("\n")[0].strip():
        return False
    count = source.count("\n", 0, end) + 1
    if silent and _is_lazy(state, first) and not any(map(_BLOCK.match, lines[1:count])):
        return False
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content, token.markup = content, opener
        token.map = [first, first + count]
        state.line = first + count
    return True


def _bars(state: StateCore) -> None:
    """Notes the source for tables: bars of formulas are another sign in rows of too many."""
    state.env["tables"] = state.src
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
            lines[number] = _IN_DOLLARS.sub(_without_bars, line)
    state.env["tables"] = "\n".join(lines)


def _count_cells(line: str) -> int:
    return len(_BAR.findall(_EDGES.sub("", line))) + 1


def _without_bars(formula: re.Match[str]) -> str:
    content = formula[0].strip("$")
    is_code = formula[0].startswith("`")
    is_formula = not is_code and (formula[0][0] != "$" or _is_between_dollars(content, ""))
    return _BAR.sub(_HIDDEN_BAR, formula[0]) if is_formula else formula[0]


def _table(state: StateBlock, first: int, last: int, silent: bool) -> bool:  # noqa: FBT001
    """As the library's table, but a bar of a formula ends no cell."""
    from markdown_it.rules_block import table

    source, count = state.src, len(state.tokens)
    state.src = state.env["tables"]
    is_table = table(state, first, last, silent)
    state.src = source
    for token in state.tokens[count:]:
        token.content = token.content.replace(_HIDDEN_BAR, "|")
    return is_table


_HIDDEN_BAR = "\ufdd0"  # no character, which stands in no text
_BAR = re.compile(r"(?<!\\)\|")
_EDGES = re.compile(r"^[\s>]*\||(?<!\\)\|\s*$")
_RULE = re.compile(r"[\s>]*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_IN_DOLLARS = re.compile(r"(\$\$?)(?:[^$\\]|\\.)+?\1(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]|`+[^`]*`+")


def _lines(state: StateBlock, first: int, last: int) -> Iterator[str]:
    """The lines that a formula may have, without the marks of the quotes and lists around."""
    for line in range(first, min(first + _MAX_LINES, last)):
        is_outside = line > first and state.sCount[line] < min(state.blkIndent, state.sCount[first])
        if is_outside or state.isEmpty(line):
            return
        yield state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _is_lazy(state: StateBlock, line: int) -> bool:
    """The line continues the paragraph of a list item, though it is not indented as the item is."""
    return state.sCount[line] < state.blkIndent


def _formula(source: str, start: int, stop: int) -> tuple[str, str, int] | None:
    """What opens the formula that begins here, its content, and where it ends."""
    environment = _BEGIN.match(source, start, stop)
    opener = _OPENER.match(source, start, stop)
    mark = "" if environment else opener and opener[0]
    if mark is None:
        return None
    closer = f"\\end{{{environment[1]}}}" if environment else CLOSERS[mark]
    end = _end_of_formula(source, start + len(mark), stop, closer)
    if end < 0:
        return None
    after = end + len(closer)
    return mark, source[start:after] if environment else source[start + len(mark) : end], after


def _end_of_formula(source: str, start: int, stop: int, closer: str) -> int:
    window = source[start : min(start + _MAX_FORMULA, stop)]
    for found in re.finditer(re.escape(closer), window):
        content = window[: found.start()]
        backslashes = len(content) - len(content.rstrip("\\"))
        if closer.startswith("$") and backslashes % 2:
            continue
        return start + found.start() if content.strip() and "\n\n" not in content else -1
    return -1


_OPENER = re.compile(r"\$\$?|\\[(\[]")
_BEGIN = re.compile(r"\\begin\{([A-Za-z]+\*?)\}")
_BLOCK = re.compile(r"[-+*#>=]|\d+[.)]\s")  # what could begin a block of another kind
_AMOUNT = re.compile(r"\d[\d.,]*")
_MONEY = re.compile(r"\d[\d.,]*(?:\s+[^\W\d_]{2}|[.,]?\s*[^\x00-\u024f])")
_NAMED = re.compile(r"\\(?:text\w*|mathrm|operatorname)\*?\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2}")
_TEX = re.compile(r"\\[A-Za-z]|[\^_=]")


def _is_between_dollars(content: str, after: str) -> bool:
    """`$x$`, not the money in "$5 and $6": an amount, and more words than mathematics."""
    if after.isdigit() or not re.search(r"[\x21-\x7e]|[^\W_]", content):
        return False
    has_tex, has_word = _TEX.search(content), _WORD.search(_NAMED.sub(" ", content))
    if content[0].isspace() or content[-1].isspace():
        return "\n" not in content and has_tex is not None and has_word is None
    if _AMOUNT.match(content) is None:
        return True
    has_space = re.search(r"\s", content)
    return not (_MONEY.match(content) or (has_space and has_word and not has_tex))


def typeset(content: str, *, in_table: bool = False) -> str | None:
    """The formula on one line; `None` if a command in it may do more than set type."""
    line = " ".join(re.sub(r"(?<!\\)%.*", "", content).split())
    line = _ROW_SPACE.sub(r"\\\\ ", line)
    line = _SYNONYM.sub(lambda found: "\\" + _SYNONYMS[found[1]], line)
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
    if "\\hspace" in _SPACE.sub("", spelt):
        return None
    if re.search(r"\\\\\s*\[|[`$@<>]|://|&#|\\$", spelt) or not _is_balanced(spelt):
        return None
    return spelt.replace("](", "] (").replace("![", "! [")


_ROW_SPACE = re.compile(r"(?<!\\)\\\\ ?\[ ?-?[\d.]+ ?(?:pt|em|ex|mu|mm|cm|in|px) ?\] ?")
_SPACE = re.compile(r"\\hspace\*?\s*\{\s*\d{1,2}(?:\.\d{1,2})?\s*(?:pt|px|mu|mm|ex|em)\s*\}")
_SYNONYMS = {
    "bm": "boldsymbol", "bold": "mathbf", "mathds": "mathbb", "mathbbm": "mathbb",
    "mbox": "text", "textmd": "text", "medspace": ":", "thickspace": ";",
}  # fmt: skip
_SYNONYM = re.compile(rf"(?<!\\)\\({'|'.join(_SYNONYMS)})(?![A-Za-z])")
_SPELLINGS = {"<": r"\lt", ">": r"\gt"}
_SPELLINGS_IN_TABLE = {"|": r"\vert", r"\|": r"\Vert"}  # where a bar ends a cell
_WORDS = re.compile(r"(?<!\\)(\\(?:text(?:rm|bf|it|tt|sf|up|normal)?|fbox)\s*\{)([^{}]*)\}")
_DEEP_WORDS = re.compile(_WORDS.pattern.removesuffix(r"\}") + r"\{|\\tag\*?\s*\{[^{}]*[<>|]")


def _spelt(line: str, spellings: dict[str, str]) -> str | None:
    """A formula with these signs as commands; `None` where a word around them cannot be ended."""

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
