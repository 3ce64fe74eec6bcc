"""Types of Python as JSON Schema, as the API's strict mode wants it, and JSON back as instances of them.

Strict means: every object names all its fields, needs them all, and has no others; what is optional may be null. A pydantic
model brings its own schema; dataclasses, TypedDicts, enums, literals, lists and unions of them are read here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from aiml_magic.errors import NOTHING_SENT, BadInput, SchemaMismatch, nearest
from aiml_magic.responses import Raw

_PLAIN: dict[Any, Raw] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
}
_QUALIFIERS = (typing.Annotated, typing.Required, typing.NotRequired, getattr(typing, "ReadOnly", typing.Required))
_WRAPPED = "value"  # the field in which a schema travels that is no object: the API takes only objects


@dataclasses.dataclass(frozen=True)
class Schema:
    """What an answer is to look like. `read` makes an instance of a JSON value, and raises ValueError with the place and why."""

    name: str
    json_schema: Raw
    read: Callable[[Any], Any]

    @property
    def format(self) -> Raw:
        """The `text.format` of a request."""
        return {"type": "json_schema", "name": self.name, "schema": self.json_schema, "strict": True}

    def parse(self, text: str) -> Any:
        """The instance that a reply stands for. Raises SchemaMismatch."""
        try:
            return self.read(json.loads(text))
        except Exception as error:  # what a type does when it is made is its author's
            what = "it is no JSON" if isinstance(error, json.JSONDecodeError) else _reason(error)
            raise SchemaMismatch(
                f"The reply does not fit {self.name}: {what}. It was paid for, and is kept.",
                "Its text is above; ask once more with --fresh, or loosen the schema.",
            ) from error


def schema_of(named: str, variables: Mapping[str, Any]) -> Schema:
    """The schema that a variable holds, a type or a JSON Schema. Raises BadInput."""
    if named not in variables or named.startswith("_"):
        hint = nearest(named, (name for name in variables if not name.startswith("_")))
        raise BadInput(
            f"There is no variable {named[:60]} to take a schema from. {NOTHING_SENT}", hint or "Define a class, or a dict."
        )
    return of_value(variables[named], named)


def of_value(value: Any, name: str) -> Schema:
    """The schema that `value` describes. Raises BadInput."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(value, "__name__", name))[:64]
    if isinstance(value, Mapping):
        _check_is_schema(value, name)
        return Schema(name, strict(value), lambda reply: _checked(reply, value, value, ""))
    if callable(getattr(value, "model_json_schema", None)) and callable(getattr(value, "model_validate", None)):
        return Schema(name, strict(_asked_of(value.model_json_schema, name)), value.model_validate)
    schema = of_hint(value, name)
    if schema.get("type") == "object" or "$ref" in schema:
        return Schema(name, schema, lambda reply: built(value, reply))
    wrapped = {"type": "object", "properties": {_WRAPPED: schema}, "required": [_WRAPPED], "additionalProperties": False}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    schema.pop("$defs", None)
    return Schema(name, wrapped | definitions, lambda reply: built(value, _field(reply, _WRAPPED)))


def of_hint(hint: Any, name: str) -> dict[str, Any]:
    """The strict schema of a type. Raises BadInput for one that strict mode cannot say."""
    definitions: dict[str, Raw] = {}
    schema = dict(_Reader(name, definitions).schema(hint))
    if "$ref" in schema and not _refers_to(definitions, schema["$ref"]):
        schema = dict(definitions.pop(schema["$ref"].rpartition("/")[2]))
    return schema | ({"$defs": definitions} if definitions else {})


def of_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The strict schema of a function's parameters, by its type hints. Raises BadInput."""
    name = getattr(function, "__name__", "function")
    try:
        signature, hints = inspect.signature(function), typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise BadInput(
            f"The parameters of {name} cannot be read: {error}. {NOTHING_SENT}", "Give it plain type hints."
        ) from error
    definitions: dict[str, Raw] = {}
    reader = _Reader(name, definitions)
    properties = {}
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise BadInput(
                f"{name} takes {parameter}, which no schema can ask for. {NOTHING_SENT}", "Give each parameter a name and a type."
            )
        if parameter.name not in hints:
            raise BadInput(f"{name}({parameter.name}) has no type hint. {NOTHING_SENT}", "Add one, such as `: str`.")
        schema = reader.schema(hints[parameter.name], parameter.name)
        properties[parameter.name] = schema if parameter.default is parameter.empty else _nullable(schema)
    return _object(properties) | ({"$defs": definitions} if definitions else {})


