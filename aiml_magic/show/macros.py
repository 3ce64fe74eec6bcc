r"""TeX macros that a front end lacks, expanded to those that MathJax and KaTeX both have.

Macros that only colour, label or move are dropped; chemistry becomes mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from aiml_magic.show import chemistry, environments
from aiml_magic.show.arguments import arguments
from aiml_magic.text import rows_of

_OPERATORS = """
    arcosh arsinh artanh arccosh arcsinh arctanh arcoth arccoth sech csch arccot arcsec arccsc
    cosec cotan tg ctg cotg th cth arctg arcctg sh ch arsh arch arth sgn sign sinc erf erfc Li
    tr Tr rank rk diag grad curl rot Res res Var Cov Cor Corr Bias MSE KL Supp supp lcm ord Hom
    End Aut Inn Out Gal Spec Proj Sym Alt Ext Tor Stab Orb Fix Ann Frac Nil Rad Ind Syl GL SL PSL
    PGL SO SU Sp Mat Id id im Im Image coker Ker Null nul Col Row col row adj codim span Span
    proj conv cl Int vol Vol Area area dist diam Ric Lip softmax sigmoid ReLU relu logit
    polylog poly Bern Binom Poisson Unif Exp iid const ar cis
""".split()
_DROPPED = """
    allowbreak nobreak linebreak nolinebreak displaybreak smallskip medskip bigskip par centering
    noindent oldstyle mit
