r"""Fills `{{name}}` in a question with variables of the notebook.

A field is that of a format string: a name, then any `.attribute` and `[index]`, then `!r`, `!s` or `!a`, then `:format`. It
is looked up, never evaluated; a name that begins with an underscore is refused; what is inserted is not looked at again. A table
is inserted as CSV; a figure or an image goes along with the question.
Single braces, `$x` and `\frac{a}{b}` are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from aiml_magic import attachments
from aiml_magic.errors import NOTHING_SENT, BadInput, nearest
from aiml_magic.responses import Raw

_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_FIELD = re.compile(
    r"\s*(?P<name>[^\W\d]\w*)(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]{}]+\])*)\s*(?:!(?P<conversion>[rsa]))?"
    r"(?::(?P<format>(?![^{}]*\d{5})[^{}]*))?"  # a width of five digits would fill the memory
)
_STEP = re.compile(r"\.(?P<attribute>\w+)|\[(?P<index>[^\]]+)\]")
_CONVERSIONS: dict[str | None, Callable[[Any], Any]] = {"r": repr, "a": ascii, "s": str, None: lambda value: value}
_RAW_HINT = "With --raw the question is sent as it is, braces and all."


def fill(template: str, variables: Mapping[str, Any]) -> tuple[str, list[Raw]]:
    """`template` with every `{{field}}` replaced, and the images that go along with it.

    Raises BadInput for what is no field, and for unknown names.
    """
    attached: list[Raw] = []
    return _BRACES.sub(lambda braces: _value(braces.group(1), variables, attached), template), attached


def names_in(template: str) -> set[str]:
    """The names of the variables that `fill` would look up."""
    fields = (_FIELD.fullmatch(braces) for braces in _BRACES.findall(template))
    return {field["name"] for field in fields if field}


def _value(text: str, variables: Mapping[str, Any], attached: list[Raw]) -> str:
    field = _FIELD.fullmatch(text.rstrip() if ":" not in text else text)
    if field is None:
        raise BadInput(f"{{{{{_shown(text)}}}}} is no variable, with .attribute or [index] behind it. {NOTHING_SENT}", _RAW_HINT)
    value = _look_up(field["name"], field["path"], variables)
    if field["conversion"] is None and not field["format"]:
        name = field["name"] + field["path"]
        if (table := attachments.as_csv(value)) is not None:
            return f"\n\n{table}\n"
        if (picture := attachments.as_picture(value, name)) is not None:
            attached += attachments.parts(picture, name)
            return f"(the attached {name})"
    try:
        return format(_CONVERSIONS[field["conversion"]](value), (field["format"] or "").strip())
    except Exception as error:
        raise BadInput(
            f"{{{{{_shown(text)}}}}} cannot be written out: {_shown(error)}. {NOTHING_SENT}", "Check the format after the colon."
        ) from error


def _look_up(name: str, path: str, variables: Mapping[str, Any]) -> Any:
    if name.startswith("_"):
        raise BadInput(f"{name} begins with an underscore, so it is private, and not looked up. {NOTHING_SENT}", _RAW_HINT)
    if name not in variables:
        hint = nearest(name, (known for known in variables if not known.startswith("_")))
        raise BadInput(f"There is no variable {name}. {NOTHING_SENT}", f"{hint} {_RAW_HINT}".strip())
    value = variables[name]
    for step in _STEP.finditer(path):
        value = _one_step(value, step, name + path[: step.start()])
    return value


def _one_step(value: Any, step: re.Match[str], so_far: str) -> Any:
    attribute, index = step["attribute"], step["index"]
    if attribute is not None and attribute.startswith("_"):
        raise BadInput(
            f"{_shown(so_far)}.{attribute} begins with an underscore, so it is private, and not looked up. {NOTHING_SENT}",
            _RAW_HINT,
        )
    try:
        if attribute is not None:
            return getattr(value, attribute)
        return value[int(index) if index.strip().isdecimal() else index]
    except Exception as error:
        known = dir(value) if attribute is not None else map(str, value) if isinstance(value, Mapping) else []
        hint = nearest(attribute or index, (name for name in known if not name.startswith("_")))
        raise BadInput(
            f"{_shown(so_far)} has no {_shown(step.group().lstrip('.'))}. {NOTHING_SENT}", f"{hint} {_RAW_HINT}".strip()
        ) from error


def _shown(text: object) -> str:
    """`text` as a part of one line."""
    return " ".join(str(text).split())[:60]
