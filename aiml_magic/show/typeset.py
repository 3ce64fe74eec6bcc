"""The formulas of a model that may be typeset, on one line.

Every command of a formula must be known to only set type: MathJax has others that fetch URLs or
cover the page.
"""

from __future__ import annotations

import re
from functools import lru_cache

from aiml_magic.show.arguments import closing_brace
from aiml_magic.show.environments import corrected
from aiml_magic.show.formulas import is_between_dollars
from aiml_magic.show.macros import REWRITTEN, expanded

# Letters; relations and operators; arrows; big operators and functions; structures; letters in
# another shape, space and dots; further ones that MathJax 3 and KaTeX both know.
_COMMANDS = frozenset("""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu
    nu xi omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma
    Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega aleph beth gimel ell hbar hslash imath
    jmath wp Re Im partial nabla infty emptyset varnothing complement digamma eth

    le leq leqslant ge geq geqslant ne neq lt gt ll gg lll ggg approx approxeq sim simeq cong equiv
    propto prec succ preceq succeq subset supset subseteq supseteq subsetneq supsetneq sqsubseteq
    sqsupseteq in notin ni mid nmid parallel nparallel perp vdash dashv models asymp doteq bowtie
    not times div pm mp cdot cdotp ast star circ bullet oplus ominus otimes oslash odot cup cap
    uplus sqcup sqcap vee wedge lor land lnot neg setminus wr amalg dagger ddagger diamond triangle
    triangleleft triangleright bigtriangleup bigtriangledown lhd rhd trianglelefteq trianglerighteq
    square Box blacksquare lozenge angle measuredangle therefore because forall exists nexists top
    bot prime backprime degree checkmark surd flat natural sharp clubsuit diamondsuit heartsuit
    spadesuit colon coloneqq triangleq lesssim gtrsim

    to gets leftarrow rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow
    longrightarrow longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow mapsto
    longmapsto uparrow downarrow updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow
    nwarrow hookleftarrow hookrightarrow leftharpoonup rightharpoonup rightleftharpoons leadsto
    implies impliedby iff xrightarrow xleftarrow

    sum prod coprod int iint iiint oint bigcup bigcap bigvee bigwedge bigoplus bigotimes bigsqcup
    limits nolimits lim limsup liminf varlimsup varliminf max min sup inf arg det dim ker deg gcd
    hom exp ln log lg sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth Pr mod bmod
    pmod operatorname

    frac dfrac tfrac cfrac sqrt root of binom dbinom tbinom choose over atop stackrel overset
    underset substack overline underline overbrace underbrace overrightarrow overleftarrow widehat
    widetilde hat check tilde acute grave dot ddot dddot breve bar vec mathring boxed cancel bcancel
    left right middle big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr biggr Biggr bigm Bigm lvert
    rvert lVert rVert vert Vert langle rangle lfloor rfloor lceil rceil lbrace rbrace lbrack rbrack
    ulcorner urcorner llcorner lrcorner backslash begin end hline cr nonumber notag tag displaystyle
    textstyle scriptstyle

    text textrm textbf textit texttt textsf mathrm mathbf mathit mathsf mathtt mathbb mathcal
    mathfrak mathscr mathnormal boldsymbol rm bf it sf tt cal quad qquad enspace thinspace phantom
    hphantom vphantom ldots cdots vdots ddots dots dotsc dotsb dotsm dotsi dotso

    varGamma varDelta varTheta varLambda varXi varPi varSigma varUpsilon varPhi varPsi varOmega
    daleth Finv Game Bbbk circledS circledR yen mho maltese diagup diagdown bigstar blacktriangle
    blacktriangledown blacktriangleleft blacktriangleright triangledown vartriangle vartriangleleft
    vartriangleright blacklozenge sphericalangle leqq geqq lneq gneq lneqq gneqq nleq ngeq nless
    ngtr nleqslant ngeqslant lessapprox gtrapprox lessgtr gtrless lesseqgtr gtreqless eqsim eqcirc
    circeq doteqdot fallingdotseq risingdotseq backsim backsimeq thicksim thickapprox bumpeq Bumpeq
    ncong nsim nprec nsucc npreceq nsucceq precsim succsim preccurlyeq succcurlyeq curlyeqprec
    curlyeqsucc precapprox succapprox nsubseteq nsupseteq subseteqq supseteqq subsetneqq supsetneqq
    varsubsetneq Subset Supset sqsubset sqsupset Cap Cup doublecap doublecup curlyvee curlywedge
    barwedge veebar doublebarwedge vDash Vdash Vvdash nvdash nvDash nVdash nVDash frown smile
    smallfrown smallsmile shortmid shortparallel nshortmid nshortparallel pitchfork between multimap
    varpropto ltimes rtimes leftthreetimes rightthreetimes boxplus boxminus boxtimes boxdot
    circledast circledcirc circleddash dotplus divideontimes intercal smallsetminus centerdot
    bigcirc bigodot biguplus unlhd unrhd Join owns And leftrightarrows rightleftarrows
    leftleftarrows rightrightarrows upuparrows downdownarrows twoheadrightarrow twoheadleftarrow
    rightarrowtail leftarrowtail looparrowleft looparrowright curvearrowleft curvearrowright
    circlearrowleft circlearrowright Lsh Rsh rightsquigarrow leftrightsquigarrow leftrightharpoons
    leftharpoondown rightharpoondown upharpoonleft upharpoonright downharpoonleft downharpoonright
    restriction nleftarrow nrightarrow nleftrightarrow nLeftarrow nRightarrow nLeftrightarrow
    Lleftarrow Rrightarrow dashrightarrow dashleftarrow injlim projlim varinjlim varprojlim smallint
    intop lgroup rgroup lmoustache rmoustache Diamond Doteq negthinspace negmedspace negthickspace
    nobreakspace space mathstrut eqcolon Coloneqq Colonapprox coloneq eqqcolon dblcolon
    ordinarycolon scriptscriptstyle ket bra Ket Bra braket Braket mathop mathrel mathbin mathord
    mathopen mathclose mathpunct mathinner Bbb fbox textup textnormal pmb overleftrightarrow
    underleftarrow underrightarrow underleftrightarrow xcancel pod Set set ddddot xLeftarrow
    xRightarrow xleftrightarrow xLeftrightarrow xmapsto xhookrightarrow xhookleftarrow
    xrightharpoonup xleftharpoonup xrightharpoondown xleftharpoondown xrightleftharpoons
    xleftrightharpoons xtwoheadrightarrow xtwoheadleftarrow frak overbracket underbracket brace
    brack hspace tiny small normalsize large Large LARGE huge Huge S xlongequal xtofrom scriptsize
    hdashline rule TeX LaTeX eqslantless eqslantgtr lessdot gtrdot llless gggtr lesseqqgtr
    gtreqqless backepsilon nleqq ngeqq lvertneqq gvertneqq lnsim gnsim lnapprox gnapprox precneqq
    succneqq precnsim succnsim precnapprox succnapprox ntriangleleft ntriangleright ntrianglelefteq
    ntrianglerighteq nsubseteqq nsupseteqq varsupsetneq varsubsetneqq varsupsetneqq Coloneq Eqqcolon
    Eqcolon colonapprox colonsim Colonsim
""".split())  # fmt: skip
_ENVIRONMENTS = frozenset("""
    equation align aligned alignat alignedat gather gathered multline split cases rcases array
    matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix dcases drcases subarray
""".split())  # fmt: skip
_ALLOWED = _COMMANDS | frozenset("\\,;:! {}|%#_&$")


