"""The environments of a formula: those that a front end lacks; their rows, columns and pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiml_magic.show.arguments import closing_brace
from aiml_magic.text import rows_of

# Environments, and what is written at their beginning and end.
_REPLACEMENTS = {name: (begin, end) for name, begin, end in rows_of(r"""
    eqnarray \begin{array}{rcl} \end{array}
    flalign \begin{align} \end{align}
    multline \begin{gather} \end{gather}
    multlined \begin{gathered} \end{gathered}
    lgathered \begin{gathered} \end{gathered}
    dmath \begin{gather} \end{gather}
    IEEEeqnarray \begin{array} \end{array}
    psmallmatrix \left(\begin{smallmatrix} \end{smallmatrix}\right)
    bsmallmatrix \left[\begin{smallmatrix} \end{smallmatrix}\right]
    vsmallmatrix \left|\begin{smallmatrix} \end{smallmatrix}\right|
""")} | dict.fromkeys("math displaymath subequations center dgroup".split(), ("", ""))  # fmt: skip
_ENVIRONMENT = re.compile(rf"\\(begin|end)\s*\{{({'|'.join(_REPLACEMENTS)})\*?\}}")
_POSITION = re.compile(
    r"\\(begin|end)\s*\{(\w+\*?)\}"
    r"(?:(?:(?<=array\})|(?<=igned\})|(?<=hered\})|(?<=tlined\}))\s*\[[tbc]\])?"
)
_CASES = re.compile(r"\\begin\{(?:sub)?numcases\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_COLUMNS = re.compile(r"\\begin\{array\}\s*\{")
_REPEATED = re.compile(r"\*\s*(?:\{(\d{1,2})\}|(\d))\s*(?:\{([^{}]*)\}|([lcr]))")
_APART = re.compile(r"[@!><]\s*\{(?:[^{}]|\{[^{}]*\})*\}")
_WIDE = re.compile(r"[pmb]\s*\{[^{}]*\}|X")
_MAX_COLUMNS = 60
_AUGMENTED = re.compile(
    r"\\begin\{([pbBvV]?)matrix\*?\}\s*\[([lcr: ]*\|[lcr|: ]*)\](.*?)\\end\{\1matrix\*?\}"
)
_BRACKETS = {"": "..", "p": "()", "b": "[]", "B": (r"\{", r"\}"), "v": "||", "V": (r"\|", r"\|")}
_DIAGRAM = re.compile(r"\\begin\{CD\}(.*?)\\end\{CD\}")
_ARROW = re.compile(
    r"@(?:([>)])((?:(?!\1).)*)\1((?:(?!\1).)*)\1|([<(])((?:(?!\4).)*)\4((?:(?!\4).)*)\4"
    r"|([AV])((?:(?!\7).)*)\7((?:(?!\7).)*)\7|(=|\||\.|\\vert))"
)


def rewritten(line: str) -> str:
    """The formula with the environments that a front end has."""
    line = _POSITION.sub(r"\\\1{\2}", line)
    if "{CD}" in line:
        line = _DIAGRAM.sub(_diagram, line)
    if "matrix}" in line:
        line = _AUGMENTED.sub(_augmented, line)
    if "numcases}" in line:
        line = _CASES.sub(r"\1\\begin{cases}", line)
        line = re.sub(r"\\end\{(?:sub)?numcases\}", r"\\end{cases}", line)
    line = _ENVIRONMENT.sub(lambda match: _REPLACEMENTS[match[2]][match[1] == "end"], line)
    return "".join(_with_plain_columns(line)) if _COLUMNS.search(line) else line


def _augmented(match: re.Match[str]) -> str:
    """A matrix with rules between its columns as an array."""
    left, right = _BRACKETS[match[1]]
    return rf"\left{left}\begin{{array}}{{{match[2]}}}{match[3]}\end{{array}}\right{right}"


def _with_plain_columns(line: str) -> Iterator[str]:
    """The formula with arrays whose columns are letters and rules."""
    end = 0
    for match in _COLUMNS.finditer(line):
        stop = closing_brace(line, match.end())
        if stop < 0 or match.start() < end:
            continue
        columns = _APART.sub("", _WIDE.sub("l", line[match.end() : stop]))
        columns = _REPEATED.sub(lambda one: int(one[1] or one[2]) * (one[3] or one[4]), columns)
        yield line[end : match.end()]
        yield columns.lower() if len(columns) <= _MAX_COLUMNS else "?"
        end = stop
    yield line[end:]


def _diagram(match: re.Match[str]) -> str:
    """A diagram of `CD` as a matrix with arrows."""
    rows = r" \\ ".join(_row(row.strip()) for row in match[1].split(r"\\"))
    return rf"\begin{{matrix}}{rows}\end{{matrix}}"


def _row(row: str) -> str:
    if row.startswith("@") and not row.startswith(("@>", "@<", "@)", "@(")):
        return " & & ".join(_vertical(arrow) for arrow in _ARROW.finditer(row))
    return _ARROW.sub(lambda arrow: f" & {_horizontal(arrow)} & ", row)


def _horizontal(arrow: re.Match[str]) -> str:
    if arrow[10]:
        return {"=": r"=\!=\!=", ".": ""}.get(arrow[10], r"\Vert")
    name, above, below = ("right", arrow[2], arrow[3]) if arrow[1] else ("left", arrow[5], arrow[6])
    return rf"\x{name}arrow[{below}]{{\;{above}\;}}" if above or below else rf"\long{name}arrow"


def _vertical(arrow: re.Match[str]) -> str:
    if arrow[10]:
        return "" if arrow[10] == "." else r"\big\Vert"
    name = "down" if arrow[7] == "V" else "up"
    return rf"{{\scriptstyle {arrow[8]}}}\big\{name}arrow{{\scriptstyle {arrow[9]}}}"


_STRUCTURE = re.compile(
    r"\\(?:begin|end)\s*\{[^{}]*\}|\\(?:left|right|middle)(?![A-Za-z])|\\tag\*?\s*\{|\\\\|\\.|[&{}]"
)
_PAIR = re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|middle)(?![A-Za-z])")
_SCRIPT = r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[A-Za-z]+(?!\s*[\{A-Za-z])|[^\s{}\\])"
_TWICE = re.compile(rf"(\^{_SCRIPT})\s*(?=[\^'])|(_{_SCRIPT})\s*(?=_)")
_FUNCTION = re.compile(
    r"([_^])\s*(\\(?:max|min|sup|inf|lim|log|ln|exp|det|dim|deg|arg|gcd)(?![A-Za-z]))"
)
_TAGGED = ("align", "gather", "alignat")  # environments in which each row may have a tag
_UNTAGGED = ("aligned", "gathered", "alignedat", "split")


def corrected(line: str) -> str:
    """The formula with rows in an environment, and with pairs, tags and scripts that are valid."""
    if "&" in line or r"\\" in line:
        line = _in_rows(line)
    if any(name in line for name in (r"\left", r"\right", r"\middle")) and not _is_paired(line):
        line = _PAIR.sub("", line)
    if r"\tag" in line:
        line = _with_valid_tags(line)
    if line.count("^") + line.count("'") > 1 or line.count("_") > 1:
        line = _TWICE.sub(lambda match: f"{match[0].rstrip()}{{}}", line)
    return _FUNCTION.sub(r"\1{\2}", line) if "\\" in line else line


def _in_rows(line: str) -> str:
    """The formula in an environment, if it has rows or columns outside of one."""
    depth, name = 0, ""
    for match in _STRUCTURE.finditer(line):
        sign = match[0]
        if sign.startswith((r"\begin", r"\left", r"\tag", "{")):
            depth += 1
        elif sign.startswith((r"\end", r"\right", "}")):
            depth -= 1
        elif depth == 0 and sign in ("&", r"\\"):
            name = "aligned" if sign == "&" else name or "gathered"
    return rf"\begin{{{name}}} {line} \end{{{name}}}" if name else line


def _is_paired(line: str) -> bool:
    """Whether each `left` has its `right` in the same group, cell and environment."""
    open_groups: list[str] = []
    for match in _STRUCTURE.finditer(line):
        sign = match[0]
        if sign in (r"\left", "{") or sign.startswith((r"\begin", r"\tag")):
            open_groups.append(sign)
        elif sign in (r"\right", "}") or sign.startswith(r"\end"):
            opening = open_groups.pop() if open_groups else ""
            if (opening == r"\left") != (sign == r"\right"):
                return False
        elif sign in ("&", r"\middle") and (sign == "&") == (open_groups[-1:] == [r"\left"]):
            return False
    return r"\left" not in open_groups


def _with_valid_tags(line: str) -> str:
    """The formula with brackets instead of each tag that MathJax would refuse."""
    open_groups, tagged, text, end = [], False, "", 0
    for match in _STRUCTURE.finditer(line):
        sign = match[0]
        if sign.startswith(r"\begin"):
            open_groups.append(sign[6:].strip(" {}*"))
        elif sign.startswith(r"\end"):
            open_groups = open_groups[:-1]
        elif sign == r"\\":
            tagged = tagged and not (open_groups and open_groups[-1] in _TAGGED)
        elif sign.startswith(r"\tag") and match.start() >= end:
            stop = closing_brace(line, match.end())
            content = line[match.end() : stop]
            is_valid = not tagged and not (open_groups and open_groups[-1] in _UNTAGGED)
            if stop < 0 or (is_valid and not re.search(r"[<>|$^_#&%\\]", content)):
                tagged = True
                continue
            brackets = "{}" if "*" in sign else "({})"
            text += line[end : match.start()] + r"\qquad " + brackets.format(rf"\text{{{content}}}")
            end = stop + 1
    return text + line[end:]
