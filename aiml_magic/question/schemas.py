"""Types as JSON Schema for the API, and JSON as instances of these types.

pydantic reads types and validates replies; jsonschema validates replies to a schema in a dict.
Importing this module imports pydantic.
"""

from __future__ import annotations

import inspect
import json
import re
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any, NotRequired

import pydantic
from pydantic._internal import _generate_schema
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import TypedDict

from aiml_magic.api.responses import Raw
from aiml_magic.errors import NOTHING_SENT, BadInput, SchemaMismatch, refusing
from aiml_magic.question.generated import Naming, json_schema
from aiml_magic.question.strict import (
    JsonSchema,
    as_json,
    check_references,
    nullable_fields,
    relaxed,
    strict,
)
from aiml_magic.question.values import Function, Variables
from aiml_magic.text import did_you_mean, one_line, reason, target

_WRAPPED = "value"  # the field of an object around another type: the API accepts only objects
_lock = threading.RLock()
_HINT = "Use types that JSON has: text, numbers, booleans, lists and objects."
_FENCED = re.compile(r"(`{3,}+|~{3,}+)[^`{\n]*+(.*?)\1", re.DOTALL)
_AROUND = "\ufeff \t\r\n"  # a reply may have these around it


@dataclass(frozen=True)
class Schema:
    """The schema of an answer; `read` makes an instance of JSON, or raises any exception."""

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
        """The instance in a reply, which may have a BOM or a code fence. Raises SchemaMismatch."""
        stripped = text.strip(_AROUND)
        fenced = _FENCED.fullmatch(stripped)
        try:
            return self.read(fenced[2].strip(_AROUND) if fenced else stripped)
        except (Exception, SystemExit) as error:  # a class of the notebook may raise anything
            raise SchemaMismatch(
                f"The reply does not fit {self.name}: {_why(error)}. It was paid for, and is kept.",
                "Its text is above; ask once more with --fresh, or loosen the schema.",
            ) from error


def schema_of(named: str, variables: Variables) -> Schema:
    """The schema of a variable that holds a type or a JSON Schema. Raises BadInput."""
    if named not in variables or named.startswith("_"):
        hint = did_you_mean(named, (name for name in variables if not name.startswith("_")))
        raise BadInput(
            f"There is no variable {named[:60]} to take a schema from. {NOTHING_SENT}",
            hint or "Define a class, or a dict.",
        )
    return of_value(variables[named], named)


def of_value(value: Any, name: str) -> Schema:
    """The schema that `value` describes. Raises BadInput."""
    with refusing(f"{name} gives no schema", _HINT, _why):
        return _of_value(value, name)


def of_parameters(function: Function) -> JsonSchema:
    """The strict schema of a function's parameters, by its type hints. Raises BadInput."""
    name = getattr(function, "__name__", "function")
    with refusing(f"{name} gives no schema", _HINT, _why):
        schema = {"required": [], **json_schema(_parameters(function))}
        return strict(nullable_fields(schema), name)


def arguments_of(function: Function, given: Any) -> dict[str, Any]:
    """The arguments of a call as Python values; null stands for a default.

    Raises ValueError, which names the argument.
    """
    if isinstance(given, Mapping):
        parameters = inspect.signature(function).parameters.items()
        optional = {name for name, each in parameters if each.default is not each.empty}
        given = {
            name: value
            for name, value in given.items()
            if value is not None or name not in optional
        }
    try:
        text = json.dumps(given)
        arguments: dict[str, Any] = _parameters(function).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(_why(error)) from error
    return arguments


def _of_value(value: Any, name: str) -> Schema:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(value, "__name__", name))[:64]
    if isinstance(value, Mapping):
        return _of_dict(value, name)
    is_class = isinstance(value, type)
    is_instance = not is_class and (is_dataclass(value) or isinstance(value, pydantic.BaseModel))
    if is_instance or inspect.isroutine(value) or isinstance(value, str):
        raise TypeError(f"{name} is not a type")
    is_model = is_class and issubclass(value, pydantic.BaseModel)
    is_strict = None if is_model else True  # a model has its own setting
    try:
        adapter = _adapter(value)
    except PydanticSchemaGenerationError:
        if not is_class and typing.get_origin(value) is None:
            raise TypeError(f"{name} is not a type") from None
        known = _object(name, {_WRAPPED: value}, arbitrary_types_allowed=True)
        strict(_adapter(known).json_schema(schema_generator=Naming), name)
        raise
    schema = json_schema(adapter, is_model=is_model)
    is_wrapped = schema.get("type") != "object"
    if is_wrapped:
        adapter = _adapter(_object(name, {_WRAPPED: value}))
        schema = json_schema(adapter)

    def read(text: str) -> Any:
        instance = adapter.validate_json(text, strict=is_strict)
        return instance[_WRAPPED] if is_wrapped else instance

    return Schema(name, strict(schema, name), read)


