"""The macros that a model defines in its formulas, expanded there: no definition is left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiml_magic.show.arguments import closing_brace
from aiml_magic.show.macros import Forms, expand
from aiml_magic.show.typeset import typeset

if TYPE_CHECKING:
    from markdown_it.token import Token

_NAME = r"\s*\{?\s*\\([A-Za-z]+)\s*\}?\s*"
_DEFINITION = re.compile(
    rf"\\(?:(?:re|provide)?newcommand\*?{_NAME}(?:\[(\d)\]\s*)?(?:\[([^\[\]]*)\]\s*)?\{{"
    r"|[gex]?def\s*\\([A-Za-z]+)\s*((?:#\d)*)\s*\{"
    rf"|DeclareMathOperator(\*?){_NAME}\{{|(let)\s*\\([A-Za-z]+)\s*=?\s*(\\[A-Za-z]+|\S))"
)
_BEGINNING = re.compile(r"\\(?:(?:re|provide)?newcommand|[gex]?def|let|Declare|require)")
_REQUIRED = re.compile(r"\\require\s*\{[\w-]*\}")  # of an extension that is loaded, or not needed
_MAX_BODY, _MAX_MACROS = 1000, 200  # characters; macros of an answer
_MAX_GROWTH = 50_000  # characters by which the formulas of an answer grow


def is_defining(text: str) -> bool:
    """Whether a text may define macros."""
    return _BEGINNING.search(text) is not None


def expand_definitions(tokens: Iterable[Token]) -> None:
    """Expands the macros that formulas define, in these and all after them.

    A formula that cannot be typeset afterwards stays unchanged; one of definitions only is emptied.
    """
    macros: dict[str, Forms] = {}
    growth = 0
    for token in tokens:
        if token.type not in ("formula", "formula_block"):
            continue
        content = expand(_without_definitions(token.content, macros), macros).strip()
        growth += max(0, len(content) - len(token.content))
        if growth > _MAX_GROWTH:
            return
        if not content:
            token.type, token.content = "text", ""
        elif content != token.content and typeset(content) is not None:
            token.content = content


def _without_definitions(content: str, macros: dict[str, Forms]) -> str:
    """The formula without its definitions, which are put into `macros`."""
    content = _REQUIRED.sub("", content)
    text, end = "", 0
    for match in _DEFINITION.finditer(content):
        if match.start() < end:
            continue
        name = match[1] or match[4] or match[7] or match[9]
        if match[8]:
            body, stop = match[10], match.end() - 1
        else:
            stop = closing_brace(content, match.end())
            body = content[match.end() : stop]
        if stop < 0 or len(macros) > _MAX_MACROS:
            break
        if match[7]:
            body = rf"\operatorname{match[6]}{{{body}}}"
        body = expand(body, macros)
        count = int(match[2] or 0) if match[1] else len(match[5] or "") // 2
        numbers = {int(number) for number in re.findall(r"#(\d)", body)}
        if len(body) > _MAX_BODY or not numbers <= {*range(1, count + 1)}:
            break
        macros[name] = _forms(body, count, match[3])
        text, end = text + content[end : match.start()], stop + 1
    return text + content[end:]


def _forms(body: str, count: int, default: str | None) -> Forms:
    if default is None or not count:
        return "{}" * count, body
    rest = re.sub(r"#(\d)", lambda one: f"#{int(one[1]) - 1}" if one[1] != "1" else default, body)
    return "[]" + "{}" * (count - 1), body, "{}" * (count - 1), rest
