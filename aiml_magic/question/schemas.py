"""Types as JSON Schema in the API's strict form, and JSON back as instances of them.

Strict means: every object names all its fields, needs them all, and has no others. pydantic reads
types and judges replies; jsonschema judges replies to a schema that is given as a dict. What strict
mode has no word for is refused before anything is sent if it decides what a reply looks like (a
dict with any keys), and left out if it only narrows one (a length): the judge of the reply knows it
all the same. Importing this module imports pydantic.
"""

from __future__ import annotations

import inspect
import json
import re
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NotRequired, TypeVar

import pydantic
from pydantic._internal import _generate_schema
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from aiml_magic.api.responses import Raw
from aiml_magic.errors import NOTHING_SENT, BadInput, SchemaMismatch
from aiml_magic.text import did_you_mean

_Given = TypeVar("_Given")
_WRAPPED = (
    "value"  # the field in which a schema travels that is no object: the API takes only objects
)
_WHY = "x-unsayable"  # marks a part of a schema that strict mode cannot say
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_KEYWORDS = (  # in the order in which they are sent
    "$schema title type description enum const format pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "minItems maxItems items anyOf $ref properties required additionalProperties $defs definitions"
).split()
_READING = threading.RLock()
_UNSAYABLE = {
    name: f"the keyword {name}"
    for name in (
        "propertyNames not if then else dependentSchemas dependentRequired dependencies contains unevaluatedProperties "
        "unevaluatedItems $dynamicRef $recursiveRef".split()
    )
} | {"prefixItems": "a tuple of several types", "patternProperties": "an object with any names"}
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
_FENCED = re.compile(r"```[\w-]*\s*\n(.*?)\s*```", re.DOTALL)


@dataclass(frozen=True)
class Schema:
    """What an answer is to look like.

    `read` makes an instance of a JSON text; it raises whatever does not fit.
    """

    name: str
    json_schema: Raw
    read: Callable[[str], Any]

    @property
    def format(self) -> Raw:
        """The `text.format` of a request."""
        return {
            "type": "json_schema",
            "name": self.name,
            "schema": self.json_schema,
            "strict": True,
        }

    def parse(self, text: str) -> Any:
        """The instance that a reply stands for, which may come behind a BOM or in a fence.

        Raises SchemaMismatch.
        """
        stripped = text.strip("\ufeff \t\r\n")
        fenced = _FENCED.fullmatch(stripped)
        try:
            return self.read(fenced[1] if fenced else stripped)
        except Exception as error:  # what a type does when it is made is its author's
            raise SchemaMismatch(
                f"The reply does not fit {self.name}: {reason(error)}. It was paid for, and is kept.",
                "Its text is above; ask once more with --fresh, or loosen the schema.",
            ) from error


def schema_of(named: str, variables: Mapping[str, Any]) -> Schema:
    """The schema that a variable holds, a type or a JSON Schema. Raises BadInput."""
    if named not in variables or named.startswith("_"):
        hint = did_you_mean(named, (name for name in variables if not name.startswith("_")))
        raise BadInput(
            f"There is no variable {named[:60]} to take a schema from. {NOTHING_SENT}",
            hint or "Define a class, or a dict.",
        )
    return of_value(variables[named], named)


def of_value(value: Any, name: str) -> Schema:
    """The schema that `value` describes. Raises BadInput."""
    return _asked_of(lambda: _of_value(value, name), name)


def of_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The strict schema of a function's parameters, by its type hints. Raises BadInput."""
    name = getattr(function, "__name__", "function")
    return _asked_of(
        lambda: _strict(
            _nullable_fields({"required": [], **_json_schema(_parameters(function))}), name
        ),
        name,
    )


def arguments_of(function: Callable[..., Any], given: Any) -> dict[str, Any]:
    """The arguments of a call that came as a JSON value; null stands for a default.

    Raises ValueError with the place and why.
    """
    if isinstance(given, Mapping):
        parameters = inspect.signature(function).parameters
        has_default = {
            name for name in parameters if parameters[name].default is not inspect.Parameter.empty
        }
        given = {
            name: value
            for name, value in given.items()
            if value is not None or name not in has_default
        }
    try:
        arguments: dict[str, Any] = _parameters(function).validate_json(
            json.dumps(given), strict=True
        )
    except pydantic.ValidationError as error:
        raise ValueError(reason(error)) from error
    return arguments


