"""JSON Schema in the API's strict form: every object lists all its fields as required.

A keyword that strict mode lacks is refused if it decides the shape of a reply (an object with any
keys), and left out if it only narrows values (a length): the reply is validated against it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiml_magic.errors import NOTHING_SENT, BadInput

JsonSchema = dict[str, Any]  # or a part of one
UNSUPPORTED = "x-unsupported"  # keyword of a part that strict mode lacks; its value says what
# In the order in which they are sent.
_KEYWORDS = """
    $schema title type description enum const format pattern minimum maximum exclusiveMinimum
    exclusiveMaximum multipleOf minItems maxItems items anyOf $ref properties required
    additionalProperties $defs definitions
""".split()
_UNSUPPORTED_KEYWORDS = {
    name: f"the keyword {name}"
    for name in """
        propertyNames not if then else dependentSchemas dependentRequired dependencies contains
        unevaluatedProperties unevaluatedItems $dynamicRef $recursiveRef
    """.split()
} | {"prefixItems": "a tuple of several types", "patternProperties": "an object with any names"}
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
_LOOKAROUND = re.compile(r"\(\?[^:]")  # servers do not support it


def strict(schema: Any, place: str) -> JsonSchema:
    """A schema in strict form. Raises BadInput, which names the field by its path, `place`."""
    if not isinstance(schema, Mapping):
        raise _refused(place, "anything")
    simple = _simplified(schema)
    found = (_UNSUPPORTED_KEYWORDS[name] for name in simple if name in _UNSUPPORTED_KEYWORDS)
    if why := simple.get(UNSUPPORTED) or next(found, None):
        raise _refused(place, why)

    def inner(entry: Any, step: str) -> JsonSchema:
        return strict(entry, step[1:] if step.startswith("#") else f"{place}{step}")

    done = with_parts({name: simple[name] for name in _KEYWORDS if name in simple}, inner)
    if "$ref" in done:
        return {name: done[name] for name in ("$ref", "$defs", "definitions") if name in done}
    if "properties" in done:
        done |= {"required": list(done["properties"]), "additionalProperties": False}
        return {name: done[name] for name in _KEYWORDS if name in done}
    kinds = _kinds(done)
    if "object" in kinds:
        raise _refused(place, "an object with any names")
    needed = {"items"} if "array" in kinds else {"type", "anyOf", "enum", "const"}
    if needed.isdisjoint(done):
        raise _refused(place, "anything")
    return done


def nullable(schema: Any, _: str = "") -> Any:
    """A schema whose optional fields may be null, since strict mode requires every field."""
    return nullable_fields(with_parts(schema, nullable)) if isinstance(schema, Mapping) else schema


def nullable_fields(schema: JsonSchema) -> JsonSchema:
    """As `nullable`, for the fields of the outermost object only."""
    fields = schema.get("properties")
    if isinstance(fields, Mapping):
        needed = schema.setdefault("required", list(fields))
        if isinstance(needed, list):
            schema["properties"] = {
                name: entry if name in needed else _or_null(entry) for name, entry in fields.items()
            }
    return schema


def with_parts(schema: Mapping[str, Any], change: Callable[[Any, str], Any]) -> JsonSchema:
    """A schema with each schema in it replaced by `change(part, step)`.

    The step to a part is `.field`, `[]`, `#definition`, or empty.
    """
    done = dict(schema)
    for name, value in schema.items():
        match name, value:
            case "properties", Mapping():
                done[name] = {field: change(entry, f".{field}") for field, entry in value.items()}
            case "$defs" | "definitions", Mapping():
                done[name] = {key: change(entry, f"#{key}") for key, entry in value.items()}
            case "anyOf" | "oneOf" | "allOf", list():
                done[name] = [change(entry, "") for entry in value]
            case "items", _:
                done[name] = change(value, "[]")
    return done


def references(schema: Any) -> Iterator[str]:
    """All values of `$ref` in a schema."""
    entries: Any = schema if isinstance(schema, list) else ()
    if isinstance(schema, Mapping):
        entries = schema.values()
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
    for entry in entries:
        yield from references(entry)


def target(root: Any, reference: str) -> Any:
    """The part of a schema that a reference (RFC 6901) points to. Raises ValueError."""
    start, *steps = reference.split("/")
    nowhere = ValueError(f"its reference {reference} leads nowhere")
    if start != "#":
        raise nowhere
    try:
        for step in steps:
            key = step.replace("~1", "/").replace("~0", "~")
            root = root[int(key) if isinstance(root, list) else key]
    except (KeyError, IndexError, TypeError, ValueError):
        raise nowhere from None
    return root


def _or_null(schema: Any) -> Any:
    null = {"type": "null"}
    is_null = isinstance(schema, Mapping) and schema.get("type") == "null"
    return schema if is_null else {"anyOf": [schema, null]}


def _simplified(schema: Mapping[str, Any]) -> JsonSchema:
    """A schema with keywords replaced by those of strict mode.

    `oneOf` becomes `anyOf`, an `allOf` of one schema that schema, a tuple of one type a list.
    """
    simple = dict(schema)
    if "oneOf" in simple:
        simple["anyOf"] = simple.pop("oneOf")
    match simple.get("allOf"):
        case [Mapping() as alone]:
            del simple["allOf"]
            simple |= alone
        case None:
            pass
        case _:
            simple[UNSUPPORTED] = "allOf"
    if simple.get("format") not in _FORMATS:
        simple.pop("format", None)
    if _LOOKAROUND.search(str(simple.get("pattern", ""))):
        del simple["pattern"]
    entries = simple.get("prefixItems")
    if entries and len(entries) == simple.get("maxItems") == entries.count(entries[0]):
        simple["items"] = simple.pop("prefixItems")[0]
    return simple


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _refused(place: str, what: str) -> BadInput:
    return BadInput(
        f"{place} asks for {what}, which strict mode does not support. {NOTHING_SENT}",
        "It supports text, numbers, booleans, dates, choices, lists, unions, and objects whose "
        "fields are named.",
    )
