"""Types as strict schemas, replies as instances, and replies that do not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import subprocess
import sys
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar
from unittest import mock

import pydantic
import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from pydantic.json_schema import SkipJsonSchema
from strict_rules import broken
from typing_extensions import TypedDict

from aiml_magic.errors import BadInput, SchemaMismatch
from aiml_magic.question import schemas
from aiml_magic.question.schemas import of_value
from aiml_magic.sandbox.calls import filled


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    CRIMSON = "red"  # noqa: PIE796  # another name of a value


@dataclasses.dataclass
class Author:
    name: str
    born: int | None


@dataclasses.dataclass
class Paper:
    """A paper, rated."""

    title: Annotated[str, "as printed"]
    score: float
    authors: list[Author]
    verdict: Literal["accept", "reject"]
    colour: Colour
    when: dt.date
    is_new: bool


class Tree(TypedDict):
    word: str
    children: list[Tree]
    note: NotRequired[str]


PAPER = {
    "title": "On x",
    "score": 3,
    "authors": [{"name": "A", "born": None}],
    "verdict": "accept",
    "colour": "red",
    "when": "2026-01-02",
    "is_new": True,
}
RATED = {
    "type": "object",
    "properties": {"score": {"type": "integer"}, "why": {"type": "string"}},
    "required": ["score"],
}


class Note(typing.TypedDict, total=False):
    """A note."""

    of: typing.Required[Author]
    words: Annotated[list[Annotated[str, "a word"]], "as they stand"]


class LongNote(Note):
    more: list[LongNote]


@dataclasses.dataclass
class Noted:
    note: Note
    kind: Literal["short"]
    colour: Annotated[Colour | None, "of its paper"] = None


@pytest.mark.parametrize(
    "value",
    [
        Paper,
        Tree,
        Author,
        Note,
        Noted,
        RATED,
        list[Paper],
        Literal["yes", "no"],
        Colour,
        int | None,
    ],
)
def test_strict(value):
    """In a strict schema every object requires all its fields and has no others, and the name is valid for the API."""
    schema = of_value(value, "some name!")
    assert not broken(schema.json_schema)
    assert set(schema.name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    )
    json.dumps(schema.format)


def test_dataclass():
    """A reply is an instance of the dataclass, all the way down."""
    schema = of_value(Paper, "Paper")
    assert "A paper, rated." == schema.json_schema["description"]
    assert {"type": "string", "description": "as printed"} == schema.json_schema["properties"][
        "title"
    ]
    paper = schema.parse(json.dumps(PAPER))
    assert (
        Paper(
            "On x", 3.0, [Author("A", None)], "accept", Colour.RED, dt.date(2026, 1, 2), is_new=True
        )
        == paper
    )
    assert isinstance(paper.score, float)


def test_recursive_type():
    """A recursive type is a reference in the schema, and its replies are read."""
    schema = of_value(Tree, "Tree")
    assert {"$ref": "#/$defs/Tree"} == schema.json_schema["$defs"]["Tree"]["properties"][
        "children"
    ]["items"]
    tree = {"word": "a", "children": [{"word": "b", "children": [], "note": ""}], "note": "n"}
    assert tree == schema.parse(json.dumps(tree))


def test_what_is_no_object():
    """A list or a choice is wrapped in an object, and unwrapped from the reply."""
    assert [1, 2] == of_value(list[int], "numbers").parse('{"value": [1, 2]}')
    assert "yes" == of_value(Literal["yes", "no"], "answer").parse('{"value": "yes"}')


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"score": "high"}, "score"), ({"authors": [{"name": 7, "born": 1}]}, "authors[0].name"), ({"authors": {}}, "authors"), ({"verdict": "maybe"}, "verdict"),
        ({"colour": "green"}, "colour"), ({"when": "soon"}, "when"), ({"is_new": 1}, "is_new"), ({"authors": [{"name": "A"}]}, "authors[0].born"),
    ],
)  # fmt: skip
def test_what_does_not_fit(change, place):
    """The error for a reply that does not fit names the field and the reason, in two lines."""
    with pytest.raises(SchemaMismatch) as mismatch:
        of_value(Paper, "Paper").parse(json.dumps(PAPER | change))
    assert place in mismatch.value.message
    assert "is kept" in mismatch.value.message
    assert 2 == len(str(mismatch.value).splitlines())


@dataclasses.dataclass
class Share:
    part: float
    whole: float

    def __post_init__(self):
        self.percent = 100 * self.part / self.whole


@dataclasses.dataclass
class Leaving:
    x: int

    def __post_init__(self):
        sys.exit("bye")


def test_type_that_fails():
    """If a type of the notebook raises any exception, the answer does not fit, and is stored, since it was paid for."""
    with pytest.raises(SchemaMismatch, match=r"does not fit Share: ZeroDivisionError: .* is kept"):
        of_value(Share, "Share").parse('{"part": 1, "whole": 0}')
    with pytest.raises(SchemaMismatch, match="does not fit Leaving: SystemExit: bye.* is kept"):
        of_value(Leaving, "Leaving").parse('{"x": 1}')


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "null", '{"score": "x"}', '{"score": true}', "{}", "[" * 100_000]
)
def test_dict_does_not_fit(text):
    """A reply that does not fit its JSON Schema is refused."""
    with pytest.raises(SchemaMismatch):
        of_value(RATED, "rated").parse(text)


def test_dict_fits():
    """An optional field is nullable in strict form, and null fits."""
    schema = of_value(RATED, "rated")
    assert {"anyOf": [{"type": "string"}, {"type": "null"}]} == schema.json_schema["properties"][
        "why"
    ]
    assert {"score": 1, "why": None} == schema.parse('{"score": 1, "why": null}')


def test_references_in_a_dict():
    """References inside a JSON Schema are followed."""
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"anyOf": [{"type": "integer"}, {"enum": ["none"]}]}},
    }
    assert {"x": "none"} == of_value(schema, "s").parse('{"x": "none"}')
    with pytest.raises(SchemaMismatch, match="x"):
        of_value(schema, "s").parse('{"x": 1.5}')


class Node(pydantic.BaseModel):
    name: str
    kids: list[Node] = pydantic.Field(default_factory=list)


def test_references_to_the_whole():
    """References to the root of a JSON Schema, from its root, and to names with a slash, are followed, all the way down."""
    tree = {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["kids"],
    }
    assert {"kids": [{"kids": []}]} == of_value(tree, "tree").parse('{"kids": [{"kids": []}]}')
    with pytest.raises(SchemaMismatch, match=r"kids\[0\]\.kids"):
        of_value(tree, "tree").parse('{"kids": [{"kids": 1}]}')
    assert Node(name="a", kids=[Node(name="b")]).model_dump() == of_value(
        Node.model_json_schema(), "node"
    ).parse('{"name": "a", "kids": [{"name": "b", "kids": []}]}')
    slash = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/a~1b"}},
        "$defs": {"a/b": {"type": "integer"}},
    }
    assert {"n": 1} == of_value(slash, "slash").parse('{"n": 1}')


@dataclasses.dataclass
class Measured:
    score: int
    start: dataclasses.InitVar[int]
    label: str = dataclasses.field(init=False, default="made here")
    count: typing.ClassVar[int] = 0

    def __post_init__(self, start):
        self.score += start


def test_fields_that_are_not_asked_for():
    """The schema of a dataclass has only the fields of its constructor."""
    schema = of_value(Measured, "Measured")
    assert ["score", "start"] == schema.json_schema["required"]
    assert (3, "made here") == (
        (made := schema.parse('{"score": 1, "start": 2}')).score,
        made.label,
    )


def test_two_types_of_one_name():
    """Two classes of the same name are two definitions, and a reply is read as the right one."""
    one, two = (dataclasses.make_dataclass("Item", [("x", kind)]) for kind in (int, str))
    both = of_value(
        dataclasses.make_dataclass("Both", [("one", one), ("two", two), ("again", one)]), "Both"
    )
    assert ["integer", "string"] == [
        entry["properties"]["x"]["type"] for entry in both.json_schema["$defs"].values()
    ]
    assert both.json_schema["properties"]["again"] == both.json_schema["properties"]["one"]
    read = both.parse('{"one": {"x": 1}, "two": {"x": "a"}, "again": {"x": 2}}')
    assert (one(1), two("a"), one(2)) == (read.one, read.two, read.again)


def described(field: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": field}, **more}


def one(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        **more,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def used(
    note: Note, many: Annotated[int, "how many"] = 1, colour: Colour | None = None
) -> None: ...


TEXT, WHOLE, NULL = ({"type": kind} for kind in ("string", "integer", "null"))
COLOURS = {"type": "string", "enum": ["red", "blue"]}
AUTHOR = one({"name": TEXT, "born": {"anyOf": [WHOLE, NULL]}})
WORDS = {
    "type": "array",
    "description": "as they stand",
    "items": {"type": "string", "description": "a word"},
}
NOTE = one({"of": {"$ref": "#/$defs/Author"}, "words": WORDS}, description="A note.")


class Titled(pydantic.BaseModel):
    as_printed: str
    colour: Colour


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Author, AUTHOR),
        (Colour, one({"value": COLOURS})),
        (Note, NOTE | {"$defs": {"Author": AUTHOR}}),
        (Noted, one({
            "note": {"$ref": "#/$defs/Note"}, "kind": {"type": "string", "enum": ["short"]}, "colour": {"anyOf": [COLOURS, NULL], "description": "of its paper"},
        }) | {"$defs": {"Author": AUTHOR, "Note": NOTE}}),
        (Titled, one({"as_printed": {"title": "As Printed", "type": "string"}, "colour": {"$ref": "#/$defs/Colour"}}, title="Titled")
         | {"$defs": {"Colour": COLOURS | {"title": "Colour"}}}),
        (described(TEXT, title="T", **{"$schema": "https://json-schema.org/draft/2020-12/schema"}),
         one({"a": TEXT}, title="T", **{"$schema": "https://json-schema.org/draft/2020-12/schema"})),
        (described(NULL, required=[]), one({"a": NULL})),
        (used, one({
            "note": {"$ref": "#/$defs/Note"}, "many": {"anyOf": [{"type": "integer", "description": "how many"}, NULL]},
            "colour": {"anyOf": [{"anyOf": [COLOURS, NULL]}, NULL]},
        }) | {"$defs": {"Author": AUTHOR, "Note": NOTE}}),
    ],
    ids=lambda value: getattr(value, "__name__", "schema"),
)  # fmt: skip
def test_schemas_stay(kind, schema):
    """The schema of a type, which the replay key covers, is that of earlier versions, whose answers are found."""
    assert schema == (
        schemas.of_parameters(kind) if kind is used else of_value(kind, "kind").json_schema
    )


class Unsayable(TypedDict):
    table: dict[str, int]


class Pair(enum.Enum):
    A = (1, 2)


class Odd(enum.Enum):
    A = object()


class Lazy:
    """A proxy that raises at every access."""

    def __getattr__(self, name):
        raise RuntimeError("not bound\nas yet")


class Unwritable(Exception):
    def __str__(self):
        raise ValueError("no words")


class Unmade:
    @classmethod
    def model_json_schema(cls):
        raise Unwritable

    @classmethod
    def model_validate(cls, value):
        raise Unwritable


itself: list[Any] = []
itself.append(itself)


@pytest.mark.parametrize(
    "value",
    [
        Unsayable, dict[str, int], Any, 7, "text", {}, {"type": "array"}, {"type": "object"}, described(object()), len, tuple[int, str], object,
        Pair, Odd, Literal[Colour.RED], Literal[b"x"], enum.Enum("Empty", {}), list[Pair], set[Author], frozenset[list[int]], set[int | list[int]], set[tuple[list[int], list[int]]], [1, 2], itself, typing.List, typing.Sequence, typing.Set, typing.Tuple,  # noqa: UP006
        dataclasses.make_dataclass("Bare", [("x", typing.List)]), Lazy(), mock.Mock(), mock.MagicMock(), Unmade, described(itself), described({"enum": [float("nan")]}),  # noqa: UP006
        described(True, required=[]), described({}, required=True), described({}, required=None), described({"allOf": 5}), described({"allOf": [True]}),
        described({"$ref": "#/$defs/nowhere"}), described({"$ref": "#/properties/a"}), described({"oneOf": [TEXT, {"$ref": "#/properties/a/oneOf/0"}]}),
        described({"$ref": "#/$defs/b", "properties": {"c": TEXT}}, **{"$defs": {"b": TEXT}}), described({"allOf": [one({"b": TEXT})], "properties": {"c": TEXT}}),
        described({"oneOf": [TEXT], "anyOf": [TEXT, NULL]}), described(TEXT, anyOf=[one({"b": TEXT})]), described(TEXT, required=["a", "b"]), described({"enum": []}),
        described({"enum": [{"b": 1}]}), described({"const": [1]}), described({"type": "string", "enum": [1]}), described({"type": str}),
        enum.Enum("Unbounded", {"A": float("inf")}), Author("A", None), Titled(as_printed="x", colour=Colour.RED),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_unsayable(value):
    """A type that strict mode does not support is an error of two lines before anything is sent."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        of_value(value, "thing")
    assert 2 == len(str(refused.value).splitlines())


