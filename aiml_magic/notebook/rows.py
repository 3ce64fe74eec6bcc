"""The rows of a map, from any container, and the fields of each for the template.

A row is a mapping (a dict, a Series, a row of SQLite), a record (a named tuple, a dataclass, a
model of pydantic, an object with attributes), or a plain value for every name. `row` is the row
itself, unless a field has that name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from aiml_magic.errors import NOTHING_SENT, BadInput, refusing
from aiml_magic.text import cut


def rows_of(rows: Any) -> Iterator[Any]:
    """The rows of an iterable, a table (pandas, polars also lazy, Arrow), or a dict of columns.

    Raises BadInput.
    """
    if isinstance(rows, str | bytes | bytearray):
        raise BadInput(
            f"The rows are one text, and each letter would be a question. {NOTHING_SENT}",
            "Put it into a list, or split it: text.splitlines().",
        )
    if isinstance(rows, Mapping):
        return _rows_of_columns(rows)
    if hasattr(rows, "collect_schema") and hasattr(rows, "collect"):  # a lazy frame of polars
        with refusing("The rows cannot be collected", "Correct the query of the lazy frame."):
            rows = rows.collect()
    if hasattr(rows, "iter_rows"):  # polars
        return iter(rows.iter_rows(named=True))
    if hasattr(rows, "itertuples") and hasattr(rows, "columns"):  # pandas; columns keep their types
        names = [str(name) for name in rows.columns]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise BadInput(
                f"More than one column is named {cut(twice[0], 60)}. {NOTHING_SENT}",
                "Rename or drop all but one of them.",
            )
        return (
            dict(zip(names, values, strict=True))
            for values in rows.itertuples(index=False, name=None)
        )
    if hasattr(rows, "to_pylist"):  # Arrow
        return iter(rows.to_pylist())
    try:
        return iter(rows)
    except TypeError as error:
        raise BadInput(
            f"The rows are a {type(rows).__name__}, which is not iterable. {NOTHING_SENT}",
            "Give a list, a table, or another iterable.",
        ) from error


def fields_of(row: Any, names: Collection[str], columns: Collection[str] = ()) -> Mapping[str, Any]:
    """The fields of a row by name; a value without any of `names` is the field of each of them.

    `columns` are further names, for which a plain value is not used.
    """
    if isinstance(row, Mapping):
        return {"row": row, **row}
    if hasattr(row, "keys") and hasattr(row, "__getitem__"):  # a Series, a row of SQLite
        return {"row": row, **{str(name): row[name] for name in row.keys()}}  # noqa: SIM118
    if own := getattr(getattr(row, "dtype", None), "names", None):  # of a structured array
        return {"row": row, **{name: row[name] for name in own}}
    fields = {name: getattr(row, name) for name in {*names, *columns} if _has_field(row, name)}
    whole = () if any(name in fields for name in names) else names
    return {"row": row, **dict.fromkeys(whole, row), **fields}


def _rows_of_columns(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        values = [_column(column) for column in columns.values()]
    except TypeError as error:
        raise BadInput(
            f"A dict of rows is read as columns, and one of them is a {error}. {NOTHING_SENT}",
            "Put one row into a list, [row]; of a dict of rows take its values().",
        ) from error
    if len({len(column) for column in values}) > 1:
        lengths = ", ".join(
            f"{name}: {len(column)}" for name, column in zip(columns, values, strict=True)
        )
        raise BadInput(
            f"The columns have different lengths ({cut(lengths, 80)}). {NOTHING_SENT}",
            "Give each row a value in each column.",
        )
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def _column(values: Any) -> list[Any]:
    if isinstance(values, Mapping | set | frozenset):
        raise TypeError(f"{type(values).__name__}, which has no order of rows")
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError("single value")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _has_field(row: Any, name: str) -> bool:
    """Whether `name` is a field of the record, not a method or another attribute of its class."""
    if name.startswith("_") or isinstance(row, os.PathLike):
        return False
    kind = type(row)
    declared = getattr(row, "_fields", ())
    if name in getattr(row, "__dict__", ()) or (isinstance(declared, tuple) and name in declared):
        return True
    own = [vars(base) for base in kind.__mro__]
    slots = {slot for base in own for slot in _slots(base)}
    return name in slots or any(
        isinstance(base.get(name), property | cached_property) for base in own
    )


def _slots(base: Mapping[str, Any]) -> Iterable[str]:
    slots = base.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots
