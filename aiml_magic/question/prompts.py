r"""Fills `{{name}}` in a question with variables of the notebook.

A field has the syntax of format strings: a name, then any `.attribute` and `[index]` (a key with or
without quotes), then `!r`, `!s` or `!a`, then `:format`. It is looked up, never evaluated: names
with a leading underscore are refused, and braces in a value stay as they are. A table is inserted
as CSV; a figure, an image and an array of bytes become attachments. Single braces, `$x` and
`\frac{a}{b}` are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.errors import NOTHING_SENT, BadInput, refusing
from aiml_magic.question import attachments, values
from aiml_magic.question.values import Variables
from aiml_magic.text import as_python_reads, did_you_mean, one_line

_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_QUOTED = r"""'[^'{}]*'(?=\])|"[^"{}]*"(?=\])"""
_FIELD = re.compile(
    rf"\s*(?P<name>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[(?>{_QUOTED}|[^\[\]{{}}]+)\])*)\s*"
    r"(?:!(?P<conversion>[rsa]))?"
    r"(?::(?P<format>(?![^{}]*\d{5})[^{}]*))?"  # no width of five digits: it takes memory
)
_STEP = re.compile(rf"\.(?P<attribute>\w+)|\[(?P<index>{_QUOTED}|[^\]]+)\]")
_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "a": ascii, "s": str}
_RAW_HINT = "With --raw the question is sent as it is, with its braces."


def fill(template: str, variables: Variables) -> tuple[str, list[Raw]]:
    """`template` with every `{{field}}` replaced, and the attachments made of pictures.

    Raises BadInput for other texts in double braces, and for unknown names.
    """
    attached: list[Raw] = []
    end = _end_of_braces(template)
    start = _BRACES.sub(lambda braces: _value(braces[1], variables, attached), template[:end])
    return start + template[end:], attached


def names_in(template: str) -> set[str]:
    """The names of the variables that `fill` would look up."""
    fields = _BRACES.findall(template, 0, _end_of_braces(template))
    return {field["name"] for field in map(_FIELD.fullmatch, fields) if field}


def _end_of_braces(template: str) -> int:
    """The end of the last braces: beyond it the search would take quadratic time."""
    return template.rfind("}}") + 2


def _value(text: str, variables: Variables, attached: list[Raw]) -> str:
    if _is_column(text.strip(), variables):
        return _as_text(variables[text.strip()], text.strip(), attached)
    shown = f"{{{{{one_line(text, 60)}}}}}"
    field = _FIELD.fullmatch(text.rstrip() if ":" not in text else text)
    if field is None:
        raise BadInput(
            f"{shown} is not a variable, with .attribute or [index] after it. {NOTHING_SENT}",
            _RAW_HINT,
        )
    value = _look_up(field["name"], field["path"], variables)
    convert, form = _CONVERSIONS.get(field["conversion"]), (field["format"] or "").strip()
    with refusing(
        f"{shown} cannot be written as text",
        "Insert a field or a part of it; a format after a colon must fit it.",
    ):
        if (own_text := getattr(type(value), "__prompt__", None)) is not None:
            value = own_text(value)
        if form or convert:
            # A conversion without a format may fall back to the plain text.
            with suppress(*() if form else (ValueError,)):
                return values.whole(
                    value, lambda value: format(convert(value) if convert else value, form)
                )
        return _as_text(value, field["name"] + field["path"], attached)


def _is_column(name: str, variables: Variables) -> bool:
    """Whether a variable is a column of a table, whose name may have blanks."""
    return not (name.isidentifier() or name.startswith("_")) and name in variables


def _as_text(value: Any, name: str, attached: list[Raw]) -> str:
    """A value as text for a question; some containers are written entry by entry."""
    if (table := attachments.as_csv(value)) is not None:
        return f"\n\n{table}\n"
    # Arrays of other types than bytes are inserted as numbers.
    may_be_picture = str(getattr(value, "dtype", "uint8")) == "uint8"
    if may_be_picture and (picture := attachments.as_picture(value, name)) is not None:
        attached += attachments.parts(picture, name)
        return f"(the attached {name})"
    try:
        return values.whole(value)
    except ValueError:
        entries = [] if values.is_array(value) else list(values.entries(value))
        if not entries:
            raise
    steps = ((name + values.step_to(value, key), entry) for key, entry in entries)
    return "".join(f"\n{step}: {_as_text(entry, step, attached)}" for step, entry in steps) + "\n"


def _look_up(name: str, path: str, variables: Variables) -> Any:
    name = name if name in variables else as_python_reads(name)
    _check_public(name, name)
    if name not in variables:
        hint = did_you_mean(name, (known for known in variables if not known.startswith("_")))
        raise BadInput(
            f"There is no variable {name}. {NOTHING_SENT}", f"{hint} {_RAW_HINT}".strip()
        )
    value = variables[name]
    for step in _STEP.finditer(path):
        value = _one_step(value, step, one_line(name + path[: step.start()], 60))
    return value


def _one_step(value: Any, step: re.Match[str], so_far: str) -> Any:
    attribute, index = step["attribute"] and as_python_reads(step["attribute"]), step["index"]
    _check_public(attribute or "", f"{so_far}.{attribute}")
    try:
        return value[_key(index)] if attribute is None else getattr(value, attribute)
    except Exception as error:
        hint = ""
        with suppress(Exception):  # an object of the notebook may raise anything
            known = (
                dir(value) if attribute else map(str, value if isinstance(value, Mapping) else ())
            )
            public = (name for name in known if not name.startswith("_"))
            hint = did_you_mean(attribute or index, islice(public, 1000))
        raise BadInput(
            f"{so_far} has no {one_line(step[0].lstrip('.'), 60)}. {NOTHING_SENT}",
            f"{hint} {_RAW_HINT}".strip(),
        ) from error


def _check_public(name: str, shown: str) -> None:
    if name.startswith("_"):
        raise BadInput(
            f"{shown} begins with an underscore, so it is private. {NOTHING_SENT}", _RAW_HINT
        )


def _key(index: str) -> int | str:
    """The key in brackets: a number, else a text with or without quotes."""
    if len(index) > 1 and index[0] == index[-1] and index[0] in "'\"":
        return index[1:-1]
    return int(index) if index.strip().isdecimal() else index