def arguments_of(function: Callable[..., Any], given: Any) -> dict[str, Any]:
    """The arguments for a call that the model asked for; null stands for a default. Raises ValueError with the place and why."""
    if not isinstance(given, Mapping):
        raise ValueError("the arguments are no object")
    signature, hints = inspect.signature(function), typing.get_type_hints(function, include_extras=True)
    unknown = given.keys() - signature.parameters.keys()
    if unknown:
        raise ValueError(f"there is no parameter {', '.join(sorted(unknown))}")
    arguments = {}
    for parameter in signature.parameters.values():
        has_default = parameter.default is not parameter.empty
        if has_default and given.get(parameter.name) is None:
            continue
        arguments[parameter.name] = built(hints[parameter.name], _field(given, parameter.name), parameter.name)
    return arguments


def strict(schema: Any) -> Any:
    """A JSON Schema in strict form: of all objects every field is needed and no other allowed; what was optional may be null."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]} | {name: strict(value) for name, value in schema.items() if name == "$defs"}
    if len(schema.get("allOf") or ()) == 1:
        return strict({**{name: value for name, value in schema.items() if name != "allOf"}, **schema["allOf"][0]})
    named = ("properties", "$defs", "definitions")
    done = {
        name: {key: strict(entry) for key, entry in value.items()}
        if name in named and isinstance(value, Mapping)
        else strict(value)
        for name, value in schema.items()
        if name != "default"
    }
    if isinstance(done.get("properties"), dict):
        needed = schema.get("required", list(done["properties"]))
        optional = {name: _nullable(entry) for name, entry in done["properties"].items() if name not in needed}
        done |= _object({**done["properties"], **optional})
    return done


def built(hint: Any, value: Any, place: str = "") -> Any:
    """The instance of `hint` that a JSON value stands for. Raises ValueError with the place and why."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in _QUALIFIERS:
        return built(inside[0], value, place)
    if origin in (Union, types.UnionType):
        return _first_that_fits(inside, value, place)
    if origin is Literal:
        return _one_of(inside, value, place)
    if origin in (list, Sequence, tuple, set, frozenset):
        if not isinstance(value, list):
            raise ValueError(f"{_at(place)}a list was expected, not {_told(value)}")
        entries = (built(inside[0] if inside else Any, entry, f"{place}[{number}]") for number, entry in enumerate(value))
        return (list if origin is Sequence else origin)(entries)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(_one_of([member.value for member in hint], value, place))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        fields = _fields_of(hint)
        return hint(**{name: built(fields[name], _field(value, name, place), _inside(place, name)) for name in fields})
    if typing.is_typeddict(hint):
        fields = _fields_of(hint)
        return {name: built(fields[name], _field(value, name, place), _inside(place, name)) for name in fields}
    return _plain(hint, value, place)


class _Reader:
    """Reads hints into schemas; classes go into `definitions`, so that one may hold itself."""

    def __init__(self, name: str, definitions: dict[str, Raw]) -> None:
        self._name = name
        self._definitions = definitions

    def schema(self, hint: Any, place: str = "") -> Raw:
        origin, inside = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            words = [word for word in inside[1:] if isinstance(word, str)]
            return {**self.schema(inside[0], place), **({"description": words[0]} if words else {})}
        if origin in _QUALIFIERS:
            return self.schema(inside[0], place)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(entry, place) for entry in inside]}
        if origin is Literal:
            return _choice(list(inside))
        if origin in (list, Sequence, set, frozenset) or (origin is tuple and inside[1:] == (...,)):
            return {"type": "array", "items": self.schema(inside[0], place)}
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _choice([member.value for member in hint])
        if (dataclasses.is_dataclass(hint) and isinstance(hint, type)) or typing.is_typeddict(hint):
            return self._of_class(hint, place)
        if callable(getattr(hint, "model_json_schema", None)):
            return self._of_model(hint)
        if hint in _PLAIN:
            return _PLAIN[hint]
        where = f"{self._name} ({place})" if place else self._name
        raise BadInput(
            f"{where} has the type {_hint_name(hint)}, which no schema can ask for. {NOTHING_SENT}",
            "It can ask for str, int, float, bool, None, date, list, Literal, Enum, unions, dataclasses and TypedDicts.",
        )

    def _of_class(self, kind: Any, place: str) -> Raw:
        if kind.__name__ not in self._definitions:
            self._definitions[kind.__name__] = {}  # known from now on, since it may hold itself
            properties = {name: self.schema(hint, _inside(place, name)) for name, hint in _fields_of(kind).items()}
            self._definitions[kind.__name__] = _object(properties) | _described(kind)
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def _of_model(self, model: Any) -> Raw:
        schema = dict(strict(_asked_of(model.model_json_schema, self._name)))
        self._definitions.update(schema.pop("$defs", {}))
        self._definitions[model.__name__] = schema
        return {"$ref": f"#/$defs/{model.__name__}"}