@lru_cache(512)  # formulas recur in an answer, and each time that it is shown
def typeset(content: str, *, in_table: bool = False) -> str | None:
    """The formula on one line; `None` if a command in it may do more than set type."""
    if "%" in content:
        content = _without_comments(_PERCENT.sub(r"\%", content))
    line = " ".join(content.split())
    if _PLAIN.fullmatch(line):
        return line
    if "\\\\" in line:
        line = _ROW_BRACKET.sub(r"\\\\ {}[", _ROW_SPACE.sub(r"\\\\ ", line))
    if not REWRITTEN.isdisjoint(_COMMAND.findall(line)):
        line = expanded(line).strip()
    line = corrected(line.rstrip("\\ ")).replace("``", "“").replace("`", "‘")
    if ("{" in line or "}" in line) and not _is_balanced(_ESCAPE.sub("", line)):
        return None
    has_bars = in_table and "|" in line
    spelt = _spelt(line, _SPELLINGS | _SPELLINGS_IN_TABLE if has_bars else _SPELLINGS)
    if not spelt or (has_bars and "{array}" in line):  # where a bar may be a rule
        return None
    if not _ALLOWED.issuperset(_COMMAND.findall(spelt)) or not _is_known(spelt):
        return None
    if not spelt.isascii():
        spelt = _ONLY_IN_WORDS.sub(lambda match: match[1] or rf"\text{{{match[0]}}}", spelt)
    if "\\\\" in spelt:
        spelt = _ROW_BRACE.sub(r"\1 ", spelt)
    return spelt.replace("](", "] (").replace("![", "! [") + "{}" * spelt.endswith("\\$")


