"""Attachments of a question: files, URLs of images, and variables, as parts of a message.

The kind is recognized by the content, not by the file's extension. No plotting or table library is
imported: the object's own methods are called. Each attachment begins with a line that names it, for
the model and for the details.
"""

from __future__ import annotations

import base64
import codecs
import io
import json
import math
import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiml_magic.api.responses import Raw, input_texts
from aiml_magic.errors import NOTHING_SENT, BadInput, refusing
from aiml_magic.files import check_no_database, why
from aiml_magic.question.tracebacks import last_error, traceback_of
from aiml_magic.question.values import MAX_TEXT, Variables, shows_entries, uncut
from aiml_magic.text import as_python_reads, did_you_mean, fence_for

MAX_BYTES = 16 * 2**20  # of one attachment, and of all together
_LABEL = "Attachment "
_ANOTHER_WAY = "Attach a file or its data instead."
# In a recording, the hash of a text follows its name.
_NAMED = re.compile(rf"{_LABEL}(.*):(?: sha256,[0-9a-f]{{64}})?$", re.MULTILINE)
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png", "PNG image"),
    (b"\xff\xd8\xff", "image/jpeg", "JPEG image"),
    (b"GIF87a", "image/gif", "GIF image"),
    (b"GIF89a", "image/gif", "GIF image"),
    (b"%PDF-", "application/pdf", "PDF"),
)


def attach(named: str, variables: Variables) -> list[Raw]:
    """The parts for a variable's name, the URL of an image, or a path. Raises BadInput."""
    with refusing(f"{_line(named)[:80]} cannot be attached", _ANOTHER_WAY):
        return _parts_of(named, variables)


def _parts_of(named: str, variables: Variables) -> list[Raw]:
    variable = as_python_reads(named)
    if variable in variables and not variable.startswith("_"):
        return list(parts(variables[variable], variable))
    if _is_url(named):
        return list(_linked(named))
    path = Path(named).expanduser()
    if not path.exists() and not path.is_symlink():
        if named == "error" and (error := last_error()) is not None:
            return list(parts(error, "the last error"))
        known = [name for name in variables if not name.startswith("_")]
        hint = did_you_mean(named, [*known, *(sibling.name for sibling in _siblings(path))])
        raise BadInput(
            f"There is no variable and no file {named[:80]}. {NOTHING_SENT}",
            hint or "Paths begin in the working directory.",
        )
    return list(parts(path, path.name))


def parts(value: Any, name: str) -> Iterator[Raw]:
    """The parts for a value: a path, bytes, text, a table, a figure, an image, or a list of these.

    Raises BadInput.
    """
    if isinstance(value, list | tuple) and value:
        for number, entry in enumerate(value):
            yield from parts(entry, f"{name}[{number}]")
    elif isinstance(value, os.PathLike):
        yield from _of_bytes(_read(Path(value)), name)
    elif isinstance(value, bytes | bytearray | memoryview):
        yield from _of_bytes(bytes(value), name)
    elif isinstance(value, str):
        yield from _of_words(value, name)
    elif isinstance(value, BaseException):
        yield from _of_text(traceback_of(value), name, f"traceback of {type(value).__name__}")
    elif (table := as_csv(value)) is not None:
        yield from _of_text(table, name, f"{len(value):,} rows, {_size(len(table))} of CSV", "csv")
    elif (picture := as_picture(value, name)) is not None:
        yield from _of_bytes(picture, name)
    else:
        raise BadInput(
            f"{name} is a {type(value).__name__}, which cannot be attached. {NOTHING_SENT}",
            f"Write it into the question with {{{{{name}}}}}, or attach a file, a figure, a table, "
            "an image, text or bytes.",
        )


