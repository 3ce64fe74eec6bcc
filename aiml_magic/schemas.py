"""Types of Python as JSON Schema, as the API's strict mode wants it, and JSON back as instances of them.

Strict means: every object names all its fields, needs them all, and has no others; what is optional may be null. A pydantic
model brings its own schema; dataclasses, TypedDicts, enums, literals, lists and unions of them are read here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from aiml_magic.errors import NOTHING_SENT, BadInput, SchemaMismatch, nearest
from aiml_magic.responses import Raw

_Given = TypeVar("_Given")
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
    return _asked_of(lambda: _of_value(value, name), name)


def _of_value(value: Any, name: str) -> Schema:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(value, "__name__", name))[:64]
    if isinstance(value, Mapping):
        given = _as_sent(value)
        _check_is_schema(given, name)
        return Schema(name, strict(given), lambda reply: _checked(reply, given, given, ""))
    if _is_model(value):
        return Schema(name, _as_sent(strict(value.model_json_schema(), optional_is_null=False)), value.model_validate)
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
    return _asked_of(lambda: _of_parameters(function, name), name)


def _of_parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        signature, hints = inspect.signature(function), typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise BadInput(
            f"The parameters of {name} cannot be read: {_reason(error)}. {NOTHING_SENT}", "Give it plain type hints."
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


def strict(schema: Any, *, optional_is_null: bool = True) -> Any:
    """A JSON Schema in strict form: of all objects every field is needed and no other allowed; what was optional may be null.

    Not so for a type that judges its replies itself: null does not stand for a default of it.
    """
    inner = functools.partial(strict, optional_is_null=optional_is_null)
    if isinstance(schema, list):
        return [inner(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]} | {name: inner(value) for name, value in schema.items() if name == "$defs"}
    match schema.get("allOf", []):
        case [Mapping() as alone]:
            return inner({**{name: value for name, value in schema.items() if name != "allOf"}, **alone})
        case every if not _are_schemas(every):
            raise ValueError("allOf is no list of schemas")
    named = ("properties", "$defs", "definitions")
    done = {
        name: {key: inner(entry) for key, entry in value.items()}
        if name in named and isinstance(value, Mapping)
        else inner(value)
        for name, value in schema.items()
        if name != "default"
    }
    if isinstance(done.get("properties"), dict):
        needed = schema.get("required", list(done["properties"]))
        if not isinstance(needed, list) or not _are_schemas(list(done["properties"].values())):
            raise ValueError("properties are schemas, and required is a list of their names")
        optional = {name: _nullable(entry) for name, entry in done["properties"].items() if name not in needed}
        done |= _object(done["properties"] | (optional if optional_is_null else {}))
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
        self._defined: dict[str, Any] = {}  # the class that a definition is of

    def schema(self, hint: Any, place: str = "") -> Raw:
        origin, inside = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            words = [word for word in inside[1:] if isinstance(word, str)]
            return {**self.schema(inside[0], place), **({"description": words[0]} if words else {})}
        if origin in _QUALIFIERS:
            return self.schema(inside[0], place)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(entry, place) for entry in inside]}
        if choices := _choices(hint):
            return _choice(choices)
        if inside and _is_list(origin, inside):
            return {"type": "array", "items": self.schema(inside[0], place)}
        if (dataclasses.is_dataclass(hint) and isinstance(hint, type)) or typing.is_typeddict(hint):
            return self._of_class(hint, place)
        if _is_model(hint):
            return self._of_model(hint)
        if (plain := next((schema for kind, schema in _PLAIN.items() if kind is hint), None)) is not None:
            return plain
        where = f"{self._name} ({place})" if place else self._name
        raise BadInput(
            f"{where} has the type {_hint_name(hint)}, which no schema can ask for. {NOTHING_SENT}",
            "It can ask for str, int, float, bool, None, date, Literal and Enum of these, list, unions, dataclasses, TypedDicts.",
        )

    def _of_class(self, kind: Any, place: str) -> Raw:
        name, number = kind.__name__, 1
        while name in self._definitions and self._defined.get(name) is not kind:
            number += 1
            name = f"{kind.__name__}_{number}"
        if name not in self._definitions:
            self._defined[name], self._definitions[name] = kind, {}  # known from now on, since it may hold itself
            properties = {field: self.schema(hint, _inside(place, field)) for field, hint in _fields_of(kind).items()}
            self._definitions[name] = _object(properties) | _described(kind)
        return {"$ref": f"#/$defs/{name}"}

    def _of_model(self, model: Any) -> Raw:
        schema = dict(strict(model.model_json_schema(), optional_is_null=False))
        definitions = schema.pop("$defs", {})
        if "$ref" not in schema:  # one that holds itself is a reference already
            definitions[model.__name__] = schema
            schema = {"$ref": f"#/$defs/{model.__name__}"}
        for name, definition in definitions.items():
            if self._definitions.setdefault(name, definition) != definition:
                raise BadInput(f"Two types inside {self._name} are called {name}. {NOTHING_SENT}", "Give one another name.")
        return schema


def _asked_of(give: Callable[[], _Given], name: str) -> _Given:
    """What `give` gives; whatever an object of the notebook raises while it is looked at is an error of two lines."""
    try:
        return give()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{name} gives no schema: {_reason(error)}. {NOTHING_SENT}",
            "Use types that JSON has: text, numbers, booleans, lists and objects.",
        ) from error


def _as_sent(schema: Any) -> Any:
    """`schema` as JSON gives it back. Raises for what JSON cannot hold."""
    return json.loads(json.dumps(schema, allow_nan=False))


def _is_list(origin: Any, inside: Sequence[Any]) -> bool:
    """A list of one type; a set is none if it could not hold what comes."""
    if origin in (set, frozenset):
        return getattr(typing.get_origin(inside[0]) or inside[0], "__hash__", None) is not None
    return origin in (list, Sequence) or (origin is tuple and inside[1:] == (...,))


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and all(callable(getattr(hint, name, None)) for name in ("model_json_schema", "model_validate"))


def _are_schemas(entries: Any) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)


def _fields_of(kind: Any) -> dict[str, Any]:
    """The hints of the fields that an instance is made of."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:
        raise BadInput(
            f"The fields of {kind.__name__} cannot be read: {_reason(error)}. {NOTHING_SENT}",
            "A type hint names what is not defined; define it first.",
        ) from error
    if not dataclasses.is_dataclass(kind):
        return hints
    made_of = {field.name for field in dataclasses.fields(kind) if field.init}
    given = {name: hint.type for name, hint in hints.items() if isinstance(hint, dataclasses.InitVar)}
    return {name: given.get(name, hint) for name, hint in hints.items() if name in made_of or name in given}


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
    if value.get("type") != "object" or not isinstance(value.get("properties"), Mapping):
        raise BadInput(
            f'{name} describes no object: it needs "type": "object" and "properties". {NOTHING_SENT}', "Wrap it in an object."
        )
    for reference in _references(value):
        _target(value, reference)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from (ref for ref in [schema.get("$ref")] if isinstance(ref, str))
    for entry in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ():
        yield from _references(entry)