""".split()
_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma
    tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
""".split()
_BETWEEN = (
    "and or if then for when where with let given since thus else otherwise as unless by".split()
)
# Names, each followed by its replacement.
_WRITTEN = r"""
    bm \boldsymbol  bold \mathbf  mathds \mathbb  mathbbm \mathbb  symbf \mathbf  symbb \mathbb
    symcal \mathcal  symscr \mathscr  symfrak \mathfrak  symsf \mathsf  symrm \mathrm
    symit \mathit  mathbfit \boldsymbol  mathup \mathrm  mbox \text  hbox \text  textmd \text
    textsc \text  textsl \textit  emph \textit  scr \mathscr  medspace \:  thickspace \;
    enskip \enspace  hfill \quad  hfil \quad  dotfill \ldots  hrulefill \ldots  newline \\
    strut \mathstrut  footnotesize \scriptsize  Tiny \tiny  displaylimits \limits
    vcentcolon \mathrel{:}  defeq \mathrel{:=}  eqdef \mathrel{:=}  deq \mathrel{:=}  given \mid
    dag \dagger  ddag \ddagger  AA \mathring{\mathrm{A}}  ohm \Omega  micro \mu
    celsius {}^{\circ}\mathrm{C}  textcelsius {}^{\circ}\mathrm{C}  textdegree {}^{\circ}
    textmu \mu  textohm \Omega  perthousand ‰  textperthousand ‰  euro €  texteuro €  pounds £
    textsterling £  textyen ¥  textcent ¢  textdollar \$  mathdollar \$  dollar \$  copyright ©
    textcopyright ©  textregistered ®  texttrademark ™  textsection §  textparagraph ¶
    textbullet •  textendash –  textemdash —  textellipsis …  textquoteleft ‘  textquoteright ’
    textquotedblleft “  textquotedblright ”  textperiodcentered ·  textasteriskcentered *
    texttimes ×  textdiv ÷  textpm ±  textminus −  textrightarrow →  textleftarrow ←
    textonehalf ½  textunderscore \_  textasciitilde \sim  textasciicircum \wedge
    textbackslash \backslash  textbar \vert  textless \lt  textgreater \gt  textbraceleft \{
    textbraceright \}  qed \square  qedsymbol \square  QED \square  llbracket [\![
    rrbracket ]\!]  iddots ⋰  oiint ∯  oiiint ∰  lightning ↯  bigtimes \mathop{\times}
    idotsint \int\cdots\int  iiiint \iint\!\!\iint  hdots \ldots  mathellipsis \ldots
    indep \perp\!\!\!\perp  independent \perp\!\!\!\perp  eps \varepsilon  half \tfrac{1}{2}
    real \Re  imaginary \Im  cross \times  vdot \cdot  laplacian \nabla^{2}  divergence \nabla\cdot
    variation \delta  principalvalue \mathcal{P}  standardstate \ominus  underbar \underline
    nicefrac \tfrac  sfrac \tfrac  xfrac \tfrac  textfrac \tfrac  centernot \not  qc ,\quad
    operatornamewithlimits \operatorname*  argmax \operatorname*{arg\,max}
    argmin \operatorname*{arg\,min}  Argmax \operatorname*{Arg\,max}
    Argmin \operatorname*{Arg\,min}  esssup \operatorname*{ess\,sup}
    essinf \operatorname*{ess\,inf}  plim \operatorname*{plim}  colim \operatorname*{colim}
    Alpha \mathrm{A}  Beta \mathrm{B}  Epsilon \mathrm{E}  Zeta \mathrm{Z}  Eta \mathrm{H}
    Iota \mathrm{I}  Kappa \mathrm{K}  Mu \mathrm{M}  Nu \mathrm{N}  Omicron \mathrm{O}
    Rho \mathrm{P}  Tau \mathrm{T}  Chi \mathrm{X}  1 \mathbf{1}
"""
# Names, and for each form of their arguments the replacement.
_WRITTEN_WITH = r"""
    vcenter,ensuremath,llap,rlap,clap,mathllap,mathrlap,mathclap,cramped,mathmbox,hl,num {} {#1}
    overparen,wideparen,overarc,overgroup {} \overset{\frown}{#1}
    underparen {} \underset{\smile}{#1}
    utilde {} \underset{\sim}{#1}
    overlinesegment {} \overline{#1}
    longdiv {} \overline{)#1}
    textcolor {}{} {#2} []{}{} {#3}
    colorbox {}{} \text{#2}
    fcolorbox {}{}{} \fbox{#3}
    framebox {} \fbox{#1}
    raisebox {}{} \text{#2}
    bbox,smash []{} {#2} {} {#1}
    smashoperator []{} #2 {} #1
    mathbfcal {} \boldsymbol{\mathcal{#1}}
    slashed {} \not{#1}
    sout {} \cancel{\text{#1}}
    cancelto {}{} \cancel{#2}^{#1}
    flatfrac {}{} {#1}/{#2}
    sideset {}{}{} \mathop{{}#1{#3}#2}
    prescript {}{}{} {}^{#1}_{#2}{#3}
    overunderset {}{}{} \overset{#1}{\underset{#2}{#3}}
    underoverset {}{}{} \underset{#1}{\overset{#2}{#3}}
    matrix {} \begin{matrix}#1\end{matrix}
    cases {} \begin{cases}#1\end{cases}
    pmatrix,pmqty {} \begin{pmatrix}#1\end{pmatrix}
    bmqty {} \begin{bmatrix}#1\end{bmatrix}
    vmqty,mdet {} \begin{vmatrix}#1\end{vmatrix}
    eqalign {} \begin{aligned}#1\end{aligned}
    displaylines {} \begin{gathered}#1\end{gathered}
    abs {} \lvert#1\rvert
    norm {} \lVert#1\rVert
    pqty {} \left(#1\right)
    bqty {} \left[#1\right]
    Bqty {} \left\{#1\right\}
    ref {} \text{#1}
    eqref {} (\text{#1})
    cite {} [\text{#1}]
    textsuperscript {} ^{\text{#1}}
    textsubscript {} _{\text{#1}}
    ang {} {#1}^{\circ}
    order {} \mathcal{O}(#1)
    vb {} \mathbf{#1}
    va {} \vec{\mathbf{#1}}
    vu {} \hat{\mathbf{#1}}
    comm,commutator {}{} [#1,#2]
    acomm,anticommutator,pb,poissonbracket {}{} \{#1,#2\}
    ketbra,dyad,op,outerproduct {}{} \lvert#1\rangle\langle#2\rvert
    ip,innerproduct {}{} \langle#1\vert#2\rangle
    braket {}{} \langle#1\vert#2\rangle {} \langle#1\rangle
    expval,ev {}{} \langle#2\vert#1\vert#2\rangle {} \langle#1\rangle
    vev {} \langle#1\rangle
    mel,matrixel {}{}{} \langle#1\vert#2\vert#3\rangle
    fdv {}{} \frac{\delta#1}{\delta#2} {} \frac{\delta}{\delta#1}
"""
Template = str | Callable[..., str | None]
Forms = tuple[Template, ...]  # each form of the arguments, followed by its template