def test_typed_dict_of_typing():
    """A TypedDict of `typing` is read on any Python, also inside another type, and its optional fields may be missing."""
    note = {"of": {"name": "A", "born": None}, "words": ["b"]}
    assert {"of": Author("A", None), "words": ["b"]} == of_value(Note, "Note").parse(
        json.dumps(note)
    )
    more = note | {"more": [note | {"more": []}]}
    assert 1 == len(
        of_value(list[LongNote], "Notes").parse(json.dumps({"value": [more]}))[0]["more"]
    )
    assert {"note": {"of": Author("A", None)}} == schemas.arguments_of(
        used, {"note": {"of": note["of"]}, "many": None}
    )


def test_unresolved_names():
    """The error for a class with an undefined name has that name."""
    Broken = TypedDict("Broken", {"x": "Nowhere"})  # noqa: UP013, F821
    with pytest.raises(BadInput, match="Nowhere"):
        of_value(Broken, "Broken")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_reading_never_raises_anything_else(value):
    """Any reply either fits its schema or raises SchemaMismatch."""
    for kind in (Paper, Tree, RATED, list[Author]):
        schema = of_value(kind, "x")
        with contextlib.suppress(SchemaMismatch):
            schema.parse(json.dumps(value))


@given(st.builds(Author, st.text(), st.none() | st.integers()))
def test_round_trip(author):
    """A value that was written by its schema is read back unchanged."""
    assert author == of_value(Author, "Author").parse(json.dumps(dataclasses.asdict(author)))


