r"""Chemistry as mathematics: `\ce` and `\pu` of mhchem, which few front ends have.

Supported are formulas, charges, isotopes, bonds, states and arrows, and quantities with units; the
result is `None` for anything else.
"""

from __future__ import annotations

import re

_ARROWS = {
    "->": ("longrightarrow", "xrightarrow"), "<-": ("longleftarrow", "xleftarrow"),
    "<->": ("longleftrightarrow", "xleftrightarrow"), "<-->": ("rightleftarrows", ""),
    "<=>": ("rightleftharpoons", "xrightleftharpoons"),
    "<=>>": ("rightleftharpoons", "xrightleftharpoons"),
    "<<=>": ("rightleftharpoons", "xrightleftharpoons"),
}  # fmt: skip
_SIGNS = {
    "*": r"{\cdot}",
    ".": r"{\cdot}",
    "=": "{=}",
    "#": r"{\equiv}",
    "-": "{-}",
    "...": r"\cdots",
}
_PART = re.compile(
    r"(?P<arrow><=>>|<<=>|<=>|<-->|<->|->|<-)(?:\[(?P<above>[^\[\]]*)\](?:\[(?P<below>[^\[\]]*)\])?)?"
    r"|(?P<space>\s+)(?P<gas>[\^v](?=\s|$))?"
    r"|(?P<script>[\^_])(?:\{(?P<group>[^{}]*)\}|(?P<signs>\d*[+-]+|\d+|[A-Za-z]|\\[A-Za-z]+))"
    r"|(?P<number>\d+(?:[./]\d+)?)"
    r"|(?P<letters>[A-Za-z]+)|(?P<command>\\[A-Za-z]+ ?)"
    r"|(?P<charge>[+-]+(?=[\s)\]},;^_]|$))"
    r"|(?P<sign>\.\.\.|[-=#*.+])|(?P<other>[()\[\],;:/'|])"
)
_QUANTITY = re.compile(
    r"\s*(?P<number>[-+]?[\d.,]*\d)?(?:(?:[eE]|\s*(?:x|\*|\\times)\s*10\^?\{?)(?P<power>[-+]?\d+)\}?)?\s*(?P<unit>.*)"
)
_UNIT = re.compile(
    r"(?P<letters>[A-Za-z]+)|(?P<command>\\[A-Za-z]+ ?)|\^?(?P<power>\{[-+]?\d+\}|[-+]?\d+)"
    r"|(?P<space>[\s.*·]+)|(?P<sign>[/()%°µΩ€])"
)


def reaction(content: str) -> str | None:
    """The content of `ce` as mathematics."""
    written, end, before = "", 0, "space"
    while end < len(content):
        part = _PART.match(content, end)
        if part is None:
            return None
        end = part.end()
        one = _written(part, before)
        if one is None:
            return None
        written += one
        before = "space" if part["sign"] in ("*", ".", "+") else str(part.lastgroup)
        if part["arrow"] or part["gas"]:
            before = "space"
        elif part["script"]:
            before = "script"
    return written.strip()


def _written(part: re.Match[str], before: str) -> str | None:
    follows_atom = before in ("letters", "number", "script", "other", "charge", "command")
    if part["arrow"]:
        return _arrow(part)
    if part["gas"]:
        return r" \uparrow " if part["gas"] == "^" else r" \downarrow "
    if part["space"]:
        return " "
    if part["script"]:
        inside = part["group"] if part["group"] is not None else part["signs"]
        return ("" if follows_atom else "{}") + f"{part['script']}{{{inside}}}"
    if part["number"]:
        if not follows_atom:
            over = part["number"].partition("/")
            return rf"\tfrac{{{over[0]}}}{{{over[2]}}}\," if over[2] else part["number"] + r"\,"
        return f"_{{{part['number']}}}"
    if part["letters"]:
        return rf"\mathrm{{{part['letters']}}}"
    if part["charge"]:
        return f"^{{{part['charge']}}}" if follows_atom else f" {part['charge']} "
    if part["sign"]:
        return _SIGNS.get(part["sign"], part["sign"])
    return part["command"] or part["other"]


def _arrow(part: re.Match[str]) -> str | None:
    plain, wide = _ARROWS[part["arrow"]]
    above, below = (reaction(words or "") for words in (part["above"], part["below"]))
    if above is None or below is None:
        return None
    if not (above or below) or not wide:
        return rf" \{plain} "
    return rf" \{wide}{f'[{below}]' if below else ''}{{{above}}} "


def quantity(content: str) -> str | None:
    """The content of `pu`, a number and its unit, as mathematics."""
    parts = _QUANTITY.fullmatch(content)
    if parts is None:
        return None
    number, power = parts["number"] or "", parts["power"]
    if power is not None:
        number += (r"\times " if number else "") + f"10^{{{power}}}"
    unit, end = "", 0
    while end < len(parts["unit"]):
        part = _UNIT.match(parts["unit"], end)
        if part is None:
            return None
        end = part.end()
        unit += _unit(part)
    return number + (r"\," if number and unit else "") + unit


def _unit(part: re.Match[str]) -> str:
    if part["letters"]:
        return rf"\mathrm{{{part['letters']}}}"
    if part["power"]:
        return f"^{{{part['power'].strip('{}')}}}"
    if part["space"]:
        return r"\,"
    return part["command"] or part["sign"].replace("%", r"\%")