def _circled(text: str) -> str | None:
    number = int(text) if text.isdecimal() and len(text) < 3 else 0
    return chr(0x245F + number) if 0 < number <= 20 else None


def _character(code: str) -> str | None:
    """The character of `unicode`, if it is printable and outside ASCII."""
    if not re.fullmatch(r"[xX\d][\da-fA-F]{1,6}|0x[\da-fA-F]{2,6}", code):
        return None
    digits = code.lower().removeprefix("0")
    number = int(digits[1:], 16) if digits[0] == "x" else int(digits)
    is_visible = 0xA0 < number < 0x110000 and chr(number).isprintable()
    return chr(number) if is_visible else None


def _generalized_fraction(*given: str) -> str | None:
    left, right, line, style, above, below = given
    if line.strip("0. ptemx") not in ("", "1"):
        return None
    fraction = rf"\frac{{{above}}}{{{below}}}"
    if line.startswith("0"):
        fraction = rf"{{{above} \atop {below}}}"
    styles = {"": "", "0": r"\displaystyle ", "1": r"\textstyle ",
              "2": r"\scriptstyle ", "3": r"\scriptscriptstyle "}  # fmt: skip
    if style not in styles:
        return None
    if left or right:
        fraction = rf"\left{left or '.'}{fraction}\right{right or '.'}"
    return f"{{{styles[style]}{fraction}}}"


def _in_parentheses(inside: str, *given: str) -> str | None:
    return None if inside else _generalized_fraction("(", ")", *given)


def _spanning(count: str, _: str, content: str) -> str | None:
    """A cell that spans columns, followed by empty ones."""
    return content + "&" * (int(count) - 1) if count in map(str, range(1, 21)) else None


_ENCLOSURES = dict(re.findall(r"(\w+) (\S+)", r"""
    longdiv \overline{)%s}  box \boxed{%s}  circle \boxed{%s}  roundedbox \boxed{%s}
    updiagonalstrike \cancel{%s}  downdiagonalstrike \bcancel{%s}  horizontalstrike \xcancel{%s}
    top \overline{%s}  bottom \underline{%s}
"""))  # fmt: skip


def _enclosed(notation: str, content: str) -> str | None:
    template = _ENCLOSURES.get(notation.strip())
    return template % content.replace("%", "%%") if template else None


def _quantity(number: str, unit: str) -> str | None:
    written = chemistry.units(unit)
    return written and rf"{{{number}}}\,{written}"


def _range(first: str, last: str, unit: str) -> str | None:
    written = chemistry.units(unit)
    return written and rf"{{{first}}}\text{{–}}{{{last}}}\,{written}"