def test_pydantic():
    """A pydantic model validates by its own settings; its schema is made strict."""

    class Inner(pydantic.BaseModel):
        n: int = 3

    class Model(pydantic.BaseModel):
        title: str = pydantic.Field(description="as printed", min_length=1)
        inner: Inner | None = None
        many: list[Inner] = pydantic.Field(default_factory=list)

    schema = of_value(Model, "Model")
    assert not broken(schema.json_schema)
    assert "default" not in json.dumps(schema.json_schema)
    assert "array" == schema.json_schema["properties"]["many"]["type"], (
        "of null its judge would say that it does not fit"
    )
    assert Model(title="x", inner=Inner(n=1)) == schema.parse(
        '{"title": "x", "inner": {"n": 1}, "many": []}'
    )
    with pytest.raises(SchemaMismatch, match=r"inner\.n") as mismatch:
        schema.parse('{"title": "x", "inner": {"n": "y"}, "many": []}')
    assert 2 == len(str(mismatch.value).splitlines())


def test_pydantic_that_holds_itself():
    """A recursive model keeps its definition inside a list or a dataclass, beside another model of the same name."""
    node = {"name": "a", "kids": [{"name": "b", "kids": []}]}
    nodes = of_value(list[Node], "nodes")
    assert ["name", "kids"] == nodes.json_schema["$defs"]["Node"]["required"]
    assert ["name", "kids"] == of_value(Node, "Node").json_schema["required"], (
        "its root is not a reference"
    )
    assert [Node(**node)] == nodes.parse(json.dumps({"value": [node]}))
    held = dataclasses.make_dataclass(
        "Held", [("root", Node), ("item", dataclasses.make_dataclass("Node", [("x", int)]))]
    )
    read = of_value(held, "Held").parse(json.dumps({"root": node, "item": {"x": 3}}))
    assert (Node(**node), 3) == (read.root, read.item.x)


