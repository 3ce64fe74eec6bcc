"""The rules by which a server judges a schema in strict mode, written apart from the package's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_ANYWHERE = {"title", "description", "type", "enum", "const", "anyOf", "$defs", "definitions"}
_OF_TYPE = {
    "string": {"pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_OF_TYPE["number"] = _OF_TYPE["integer"]
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def broken(schema: Any) -> list[str]:
    """What a strict server would refuse in a schema, with the path of each part."""
    json.dumps(schema, allow_nan=False)
    if schema.get("type") != "object" or "anyOf" in schema:
        return ["the root is no object"]
    inside = {name: part for name, part in schema.items() if name != "$schema"}
    return list(_broken(inside, schema, "#"))


def _broken(schema: Any, root: Any, at: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{at}: no object"
        return
    if "$ref" in schema:
        if len(schema) > 1 or not _is_there(root, schema["$ref"]):
            yield f"{at}: {schema}"
        return
    named = schema.get("type", [])
    kinds = named if isinstance(named, list) else [named]
    if not kinds and not schema.get("anyOf"):
        yield f"{at}: no type"
    if more := schema.keys() - _ANYWHERE.union(*(_OF_TYPE.get(kind, ()) for kind in kinds)):
        yield f"{at}: {more} of {kinds}"
    if "anyOf" not in schema and any(
        _TYPES.get(type(value)) not in {*kinds, "integer" * ("number" in kinds)}
        for value in [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    ):
        yield f"{at}: a choice of another type"
    if "array" in kinds and "items" not in schema:
        yield f"{at}: no items"
    if "object" in kinds and (
        schema.get("additionalProperties") is not False
        or list(schema.get("properties", ())) != schema.get("required")
    ):
        yield f"{at}: not all of its fields, and no others"
    for name in ("properties", "$defs", "definitions"):
        for key, part in schema.get(name, {}).items():
            yield from _broken(part, root, f"{at}/{name}/{key}")
    for part in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]:
        yield from _broken(part, root, f"{at}/…")


def _is_there(root: Any, reference: str) -> bool:
    for step in reference.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        try:
            root = root[int(key) if isinstance(root, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return reference.startswith("#")