def _target(root: Any, reference: str) -> Any:
    """What a reference inside a JSON Schema points to (RFC 6901): `#` is all of it. Raises ValueError if there is nothing."""
    start, *steps = reference.split("/")
    nowhere = ValueError(f"its reference {reference} leads nowhere")
    if start != "#":
        raise nowhere
    try:
        for step in steps:
            root = root[int(step) if isinstance(root, list) else step.replace("~1", "/").replace("~0", "~")]
    except (KeyError, IndexError, TypeError, ValueError):
        raise nowhere from None
    return root


def _checked(value: Any, schema: Any, root: Raw, place: str) -> Any:
    """`value`, if it fits as far as types, fields, lists and enumerations go; null is an optional field. Raises ValueError."""
    if not isinstance(schema, Mapping):
        return value
    if "$ref" in schema:
        return _checked(value, _target(root, schema["$ref"]), root, place)
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


def _choices(hint: Any) -> list[Any]:
    """The values of a Literal or an Enum; none if a reply could not say one of them, since JSON gives another back."""
    values = list(typing.get_args(hint)) if typing.get_origin(hint) is Literal else []
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
    try:
        return values if _as_sent(values) == values else []
    except (TypeError, ValueError):
        return []


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
    """Why and where, on one line; pydantic lists it. An error of the notebook may have no words."""
    try:
        listed = error.errors() if callable(getattr(error, "errors", None)) else []
        told = [f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}" for issue in listed[:3]]
        plain = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001
        return type(error).__name__
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
