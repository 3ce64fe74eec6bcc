"""A value of the notebook as its complete text; an incomplete text is refused.

The text of many values is useless in a question: a class and an address, or the first and last of
many numbers. The text of a class with its own `__str__` is trusted. No library is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import re
import reprlib
import sys
import types
from collections import UserList, deque
from collections.abc import Callable, Iterator, Mapping, Sized, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

Function = Callable[..., Any]  # of the notebook
Variables = Mapping[str, Any]  # of the notebook, by name
MAX_TEXT = 800_000  # characters, about the 200,000 tokens that the model reads
_SIMPLE = (str, bytes, bytearray, int, float, complex, type(None))
_NAMED = (
    type,
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    classmethod,
    functools.partial,
    io.IOBase,
)
_SERIES = (list, tuple, deque, UserList, AbstractSet, ValuesView)
_ADDRESS = re.compile(r"<([\w.<>\[\], '-]+?)(?: object)?(?: at)? 0x([0-9a-fA-F]+)(?: \[[^\]]*\])?>")
_CUT = re.compile(r"\.\.\.|…|^\s*:\s+:", re.MULTILINE)  # the last: of sparse matrices
_CUT_LIST = re.compile(r", (?:\.\.\.|…)[,)\]}]|^\s*(?:\.\.\.|…),?$", re.MULTILINE)


def whole(value: Any, write: Callable[[Any], str] = format) -> str:
    """The text that `write` makes of a value.

    Raises OverflowError for more than the model can read, and ValueError with the reason for an
    incomplete text.
    """
    has_words = write is format and not is_array(value) and _has_words(value)
    if not has_words and _count(value) > MAX_TEXT:
        raise OverflowError(f"it holds more than {MAX_TEXT:,} values, which the model cannot read")
    with uncut():
        text = write(value)
    if is_complete(value, text, has_words=has_words):
        return text
    if is_array(value) and (listed := _listed(value)) is not None:
        return whole(listed, write)
    kind = f"{type(value).__module__}.{type(value).__name__}"
    kind = kind.removeprefix("builtins.").removeprefix("__main__.")
    if _is_nameless(value, text):
        raise ValueError(f"the text of a {kind} is only its name or its address")
    raise ValueError(f"the text of a {kind} leaves out a part of it")


def uncut() -> AbstractContextManager[Any]:
    """A context in which numpy, if it is imported, writes all numbers of an array."""
    options = getattr(sys.modules.get("numpy"), "printoptions", None)
    return options(threshold=sys.maxsize) if options else nullcontext()


def is_complete(value: Any, text: str, *, has_words: bool = False) -> bool:
    """Whether `text` is the complete text of a value.

    If the class `has_words` (its own `__str__`), the entries are not checked.
    """
    if isinstance(value, _SIMPLE):
        return True
    if _is_nameless(value, text) or _is_drawing(value) or _is_lazy(value):
        return False
    if has_words:
        return not _is_cut(value, text)
    if is_array(value):
        return not _is_cut_array(value, text) and shows_entries(value, text)
    is_cut = _has_own_text(value) and _is_cut(value, text)
    return not is_cut and shows_entries(value, text)


def shows_entries(value: Any, text: str) -> bool:
    """Whether each entry whose `repr` is in the container's text is complete; a class always is."""
    held = (
        (entry, repr(entry))
        for _, entry in entries(value)
        if not isinstance(entry, (*_SIMPLE, type))
    )
    return all(is_complete(entry, said) or said not in text for entry, said in held)


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """The entries of a container with their numbers, keys or names.

    Of tables and arrays, only entries that are Python objects.
    """
    if isinstance(value, Mapping):
        yield from ((key, entry) for key, entry in value.items())
        odd = ((n, key) for n, key in enumerate(value) if not isinstance(key, _SIMPLE))
        yield from ((f"key {number}", key) for number, key in odd)
    elif isinstance(value, _SERIES):
        yield from enumerate(value)
    elif hasattr(value, "columns") and hasattr(value, "items"):
        columns = ((name, column) for name, column in value.items() if _holds_objects(column))
        yield from ((name, entry) for name, column in columns for entry in column)
    elif _holds_objects(value):
        yield from enumerate(value.ravel() if hasattr(value, "ravel") else value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value) if field.repr)
        yield from ((name, getattr(value, name)) for name in names)
    elif isinstance(value, types.SimpleNamespace):
        yield from vars(value).items()


def step_to(value: Any, key: Any) -> str:
    """The expression that leads from a container to an entry: `[key]` or `.name`."""
    return f"[{key!r}]" if isinstance(value, (*_SERIES, Mapping)) else f".{key}"


