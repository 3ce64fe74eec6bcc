"""The arguments of TeX commands."""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BRACKETS = {"[": re.compile(r"\\.|[][{}]"), "(": re.compile(r"\\.|[(){}]")}
_TOKEN = re.compile(r"\s*(\\[A-Za-z]+(?!\s*\{)|\\[^A-Za-z]|[A-Za-z\d])")


def closing_brace(line: str, start: int) -> int:
    """The position of the brace that closes the one before `start`; -1 if there is none."""
    depth = 1
    for brace in _BRACE.finditer(line, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return -1


def arguments(
    line: str, start: int, form: str, *, may_be_bare: bool
) -> tuple[list[str] | None, int]:
    """The arguments from `start`, and their end; `form` has their brackets, as `[]{}`.

    With `may_be_bare`, an argument in braces may be a letter, digit or command without them.
    """
    texts = []
    for sign in form[::2]:
        begin = start + (line[start : start + 1] == " ")
        if line[begin : begin + 1] == sign:
            end = _closing(line, begin + 1, sign)
            if end < 0:
                return None, start
            texts.append(line[begin + 1 : end])
            start = end + 1
        elif may_be_bare and sign == "{" and (token := _TOKEN.match(line, start)):
            texts.append(token[1])
            start = token.end()
        else:
            return None, start
    return texts, start


def _closing(line: str, start: int, sign: str) -> int:
    """The position of the bracket that closes the one before `start`, outside of inner braces."""
    if sign == "{":
        return closing_brace(line, start)
    depth, braces = 1, 0
    for bracket in _BRACKETS[sign].finditer(line, start):
        if bracket[0] in "{}":
            braces += 1 if bracket[0] == "{" else -1
        elif braces == 0 and len(bracket[0]) == 1:
            depth += 1 if bracket[0] == sign else -1
        if braces < 0:
            return -1
        if depth == 0:
            return bracket.start()
    return -1