def _of_value(value: Any, name: str) -> Schema:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(value, "__name__", name))[:64]
    if isinstance(value, Mapping):
        return _of_dict(value, name)
    if inspect.isroutine(value) or isinstance(value, str):
        raise TypeError(f"{name} is no type")
    is_model = isinstance(value, type) and issubclass(value, pydantic.BaseModel)
    is_strict = not is_model  # a model says itself how strict it is
    adapter = _adapter(value)
    schema = _json_schema(adapter, is_model=is_model)
    if schema.get("type") == "object":
        return Schema(
            name,
            _strict(schema, name),
            lambda text: adapter.validate_json(text, strict=is_strict or None),
        )
    wrapper: Any = TypedDict(name, {_WRAPPED: value})  # type: ignore[misc]  # a type that is made here
    wrapped = _adapter(wrapper)
    return Schema(
        name,
        _strict(_json_schema(wrapped), name),
        lambda text: wrapped.validate_json(text, strict=is_strict or None)[_WRAPPED],
    )


def _of_dict(value: Mapping[str, Any], name: str) -> Schema:
    from jsonschema import validators
    from jsonschema.exceptions import best_match
    from referencing import Registry

    given = json.loads(json.dumps(value, allow_nan=False))
    if given.get("type") != "object" or not isinstance(given.get("properties"), Mapping):
        raise BadInput(
            f'{name} describes no object: it needs "type": "object" and "properties". {NOTHING_SENT}',
            "Wrap it in an object.",
        )
    judged = _with_nullable_fields(given)
    kind = validators.validator_for(judged, default=validators.Draft202012Validator)
    kind.check_schema(judged)
    for reference in _references(judged):
        _target(judged, reference)
    judge = kind(judged, registry=Registry())  # without one it would fetch what a reference names

    def read(text: str) -> Any:
        reply = json.loads(text)
        if error := best_match(judge.iter_errors(reply)):
            raise ValueError(f"{_at(error.absolute_path)}{error.message}")
        return reply

    return Schema(name, _strict(judged, name), read)