def is_array(value: Any) -> bool:
    """Whether a value is an array, tensor, series or table, by its attributes."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return hasattr(value, "__array__") and _length(value) is not None
    is_shape = isinstance(shape, tuple) and all(isinstance(length, int) for length in shape)
    of_arrays = ("dtype", "__array__", "tolist", "to_list", "to_csv", "write_csv")
    return is_shape and any(hasattr(value, name) for name in of_arrays)


def _holds_objects(array: Any) -> bool:
    """Whether an array, or a column of pandas, has Python objects as entries."""
    return is_array(array) and getattr(getattr(array, "dtype", None), "kind", None) == "O"


def _count(value: Any) -> int:
    """The number of values in a container and in all its entries, counted up to MAX_TEXT."""
    count, waiting = 0, [(value, 0)]
    while waiting and count <= MAX_TEXT:
        value, depth = waiting.pop()
        if depth > sys.getrecursionlimit():  # a container that holds itself
            raise RecursionError("it is nested too deeply")
        count += _size(value) if is_array(value) else 1
        held = [entry for _, entry in islice(entries(value), MAX_TEXT + 1)]
        nested = [(entry, depth + 1) for entry in held if not isinstance(entry, _SIMPLE)]
        count += len(held) - len(nested)
        waiting += nested[: MAX_TEXT + 1]
    return count


def _has_words(value: Any) -> bool:
    """Whether its class defines `__str__`, a text for readers."""
    write: object = type(value).__str__
    return write is not object.__str__


def _has_own_text(value: Any) -> bool:
    """Whether a class has its own `repr`, other than one that Python makes from the entries."""
    write = type(value).__repr__
    is_of_python = not isinstance(write, types.FunctionType) or write.__module__ == "collections"
    is_record = (
        dataclasses.is_dataclass(value)
        or isinstance(value, types.SimpleNamespace)
        or hasattr(value, "_fields")
    )
    return not (is_record or (is_of_python and isinstance(value, (*_SERIES, Mapping))))


def _is_nameless(value: Any, text: str) -> bool:
    """Whether the text is only a class or a name, and an address in memory."""
    text, name = text.strip(), re.escape(type(value).__name__)
    is_written = isinstance(type(value).__repr__, types.FunctionType)  # in Python, by its author
    if isinstance(value, _NAMED) or (callable(value) and not is_written):
        return text.startswith(("<", "functools.partial(")) and text in (repr(value), ascii(value))
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2], 16) != id(value):
        return re.fullmatch(rf"<[\w.]*\b{name} object>", text) is not None
    return not is_written or re.fullmatch(rf"(?:.*[. >])?{name}", match[1]) is not None


def _is_drawing(value: Any) -> bool:
    """Whether a value is a figure, a part of one, or an image."""
    of_drawings = ("savefig", "get_figure", "to_plotly_json")
    is_drawn = any(callable(getattr(value, name, None)) for name in of_drawings)
    return is_drawn or type(value).__module__.startswith(("altair.", "PIL."))


def _is_lazy(value: Any) -> bool:
    """Whether a value is a query or graph that is not computed yet."""
    module = type(value).__module__
    if module.startswith(("polars", "pyspark")) and callable(getattr(value, "collect", None)):
        return True
    graph = getattr(value, "__dask_graph__", None)  # returns None for a computed value
    return callable(graph) and graph() is not None


def _length(value: Any) -> int | None:
    """The length of a value; None without one, as for a scalar quantity with units."""
    try:
        return len(value)
    except TypeError:
        return None


def _size(array: Any) -> int:
    stored, shape = getattr(array, "nnz", None), getattr(array, "shape", None)
    if isinstance(stored, int):  # a sparse matrix
        return stored
    return _length(array) or 0 if shape is None else math.prod(shape)


def _listed(array: Any) -> Any:
    listed = getattr(array, "tolist", None) or getattr(array, "to_list", None)
    return listed() if callable(listed) else None


def _is_cut_array(array: Any, text: str) -> bool:
    """Whether the text has an ellipsis, fewer words than the array has values, or no values."""
    size = _size(array)
    if size > 1 and text.startswith("<") and text.rstrip().endswith(">") and "[" not in text:
        return True
    is_range = all(hasattr(array, name) for name in ("start", "stop", "step"))  # which is complete
    if len(re.findall(r"[^\s,\[\](){}]+", text)) < size and not is_range:
        return True
    is_of_numpy = type(array).__module__ == "numpy"  # complete within `uncut`
    return not is_of_numpy and _CUT.search(_without_texts_of(array, text)) is not None


def _without_texts_of(array: Any, text: str) -> str:
    """The text of an array without its strings, which may contain an ellipsis."""
    held = (_listed(array) or []) if _CUT.search(text) else []
    for entry in held:
        for part in entry if isinstance(entry, tuple) else (entry,):
            text = text.replace(part, "") if isinstance(part, str) and part else text
    return text


def _is_cut(value: Any, text: str) -> bool:
    """Whether the text has an ellipsis outside the strings that the value holds."""
    held = [value, *getattr(value, "__dict__", {}).values()]
    for entry in held:
        if isinstance(entry, str):
            if reprlib.repr(entry) != repr(entry) and reprlib.repr(entry) in text:
                return True
            text = text.replace(repr(entry), "").replace(entry, "") if entry else text
    return _CUT_LIST.search(text) is not None and any(
        isinstance(entry, Sized) and not isinstance(entry, str) and len(entry) > 3 for entry in held
    )
