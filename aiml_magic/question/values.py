"""A value of the notebook as text: whole, or not at all.

Much has a text that says nothing of it: the name of its kind and an address, or the first and the
last of many numbers. A question with such a text in it would be paid for in vain, so that it is
refused. What has a text of its own is believed. Nothing is imported for it.
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

MAX_TEXT = 800_000  # characters; more is beyond the 200,000 tokens that the model reads
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
_CUT = re.compile(r"\.\.\.|…|^\s*:\s+:", re.MULTILINE)  # the last is of sparse matrices
_CUT_LIST = re.compile(r", (?:\.\.\.|…)[,)\]}]|^\s*(?:\.\.\.|…),?$", re.MULTILINE)


def whole(value: Any, write: Callable[[Any], str] = format) -> str:
    """What `write` makes of a value, with all that it holds.

    Raises OverflowError for more than the model can read, and ValueError, which says why, for what
    has no such text.
    """
    speaks = (
        write is format and not is_array(value) and _has_words(value)
    )  # for itself, whatever it holds
    if not speaks and _count(value) > MAX_TEXT:
        raise OverflowError(
            f"it holds more than {MAX_TEXT:,} values, and the model cannot read as many"
        )
    with uncut():
        text = write(value)
    if says_all(value, text, speaks=speaks):
        return text
    if is_array(value) and (listed := _listed(value)) is not None:
        return whole(listed, write)
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix(
        "builtins."
    ).removeprefix("__main__.")
    if _is_nameless(value, text):
        raise ValueError(f"the text of what is a {kind} tells only its name or where it lies")
    raise ValueError(f"the text of what is a {kind} leaves out what it holds")


def uncut() -> AbstractContextManager[Any]:
    """Within it numpy, if it is there, leaves no numbers out."""
    options = getattr(sys.modules.get("numpy"), "printoptions", None)
    return options(threshold=sys.maxsize) if options else nullcontext()


def says_all(value: Any, text: str, *, speaks: bool = False) -> bool:
    """`text`, which the value has written of itself, tells what it is, and all that it holds.

    Of one that `speaks` in words of its own, what it holds is not asked for.
    """
    if isinstance(value, _SIMPLE):
        return True
    if _is_nameless(value, text) or _is_shown(value) or _is_lazy(value):
        return False
    if speaks:
        return not _is_cut(value, text)
    is_cut = (
        _is_cut_array(value, text)
        if is_array(value)
        else _has_own_text(value) and _is_cut(value, text)
    )
    return not is_cut and tells_entries(value, text)


def tells_entries(value: Any, text: str) -> bool:
    """Each entry of a container says all, if it is in the container's text at all; a class says there which it is."""
    held = (
        (entry, repr(entry))
        for _, entry in entries(value)
        if not isinstance(entry, (*_SIMPLE, type))
    )
    return all(says_all(entry, said) or said not in text for entry, said in held)


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, each by its number, its key or its name; of a table what no column of numbers or texts holds."""
    if isinstance(value, Mapping):
        yield from ((key, entry) for key, entry in value.items())
        yield from (
            (f"key {number}", key)
            for number, key in enumerate(value)
            if not isinstance(key, _SIMPLE)
        )
    elif isinstance(value, _SERIES):
        yield from enumerate(value)
    elif hasattr(value, "columns") and hasattr(value, "items"):
        yield from (
            (name, entry)
            for name, column in value.items()
            if _holds_objects(column)
            for entry in column
        )
    elif _holds_objects(value):
        yield from enumerate(value.ravel() if hasattr(value, "ravel") else value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (
            (field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.repr
        )
    elif isinstance(value, types.SimpleNamespace):
        yield from vars(value).items()


def step_to(value: Any, key: Any) -> str:
    """What stands behind a container's name for its entry of this key."""
    return f"[{key!r}]" if isinstance(value, (*_SERIES, Mapping)) else f".{key}"