def as_csv(value: Any) -> str | None:
    """A table of pandas or polars as CSV, with row labels unless they are only numbers.

    None for other values. Raises BadInput for a table that is too long or cannot be written whole.
    """
    write = getattr(value, "write_csv", None) or getattr(value, "to_csv", None)  # polars, pandas
    if not callable(write) or not hasattr(value, "shape"):
        return None
    if math.prod(value.shape) > MAX_TEXT:
        raise BadInput(
            f"The table has {len(value):,} rows, more than the model can read. {NOTHING_SENT}",
            "Attach a part of it, such as its head(1000).",
        )
    has_labels = type(getattr(value, "index", None)).__name__ != "RangeIndex"
    options = {} if hasattr(value, "write_csv") else {"index": has_labels}
    with refusing("The table cannot be written as CSV", "Attach it as text or a file."), uncut():
        table = str(write(**options))
        if not shows_entries(value, table):
            raise BadInput(
                f"A cell of the table has no complete text. {NOTHING_SENT}",
                "Leave out its column, or make it text.",
            )
    return table


def as_picture(value: Any, name: str) -> bytes | None:
    """A figure, an image or an array of pixels as PNG; None for other values. Raises BadInput."""
    with refusing(f"{name} could not be drawn", _ANOTHER_WAY):
        return _drawn(value)


def labels(request: Raw) -> list[str]:
    """Name, kind and size of each attachment in a request, one line each."""
    matches = map(_NAMED.match, input_texts(request))
    return [match[1] for match in matches if match]


def check_size(attached: list[Raw]) -> None:
    """Raises BadInput if all attachments together are too large to be sent."""
    size = sum(len(json.dumps(part)) for part in attached) * 3 // 4
    if size > MAX_BYTES:
        raise BadInput(
            f"All attachments together have {_size(size)}, more than {_size(MAX_BYTES)}. "
            f"{NOTHING_SENT}",
            "Attach fewer, or make them smaller.",
        )


def _drawn(value: Any) -> bytes | None:
    is_part = _has_method(value, "get_figure") and _has_method(value, "plot")
    figure = value.get_figure() if is_part else value  # axes are drawn with their figure
    if _has_method(figure, "savefig"):  # matplotlib
        return _saved(figure.savefig, format="png", bbox_inches="tight")
    if _has_method(value, "to_plotly_json") and _has_method(value, "to_image"):
        return bytes(value.to_image(format="png"))
    if type(value).__module__.startswith(("altair.", "PIL.")) and _has_method(value, "save"):
        return _saved(value.save, format="png")
    if hasattr(value, "__array_interface__"):
        return _png_of_array(value)
    drawing = value._repr_png_() if _has_method(value, "_repr_png_") else None
    drawing = drawing[0] if isinstance(drawing, tuple) else drawing  # (picture, metadata)
    return base64.b64decode(drawing) if isinstance(drawing, str) else drawing


def _has_method(value: Any, method: str) -> bool:
    return callable(getattr(value, method, None))


def _saved(save: Callable[..., Any], **options: str) -> bytes:
    file = io.BytesIO()
    save(file, **options)
    return file.getvalue()


def _png_of_array(array: Any) -> bytes | None:
    """Pixels as PNG: bytes, booleans, or numbers from 0 to 1; None for another shape.

    The shape is (rows, columns) or (rows, columns, 1, 3 or 4).
    """
    shape = tuple(array.shape)
    colours = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or colours not in (1, 3, 4) or 0 in shape:
        return None
    kind = array.dtype.kind
    if kind == "f" and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("its numbers are not from 0 to 1")
    if kind in "fb":
        array = array * 255
    elif array.dtype.str[1:] != "u1":
        pixel = "pixels are uint8, or float from 0 to 1"
        raise ValueError(f"its numbers are {array.dtype}, and {pixel}")
    pixels = array.astype("uint8").tobytes()
    height, width = shape[:2]
    stride = width * colours
    starts = range(0, height * stride, stride)
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in starts)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[colours], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _of_bytes(content: bytes, name: str) -> Iterator[Raw]:
    _check_bytes(len(content), name)
    kind, words = kind_of(content)
    if kind == "text/plain":
        return (yield from _of_file_text(content, name))
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    yield _label(name, f"{words}, {_size(len(content))}")
    if kind == "application/pdf":
        yield {
            "type": "input_file",
            "filename": name if name.endswith(".pdf") else f"{name}.pdf",
            "file_data": url,
        }
    else:
        yield _image(url)