def _object(name: str, parts: Mapping[str, Any], **config: Any) -> Any:
    """An object with these fields. If any class is allowed, `float | array` is read as `float`."""
    made: Any = TypedDict(name, dict(parts))  # type: ignore[misc]  # made at run time
    return pydantic.with_config(**config)(made)


def _of_dict(value: Raw, name: str) -> Schema:
    from jsonschema import validators
    from jsonschema.exceptions import best_match
    from referencing import Registry

    given = json.loads(json.dumps(as_json(value, name)))
    if isinstance(reference := given.get("$ref"), str):  # as the schema of a recursive type has
        del given["$ref"]
        given |= target(given, reference)
    if given.get("type") != "object" or not isinstance(given.get("properties"), Mapping):
        raise BadInput(
            f"{name} does not describe an object. {NOTHING_SENT}",
            'Wrap it in one: it needs "type": "object" and "properties".',
        )
    schema = relaxed(given)
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    kind.check_schema(schema)
    sent = strict(schema, name)
    for each in (schema, sent):  # strict mode may lack the part
        check_references(each)
    # The default registry would fetch references from the network.
    validator = kind(schema, registry=Registry())

    def read(text: str) -> Any:
        reply = json.loads(text)
        if error := best_match(validator.iter_errors(reply)):
            raise ValueError(f"{_at(error.absolute_path)}{error.message}")
        return reply

    return Schema(name, sent, read)


def _parameters(function: Function) -> pydantic.TypeAdapter[Any]:
    """The parameters of a function as one type. Raises BadInput."""
    name = getattr(function, "__name__", "function")
    hints = typing.get_type_hints(function, include_extras=True)
    if isinstance(function, type) and not issubclass(function, pydantic.BaseModel):
        hints |= typing.get_type_hints(function.__init__, include_extras=True)
    typed: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadInput(
                f"{name} takes {parameter}, which a schema cannot describe. {NOTHING_SENT}",
                "Give each parameter a name and a type.",
            )
        if parameter.name not in hints:
            raise BadInput(
                f"{name}({parameter.name}) has no type hint. {NOTHING_SENT}",
                "Add one, such as `: str`.",
            )
        hint = hints[parameter.name]
        if typing.get_origin(hint) is Iterable:  # which pydantic would read only once
            hint = list[typing.get_args(hint)]  # type: ignore[misc]  # made at run time
        typed[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    return _adapter(_object(name, typed, extra="forbid", arbitrary_types_allowed=True))


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    try:
        with _any_typed_dict():
            adapter = pydantic.TypeAdapter(kind)
            adapter.rebuild(raise_errors=True)  # the error names the undefined name
    except AttributeError as error:
        if error.name != "__orig_bases__" or hasattr(error.obj, error.name):
            raise
        inherited: Any = error.obj  # a TypedDict with a base has them from Python 3.12 on
        inherited.__orig_bases__ = inherited.__bases__
        return _adapter(kind)
    return adapter


@contextmanager
def _any_typed_dict() -> Iterator[None]:
    """A context in which pydantic reads a TypedDict of `typing` before Python 3.12.

    pydantic refuses these, since it cannot read the configuration of such a class.
    """
    supported = "_SUPPORTS_TYPEDDICT"
    with _lock:
        known = getattr(_generate_schema, supported, True)
        setattr(_generate_schema, supported, True)
        try:
            yield
        finally:
            setattr(_generate_schema, supported, known)


def _why(error: BaseException) -> str:
    """The message of a validation error with the path of its value, on one line."""
    try:
        match error:
            case pydantic.ValidationError():
                issues = error.errors()[:3]
                why = "; ".join(f"{_at(issue['loc'])}{issue['msg']}" for issue in issues)
            case json.JSONDecodeError():
                why = f"it is not JSON: {error}"
            case ValueError():
                return reason(error)
            case _:
                words = str(getattr(error, "message", error))
                words = re.split("For further info| Set `", words)[0]
                place = _at(getattr(error, "absolute_path", ()))  # of a SchemaError
                why = f"{type(error).__name__}: {place}{words}"
    except Exception:  # noqa: BLE001  # a class of the notebook may fail to write its text
        return type(error).__name__
    return one_line(why).rstrip(": .")


def _at(path: Sequence[str | int]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    text = "".join(steps).removeprefix(".")
    return f"{text}: " if text else ""