def _parameters(function: Callable[..., Any]) -> pydantic.TypeAdapter[Any]:
    """The parameters of a function as one type. Raises BadInput."""
    name = getattr(function, "__name__", "function")
    hints = typing.get_type_hints(function, include_extras=True)
    known: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise BadInput(
                f"{name} takes {parameter}, which no schema can ask for. {NOTHING_SENT}",
                "Give each parameter a name and a type.",
            )
        if parameter.name not in hints:
            raise BadInput(
                f"{name}({parameter.name}) has no type hint. {NOTHING_SENT}",
                "Add one, such as `: str`.",
            )
        hint = hints[parameter.name]
        known[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    arguments: Any = TypedDict(name, known)  # type: ignore[misc]  # a type that is made here
    return _adapter(pydantic.with_config(extra="forbid")(arguments))


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    try:
        with _any_typed_dict():
            adapter = pydantic.TypeAdapter(kind)
            adapter.rebuild(raise_errors=True)  # names what is not defined
    except AttributeError as error:
        if error.name != "__orig_bases__" or hasattr(error.obj, error.name):
            raise
        inherited: Any = error.obj  # a TypedDict of another one, which has them from Python 3.12 on
        inherited.__orig_bases__ = inherited.__bases__
        return _adapter(kind)
    return adapter


@contextmanager
def _any_typed_dict() -> Iterator[None]:
    """Within it pydantic takes a TypedDict of `typing` before Python 3.12 too, where it could not see all that it may hold."""
    supported = "_SUPPORTS_TYPEDDICT"
    with _READING:
        known = getattr(_generate_schema, supported, True)
        setattr(_generate_schema, supported, True)
        try:
            yield
        finally:
            setattr(_generate_schema, supported, known)


class _Generator(GenerateJsonSchema):
    """pydantic's JSON Schema, with the words of an `Annotated` hint and of docstrings, and marks where a type cannot be read."""

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        made = _described(super().dataclass_schema(schema), schema["cls"])
        for field in fields(schema["cls"]):
            if not field.init:
                made["properties"].pop(field.name, None)
        return made

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return _described(super().typed_dict_schema(schema), schema.get("cls"))

    def model_schema(self, schema: Any) -> dict[str, Any]:
        return _described(super().model_schema(schema), schema["cls"])

    def set_schema(self, schema: Any) -> dict[str, Any]:
        return _of_hashable(super().set_schema(schema), schema)

    def frozenset_schema(self, schema: Any) -> dict[str, Any]:
        return _of_hashable(super().frozenset_schema(schema), schema)

    def enum_schema(self, schema: Any) -> dict[str, Any]:
        return _of_choices(
            super().enum_schema(schema), [member.value for member in schema["members"]]
        )

    def literal_schema(self, schema: Any) -> dict[str, Any]:
        return _of_choices(super().literal_schema(schema), schema["expected"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])  # which may be no JSON, and is not asked for


class _PlainGenerator(_Generator):
    """The same for what is no model: without titles, which only repeat the names, and of one choice as of several."""

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        return _untitled(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return _untitled(super().typed_dict_schema(schema))

    def literal_schema(self, schema: Any) -> dict[str, Any]:
        made = super().literal_schema(schema)
        return made | {"enum": [made.pop("const")]} if "const" in made else made


def _untitled(made: dict[str, Any]) -> dict[str, Any]:
    for entry in (made, *made["properties"].values()):
        entry.pop("title", None)
    return made


def _described(made: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The schema of a class with its docstring, and with the words of its fields."""
    if kind is None:
        return made
    words = inspect.cleandoc(kind.__doc__ or "")
    is_generated = is_dataclass(kind) and words.startswith(f"{made.get('title')}(")
    if (
        words
        and not is_generated
        and words
        not in (inspect.cleandoc(base.__doc__ or "") for base in (dict, pydantic.BaseModel))
    ):
        made.setdefault("description", words)
    hints: dict[str, Any] = {}
    with suppress(
        NameError
    ):  # of a class inside a function, whose names pydantic knows and nobody else
        hints = typing.get_type_hints(kind, include_extras=True)
    for name, field in made.get("properties", {}).items():
        made["properties"][name] = _with_words(field, hints.get(name))
    return made


def _with_words(made: dict[str, Any], hint: Any) -> dict[str, Any]:
    """The schema of a hint with the first text of each `Annotated` in it."""
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


def _of_hashable(made: dict[str, Any], schema: Any) -> dict[str, Any]:
    entry = schema.get("items_schema", {})
    kind = entry.get("cls") or {"list": list, "dict": dict, "set": set, "typed-dict": dict}.get(
        entry.get("type"), object
    )
    return made if getattr(kind, "__hash__", None) else {_WHY: "a set of what no set can hold"}


def _of_choices(made: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """A choice with the type of its values, which strict servers want of every schema."""
    if not values or not all(type(value) in _PLAIN for value in values):
        return {_WHY: "a choice of what JSON does not have"}
    kinds = sorted({_PLAIN[type(value)] for value in values})
    return {**made, "type": kinds[0] if len(kinds) == 1 else kinds}


def _json_schema(adapter: pydantic.TypeAdapter[Any], *, is_model: bool = False) -> dict[str, Any]:
    """The JSON Schema of a type; the root of one that holds itself is no reference, which the API does not take.

    An answer is known by the schema that was asked for, so that it must stay as it is: that of a
    model as pydantic writes it, others without titles and with the choices of an Enum where they
    are used, as they were before pydantic wrote them.
    """
    schema = adapter.json_schema(schema_generator=_Generator if is_model else _PlainGenerator)
    schema = schema if is_model else _with_choices_in_place(schema)
    if isinstance(reference := schema.get("$ref"), str):
        definitions = schema["$defs"]
        root = definitions[reference.rpartition("/")[2]]
        others = {
            name: entry
            for name, entry in definitions.items()
            if entry is not root or reference in _references(definitions)
        }
        return {**root, "$defs": others}
    return schema


def _with_choices_in_place(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that refers to no definition of a choice."""
    definitions = schema.get("$defs", {})
    choices = {f"#/$defs/{name}": entry for name, entry in definitions.items() if "enum" in entry}

    def in_place(entry: Any, _: str) -> Any:
        choice = choices.get(entry.get("$ref"))
        if choice is None:
            return _with_parts(entry, in_place)
        return {"type": choice["type"], "enum": choice["enum"]} | {
            name: entry[name] for name in entry if name != "$ref"
        }

    others = {
        name: entry for name, entry in definitions.items() if f"#/$defs/{name}" not in choices
    }
    rest = {name: entry for name, entry in schema.items() if name != "$defs"}
    return _with_parts({**rest, "$defs": others} if others else rest, in_place)


def _with_parts(schema: Mapping[str, Any], change: Callable[[Any, str], Any]) -> dict[str, Any]:
    """A schema with `change` made of each schema in it, which is told the step to it: `.field`, `[]`, `#definition` or none."""
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


def _with_nullable_fields(schema: Any, _: str = "") -> Any:
    """A JSON Schema in which every field that is not needed may be null too: in strict form all are needed."""
    return (
        _nullable_fields(_with_parts(schema, _with_nullable_fields))
        if isinstance(schema, Mapping)
        else schema
    )


def _nullable_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """The same for the fields of the object itself."""
    fields = schema.get("properties")
    if isinstance(fields, Mapping) and isinstance(
        needed := schema.setdefault("required", list(fields)), list
    ):
        schema["properties"] = {
            name: entry if name in needed else _nullable(entry) for name, entry in fields.items()
        }
    return schema


def _nullable(schema: Any) -> Any:
    null = {"type": "null"}
    return (
        schema
        if isinstance(schema, Mapping) and schema.get("type") == "null"
        else {"anyOf": [schema, null]}
    )


def _strict(schema: Any, place: str) -> dict[str, Any]:
    """A schema in strict form: of all objects every field is needed and no other allowed.

    Raises BadInput with the place.
    """
    if not isinstance(schema, Mapping):
        raise _unsayable(place, "anything")
    plain = _plainer(schema)
    if why := plain.get(_WHY) or next(
        (_UNSAYABLE[name] for name in plain if name in _UNSAYABLE), None
    ):
        raise _unsayable(place, why)

    def inner(entry: Any, step: str) -> dict[str, Any]:
        return _strict(entry, step[1:] if step.startswith("#") else f"{place}{step}")

    done = _with_parts({name: plain[name] for name in _KEYWORDS if name in plain}, inner)
    if "$ref" in done:
        return {
            name: value for name, value in done.items() if name in ("$ref", "$defs", "definitions")
        }
    if "properties" in done:
        done |= {"required": list(done["properties"]), "additionalProperties": False}
        return {name: done[name] for name in _KEYWORDS if name in done}
    if "object" in _kinds(done):
        raise _unsayable(place, "an object with any names")
    if not (
        "items" in done
        if "array" in _kinds(done)
        else done.keys() & {"type", "anyOf", "enum", "const"}
    ):
        raise _unsayable(place, "anything")
    return done


def _plainer(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the words of strict mode: a choice of schemas is `anyOf`, an `allOf` of one is that one, a tuple is a list."""
    plain = dict(schema)
    if "oneOf" in plain:
        plain["anyOf"] = plain.pop("oneOf")
    match plain.get("allOf"):
        case [Mapping() as alone]:
            del plain["allOf"]
            plain |= alone
        case None:
            pass
        case _:
            plain[_WHY] = "allOf"
    if plain.get("format") not in _FORMATS:
        plain.pop("format", None)
    if re.search(
        r"\(\?[^:]", str(plain.get("pattern", ""))
    ):  # servers' patterns look neither ahead nor back
        del plain["pattern"]
    entries = plain.get("prefixItems")
    if (
        entries
        and all(entry == entries[0] for entry in entries)
        and plain.get("maxItems") == len(entries)
    ):
        plain["items"] = plain.pop("prefixItems")[0]
    return plain


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _unsayable(place: str, what: str) -> BadInput:
    return BadInput(
        f"{place} asks for {what}, which strict mode cannot say. {NOTHING_SENT}",
        "It can say text, numbers, booleans, dates, choices, lists, unions, and objects whose fields are named.",
    )


def _asked_of(give: Callable[[], _Given], name: str) -> _Given:
    """What `give` gives; whatever an object of the notebook raises while it is looked at is an error of two lines."""
    try:
        return give()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{name} gives no schema: {reason(error)}. {NOTHING_SENT}",
            "Use types that JSON has: text, numbers, booleans, lists and objects.",
        ) from error


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from (ref for ref in [schema.get("$ref")] if isinstance(ref, str))
    for entry in (
        schema.values()
        if isinstance(schema, Mapping)
        else schema
        if isinstance(schema, list)
        else ()
    ):
        yield from _references(entry)


def _target(root: Any, reference: str) -> Any:
    """What a reference inside a JSON Schema points to (RFC 6901): `#` is all of it.

    Raises ValueError if there is nothing.
    """
    start, *steps = reference.split("/")
    nowhere = ValueError(f"its reference {reference} leads nowhere")
    if start != "#":
        raise nowhere
    try:
        for step in steps:
            root = root[
                int(step) if isinstance(root, list) else step.replace("~1", "/").replace("~0", "~")
            ]
    except (KeyError, IndexError, TypeError, ValueError):
        raise nowhere from None
    return root


def reason(error: Any) -> str:
    """Why and where, on one line; pydantic lists it. An error of the notebook may have no words."""
    try:
        match error:
            case pydantic.ValidationError():
                told = "; ".join(
                    f"{_at(issue['loc'])}{issue['msg']}" for issue in error.errors()[:3]
                )
            case json.JSONDecodeError():
                told = f"it is no JSON: {error}"
            case ValueError():
                told = str(error)
            case _:
                words = str(getattr(error, "message", error)).partition("For further information")[
                    0
                ]
                told = f"{type(error).__name__}: {words}"
    except Exception:  # noqa: BLE001
        return type(error).__name__
    return " ".join(told.split())[:300].rstrip(": .")


def _at(path: Sequence[str | int]) -> str:
    place = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in path
    ).removeprefix(".")
    return f"{place}: " if place else ""
