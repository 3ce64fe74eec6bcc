"""TeX macros that a front end lacks, expanded to those that MathJax and KaTeX both have.

Macros that only colour, label or move are dropped; chemistry becomes mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from aiml_magic.show import chemistry

_OPERATORS = (
    "arcosh arsinh artanh sech csch arccot arcsec arccsc sgn sign tr Tr rank diag grad curl erf "
    "erfc Var Cov Span supp lcm ord Hom End Aut Gal Res Id id sinc"
).split()
_LIMITS = {"argmax": r"arg\,max", "argmin": r"arg\,min", "esssup": r"ess\,sup",
           "essinf": r"ess\,inf", "plim": "plim"}  # fmt: skip
_BREAKS = (
    "allowbreak nobreak linebreak nolinebreak displaybreak smallskip medskip bigskip par centering"
).split()
_LETTERS = dict(zip("Alpha Beta Epsilon Zeta Eta Iota Kappa Mu Nu Omicron Rho Tau Chi".split(),
                    "A B E Z H I K M N O P T X".split(), strict=True))  # fmt: skip
# How many arguments they take, and what is written instead.
_MACROS: dict[str, tuple[int, str | Callable[[str], str | None]]] = {
    "bm": (0, r"\boldsymbol"), "bold": (0, r"\mathbf"), "mathds": (0, r"\mathbb"),
    "mathbbm": (0, r"\mathbb"), "symbf": (0, r"\mathbf"), "mathup": (0, r"\mathrm"),
    "mathbfit": (0, r"\boldsymbol"), "mbox": (0, r"\text"), "hbox": (0, r"\text"),
    "textmd": (0, r"\text"), "textsc": (0, r"\text"), "textsl": (0, r"\textit"),
    "emph": (0, r"\textit"), "medspace": (0, r"\:"), "thickspace": (0, r"\;"),
    "vcentcolon": (0, r"\mathrel{:}"), "dag": (0, r"\dagger"), "ddag": (0, r"\ddagger"),
    "dd": (0, r"\mathrm{d}"), "AA": (0, r"\mathring{\mathrm{A}}"), "ohm": (0, r"\Omega"),
    "micro": (0, r"\mu"), "celsius": (0, r"{}^{\circ}\mathrm{C}"), "perthousand": (0, "‰"),
    "textdegree": (0, r"{}^{\circ}"), "euro": (0, "€"), "pounds": (0, "£"),
    "textdollar": (0, r"\$"), "mathdollar": (0, r"\$"), "dollar": (0, r"\$"),
    "qed": (0, r"\square"), "qedsymbol": (0, r"\square"), "QED": (0, r"\square"),
    "llbracket": (0, r"[\!["), "rrbracket": (0, r"]\!]"), "iddots": (0, "⋰"), "oiint": (0, "∯"),
    "idotsint": (0, r"\int\cdots\int"), "indep": (0, r"\perp\!\!\!\perp"),
    "displaylimits": (0, r"\limits"), "strut": (0, r"\mathstrut"), "newline": (0, r"\\"),
    "underbar": (0, r"\underline"), "nicefrac": (0, r"\tfrac"), "sfrac": (0, r"\tfrac"),
    "hfill": (0, r"\quad"), "noindent": (0, ""), "label": (1, ""), "color": (1, ""),
    "textcolor": (2, "{#2}"), "colorbox": (2, r"\text{#2}"), "smash": (1, "{#1}"),
    "abs": (1, r"\lvert #1\rvert"), "norm": (1, r"\lVert #1\rVert"), "ref": (1, r"\text{#1}"),
    "eqref": (1, r"(\text{#1})"), "textsuperscript": (1, r"^{\text{#1}}"),
    "textsubscript": (1, r"_{\text{#1}}"),
    "cancelto": (2, r"\cancel{#2}^{#1}"), "prescript": (3, "{}^{#1}_{#2}{#3}"),
    "dv": (2, r"\frac{\mathrm{d}#1}{\mathrm{d}#2}"), "vb": (1, r"\mathbf{#1}"),
    "pdv": (2, r"\frac{\partial #1}{\partial #2}"), "order": (1, r"\mathcal{O}(#1)"),
    "ketbra": (2, r"\lvert #1\rangle\langle #2\rvert"), "expval": (1, r"\langle #1\rangle"),
    "innerproduct": (2, r"\langle #1\vert #2\rangle"), "num": (1, "{#1}"),
    "ang": (1, r"{#1}^{\circ}"), "unit": (1, r"\mathrm{#1}"), "si": (1, r"\mathrm{#1}"),
    "SI": (2, r"{#1}\,\mathrm{#2}"), "qty": (2, r"{#1}\,\mathrm{#2}"), "vspace": (1, ""),
    "overparen": (1, r"\overset{\frown}{#1}"), "wideparen": (1, r"\overset{\frown}{#1}"),
    "overarc": (1, r"\overset{\frown}{#1}"), "utilde": (1, r"\underset{\sim}{#1}"),
    "intertext": (1, r"\text{#1}\\ "), "shortintertext": (1, r"\text{#1}\\ "),
    "ensuremath": (1, "{#1}"), "vcenter": (1, "{#1}"), "raisebox": (2, r"\text{#2}"),
    "scr": (0, r"\mathscr"), "enskip": (0, r"\enspace"), "hdots": (0, r"\ldots"),
    "mathellipsis": (0, r"\ldots"), "iiiint": (0, r"\iint\!\!\iint"), "copyright": (0, "©"),
    "texteuro": (0, "€"), "textmu": (0, r"\mu"), "textasciitilde": (0, r"\sim"),
    "textbackslash": (0, r"\backslash"), "textbar": (0, r"\vert"), "textless": (0, r"\lt"),
    "textgreater": (0, r"\gt"),
    "ce": (1, chemistry.reaction), "pu": (1, chemistry.quantity),
    **{letter: (0, rf"\mathbb{{{letter}}}") for letter in "RNZQCEP"},
    **dict.fromkeys(_BREAKS, (0, "")),
    **{name: (0, rf"\operatorname{{{name}}}") for name in _OPERATORS},
    **{name: (0, rf"\operatorname*{{{written}}}") for name, written in _LIMITS.items()},
    **{name: (0, rf"\mathrm{{{letter}}}") for name, letter in _LETTERS.items()},
}  # fmt: skip
_COLOURED, _COLOUR = ("color", "textcolor", "colorbox"), re.compile(r"[\w#!.,-]{1,30}")
REWRITTEN = frozenset([*_MACROS, *"begin hspace mspace hskip mskip kern mkern".split()])
_TOKEN = re.compile(r"\\(?:([A-Za-z]+)|.)", re.DOTALL)
_ENVIRONMENTS = {
    "eqnarray": (r"\begin{array}{rcl}", r"\end{array}"),
    "flalign": (r"\begin{align}", r"\end{align}"),
    "multline": (r"\begin{gather}", r"\end{gather}"),
    "displaymath": (r"\begin{gathered}", r"\end{gathered}"),
}
_ENVIRONMENT = re.compile(rf"\\(begin|end)\s*\{{({'|'.join(_ENVIRONMENTS)})\*?\}}")
_PLACE = re.compile(
    r"\\(begin|end)\s*\{(\w+\*?)\}(?:(?:(?<=array\})|(?<=igned\})|(?<=hered\}))\s*\[[tbc]\])?"
)
_LENGTH = r"(-?[\d.]{1,5})\s*(mu|pt|px|mm|ex|em|cm|in)"
_SPACE = re.compile(rf"\\(?:[hm]space\*?\s*\{{\s*{_LENGTH}\s*\}}|(?:[hm]skip|m?kern)\s*{_LENGTH})")
_EMS = {"mu": 1 / 18, "pt": 0.1, "px": 0.075, "mm": 0.28, "ex": 0.43, "em": 1, "cm": 2.8, "in": 7.2}
_MAX_SPACE = 10  # ems; a larger space to the left would cover other text
_COLUMNS = re.compile(r"\\begin\s*\{array\}\s*\{((?:[lcr|:\s]|[@!]\{[^{}]*\})*)\}")


def expanded(line: str) -> str:
    """The formula with the macros in `REWRITTEN` expanded, if their arguments can be read."""
    line = _PLACE.sub(r"\\\1{\2}", line)
    line = _ENVIRONMENT.sub(lambda found: _ENVIRONMENTS[found[2]][found[1] == "end"], line)
    line = _SPACE.sub(_space, line)
    line = _COLUMNS.sub(_columns, line)
    for found in reversed([*_TOKEN.finditer(line)]):
        if found[1] in _MACROS:
            written, end = _written(found[1], line, found.end())
            if written is not None:
                ends_in_name = re.search(r"\\[A-Za-z]+$", written) and line[end : end + 1].isalpha()
                line = f"{line[: found.start()]}{written}{' ' if ends_in_name else ''}{line[end:]}"
    return line


def _written(name: str, line: str, start: int) -> tuple[str | None, int]:
    """The expansion of a macro whose arguments begin at `start`, and their end."""
    count, template = _MACROS[name]
    arguments, end = _arguments(line, start, count)
    if arguments is None or (name in _COLOURED and not _COLOUR.fullmatch(arguments[0])):
        return None, start
    if not isinstance(template, str):
        return template(*arguments), end
    return re.sub(r"#(\d)", lambda number: arguments[int(number[1]) - 1], template), end


def _space(found: re.Match[str]) -> str:
    """A small space in ems, or none if it is negative; any other stays."""
    try:
        ems = float(found[1] or found[3]) * _EMS[found[2] or found[4]]
    except ValueError:
        return found[0]
    if not -1 <= ems <= _MAX_SPACE:
        return found[0]
    return rf"\hspace{{{round(ems, 2):g}em}}" if ems > 0 else " "


def _columns(found: re.Match[str]) -> str:
    """The beginning of an array, without separators between its columns."""
    return rf"\begin{{array}}{{{re.sub(r'[@!]{[^{}]*}', '', found[1])}}}"


def _arguments(line: str, start: int, count: int) -> tuple[list[str] | None, int]:
    """The `count` arguments in braces from `start`, and their end."""
    arguments = []
    for _ in range(count):
        brace = _OPENING.match(line, start)
        stop = closing_brace(line, brace.end()) if brace else -1
        if brace is None or stop < 0:
            return None, start
        arguments.append(line[brace.end() : stop])
        start = stop + 1
    return arguments, start


def closing_brace(line: str, start: int) -> int:
    """The position of the brace that closes the one before `start`; -1 if there is none."""
    depth = 1
    for brace in _BRACE.finditer(line, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return -1


_OPENING = re.compile(r"\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