def _without_comments(content: str) -> str:
    """The formula without comments; a sign that would cut off a brace is a percent sign."""
    bare = _COMMENT.sub("", content)
    is_cut = bare.count("{") != bare.count("}") and content.count("{") == content.count("}")
    return _COMMENT.sub(lambda match: "\\" + match[0], content) if is_cut else bare


def _is_known(line: str) -> bool:
    """Whether environments and lengths are known, and no front end could end the formula early."""
    bare = _ESCAPE.sub("", line)
    if re.search(r"[`$<>]|@@|://|&#", bare) or re.search(r"\\\\\s*\[", line):
        return False
    if "\\begin" in line or "\\end" in line:
        environments = re.findall(r"\\(?:begin|end)\s*\{([^}]*)\}?", line)
        begins = len(re.findall(r"\\(?:begin|end)(?![A-Za-z])", line))
        if begins != len(environments) or not _ENVIRONMENTS.issuperset(
            name.rstrip("*") for name in environments
        ):
            return False
        if re.search(r"\\begin\{(?:sub)?array|\\begin\{alignat", _ARRAY.sub("", line)):
            return False
    return len(_BACK.findall(line)) <= _MAX_BACK and not _UNBOUNDED.search(_SPACE.sub("", line))


_PLAIN = re.compile(r"(?:[^\W_]|[ +=,.()/-]|_[^\W_](?!_))+", re.ASCII)
_PERCENT = re.compile(r"(?<=\d)%(?=\s*(?:$|[^\sA-Za-z]))")  # no comment begins after a number
_COMMENT = re.compile(r"(?<!\\)%.*")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_LENGTH = r"\[ ?-?[\d.]+ ?(?:pt|em|ex|mu|mm|cm|in|px) ?\]"  # after the end of a row
_ROW_SPACE = re.compile(rf"(?<!\\)\\\\ ?{_LENGTH} ?")
_ROW_BRACKET = re.compile(rf"(?<!\\)\\\\ (?!{_LENGTH})\[")
_SPACE = re.compile(
    r"\\(?:hspace\{(?:\d(?:\.\d{1,2})?|10)em|rule\{(?:\d(?:\.\d{1,2})?|10)em\}\{[0-3](?:\.\d{1,2})?em)\}"
)
_UNBOUNDED = re.compile(r"\\(?:hspace|rule)(?![A-Za-z])")
_ARRAY = re.compile(r"\\begin\{(?:(?:array|subarray)\}\{[lcr|: ]*|alignat(?:ed)?\*?\}\{\d)\}")
_ROW_BRACE = re.compile(r"(?<!\\)((?:\\\\)+)(?=[{}])")  # which JupyterLab takes for an escaped one
_BACK = re.compile(r"\\(?:!|neg[a-z]+space)")
_MAX_BACK = 20  # spaces to the left: more could cover other text
_SPELLINGS = {"<": r"\lt", ">": r"\gt", r"\>": r"\:", r"\/": "", r"\-": ""}
_SPELLINGS_IN_TABLE = {"|": r"\vert", r"\|": r"\Vert"}  # where a bar ends a cell
_SPELT = re.compile(r"[<>|$]|\\[(>/-]|\\(?:text[a-z]*|fbox)\s*\{[^{}]*[_^&#\\]")
# Currencies, phonetic letters, symbols of control characters: MathJax 3 fails at them in formulas.
_ONLY_IN_WORDS = re.compile(
    r"(\\text[a-z]*\s*\{[^{}]*\})|"
    "[\u0250-\u02af\u1a20-\u1aaf\u20a0-\u20ff\u2400-\u245f\u2de0-\u2dff\u2fe0-\u2fef\ua4a0-\ua4cf"
    "\ue000-\uf8ff\U0001d260-\U0001d35f\U0001d380-\U0001d3ff\U0001d800-\U0001deff\U0001fa00-\U0010ffff]+"
)
_WORDS = r"\\(?:text(?:rm|bf|it|tt|sf|up|normal)?|fbox)\s*\{"
_SIGN = re.compile(rf"\\\\|(?P<words>{_WORDS})|\\.|[<>|]")
_GROUPS = r"(?:\{(?:[^{}]|\{[^{}]*\})*\})*"
# The parts of words other than letters; commands of mathematics are written between words.
_IN_WORDS = re.compile(
    rf"\\\\|(?P<words>{_WORDS})|\$(?P<formula>(?:[^$\\]|\\.)+)\$|\\\((?P<other>.+?)\\\)"
    r"|\\(?:text(?:rm|bf|it|tt|sf|up|normal)|q?quad|enspace|thinspace|d?dagger|S)(?![A-Za-z])|\\[^A-Za-z]"
    r"|\\(?:rm|bf|it|sf|tt|tiny|scriptsize|small|normalsize|large|Large|LARGE|huge|Huge|hspace)(?![A-Za-z])"
    rf"|(?P<command>\\[A-Za-z]+{_GROUPS}(?:[_^](?:\{{[^{{}}]*\}}|\\?\w))*)"
    rf"|(?P<script>\^(?:\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|[\w+*-])|(?<![A-Za-z]{{3}})(?<=[A-Za-z)])_(?:\{{[^{{}}]*\}}|\d(?!\d)))"
    r"|(?P<sign>[<>|&#_$])|(?P<brace>\{)"
)


