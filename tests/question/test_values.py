"""The text of a value in a question: complete, or nothing is sent."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import functools
import io
import os
import reprlib
import threading
import types
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from variables import Figure, Table

from aiml_magic.errors import BadInput
from aiml_magic.question import prompts, values
from aiml_magic.question.attachments import attach, labels


class Plain:
    """A class without a text of its own."""

    def method(self) -> None: ...


class Written(Plain):
    def __str__(self) -> str:
        return "a sensor at 5 °C"


class Shown:
    """A class with its own text in the form of Python's default."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Addressed:
    """A class whose own text is like Python's default."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {hex(id(self))}>"


class Trace:
    """A class that writes a part of itself, as reprlib does."""

    def __init__(self, held) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"Trace({reprlib.repr(self.held)})"


class Short(list):
    def __repr__(self) -> str:
        return reprlib.repr(list(self))


@dataclasses.dataclass
class Run:
    name: str
    what: object


class Keyed(collections.abc.Mapping):
    """A mapping without a text."""

    def __init__(self, **held) -> None:
        self.held = held

    def __getitem__(self, key):
        return self.held[key]

    def __iter__(self):
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Tensor:
    """A tensor whose text has only its ends, as libraries write it."""

    dtype = "float32"

    def __init__(self, count: int) -> None:
        self.shape = (count,)

    def __repr__(self) -> str:
        count = self.shape[0]
        return (
            f"tensor([0, 1, 2,  ..., {count - 1}])"
            if count > 1000
            else f"tensor({list(range(count))})"
        )

    def tolist(self) -> list[int]:
        return list(range(self.shape[0]))


class Arrow(Tensor):
    """An array without a shape, whose text leaves out lines."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __array__(self): ...

    def __repr__(self) -> str:
        return f"[\n  0,\n  1,\n  ...\n  {self.count - 1}\n]"

    def tolist(self) -> list[int]:
        return list(range(self.count))


class Frame:
    """A table of another library, with a few of its lines."""

    def __init__(self) -> None:
        self.lines = list(range(5000))

    def __repr__(self) -> str:
        return "a\n0\n1\n...\n4999"


@dataclasses.dataclass
class Told:
    """A record with a text of its own."""

    held: object

    def __str__(self) -> str:
        return "a run of 1,000,000 steps"


class Remote:
    """An array whose text is its location, and that cannot be listed."""

    shape, dtype = (5000,), "float64"

    def __repr__(self) -> str:
        return '<HDF5 dataset "x": shape (5000,), type "<f8">'


class Quantity(Shown):
    """A number with its unit, of a kind that may be an array, and may be computed later."""

    def __array__(self): ...

    def __len__(self) -> int:
        raise TypeError("a number has no length")

    def __dask_graph__(self) -> None: ...


class Sparse(Shown):
    """An array whose text begins with its type, before its values."""

    shape, dtype = (9, 9), "float64"

    def __init__(self, count: int) -> None:
        places = [f"  ({n // 9}, {n % 9})\t0.5" for n in range(count)]
        left_out = places if count <= 50 else [*places[:25], "  :\t:", *places[-25:]]
        super().__init__(
            "\n".join(
                [f"<Sparse matrix with {count} stored elements>", "  Coords\tValues", *left_out]
            )
        )
        self.nnz = count


class Words:
    """A column of texts."""

    dtype = "text"

    def __init__(self, *words: str) -> None:
        self.words, self.shape = list(words), (len(words),)

    def __repr__(self) -> str:
        return "[" + ", ".join(word[:20] + "…" * (len(word) > 20) for word in self.words) + "]"

    def tolist(self) -> list[str]:
        return self.words


class Colour(enum.Enum):
    RED = 1


def generator():
    yield 1


itself: list = []
itself.append(itself)
NAMELESS = {
    "object": Plain(), "function": generator, "lambda": lambda: 1, "generator": generator(), "bound method": Plain().method, "method": [].append,
    "built-in": len, "module": os, "class": Plain, "partial": functools.partial(generator), "iterator": iter([1]), "map": map(str, []),
    "lock": threading.Lock(), "file": io.StringIO("x"), "written in Python": Addressed(), "code": generator.__code__,
    "property": Plain.__dict__["method"], "list of objects": [1, Plain()], "dict of functions": {"f": generator}, "key": {Plain(): 1}, "set": {Plain()},
    "nested": {"a": [{"b": (Plain(),)}]}, "field": Run("x", Plain()), "namespace": types.SimpleNamespace(f=len), "deque": collections.deque([Plain()]),
    "default dict": collections.defaultdict(list, a=[len]), "list in itself": itself, "trace": Trace(list(range(50))), "trace of a text": Trace("abcdefgh" * 20),
    "short list": Trace({n: n for n in range(50)}), "remote array": Remote(), "table of another library": Frame(), "sparse, in part": Sparse(60), "list of remote arrays": [Remote()], "list of modules": [os],
    "values of a dict": {"a": Plain()}.values(), "table with an object in it": None, "ufunc": None,
}  # fmt: skip


