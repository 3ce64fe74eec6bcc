"""The JSON Schema of a type, as pydantic writes it, with descriptions.

A value that JSON cannot represent, or that no reply could have, is marked as unsupported: `strict`
refuses it, and names its field.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NotRequired

import pydantic
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticOmit

from aiml_magic.question.strict import UNSUPPORTED, JsonSchema, of_choices, references, with_parts


def json_schema(adapter: pydantic.TypeAdapter[Any], *, is_model: bool = False) -> JsonSchema:
    """The JSON Schema of a type; its root is not a reference, which the API refuses.

    The replay key covers the schema, so the form must not change: that of a model is as pydantic
    writes it; others have no titles, and the choices of an Enum in place.
    """
    try:
        schema = adapter.json_schema(schema_generator=_Generator if is_model else _PlainGenerator)
    except (PydanticInvalidForJsonSchema, PydanticOmit):
        return {}
    schema = schema if is_model else _with_choices_in_place(schema)
    if not isinstance(reference := schema.get("$ref"), str):
        return schema
    definitions = schema["$defs"]
    root = definitions[reference.rpartition("/")[2]]
    if reference not in references(definitions):  # not a recursive type
        definitions = {name: entry for name, entry in definitions.items() if entry is not root}
    return {**root, "$defs": definitions}


def _with_choices_in_place(schema: JsonSchema) -> JsonSchema:
    """A schema with choices in place of the references to them."""
    definitions = schema.get("$defs", {})
    choices = {f"#/$defs/{name}": entry for name, entry in definitions.items() if "enum" in entry}

    def in_place(entry: Any, _: str) -> Any:
        choice = choices.get(entry.get("$ref"))
        if choice is None:
            return with_parts(entry, in_place)
        own = {name: entry[name] for name in entry if name != "$ref"}
        return {"type": choice["type"], "enum": choice["enum"], **own}

    others = {name: entry for name, entry in definitions.items() if "enum" not in entry}
    rest = {name: entry for name, entry in schema.items() if name != "$defs"}
    return with_parts({**rest, "$defs": others} if others else rest, in_place)


class _Generator(GenerateJsonSchema):
    """pydantic's JSON Schema, with texts of `Annotated` and docstrings as descriptions.

    A reply is read, so the schema is that of reading, even if a model asks for that of writing.
    """

    @property
    def mode(self) -> Literal["validation"]:
        return "validation"

    def model_field_schema(self, schema: Any) -> JsonSchema:
        return _of_field(schema, super().model_field_schema)

    def dataclass_field_schema(self, schema: Any) -> JsonSchema:
        return _of_field(schema, super().dataclass_field_schema)

    def typed_dict_field_schema(self, schema: Any) -> JsonSchema:
        return _of_field(schema, super().typed_dict_field_schema)

    def handle_invalid_for_json_schema(self, schema: Any, *_: Any) -> JsonSchema:
        raise PydanticInvalidForJsonSchema(_kind_of(schema))

    def generator_schema(self, *_: Any) -> JsonSchema:
        return {UNSUPPORTED: "an iterator"}  # its entries would be read late, and only once

    def dataclass_schema(self, schema: Any) -> JsonSchema:
        made = _described(super().dataclass_schema(schema), schema["cls"])
        for field in fields(schema["cls"]):
            if not field.init:
                made["properties"].pop(field.name, None)
        return made

    def typed_dict_schema(self, schema: Any) -> JsonSchema:
        return _described(super().typed_dict_schema(schema), schema.get("cls"))

    def model_schema(self, schema: Any) -> JsonSchema:
        return _described(super().model_schema(schema), schema["cls"])

    def set_schema(self, schema: Any) -> JsonSchema:
        return _of_hashable(super().set_schema(schema), schema)

    def frozenset_schema(self, schema: Any) -> JsonSchema:
        return _of_hashable(super().frozenset_schema(schema), schema)

    def enum_schema(self, schema: Any) -> JsonSchema:
        return of_choices(
            super().enum_schema(schema), [member.value for member in schema["members"]]
        )

    def literal_schema(self, schema: Any) -> JsonSchema:
        return of_choices(super().literal_schema(schema), schema["expected"])

    def default_schema(self, schema: Any) -> JsonSchema:
        return self.generate_inner(schema["schema"])  # without the default: it may not be JSON


class _PlainGenerator(_Generator):
    """As `_Generator`, for other types than models: without titles, and `enum` for `const`."""

    def dataclass_schema(self, schema: Any) -> JsonSchema:
        return _untitled(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: Any) -> JsonSchema:
        return _untitled(super().typed_dict_schema(schema))

    def literal_schema(self, schema: Any) -> JsonSchema:
        made = super().literal_schema(schema)
        return made | {"enum": [made.pop("const")]} if "const" in made else made


class Naming(_PlainGenerator):
    """As `_PlainGenerator`, with a mark on every class that pydantic does not know."""

    def handle_invalid_for_json_schema(self, schema: Any, *_: Any) -> JsonSchema:
        return {UNSUPPORTED: _kind_of(schema)}


def _kind_of(schema: Any) -> str:
    return f"a value of type {getattr(schema.get('cls'), '__name__', schema['type'])}"


def _of_field(schema: Any, make: Callable[[Any], JsonSchema]) -> JsonSchema:
    """The schema of a field, or the reason for which no reply could have it."""
    alias = schema.get("validation_alias")
    paths = alias if isinstance(alias, list) and isinstance(alias[0], list) else [alias]
    if all(isinstance(path, list) and len(path) > 1 for path in paths):
        return {UNSUPPORTED: "a value inside another field"}
    try:
        return make(schema)
    except PydanticInvalidForJsonSchema as error:
        return {UNSUPPORTED: error.message}
    except PydanticOmit:
        if schema["schema"]["type"] == "default" or schema.get("required") is False:
            raise
        return {UNSUPPORTED: "a field that its type leaves out"}


def _untitled(made: JsonSchema) -> JsonSchema:
    for entry in (made, *made["properties"].values()):
        entry.pop("title", None)
    return made


def _described(made: JsonSchema, kind: Any) -> JsonSchema:
    """The schema of a class with its docstring and the descriptions of its fields."""
    if kind is None:
        return made
    words = inspect.cleandoc(kind.__doc__ or "")
    is_generated = is_dataclass(kind) and words.startswith(f"{made.get('title')}(")
    inherited = (inspect.cleandoc(base.__doc__ or "") for base in (dict, pydantic.BaseModel))
    if words and not is_generated and words not in inherited:
        made.setdefault("description", words)
    hints: dict[str, Any] = {}
    with suppress(NameError):  # only pydantic resolves the local names of a class in a function
        hints = typing.get_type_hints(kind, include_extras=True)
    for name, field in made.get("properties", {}).items():
        made["properties"][name] = _with_words(field, hints.get(name))
    return made


def _with_words(made: JsonSchema, hint: Any) -> JsonSchema:
    """The schema of a hint with the first text of each `Annotated` as description."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [text for text in inside[1:] if isinstance(text, str)]
        return {**({"description": texts[0]} if texts else {}), **_with_words(made, inside[0])}
    if origin in (typing.Required, NotRequired):
        return _with_words(made, inside[0])
    if origin in (typing.Union, types.UnionType) and len(made.get("anyOf", ())) == len(inside):
        ordered = sorted(inside, key=lambda entry: entry is type(None))  # null comes last
        return {**made, "anyOf": list(map(_with_words, made["anyOf"], ordered))}
    if inside and isinstance(made.get("items"), dict):
        return {**made, "items": _with_words(made["items"], inside[0])}
    return made


def _of_hashable(made: JsonSchema, schema: Any) -> JsonSchema:
    if _is_hashable(schema.get("items_schema", {})):
        return made
    return {UNSUPPORTED: "a set of values that cannot be hashed"}


def _is_hashable(entry: Any) -> bool:
    """Whether the values that pydantic makes for this schema can be entries of a set."""
    if kind := entry.get("cls"):
        return getattr(kind, "__hash__", None) is not None
    if entry.get("type") in ("list", "dict", "set", "typed-dict"):
        return False
    parts = [entry.get("schema")]
    for held in (entry.get("items_schema", ()), entry.get("choices", ())):
        parts += held.values() if isinstance(held, dict) else held
    pairs = (part[0] if isinstance(part, tuple) else part for part in parts)  # of a choice, a label
    return all(_is_hashable(part) for part in pairs if isinstance(part, dict))