def _of_words(text: str, name: str) -> Iterator[Raw]:
    """The parts for a URL, a data URL, or the name of a file; else for the text itself."""
    inline = re.fullmatch(r"data:[\w.+/-]+;base64,(\S+)", text)
    if _is_url(text):
        yield from _linked(text)
    elif inline is not None:
        yield from _of_bytes(base64.b64decode(inline[1]), name)
    elif _is_file(text):
        yield from _of_bytes(_read(Path(text).expanduser()), name)
    elif not text.strip():
        raise BadInput(f"{name} is an empty text. {NOTHING_SENT}", "Check its value.")
    elif _PATH.fullmatch(text):
        raise BadInput(
            f"{name} is {text[:80]!r}, which looks like the path of a missing file. {NOTHING_SENT}",
            f"Check the path; to send the text itself, write {{{{{name}}}}} into the question.",
        )
    else:
        yield from _of_text(text, name, f"{len(text):,} characters")


def _is_file(text: str) -> bool:
    """Whether a file has this name; it may still be unreadable."""
    try:
        return len(text) < 4096 and text.isprintable() and Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # an impossible name, or an unknown user
        return False


def _of_file_text(content: bytes, name: str) -> Iterator[Raw]:
    text, encoding = _decoded(content)
    if text is None:
        raise BadInput(
            f"{name} holds neither PNG, JPEG, WebP, GIF, PDF nor text. {NOTHING_SENT}",
            "Convert it to one of these; text, best to UTF-8.",
        )
    notebook = _notebook_text(text)
    if notebook is not None:
        yield from _of_text(notebook, name, f"notebook, {_size(len(notebook))} of text")
        return
    read_as = f", read as {encoding}" if encoding else ""
    language = Path(name).suffix.removeprefix(".")
    yield from _of_text(text, name, f"text, {_size(len(content))}{read_as}", language)


_ENDINGS = (
    "png|jpe?g|webp|gif|pdf|svg|tiff?|bmp|txt|md|rst|tex|bib|csv|tsv|json|jsonl|ya?ml|toml|xml|"
    "html?|log|py|ipynb|r|jl|c|cpp|h|js|ts|sql|sh|xlsx?|docx?|pptx?|parquet|feather|pkl|npy|npz|"
    "h5|hdf5|nc|mat|zip|gz"
)
# One to four words with a known extension, any text with a slash and one, or one to four words that
# begin like a path.
_PATH = re.compile(
    rf"(?i:\S+(?: \S+){{,3}}\.(?:{_ENDINGS})|[^\n]*/[^\n]*\.(?:{_ENDINGS})|file:\S+)"
    r"|(?:~?/|\.\.?/|[A-Z]:\\)\S+(?: \S+){,3}"
)
_BREAKS = dict.fromkeys(map(ord, "\t\n\r\f\v"))
_UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}  # control characters, and unassigned or private code points
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def _decoded(content: bytes) -> tuple[str | None, str]:
    """The text of a file and its encoding, empty for UTF-8; None for a file without text.

    A byte order mark decides. Else NUL bytes mean UTF-16, and bytes that are not UTF-8 are
    Windows-1252 if they look like a Western language: other scripts have runs of bytes above 0x7F.
    """
    marked = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    if marked is not None:
        return _text_in(content, marked), marked
    if (text := _text_in(content, "utf-8-sig")) is not None:
        return text, ""
    if b"\0" in content:
        wide = ((_text_in(content, name), name) for name in ("UTF-16-LE", "UTF-16-BE"))
        return next((read for read in wide if _is_prose(read[0])), (None, ""))
    runs = re.findall(rb"[\x80-\xff]{4,}", content)
    is_foreign = any(len(re.findall(rb"[\xc0-\xff]", run)) > 1 for run in runs)
    text = _text_in(content, "cp1252")
    return (text, "Windows-1252") if _is_prose(text) and not is_foreign else (None, "")