T = TypeVar("T")


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=1, le=9)


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: str = pydantic.Field(max_length=3)


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class Cats(pydantic.RootModel[list[Cat]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    entries: list[T]
    following: Page[T] | None = None


class Late(pydantic.BaseModel):
    defined_later: LaterStill | None = None


class LaterStill(pydantic.BaseModel):
    n: int


@dataclasses.dataclass
class Counted:
    by_name: dict[str, int]


class Anything(pydantic.BaseModel):
    inner: list[Counted]


class Written(pydantic.BaseModel):
    model_config: typing.ClassVar = {"json_schema_mode_override": "serialization"}
    n: int = pydantic.Field(validation_alias="read", serialization_alias="written")


FELIX = {"kind": "cat", "lives": 9}


@pytest.mark.parametrize(
    ("kind", "reply", "read"),
    [
        (Owner, {"pet": FELIX}, Owner(pet=Cat(**FELIX))),
        (Owner, {"pet": {"kind": "dog", "name": "Rex"}}, Owner(pet=Dog(kind="dog", name="Rex"))),
        (Cats, {"value": [FELIX]}, Cats([Cat(**FELIX)])),
        (Page[Cat], {"entries": [FELIX], "following": {"entries": [], "following": None}}, Page[Cat](entries=[Cat(**FELIX)], following=Page[Cat](entries=[]))),
        (Written, {"read": 1}, Written(read=1)),
        (Late, {"defined_later": {"n": 1}}, Late(defined_later=LaterStill(n=1))),
        (tuple[int, int], {"value": [1, 2]}, (1, 2)),
        (tuple[int, ...], {"value": [1, 2, 3]}, (1, 2, 3)),
        (set[int], {"value": [1, 1]}, {1}),
        (decimal.Decimal, {"value": "1.10"}, decimal.Decimal("1.10")),
        (dt.datetime, {"value": "2026-01-02T03:04:05"}, dt.datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001
        (complex, {"value": "1+2j"}, 1 + 2j),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_work(kind, reply, read):
    """Discriminated unions, lists at the root, generic and late types, tuples, sets and numbers have schemas, and are read."""
    schema = of_value(kind, "kind")
    text = json.dumps(schema.json_schema)
    assert list(reply) == schema.json_schema["required"]
    assert not broken(schema.json_schema)
    assert not [
        word
        for word in ("oneOf", "discriminator", "prefixItems", "uniqueItems", "maxLength", "(?!")
        if word in text
    ]
    assert read == schema.parse(json.dumps(reply))


class Inside(pydantic.BaseModel):
    first: int = pydantic.Field(validation_alias=pydantic.AliasPath("them", 0))


class Skipped(pydantic.BaseModel):
    unasked: SkipJsonSchema[int]


class Undecided(pydantic.BaseModel):
    model_config: typing.ClassVar = {"arbitrary_types_allowed": True}
    which: Callable[[], int] | Lazy


@dataclasses.dataclass
class Drawn:
    n: int
    lazy: float | list[Lazy]


@dataclasses.dataclass
class Flowing:
    numbers: Iterable[int]


@dataclasses.dataclass
class Limited:
    half: Annotated[float, pydantic.Field(gt=0, lt=1)]
    even: Annotated[int, pydantic.Field(ge=5, multiple_of=2)]
    below: Annotated[int, pydantic.Field(le=-3)]
    pair: tuple[dt.time, dt.time]
    wait: dt.timedelta
    id: uuid.UUID


REFERRING = described({"$ref": "#/definitions/b"}, definitions={"b": {"const": "c"}})


@pytest.mark.parametrize(
    "kind",
    [Owner, Cats, Page[Cat], tuple[int, int], Paper, Noted, Limited, REFERRING],
    ids=str,
)
def test_the_sandbox_fits(kind):
    """The sandbox's reply fits a schema: its choices, references, limits and formats."""
    schema = of_value(kind, "kind")
    assert schema.parse(json.dumps(filled(schema.json_schema, schema.json_schema)))


@pytest.mark.parametrize("value", [{}, "x", 1e999, 0, -1, 10**400, None, [1]], ids=str)
def test_the_sandbox_fills_anything(value):
    """The sandbox answers without an error when a limit is not a number, or cannot be met."""
    for name in ("minimum", "maximum", "multipleOf", "minItems", "$ref"):
        for kind in ("number", "array"):
            filled({"type": kind, name: value}, {})


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Counted, "Counted.by_name"), (Anything, "Counted.by_name"), (tuple[int, str], "tuple"), (list[Any], r"\[\]"), (dict, "dict"), (Any, "Any"),
        (Inside, "Inside.first"), (Skipped, "Skipped.unasked"), (Undecided, "Undecided.which"), (Drawn, "Drawn.lazy.* Lazy"), (list[Drawn], "Drawn.lazy.* Lazy"),
        (Flowing, "Flowing.numbers"), (described({"type": "text"}), "properties.a.type"), (described({"minimum": object()}), "properties.a.minimum"),
        (described({"type": "string", "pattern": "("}), "properties.a.pattern"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_named(kind, named):
    """The error for a field that strict mode does not support has its path, in a model and in a dataclass."""
    with pytest.raises(BadInput, match=named) as refused:
        of_value(kind, "kind")
    assert 2 == len(str(refused.value).splitlines())


def test_limits():
    """A limit that strict mode does not support is not sent, but validates the reply."""
    schema = of_value(Owner, "Owner")
    assert {"title": "Lives", "minimum": 1, "maximum": 9, "type": "integer"} == schema.json_schema[
        "$defs"
    ]["Cat"]["properties"]["lives"]
    assert {"title": "Name", "type": "string"} == schema.json_schema["$defs"]["Dog"]["properties"][
        "name"
    ]
    with pytest.raises(SchemaMismatch, match=r"pet\.dog\.name"):
        schema.parse('{"pet": {"kind": "dog", "name": "Rover"}}')


@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```", "```\n{}```", "\ufeff{}", "\n  {}\n", "\ufeff```JSON\r\n{}\n```\n", "``` json\n\ufeff{}\n```", "```json {}```", "```application/json\n{}\n```",
        "````\n{}\n````", "~~~json\n{}\n~~~",
    ],
)  # fmt: skip
def test_reply_in_a_fence(around):
    """A reply behind a BOM, or in a fence of three or more backticks or tildes, is read."""
    schema = of_value(RATED, "rated")
    assert {"score": 1} == schema.parse(around.format('{"score": 1}'))


def test_fields_named_as_keywords():
    """A field may have the name of a keyword of JSON Schema."""
    named = {
        name: {"type": "string"}
        for name in ("properties", "enum", "items", "required", "$defs", "default", "title")
    }
    schema = of_value({"type": "object", "properties": named, "required": ["items"]}, "odd")
    assert list(named) == schema.json_schema["required"]
    assert {"items": "x", "properties": None} == schema.parse('{"items": "x", "properties": null}')


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"enum": ["x", 1, None, "x"]}, {"type": ["integer", "null", "string"], "enum": ["x", 1, None]}), ({"const": "x"}, {"type": "string", "const": "x"}),
        ({"type": "string", "enum": ["x", 1]}, {"type": "string", "enum": ["x"]}), ({"type": "number", "enum": [1, 2.5]}, {"type": "number", "enum": [1, 2.5]}),
        ({"enum": list(Level)}, {"type": "integer", "enum": [1, 2]}),
        ({"properties": {"b": TEXT}}, one({"b": TEXT})), ({"items": TEXT}, {"type": "array", "items": TEXT}),
        ({"type": "integer", "format": "date", "pattern": "x", "minItems": 1, "minimum": 1}, {"type": "integer", "minimum": 1}),
        ({"type": "string", "pattern": r"(a)\1", "minimum": 1}, TEXT), ({"allOf": [TEXT], "type": "string", "description": "b"}, TEXT | {"description": "b"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_strict_servers_require(given, sent):
    """A choice or a part says its type, and a limit is sent only with a type that it limits."""
    assert one({"a": sent}) == of_value(described(given), "kind").json_schema


NAMES = st.sampled_from(["a", "items", "$ref", "x.y"])
PARTS = st.recursive(
    st.sampled_from([TEXT, WHOLE, NULL, {"enum": ["a", 1]}, {"$ref": "#/$defs/d"}, {"$ref": "#"}, {"minimum": 1, "type": "number"}, {}, True]),
    lambda inside: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "object", "array", ["array", "null"]]), "enum": st.lists(st.none() | st.integers() | inside, max_size=2),
            "const": st.text(), "properties": st.dictionaries(NAMES, inside, max_size=2), "required": st.lists(NAMES, max_size=1), "items": inside | st.just([TEXT]),
            "anyOf": st.lists(inside, min_size=1, max_size=2), "oneOf": st.lists(inside, min_size=1, max_size=2), "allOf": st.lists(inside, min_size=1, max_size=1),
            "minimum": st.integers(), "minItems": st.integers(0, 9), "pattern": st.sampled_from(["a", "(?=a)"]), "format": st.sampled_from(["date", "uri"]),
            "not": inside, "$ref": st.sampled_from(["#/properties/a", "#/properties/a/anyOf/0", "#/$defs/d"]),
        },
    ),
    max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(NAMES, PARTS, max_size=2), st.dictionaries(st.just("d"), PARTS))
def test_any_schema(properties, definitions):
    """Any JSON Schema is refused in two lines, or becomes one that a strict server takes, and that the sandbox fills."""
    given = {"type": "object", "properties": properties, "$defs": definitions}
    try:
        sent = of_value(given, "given").json_schema
    except BadInput as refused:
        assert 2 == len(str(refused).splitlines())
    else:
        assert not broken(sent)
        json.dumps(filled(sent, sent))


def test_one_of_several():
    """A reply may fit several schemas of `oneOf`: the server was asked for any of them."""
    either = described({"oneOf": [WHOLE, {"type": "number"}]})
    assert {"a": 1} == of_value(either, "either").parse('{"a": 1}')


def test_reference_to_elsewhere_is_not_fetched():
    """A reference to another document is refused, and nothing is fetched."""
    with wire.serve(lambda _: wire.json_reply({})) as server:
        with pytest.raises(BadInput, match="has no target"):
            of_value(described({"$ref": f"{server.url}/schema.json"}), "far")
        assert not server.requests


def test_pydantic_without_a_schema():
    """A model with a class that has no schema names its field, in two lines."""

    class Model(pydantic.BaseModel):
        model_config: typing.ClassVar = {"arbitrary_types_allowed": True}
        x: Lazy

    with pytest.raises(BadInput, match=r"Model\.x asks for .*Lazy") as refused:
        of_value(Model, "Model")
    assert 2 == len(str(refused.value).splitlines())


def test_error_without_words():
    """An error without a readable message is shown by its class; the reply was paid for."""
    failing = dataclasses.make_dataclass(
        "Failing", [("x", int)], namespace={"__post_init__": Unmade.model_json_schema}
    )
    with pytest.raises(SchemaMismatch, match="Unwritable"):
        of_value(failing, "Failing").parse('{"x": 1}')


def function(x: int, mode: Literal["a", "b"] = "a", note: str | None = None) -> str:
    return f"{x}{mode}{note}"


def test_enumerations_say_their_type():
    """A choice has the type of its values, which strict servers require."""
    read = schemas.schema_of("Kind", {"Kind": Literal["a", 1]}).format["schema"]["properties"][
        "value"
    ]
    assert {"type": ["integer", "string"], "enum": ["a", 1]} == read


def test_parameters():
    """A function's parameters are a strict object; null stands for a default."""
    schema = schemas.of_parameters(function)
    assert ["x", "mode", "note"] == schema["required"]
    assert {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]} == schema[
        "properties"
    ]["mode"]
    assert {"x": 1} == schemas.arguments_of(function, {"x": 1, "mode": None, "note": None})
    assert {"x": 1, "mode": "b", "note": "n"} == schemas.arguments_of(
        function, {"x": 1, "mode": "b", "note": "n"}
    )
    for wrong in ({}, {"x": "1"}, {"x": 1, "y": 2}, [], None, {"x": 1, "mode": "c"}):
        with pytest.raises(ValueError):
            schemas.arguments_of(function, wrong)


def bare(x: typing.List) -> int: ...  # noqa: UP006


def odd(x: Odd) -> int: ...


def mocked(x: mock.Mock()) -> int: ...


@pytest.mark.parametrize(
    "wrong", [lambda x: x, lambda *args: args, print, lambda **options: options, bare, odd, mocked]
)
def test_functions_without_a_schema(wrong):
    """A function with parameters that a schema cannot describe is an error of two lines."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        schemas.of_parameters(wrong)
    assert 2 == len(str(refused.value).splitlines())


def test_ask(asker):
    """The schema is sent as text.format; the answer's `parsed` is an instance, asked or replayed; the text stays."""
    reply = wire.json_reply(wire.response(json.dumps(PAPER)))
    schema = of_value(Paper, "Paper")
    with wire.serve(lambda _: reply) as server:
        answers = [asker.ask(server.url, cell="a", schema=schema, replay="auto") for _ in range(2)]
        assert 1 == len(server.posts)
    assert schema.format == server.posts[0].body["text"]["format"]
    assert all(
        isinstance(answer.parsed, Paper) and answer.text == json.dumps(PAPER) for answer in answers
    )
    assert [False, True] == [answer.replayed for answer in answers]


def test_ask_and_mismatch(asker):
    """A reply that does not fit is an error with the answer: it was paid for, and is not asked again by itself."""
    with wire.serve(lambda _: wire.json_reply(wire.response('{"score": "high"}'))) as server:
        for _ in range(2):
            with pytest.raises(SchemaMismatch, match="score") as mismatch:
                asker.ask(server.url, cell="a", schema=of_value(RATED, "rated"), replay="auto")
            assert '{"score": "high"}' == mismatch.value.answer.text
        assert 1 == len(server.posts)


@pytest.mark.parametrize(
    "reply",
    [
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]},
    ],
)
def test_what_is_not_parsed(asker, reply):
    """A cut-off answer and a refusal are shown, and not parsed as replies."""
    with wire.serve(lambda _: wire.json_reply(wire.response('{"sc', **reply))) as server:
        assert asker.ask(server.url, schema=of_value(RATED, "rated")).parsed is None


def test_imported_late():
    """A question without a type and without a function imports neither pydantic nor jsonschema."""
    code = "import sys, aiml_magic.session.asking, aiml_magic.show.view, aiml_magic.notebook.script; print({'pydantic', 'jsonschema'} & sys.modules.keys())"
    assert (
        "set()\n"
        == subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