_DINGBATS = {"51": "✓", "52": "✔", "55": "✗", "56": "✘"}
_MACROS: dict[str, Forms] = {
    **{name: ("", written) for name, written in re.findall(r"(\w+) (\S+)", _WRITTEN)},
    **{
        name: tuple(forms)
        for names, *forms in rows_of(_WRITTEN_WITH)
        for name in names.split(",")
    },
    **{letter: ("", rf"\mathbb{{{letter}}}") for letter in "RNZQCEPFK"},
    **{"up" + name: ("", rf"\{name}") for name in _GREEK},
    **{"Up" + name.lower(): ("", rf"\{name}") for name in _GREEK if name[0].isupper()},
    **{"q" + word: ("", rf"\quad\text{{{word}}}\quad ") for word in _BETWEEN},
    **{name: ("", rf"\operatorname{{{name}}}") for name in _OPERATORS},
    **dict.fromkeys(_DROPPED, ("", "")),
    **dict.fromkeys("label vspace require leftroot uproot".split(), ("{}", "")),
    **dict.fromkeys("color cellcolor rowcolor columncolor".split(), ("{}", "", "[]{}", "")),
    **dict.fromkeys(["textcircled", "circled"], ("{}", _circled)),
    **dict.fromkeys(["eval", "evaluated"], ("{}", r"\left.#1\right\vert ")),
    **dict.fromkeys(["intertext", "shortintertext"], ("{}", r"\text{#1}\\ ")),
    **dict.fromkeys(["SIrange", "qtyrange"], ("{}{}{}", _range)),
    **dict.fromkeys(["unit", "si"], ("{}", chemistry.units)),
    "cline": ("{}", r"\hline "), "definecolor": ("{}{}{}", ""), "ding": ("{}", _DINGBATS.get),
    "genfrac": ("{}{}{}{}{}{}", _generalized_fraction, "(){}{}{}{}", _in_parentheses),
    "multicolumn": ("{}{}{}", _spanning), "enclose": ("{}{}", _enclosed),
    "unicode": ("{}", _character), "vqty": ("{}", r"\left\vert#1\right\vert "),
    "qty": ("{}{}", _quantity, "{}", r"\left\{#1\right\}", "()", r"\left(#1\right)",
            "[]", r"\left[#1\right]"),
    "mqty": ("{}", r"\begin{matrix}#1\end{matrix}", "()", r"\begin{pmatrix}#1\end{pmatrix}",
             "[]", r"\begin{bmatrix}#1\end{bmatrix}"),
    "dd": ("[]{}", r"\mathrm{d}^{#1}{#2}", "", r"\mathrm{d}"),
    "dv": ("[]{}{}", r"\frac{\mathrm{d}^{#1}#2}{\mathrm{d}#3^{#1}}",
           "{}{}", r"\frac{\mathrm{d}#1}{\mathrm{d}#2}", "{}", r"\frac{\mathrm{d}}{\mathrm{d}#1}"),
    "pdv": ("[]{}{}", r"\frac{\partial^{#1}#2}{\partial#3^{#1}}",
            "[]{}", r"\frac{\partial^{#1}}{\partial#2^{#1}}",
            "{}{}{}", r"\frac{\partial^{2}#1}{\partial#2\,\partial#3}",
            "{}{}", r"\frac{\partial#1}{\partial#2}", "{}", r"\frac{\partial}{\partial#1}"),
    "qq": ("{}", r"\quad\text{#1}\quad "),
    "SI": ("{}{}", _quantity, "[]{}{}", lambda _, *given: _quantity(*given)),
    "ce": ("{}", chemistry.reaction), "pu": ("{}", chemistry.quantity),
}  # fmt: skip
# The first argument of a macro that drops it: its allowed values.
_COLOUR, _BOX = re.compile(r"[\w#!.,-]{1,30}"), re.compile(r"[\w#!.,: -]{0,40}")
_DROPPED_FIRST = {("color", "{}"): _COLOUR, ("textcolor", "{}{}"): _COLOUR,
                  ("colorbox", "{}{}"): _COLOUR, ("bbox", "[]{}"): _BOX}  # fmt: skip