@pytest.mark.parametrize("form", ["{{x}}", "{{x!r}}", "{{x!s:>9}}", "{{d[x]}}", "{{n.x}}", "{{d}}"])
@pytest.mark.parametrize("kind", NAMELESS)
def test_nothing_is_said(kind, form):
    """A text that is only a name and an address, or incomplete, is an error of two lines, at any depth."""
    value = NAMELESS[kind]
    if kind == "table with an object in it":
        pd = pytest.importorskip("pandas")
        value = pd.DataFrame({"a": [1, 2], "b": ["x", Plain()]})
    elif (kind, form) == ("class", "{{d}}"):
        pytest.skip("in a dict a class says which it is")
    elif kind == "ufunc":
        value = pytest.importorskip("numpy").sin
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        prompts.fill(form, {"x": value, "d": {"x": value}, "n": types.SimpleNamespace(x=value)})
    assert 2 == len(str(refused.value).splitlines())


SAID = {
    "text of its own": (Written(), "a sensor at 5 °C"), "number": (Decimal("1.50"), "1.50"), "path": (Path("a/b"), "a/b"), "nothing": (None, "None"),
    "text": ("<Plain object at 0x7f>", "<Plain object at 0x7f>"), "texts": (["<Plain object at 0x7f>", "..."], "['<Plain object at 0x7f>', '...']"),
    "address on a bus": (Shown("<Sensor 5 °C at 0x40>"), "<Sensor 5 °C at 0x40>"), "tag": (Shown("<b>bold</b>"), "<b>bold</b>"),
    "dots": (Shown("for x_1, ..., x_n"), "for x_1, ..., x_n"), "prose": (Shown("see [1, ...], and so on..."), "see [1, ...], and so on..."),
    "hint": (tuple[int, ...], "tuple[int, ...]"), "range": (range(5000), "range(0, 5000)"), "member": ([Colour.RED], "[<Colour.RED: 1>]"),
    "record": (Run("<f at 0x1>", [1, "wait..."]), "Run(name='<f at 0x1>', what=[1, 'wait...'])"), "counter": (collections.Counter("aab"), "Counter({'a': 2, 'b': 1})"),
    "array": (array.array("i", range(5)), "array('i', [0, 1, 2, 3, 4])"), "long list": (list(range(5000)), str(list(range(5000)))), "error": (ValueError("no <x at 0x1>"), "no <x at 0x1>"),
    "short": (Short([1, 2]), "[1, 2]"), "keys": ({"a": 1}.keys(), "dict_keys(['a'])"), "empty": ([], "[]"), "view of memory": (memoryview(b"ab"), "[97, 98]"), "bytes": (b"ab", "b'ab'"), "types": ({"dtype": float}, "{'dtype': <class 'float'>}"),
    "list of tensors": ([Tensor(3)], "[tensor([0, 1, 2])]"), "tensor": (Tensor(3), "tensor([0, 1, 2])"), "long tensor": (Tensor(5000), str(list(range(5000)))),
    "tensors": ([Tensor(5000), "x"], f"\nx[0]: {list(range(5000))}\nx[1]: x\n"), "dict of tensors": ({"a": (Tensor(2000),)}, f"\nx['a']: \nx['a'][0]: {list(range(2000))}\n\n"),
    "quantity": (Quantity("3 meter"), "3 meter"), "quantities": ([Quantity("<3 m>")], "[<3 m>]"), "sparse": (Sparse(9), repr(Sparse(9))),
    "words with dots": (Words("wait...", "…"), "[wait..., …]"), "long words": (Words("wait", "a" * 30), str(["wait", "a" * 30])),
    "long array without a shape": (Arrow(5000), str(list(range(5000)))), "record in words": (Told([range(2)] * 800_001), "a run of 1,000,000 steps"), "mapping": (Keyed(a=1, b=[2]), "\nx['a']: 1\nx['b']: [2]\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
def test_all_is_said(kind):
    """A value with its own text is inserted as that text; a text that leaves something out is written in full."""
    value, text = SAID[kind]
    assert (text, []) == prompts.fill("{{x}}", {"x": value})


def test_long_lists_of_tables_and_figures():
    """Tables in a list are written as CSV if their own text is incomplete, and figures are attached, each under its name."""
    text, attached = prompts.fill("Of {{both}}", {"both": {"t": Table(), "f": [Figure()]}})
    assert (
        "Of \nboth['t']: \n\na\n0\n1\n2\n\n\nboth['f']: \nboth['f'][0]: (the attached both['f'][0])\n\n"
        == text
    )
    assert ["both['f'][0] (PNG image, 70 bytes)"] == labels({"input": [{"content": attached}]})


def test_numpy_and_pandas():
    """A long array, index or column is written with all numbers, also in a list or a cell, with a conversion, and with any print options."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    long, frame = np.arange(5000), pd.DataFrame({"a": range(5000)})
    cells = pd.DataFrame({"a": [long]})
    whole = {
        "{{x}}": long, "{{x!r}}": long, "{{x[0]}}": [long], "{{l}}": [long, "y"], "{{i}}": pd.Index(long), "{{s}}": frame["a"], "{{s!r}}": frame["a"],
        "{{f!r}}": frame, "{{f!s}}": frame, "{{lf}}": [frame], "{{c}}": cells, "{{d}}": {"a": {"b": frame["a"]}}, "{{k}}": pd.Categorical(long),
    }  # fmt: skip
    with np.printoptions(threshold=5):
        for form, value in whole.items():
            text, attached = prompts.fill(form, dict.fromkeys("xlisfcdk", value) | {"lf": value})
            assert [] == attached
            assert set(map(str, range(5000))) <= set(
                text.replace(",", " ").replace("]", " ").replace("[", " ").split()
            ), form
    assert "RangeIndex(start=0, stop=5, step=1)" == prompts.fill("{{i}}", {"i": frame[:5].index})[0]
    assert f"Of {np.eye(3)}" == prompts.fill("Of {{a}}", {"a": np.eye(3)})[0]
    assert f"Of {[np.eye(3)]!r}" == prompts.fill("Of {{a}}", {"a": [np.eye(3)]})[0]
    for many in ([range(2)] * 800_001, np.zeros(10**6), [np.zeros(10**6)], np.zeros((1000, 1000))):
        with pytest.raises(BadInput, match="more than 800,000 values"):
            prompts.fill("{{x}}", {"x": many})
    with pytest.raises(BadInput, match="A cell of the table has no complete text"):
        attach("t", {"t": pd.DataFrame({"a": [Plain()]})})
    with pytest.raises(BadInput, match="DataFrameGroupBy"):
        prompts.fill("{{g}}", {"g": frame.groupby("a")})


def test_polars():
    """A long column of polars and tables in a list are complete; a lazy frame is refused."""
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": range(5000)})
    for value in (frame["a"], [frame], {"x": frame["a"]}):
        text, _ = prompts.fill("{{x}}", {"x": value})
        assert set(map(str, range(5000))) <= set(
            text.replace(",", " ").replace("]", " ").replace("[", " ").split()
        )
    with pytest.raises(BadInput, match="LazyFrame"):
        prompts.fill("{{x}}", {"x": frame.lazy()})


def test_dask():
    da = pytest.importorskip("dask.array")
    with pytest.raises(BadInput, match="Array"):
        prompts.fill("{{x}}", {"x": da.zeros(3)})


def test_axes():
    """Axes are drawn with their figure, in a question and attached; a line of a plot cannot be drawn."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Real

    axes = Real().subplots()
    (line,) = axes.plot([1, 2])
    text, attached = prompts.fill("{{ax}}", {"ax": axes})
    assert "(the attached ax)" == text
    assert labels({"input": [{"content": attached}]}) == labels(
        {"input": [{"content": attach("ax", {"ax": axes})}]}
    )
    for value in (line, [line], [[line]]):
        with pytest.raises(BadInput, match="Nothing was sent"):
            prompts.fill("{{x}}", {"x": value})


TREES = st.recursive(
    st.text() | st.integers() | st.none() | st.binary() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.builds(Run, st.text(), inner)
    ),
)


@given(TREES)
def test_plain_containers(value):
    """Any nested containers of texts and numbers are inserted as Python writes them."""
    assert format(value) == values.whole(value)
    assert (format(value), []) == prompts.fill("{{x}}", {"x": value})


@given(TREES, st.sampled_from([Plain(), len, os, Trace(list(range(9)))]))
def test_what_says_nothing_is_found(value, nameless):
    """An incomplete text is found at any depth."""
    with pytest.raises(BadInput):
        prompts.fill("{{x}}", {"x": [value, (value, {"a": nameless})]})