def _asked_of(give: Callable[[], Any], name: str) -> Any:
    try:
        return give()
    except Exception as error:
        raise BadInput(
            f"{name} gives no schema: {error}. {NOTHING_SENT}",
            "Use types that JSON has: text, numbers, booleans, lists and objects.",
        ) from error


def _fields_of(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:
        raise BadInput(
            f"The fields of {kind.__name__} cannot be read: {error}. {NOTHING_SENT}",
            "A type hint names what is not defined; define it first.",
        ) from error


def _object(properties: Mapping[str, Raw]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def _nullable(schema: Raw) -> Raw:
    return schema if schema.get("type") == "null" else {"anyOf": [schema, {"type": "null"}]}


def _described(kind: Any) -> dict[str, Any]:
    words = inspect.cleandoc(kind.__doc__ or "")
    is_written = words and not words.startswith(f"{kind.__name__}(")  # a dataclass makes its own
    return {"description": words} if is_written and kind.__doc__ != dict.__doc__ else {}


def _refers_to(definitions: Mapping[str, Raw], ref: str) -> bool:
    return json.dumps(ref) in json.dumps(definitions)


def _check_is_schema(value: Mapping[str, Any], name: str) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} is no JSON Schema: {error}. {NOTHING_SENT}", "Give a dict that JSON can hold.") from error
    if value.get("type") != "object" or not isinstance(value.get("properties"), Mapping):
        raise BadInput(
            f'{name} describes no object: it needs "type": "object" and "properties". {NOTHING_SENT}', "Wrap it in an object."
        )


def _checked(value: Any, schema: Any, root: Raw, place: str) -> Any:
    """`value`, if it fits as far as types, fields, lists and enumerations go; null is an optional field. Raises ValueError."""
    if not isinstance(schema, Mapping):
        return value
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[step]
        return _checked(value, target, root, place)
    if "anyOf" in schema:
        return _any_that_fits(value, schema["anyOf"], root, place)
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"{_at(place)}one of {schema['enum']} was expected, not {_told(value)}")
    kinds = schema.get("type")
    if kinds and not any(_is_kind(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        raise ValueError(f"{_at(place)}{kinds} was expected, not {_told(value)}")
    if isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        needed = schema.get("required", schema["properties"])
        for name, entry in schema["properties"].items():
            if name in value and not (value[name] is None and name not in needed):
                _checked(value[name], entry, root, _inside(place, name))
            elif name in needed:
                raise ValueError(f"{_inside(place, name)} is missing")
    if isinstance(value, list) and "items" in schema:
        for number, entry in enumerate(value):
            _checked(entry, schema["items"], root, f"{place}[{number}]")
    return value


def _choice(values: list[Any]) -> Raw:
    """One of these values; with their type, which strict servers want of every schema."""
    kinds = sorted({_PLAIN[type(value)]["type"] for value in values if type(value) in _PLAIN})
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values} if kinds else {"enum": values}


def _any_that_fits(value: Any, schemas: Sequence[Any], root: Raw, place: str) -> Any:
    why = ""
    for schema in schemas:
        try:
            return _checked(value, schema, root, place)
        except ValueError as error:
            why = why or str(error)
    raise ValueError(why)


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    known = {"string": str, "integer": int, "number": (int, float), "object": dict, "array": list, "null": type(None)}
    return kind not in known or isinstance(value, known[kind])  # type: ignore[arg-type]  # types, or a tuple of them


def _first_that_fits(hints: Sequence[Any], value: Any, place: str) -> Any:
    why = ""
    for hint in hints:
        try:
            return built(hint, value, place)
        except ValueError as error:
            why = why or str(error)
    raise ValueError(why)


def _one_of(values: Sequence[Any], value: Any, place: str) -> Any:
    if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
        raise ValueError(f"{_at(place)}one of {', '.join(map(repr, values))} was expected, not {_told(value)}")
    return value


def _plain(hint: Any, value: Any, place: str) -> Any:
    if callable(getattr(hint, "model_validate", None)):
        return hint.model_validate(value)
    if hint is Any:
        return value
    if hint in (dt.datetime, dt.date):
        try:
            return hint.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(f"{_at(place)}a {hint.__name__} was expected, not {_told(value)}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{_at(place)}{_hint_name(hint)} was expected, not {_told(value)}")
    return value


def _reason(error: Any) -> str:
    """Why and where, on one line; pydantic lists it."""
    listed = error.errors() if callable(getattr(error, "errors", None)) else []
    told = [f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}" for issue in listed[:3]]
    plain = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return " ".join(("; ".join(told) or plain).split())[:300].rstrip(": .")


def _field(value: Any, name: str, place: str = "") -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{_at(place)}an object was expected, not {_told(value)}")
    if name not in value:
        raise ValueError(f"{_inside(place, name)} is missing")
    return value[name]


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _hint_name(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if isinstance(hint, type) else str(hint)
