r"""Chemistry as mathematics: `\ce` and `\pu` of mhchem, which few front ends have.

Supported are formulas, charges, isotopes, bonds, states and arrows, and quantities with units; the
result is `None` for anything else.
"""

from __future__ import annotations

import re

from aiml_magic.text import rows_of

# The name of each arrow, and of one with words above and below.
_ARROWS = {sign: names for sign, *names in rows_of("""
    -> longrightarrow xrightarrow
    → longrightarrow xrightarrow
    <- longleftarrow xleftarrow
    <-> longleftrightarrow xleftrightarrow
    <--> rightleftarrows
    <=> rightleftharpoons xrightleftharpoons
    <=>> rightleftharpoons xrightleftharpoons
    <<=> rightleftharpoons xrightleftharpoons
    ⇌ rightleftharpoons xrightleftharpoons
""")}  # fmt: skip
_SIGNS = {"*": r"{\cdot}", ".": r"{\cdot}", "=": "{=}", "#": r"{\equiv}", "-": "{-}",
          "...": r"\cdots"}  # fmt: skip
_BONDS = {"~": "{-}", "~-": "{=}", "1": "{-}", "2": "{=}", "3": r"{\equiv}", "....": r"\cdots",
          "->": r"\rightarrow ", "<-": r"\leftarrow "}  # fmt: skip