def _text_in(content: bytes, encoding: str) -> str | None:
    """The text in this encoding; None if it does not fit, or holds NUL."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _is_prose(text: str | None) -> bool:
    """Whether all characters are printable, and a tenth are ASCII: every script has spaces."""
    start = (text or "")[:MAX_TEXT]
    kinds = map(unicodedata.category, start.translate(_BREAKS))
    return sum(map(str.isascii, start)) * 10 > len(start) and _UNPRINTABLE.isdisjoint(kinds)


def _of_text(text: str, name: str, about: str, language: str = "") -> Iterator[Raw]:
    if len(text) > MAX_TEXT:
        raise BadInput(
            f"{name} has {len(text):,} characters, and the model reads at most {MAX_TEXT:,}. "
            f"{NOTHING_SENT}",
            "Attach a part of it, such as df.head(1000).",
        )
    fence = fence_for(text)
    language = language if re.fullmatch(r"\w{0,12}", language) else ""
    yield _label(name, about, f"\n\n{fence}{language}\n{text}\n{fence}")


def _linked(url: str) -> Iterator[Raw]:
    yield _label(url, "image, linked")
    yield _image(url)


def _image(url: str) -> Raw:
    return {"type": "input_image", "detail": "auto", "image_url": url}


def _label(name: str, about: str, text: str = "") -> Raw:
    """The line that names an attachment, followed by the `text` of a text attachment."""
    return {"type": "input_text", "text": f"{_LABEL}{_line(name)} ({about}):{text}"}


def _line(name: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in name)[:200]


def kind_of(content: bytes) -> tuple[str, str]:
    """The media type of content by its first bytes, and its name for a person; text if unknown."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp", "WebP image"
    known = ((kind, words) for magic, kind, words in _KINDS if content.startswith(magic))
    return next(known, ("text/plain", "text"))


def _notebook_text(text: str) -> str | None:
    """The cells of a notebook and their outputs as text; None for any other text."""
    try:
        notebook = json.loads(text) if text.lstrip().startswith("{") else None
        if not isinstance(notebook, dict) or "nbformat" not in notebook:
            return None
        return "\n\n".join(_cell_text(cell) for cell in notebook["cells"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _cell_text(cell: Raw) -> str:
    lines = [f"# {cell['cell_type']} cell", "".join(cell["source"])]
    for output in cell.get("outputs") or []:
        data = output.get("data") or {}
        text = output.get("text") or data.get("text/plain") or output.get("traceback")
        if text:
            lines += ["# output", "".join(text)]
    return "\n".join(lines)


def _read(path: Path) -> bytes:
    """The content of a regular file; reading a pipe or a device may never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(
                f"{path.name} is not a regular file. {NOTHING_SENT}",
                "Attach a file that can be read to its end.",
            )
        _check_bytes(status.st_size, path.name)
        check_no_database(path)
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be read: {why(error)}. {NOTHING_SENT}",
            "Check the path.",
        ) from error


def _check_bytes(size: int, name: str) -> None:
    if size == 0:
        raise BadInput(f"{name} is empty. {NOTHING_SENT}", "Check that it was written.")
    if size > MAX_BYTES:
        raise BadInput(
            f"{name} has {_size(size)}, more than {_size(MAX_BYTES)}. {NOTHING_SENT}",
            "Attach a part of it, or a smaller picture.",
        )


def _is_url(text: str) -> bool:
    return re.match(r"https?://\S+$", text) is not None


def _siblings(path: Path) -> list[Path]:
    try:
        return list(path.parent.iterdir())[:1000]
    except OSError:
        return []


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:,.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:,.1f} MB"