REWRITTEN = frozenset(
    [*_MACROS, *"begin hspace mspace hskip mskip kern mkern raise lower rule".split()]
)
_TOKEN = re.compile(r"\\(?:([A-Za-z]+|1)|.)", re.DOTALL)
_ENDS_IN_NAME = re.compile(r"\\[A-Za-z]+$")
_MAX_EXPANDED = 20_000  # characters
_LENGTH = r"(-?[\d.]{1,5})\s*(mu|pt|px|mm|ex|em|cm|in)"
_SPACE = re.compile(
    rf"\\(?:[hm]space\*?\s*\{{\s*{_LENGTH}\s*\}}|(?:[hm]skip|m?kern|raise|lower)\s*{_LENGTH})"
)
_RULE = re.compile(rf"\\rule\s*(?:\[[^\[\]]*\])?\s*\{{\s*{_LENGTH}\s*\}}\s*\{{\s*{_LENGTH}\s*\}}")
_EMS = {"mu": 1 / 18, "pt": 0.1, "px": 0.075, "mm": 0.28, "ex": 0.43, "em": 1, "cm": 2.8, "in": 7.2}
_MAX_SPACE, _MAX_HEIGHT = 10, 3  # ems; a larger space to the left would cover other text


def expanded(line: str) -> str:
    """The formula with the macros in `REWRITTEN` expanded, if their arguments can be read."""
    if "\\begin" in line:
        line = environments.rewritten(line)
    return expand(_RULE.sub(_rule, _SPACE.sub(_space, line)), _MACROS)


def expand(line: str, macros: Mapping[str, Forms]) -> str:
    """The formula with these macros expanded, the last one first; at most up to a length."""
    for match in reversed([*_TOKEN.finditer(line)]):
        if match[1] in macros and len(line) < _MAX_EXPANDED:
            written, end = _written(match[1], macros[match[1]], line, match.end())
            if written is not None:
                ends_in_name = _ENDS_IN_NAME.search(written) and line[end : end + 1].isalpha()
                line = f"{line[: match.start()]}{written}{' ' if ends_in_name else ''}{line[end:]}"
    return line


def _written(name: str, forms: Forms, line: str, start: int) -> tuple[str | None, int]:
    """The expansion of a macro whose arguments begin at `start`, and their end."""
    after = start + line.startswith("*", start) if forms[0] else start
    for form, template in zip(forms[::2], forms[1::2], strict=True):
        given, end = arguments(line, after, str(form), may_be_bare=len(forms) == 2)
        if given is None:
            continue
        if (one := _DROPPED_FIRST.get((name, str(form)))) and not one.fullmatch(given[0]):
            return None, start
        if not isinstance(template, str):
            return template(*given), end
        parts = re.split(r"#(\d)", template)
        for number in range(1, len(parts), 2):
            parts[number] = given[int(parts[number]) - 1]
            if parts[number][:1].isalpha() and _ENDS_IN_NAME.search(parts[number - 1]):
                parts[number - 1] += " "
        return "".join(parts), end
    return None, start


def _space(match: re.Match[str]) -> str:
    """A small space in ems, or none if it is negative or upwards; any other stays."""
    ems = _ems(match[1] or match[3], match[2] or match[4])
    if not -1 <= ems <= _MAX_SPACE:
        return match[0]
    is_space = ems > 0 and not match[0].startswith(("\\raise", "\\lower"))
    return rf"\hspace{{{round(ems, 2):g}em}}" if is_space else " "


def _rule(match: re.Match[str]) -> str:
    """A small rule in ems, or none if it is invisible; any other stays."""
    width, height = _ems(match[1], match[2]), _ems(match[3], match[4])
    if not (0 <= width <= _MAX_SPACE and 0 <= height <= _MAX_HEIGHT):
        return match[0]
    is_visible = width and height
    return rf"\rule{{{round(width, 2):g}em}}{{{round(height, 2):g}em}}" if is_visible else " "


def _ems(number: str, unit: str) -> float:
    try:
        return float(number) * _EMS[unit]
    except ValueError:
        return float("inf")