def _spelt(line: str, spellings: dict[str, str]) -> str | None:
    """A formula with these characters as commands; `None` if they are in words with braces."""
    if not _SPELT.search(line):
        return line
    text, end = "", 0
    while match := _SIGN.search(line, end):
        written, stop = spellings.get(match[0]), match.end()
        if match["words"]:
            stop = closing_brace(line, match.end()) + 1
            written = _spelt_words(match[0], line[match.end() : stop - 1], spellings)
            if written is None:
                return None
        elif written is not None:
            written += " "
        text += line[end : match.start()] + (match[0] if written is None else written)
        end = stop
    return (text + line[end:]).rstrip()


def _spelt_words(opening: str, words: str, spellings: dict[str, str]) -> str | None:
    """Words, and between them the formulas, signs and commands of mathematics that they hold."""
    text, end, has_braces, is_split = opening, 0, False, False
    while match := _IN_WORDS.search(words, end):
        text += words[end : match.start()]
        piece = _piece(match, words, spellings)
        if piece is None:
            return None
        written, is_between, end = piece
        if is_between:
            joint = "{}" if match["script"] else "{{{}}}"
            text += f"}}{joint.format(written)}{opening}"
        else:
            text += written
        is_split, has_braces = is_split or is_between, has_braces or bool(match["brace"])
    if is_split and has_braces:
        return None
    text += f"{words[end:]}}}"
    return f"{{{text}}}" if is_split else text


def _piece(
    match: re.Match[str], words: str, spellings: dict[str, str]
) -> tuple[str, bool, int] | None:
    """The replacement of a part of words, whether it stands between words, and its end."""
    stop = match.end()
    if match["words"]:
        stop = closing_brace(words, match.end())
        inside = words[match.end() : stop]
        if stop < 0 or (spelt := _spelt_words(match[0], inside, spellings)) is None:
            return None
        if spelt != f"{match[0]}{inside}}}" or match[0].startswith(r"\fbox"):
            return spelt, True, stop + 1
        is_only_text = match[0].startswith((r"\text{", r"\text {"))
        return inside if is_only_text else spelt, False, stop + 1
    if formula := match["formula"] or match["other"]:
        if match["formula"] and not is_between_dollars(formula, words[stop : stop + 1]):
            return r"\$", False, match.start() + 1
        spelt = _spelt(formula, spellings)
        return None if spelt is None else (spelt, True, stop)
    if match["sign"] and match[0] not in spellings:
        return match[0] if match[0] in "<>|" else "\\" + match[0], False, stop
    is_between = bool(match["command"] or match["script"] or match["sign"])
    return spellings.get(match[0], match[0]), is_between, stop


def _is_balanced(bare: str) -> bool:
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        if not 0 <= depth <= 40:
            return False
    return depth == 0
