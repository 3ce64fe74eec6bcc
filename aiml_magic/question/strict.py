"""JSON Schema in the API's strict form: every object lists all its fields as required.

A keyword that strict mode lacks is refused if it decides the shape of a reply (an object with any
keys), and left out if it only limits values (a length): the reply is validated against it here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiml_magic.errors import NOTHING_SENT, BadInput
from aiml_magic.text import one_line, target

JsonSchema = dict[str, Any]  # or a part of one
UNSUPPORTED = "x-unsupported"  # marks a part that strict mode lacks, and describes it
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
_SHAPE = frozenset("type enum const anyOf items prefixItems properties".split())
_NARROWING = {  # keywords by the types to which they apply
    name: frozenset(kinds.split())
    for names, kinds in (
        ("format pattern", "string"),
        ("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf", "integer number"),
        ("minItems maxItems items", "array"),
        ("properties required additionalProperties", "object"),
    )
    for name in names.split()
}
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
_UNSUPPORTED_PATTERN = re.compile(r"\(\?[^:]|\\[1-9]")  # a lookaround or a reference to a group
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def strict(schema: Any, path: str) -> JsonSchema:
    """A schema in strict form. Raises BadInput, which names the field by its path, `path`."""
    if not isinstance(schema, Mapping):
        raise _refused(path, "anything")
    simple = _simplified(schema)
    lacking = (_UNSUPPORTED_KEYWORDS[name] for name in simple if name in _UNSUPPORTED_KEYWORDS)
    if why := simple.get(UNSUPPORTED) or next(lacking, None):
        raise _refused(path, why)

    def inner(entry: Any, step: str) -> JsonSchema:
        return strict(entry, step[1:] if step.startswith("#") else f"{path}{step}")

    done = with_parts({name: simple[name] for name in _KEYWORDS if name in simple}, inner)
    if "$ref" in done:
        return {name: done[name] for name in ("$ref", "$defs", "definitions") if name in done}
    if "properties" in done:
        for name in simple.get("required") or ():
            if name not in done["properties"]:
                raise _refused(path, f"the field {name[:60]!r} without its schema")
        done |= {"required": list(done["properties"]), "additionalProperties": False}
        return {name: done[name] for name in _KEYWORDS if name in done}
    kinds = _kinds(done)
    if "object" in kinds:
        raise _refused(path, "an object with any names")
    needed = {"items"} if "array" in kinds else {"type", "anyOf", "enum", "const"}
    if needed.isdisjoint(done):
        raise _refused(path, "anything")
    return done


def relaxed(schema: Any, _: str = "") -> Any:
    """A schema whose optional fields may be null, since strict mode requires every field.

    `oneOf` becomes `anyOf`, which strict mode has: a reply may fit several of its schemas.
    """
    if not isinstance(schema, Mapping):
        return schema
    done = nullable_fields(with_parts(schema, relaxed))
    if "oneOf" in done and "anyOf" not in done:
        done["anyOf"] = done.pop("oneOf")
    return done


def nullable_fields(schema: JsonSchema) -> JsonSchema:
    """A schema whose optional fields, those of the outermost object only, may be null."""
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
            case "properties" | "$defs" | "definitions", Mapping():
                mark = "." if name == "properties" else "#"
                done[name] = {key: change(entry, f"{mark}{key}") for key, entry in value.items()}
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


def as_json(value: Any, path: str) -> Any:
    """A JSON Schema with dicts and lists in place of other containers. Raises BadInput."""
    match value:
        case Mapping():
            return {str(key): as_json(entry, f"{path}.{key}") for key, entry in value.items()}
        case list() | tuple():
            return [as_json(entry, f"{path}[{number}]") for number, entry in enumerate(value)]
        case str() | int() | None:
            return value
        case float() if math.isfinite(value):
            return value
    raise BadInput(
        f"{one_line(path, 200)} is not JSON but a {type(value).__name__}. {NOTHING_SENT}",
        'Write types by their names in JSON Schema, such as "string".',
    )


def check_references(schema: JsonSchema) -> None:
    """Raises ValueError for a reference that leads to no part of a schema."""
    for reference in references(schema):
        passed: list[Any] = []
        following: Any = reference
        while isinstance(following, str):
            if following in passed:
                raise ValueError(f"its reference {reference} leads back to itself")
            passed.append(following)
            found = target(schema, following)
            following = found.get("$ref") if isinstance(found, Mapping) else None


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
        if "anyOf" in simple:
            simple[UNSUPPORTED] = "oneOf beside anyOf"
        simple["anyOf"] = simple.pop("oneOf")
    if simple.get("anyOf") == []:
        simple[UNSUPPORTED] = "a choice of no values"
    match simple.get("allOf"):
        case [Mapping() as alone] if all(
            simple[name] == alone[name] for name in _SHAPE & simple.keys() & alone.keys()
        ):
            del simple["allOf"]
            simple |= alone
        case None:
            pass
        case _:
            simple[UNSUPPORTED] = "allOf"
    parts = simple.keys() & {"$ref", "anyOf", "items", "properties"}
    if len(parts) > 1 and parts & {"$ref", "anyOf"}:
        simple[UNSUPPORTED] = "a union or a reference beside other parts"
    if isinstance(simple.get("items"), list):  # a tuple until draft 2020-12
        simple["prefixItems"] = simple.pop("items")
    entries = simple.get("prefixItems")
    if entries and len(entries) == simple.get("maxItems") == entries.count(entries[0]):
        simple["items"] = simple.pop("prefixItems")[0]
    return _without_limits(_typed(simple))


def _typed(schema: JsonSchema) -> JsonSchema:
    """A schema with the type that its choices or its parts imply, since servers require one."""
    if "const" in schema:
        schema.pop("enum", None)
        return of_choices(schema, [schema["const"]])
    if "enum" in schema:
        return of_choices(schema, schema["enum"])
    if schema.keys().isdisjoint({"type", "anyOf", "$ref"}):
        for part, kind in (("properties", "object"), ("items", "array")):
            if part in schema:
                return schema | {"type": kind}
    return schema


def of_choices(schema: JsonSchema, values: Sequence[Any]) -> JsonSchema:
    """A schema of choices with their type, and each choice once."""
    kinds, named = _kinds(schema), {}
    for value in values:
        kind = _PLAIN.get(type(value))
        if kind is None or (kind == "number" and not math.isfinite(value)):
            return {UNSUPPORTED: "a choice of values that JSON does not have"}
        if not kinds or kind in kinds or (kind == "integer" and "number" in kinds):
            named[kind, value] = value
    if not named:
        return {UNSUPPORTED: "a choice of no values"}
    if not kinds and "anyOf" not in schema:
        kinds = sorted({kind for kind, _ in named})
        schema = schema | {"type": kinds[0] if len(kinds) == 1 else kinds}
    return schema | ({"enum": list(named.values())} if "enum" in schema else {})


def _without_limits(schema: JsonSchema) -> JsonSchema:
    """A schema without the limits that servers do not support, or that limit nothing."""
    kinds = set(_kinds(schema))

    def is_supported(name: str, value: Any) -> bool:
        if name == "format" and value not in _FORMATS:
            return False
        if name == "pattern" and _UNSUPPORTED_PATTERN.search(value):
            return False
        return not (isinstance(value, bool) or kinds.isdisjoint(_NARROWING[name]))

    return {
        name: value
        for name, value in schema.items()
        if name not in _NARROWING or is_supported(name, value)
    }


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _refused(path: str, what: str) -> BadInput:
    return BadInput(
        f"{path} asks for {what}, which strict mode does not support. {NOTHING_SENT}",
        "It supports text, numbers, booleans, dates, choices, lists, unions, and objects whose "
        "fields are named.",
    )