_STATE = r"\((?:aq|s|l|g|cr|am|ads|sln)\)"  # after a charge
_PART = re.compile(
    r"(?P<arrow><=>>|<<=>|<=>|<-->|<->|->|<-|→|⇌)(?:[CT]?\[(?P<above>[^\[\]]*)\](?:[CT]?\[(?P<below>[^\[\]]*)\])?)?"
    r"|(?P<space>\s+)(?P<gas>[\^v](?=\s|$))?"
    r"|(?P<script>[\^_])(?:\{(?P<group>[^{}]*)\}|(?P<signs>\d*[+-]+|\d+|[A-Za-z.*]|\\[A-Za-z]+))"
    r"|(?P<number>\d+(?:[./]\d+)?)"
    r"|(?P<letters>[A-Za-z]+)|\\bond\{(?P<bond>[^{}]*)\}|\$(?P<formula>[^$]*)\$|\{(?P<part>[^{}]*)\}"
    r"|(?P<command>\\[tdc]?frac\s*\d\d|\\[A-Za-z]+(?:\{(?:[^{}]|\{[^{}]*\})*\})* ?|\\[,;:])"
    rf"|(?P<charge>[+-]+(?=[\s)\]}},;^_]|$|{_STATE}))"
    r"|(?P<sign>\.\.\.|[-=#*.+])|(?P<other>[()\[\],;:/'|°])"
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
        text = _written(part, before)
        if text is None:
            return None
        written += text
        before = "space" if part["sign"] in ("*", ".", "+") else str(part.lastgroup)
        if part["arrow"] or part["gas"]:
            before = "space"
        elif part["script"]:
            before = "script" if part["script"] == "^" else "subscript"
        elif (part["command"] or "").endswith(" "):
            before = "space"
    return written.strip()


def _written(part: re.Match[str], before: str) -> str | None:
    follows_atom = before not in ("space", "sign", "gas", "arrow")
    if part["arrow"]:
        return _arrow(part)
    if part["gas"]:
        return r" \uparrow " if part["gas"] == "^" else r" \downarrow "
    if part["space"]:
        return " "
    if part["script"]:
        inside = part["group"] if part["group"] is not None else part["signs"]
        inside = {".": r"\bullet", "*": "*"}.get(inside, inside)
        return ("" if follows_atom else "{}") + f"{part['script']}{{{inside}}}"
    if part["number"]:
        if before == "subscript":  # as in S_N2
            return part["number"]
        if not follows_atom:
            over = part["number"].partition("/")
            return rf"\tfrac{{{over[0]}}}{{{over[2]}}}\," if over[2] else part["number"] + r"\,"
        if "." in part["number"]:  # the other part of a hydrate
            count, _, following = part["number"].partition(".")
            return rf"_{{{count}}}{{\cdot}}{following}\,"
        return f"_{{{part['number']}}}"
    if part["letters"]:
        return rf"\mathrm{{{part['letters']}}}"
    if part["charge"]:
        return f"^{{{part['charge']}}}" if follows_atom else f" {part['charge']} "
    if part["sign"]:
        return _SIGNS.get(part["sign"], part["sign"])
    if part["bond"] is not None:
        return _BONDS.get(part["bond"], _SIGNS.get(part["bond"]))
    if part["part"] is not None:
        inside = reaction(part["part"])
        return inside and f"{{{inside}}}"
    return part["formula"] or part["command"] or part["other"]


def _arrow(part: re.Match[str]) -> str | None:
    plain, *wide = _ARROWS[part["arrow"]]
    above, below = (reaction(words or "") for words in (part["above"], part["below"]))
    if above is None or below is None:
        return None
    if not (above or below) or not wide:
        return rf" \{plain} "
    return rf" \{wide[0]}{f'[{below}]' if below else ''}{{{above}}} "


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


_PREFIXES = dict(re.findall(r"(\w+) (\S+)", """
    yocto y  zepto z  atto a  femto f  pico p  nano n  micro µ  mu µ  milli m  centi c  deci d
    deca da  hecto h  kilo k  mega M  giga G  tera T  peta P  exa E
"""))  # fmt: skip
_UNITS = dict(re.findall(r"(\w+) (\S+)", r"""
    meter m  metre m  gram g  kilogram kg  second s  ampere A  kelvin K  mole mol  candela cd
    hertz Hz  newton N  pascal Pa  joule J  watt W  coulomb C  volt V  farad F  siemens S
    weber Wb  tesla T  henry H  lumen lm  lux lx  becquerel Bq  gray Gy  sievert Sv  radian rad
    steradian sr  degree {}^{\circ}  degreeCelsius {}^{\circ}C  celsius {}^{\circ}C  percent \%
    minute min  hour h  day d  liter L  litre L  electronvolt eV  dalton Da  bar bar  tonne t
    hectare ha  angstrom \mathring{A}  bit bit  byte B  decibel dB  molar M
""")) | dict.fromkeys(["ohm", "Omega"], r"\Omega ")  # fmt: skip
_UNITS |= {unit: unit for unit in """
    m g kg s A K mol Hz N Pa J W C V F T H L eV cm mm km ns ms kJ kPa kHz MHz GHz mL MeV keV GeV
    kN kW mV mA bar
""".split()}  # fmt: skip
_FACTORS = {"square": "2", "cubic": "3"}  # before a unit
_POWERS = {"squared": "2", "cubed": "3"}
_UNIT_NAME = re.compile(
    r"\\(?P<name>[A-Za-z]+)|(?P<letters>[A-Za-zµ]+)|\^\{?(?P<power>[-+]?\d+)\}?"
    r"|(?P<space>[\s.~*·]+|\\[,;]|\\cdot)|(?P<sign>[/()%°Ω]|\{\}\^\{\\circ\}\\mathrm\{C\})"
)


def units(content: str) -> str | None:
    """The units of siunitx, as names or in letters, as mathematics."""
    written, prefix, power, end = "", "", "", 0
    while end < len(content):
        part = _UNIT_NAME.match(content, end)
        if part is None:
            return None
        end = part.end()
        name = part["name"]
        if name == "per":
            power = "^{-1}"
        elif name in _FACTORS:
            power = f"^{{{'-' if power else ''}{_FACTORS[name]}}}"
        elif name in _PREFIXES:
            prefix = _PREFIXES[name]
        elif name in _POWERS and written:
            base = written.removesuffix("^{-1}")
            written = f"{base}^{{{'' if base == written else '-'}{_POWERS[name]}}}"
        elif name in _UNITS or part["letters"]:
            joint = r"\," if written[-1:].isalnum() or written[-1:] in ("}", " ") else ""
            unit = _UNITS.get(name or "", part["letters"])
            written += f"{joint}\\mathrm{{{prefix}{unit}}}{power}"
            prefix = power = ""
        elif name and name != "cdot":
            return None
        elif part["power"]:
            written += f"^{{{part['power']}}}"
        else:
            written += "" if part["space"] or name else part["sign"].replace("%", r"\%")
    return written
