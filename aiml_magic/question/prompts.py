r"""Fills `{{name}}` in a question with variables of the notebook.

A field is that of a format string: a name, then any `.attribute` and `[index]` (a key with quotes
or without), then `!r`, `!s` or `!a`, then `:format`. It is looked up, never evaluated; a name that
begins with an underscore is refused; what is inserted is not looked at again. A table is inserted
as CSV; a figure or an image goes along with the question, and so does an array if it is of bytes.
Single braces, `$x` and `\frac{a}{b}` are text.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.errors import NOTHING_SENT, BadInput
from aiml_magic.question import attachments, values
from aiml_magic.text import did_you_mean, reason

_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_QUOTED = r"""'[^'{}]*'(?=\])|"[^"{}]*"(?=\])"""
_FIELD = re.compile(
    rf"\s*(?P<name>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[(?>{_QUOTED}|[^\[\]{{}}]+)\])*)\s*(?:!(?P<conversion>[rsa]))?"
    r"(?::(?P<format>(?![^{}]*\d{5})[^{}]*))?"  # a width of five digits would fill the memory
)
_STEP = re.compile(rf"\.(?P<attribute>\w+)|\[(?P<index>{_QUOTED}|[^\]]+)\]")
_CONVERSIONS: dict[str | None, Callable[[Any], Any]] = {
    "r": repr,
    "a": ascii,
    "s": str,
    None: lambda value: value,
}
_RAW_HINT = "With --raw the question is sent as it is, braces and all."


def fill(template: str, variables: Mapping[str, Any]) -> tuple[str, list[Raw]]:
    """`template` with every `{{field}}` replaced, and the images that go along with it.

    Raises BadInput for what is no field, and for unknown names.
    """
    attached: list[Raw] = []
    end = _end_of_braces(template)
    filled = _BRACES.sub(
        lambda braces: _value(braces.group(1), variables, attached), template[:end]
    )
    return filled + template[end:], attached


def names_in(template: str) -> set[str]:
    """The names of the variables that `fill` would look up."""
    fields = (
        _FIELD.fullmatch(braces)
        for braces in _BRACES.findall(template, 0, _end_of_braces(template))
    )
    return {field["name"] for field in fields if field}


def _end_of_braces(template: str) -> int:
    """Where the last braces close: behind it each that opens would be looked for to the end of the text."""
    return template.rfind("}}") + 2


def _value(text: str, variables: Mapping[str, Any], attached: list[Raw]) -> str:
    if _is_column(text.strip(), variables):
        return _written(variables[text.strip()], text.strip(), attached)
    field = _FIELD.fullmatch(text.rstrip() if ":" not in text else text)
    if field is None:
        raise BadInput(
            f"{{{{{_shown(text)}}}}} is no variable, with .attribute or [index] behind it. {NOTHING_SENT}",
            _RAW_HINT,
        )
    value = _look_up(field["name"], field["path"], variables)
    if (own_text := getattr(type(value), "__prompt__", None)) is not None:
        value = own_text(value)
    convert, form = _CONVERSIONS[field["conversion"]], (field["format"] or "").strip()
    try:
        if form or field["conversion"]:
            with contextlib.suppress(
                *() if form else (ValueError,)
            ):  # without a form, what is meant is known
                return values.whole(value, lambda value: format(convert(value), form))
        return _written(value, field["name"] + field["path"], attached)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{{{{{_shown(text)}}}}} cannot be written out: {reason(error)}. {NOTHING_SENT}",
            "Insert what it holds, such as a field or a part of it; a format after a colon must fit it.",
        ) from error


def _is_column(name: str, variables: Mapping[str, Any]) -> bool:
    """A column of a table, whose name may have blanks in it; variables of Python never have."""
    return not (name.isidentifier() or name.startswith("_")) and name in variables


def _written(value: Any, name: str, attached: list[Raw]) -> str:
    """A value as it stands in a question; a container that holds what does not write itself out is written by its entries."""
    if (table := attachments.as_csv(value)) is not None:
        return f"\n\n{table}\n"
    may_be_picture = (
        str(getattr(value, "dtype", "uint8")) == "uint8"
    )  # an array of others is read as numbers
    if may_be_picture and (picture := attachments.as_picture(value, name)) is not None:
        attached += attachments.parts(picture, name)
        return f"(the attached {name})"
    try:
        return values.whole(value)
    except ValueError:
        held = (
            []
            if values.is_array(value)
            else [
                (name + values.step_to(value, key), entry) for key, entry in values.entries(value)
            ]
        )
        if not held:
            raise
    return (
        "".join(f"\n{within}: {_written(entry, within, attached)}" for within, entry in held) + "\n"
    )


def _look_up(name: str, path: str, variables: Mapping[str, Any]) -> Any:
    name = name if name in variables else _as_python_reads(name)
    if name.startswith("_"):
        raise BadInput(
            f"{name} begins with an underscore, so it is private, and not looked up. {NOTHING_SENT}",
            _RAW_HINT,
        )
    if name not in variables:
        hint = did_you_mean(name, (known for known in variables if not known.startswith("_")))
        raise BadInput(
            f"There is no variable {name}. {NOTHING_SENT}", f"{hint} {_RAW_HINT}".strip()
        )
    value = variables[name]
    for step in _STEP.finditer(path):
        value = _one_step(value, step, name + path[: step.start()])
    return value


def _one_step(value: Any, step: re.Match[str], so_far: str) -> Any:
    attribute, index = step["attribute"] and _as_python_reads(step["attribute"]), step["index"]
    if attribute is not None and attribute.startswith("_"):
        raise BadInput(
            f"{_shown(so_far)}.{attribute} begins with an underscore, so it is private, and not looked up. {NOTHING_SENT}",
            _RAW_HINT,
        )
    try:
        if attribute is not None:
            return getattr(value, attribute)
        return value[_key(index)]
    except Exception as error:
        hint = ""
        with contextlib.suppress(Exception):  # it may not bear to be looked at
            known = (
                dir(value)
                if attribute is not None
                else map(str, value)
                if isinstance(value, Mapping)
                else []
            )
            hint = did_you_mean(
                attribute or index,
                islice((name for name in known if not name.startswith("_")), 1000),
            )
        raise BadInput(
            f"{_shown(so_far)} has no {_shown(step.group().lstrip('.'))}. {NOTHING_SENT}",
            f"{hint} {_RAW_HINT}".strip(),
        ) from error


def _key(index: str) -> int | str:
    """What stands in brackets: a number, else a text, with quotes around it or without."""
    if len(index) > 1 and index[0] == index[-1] and index[0] in "'\"":
        return index[1:-1]
    return int(index) if index.strip().isdecimal() else index


def _as_python_reads(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _shown(text: str) -> str:
    """`text` as a part of one line."""
    return " ".join(text.split())[:60]