def is_array(value: Any) -> bool:
    """It has a shape or a length, and numbers or a list of them, as arrays, tensors, series and tables do."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return hasattr(value, "__array__") and _length(value) is not None
    is_shape = isinstance(shape, tuple) and all(isinstance(length, int) for length in shape)
    return is_shape and any(
        hasattr(value, name)
        for name in ("dtype", "__array__", "tolist", "to_list", "to_csv", "write_csv")
    )


def _holds_objects(array: Any) -> bool:
    """An array, or a column of pandas, of anything."""
    return is_array(array) and getattr(getattr(array, "dtype", None), "kind", None) == "O"


def _count(value: Any) -> int:
    """How many values it holds, within all that it holds; counted no further than the model could read."""
    count, found = 0, [(value, 0)]
    while found and count <= MAX_TEXT:
        value, depth = found.pop()
        if depth > sys.getrecursionlimit():  # it holds itself
            raise RecursionError("it is nested too deep")
        count += _size(value) if is_array(value) else 1
        held = [entry for _, entry in islice(entries(value), MAX_TEXT + 1)]
        nested = [(entry, depth + 1) for entry in held if not isinstance(entry, _SIMPLE)]
        count += len(held) - len(nested)
        found += nested[: MAX_TEXT + 1]
    return count


def _has_words(value: Any) -> bool:
    """It is written in another way than it is named among others: somebody has thought of a reader."""
    write: object = type(value).__str__
    return write is not object.__str__


def _has_own_text(value: Any) -> bool:
    """Its text is more than that of its entries, put together by Python itself."""
    write = type(value).__repr__
    is_of_python = not isinstance(write, types.FunctionType) or write.__module__ == "collections"
    is_record = (
        dataclasses.is_dataclass(value)
        or isinstance(value, types.SimpleNamespace)
        or hasattr(value, "_fields")
    )
    return not (is_record or (is_of_python and isinstance(value, (*_SERIES, Mapping))))


def _is_nameless(value: Any, text: str) -> bool:
    """The text tells only the kind of a thing, or its name, and where it lies in memory."""
    text, name = text.strip(), re.escape(type(value).__name__)
    is_written = isinstance(
        type(value).__repr__, types.FunctionType
    )  # by a function that somebody has written
    if isinstance(value, _NAMED) or (callable(value) and not is_written):
        return text.startswith(("<", "functools.partial(")) and text in (repr(value), ascii(value))
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2], 16) != id(value):
        return re.fullmatch(rf"<[\w.]*\b{name} object>", text) is not None
    return not is_written or re.fullmatch(rf"(?:.*[. >])?{name}", found[1]) is not None


def _is_shown(value: Any) -> bool:
    """A drawing, or a part of one."""
    is_drawn = any(
        callable(getattr(value, name, None)) for name in ("savefig", "get_figure", "to_plotly_json")
    )
    return is_drawn or type(value).__module__.startswith(("altair.", "PIL."))


def _is_lazy(value: Any) -> bool:
    """It stands for what is not computed yet."""
    is_lazy_table = type(value).__module__.startswith(("polars", "pyspark")) and callable(
        getattr(value, "collect", None)
    )
    graph = getattr(
        value, "__dask_graph__", None
    )  # which gives none for what only may hold something lazy
    return is_lazy_table or (callable(graph) and graph() is not None)


def _length(value: Any) -> int | None:
    """`None` for what has none, though others of its kind may: a quantity is a number or an array."""
    try:
        return len(value)
    except TypeError:
        return None


def _size(array: Any) -> int:
    stored, shape = (
        getattr(array, "nnz", None),
        getattr(array, "shape", None),
    )  # the former of a sparse matrix
    if isinstance(stored, int):
        return stored
    return _length(array) or 0 if shape is None else math.prod(shape)


def _listed(array: Any) -> Any:
    listed = getattr(array, "tolist", None) or getattr(array, "to_list", None)
    return listed() if callable(listed) else None


def _is_cut_array(array: Any, text: str) -> bool:
    """Its text has signs that something is left out, or fewer words than it has values, or none of them."""
    size = _size(array)
    is_range = all(hasattr(array, name) for name in ("start", "stop", "step"))  # which say it all
    has_fewer = len(re.findall(r"[^\s,\[\](){}]+", text)) < size and not is_range
    is_of_numpy = type(array).__module__ == "numpy"  # which leaves nothing out here
    is_told_of = (
        size > 1 and text.startswith("<") and text.rstrip().endswith(">") and "[" not in text
    )
    return (
        has_fewer
        or is_told_of
        or (not is_of_numpy and _CUT.search(_without_texts_of(array, text)) is not None)
    )


def _without_texts_of(array: Any, text: str) -> str:
    """The text of an array without the texts that it holds, which may have any signs."""
    held = (_listed(array) or []) if _CUT.search(text) else []
    texts = (
        one
        for entry in held
        for one in (entry if isinstance(entry, tuple) else [entry])
        if isinstance(one, str)
    )
    return functools.reduce(lambda left, one: left.replace(one, "") if one else left, texts, text)


def _is_cut(value: Any, text: str) -> bool:
    """Its text has signs that a part is left out of what it holds; texts that it holds may have such signs."""
    held = [value, *getattr(value, "__dict__", {}).values()]
    for entry in held:
        if isinstance(entry, str):
            if reprlib.repr(entry) != repr(entry) and reprlib.repr(entry) in text:
                return True
            text = text.replace(repr(entry), "").replace(entry, "") if entry else text
    return _CUT_LIST.search(text) is not None and any(
        isinstance(entry, Sized) and not isinstance(entry, str) and len(entry) > 3 for entry in held
    )
