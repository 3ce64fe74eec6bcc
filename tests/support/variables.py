"""Variables of a notebook for attachments: an image, a figure, a table."""

from __future__ import annotations

import base64

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class RangeIndex: ...


class Table:
    """A table with the methods of pandas."""

    columns = ("a",)

    def __init__(self, rows: int = 3) -> None:
        self.shape = (rows, 1)
        self.index = RangeIndex()

    def __len__(self) -> int:
        return self.shape[0]

    def to_csv(self, *, index: bool) -> str:
        return "".join(
            [",a\n" if index else "a\n", *(f"{number}\n" for number in range(len(self)))]
        )


class Figure:
    def savefig(self, file, *, format, bbox_inches) -> None:  # noqa: A002
        file.write(PNG)
