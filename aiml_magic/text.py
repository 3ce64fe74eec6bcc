"""Text for people and files: printable, on one line, shortened, counted; and JSON in bounds."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

MASK = "…"  # stands for a secret
MAX_JSON = 16 * 2**20  # bytes of one JSON body
_MAX_VALUES = 2**20  # values in one JSON body: bounds the memory that few bytes can ask for

_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: "\u2421"}
# Lone surrogates, other control characters, and overrides of the direction of a text.
_REPLACED = [*range(0xD800, 0xE000), *range(0x80, 0xA0), *range(0x202A, 0x202F)]
_VISIBLE |= dict.fromkeys(_REPLACED, "\ufffd")
_ASCII = str.maketrans(
    {"·": "|", "…": "...", "–": "-", "—": "--", "−": "-", "→": "->"}
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”„", '"')
)


def load(body: bytes | str, max_size: int = MAX_JSON) -> Any:
    """The value of a JSON text. Raises ValueError, also for a text that is too large or deep."""
    if isinstance(body, bytes):
        body = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if len(body) > max_size or sum(body.count(sign) for sign in "{[,") > _MAX_VALUES:
        raise ValueError(f"more than {max_size // 2**20} MiB or {_MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dump(value: Any) -> str:
    """A value as compact JSON in ASCII, in which a lone surrogate stays as its escape."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def plain(text: str) -> str:
    """`text` with control characters as visible ones, so that none acts on a terminal."""
    if text.isprintable():
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_VISIBLE)


def plain_line(text: str) -> str:
    """`text` made plain, on one line, whole."""
    return " ".join(plain(text).split())


def printable(words: object) -> str:
    """A text in which characters that cannot be printed are blanks; line breaks stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in str(words))


def one_line(words: object, limit: int = 300) -> str:
    """A text on one line, of printable characters, at most `limit` of them."""
    return cut(" ".join(printable(words).split()), limit)


def reason(error: BaseException) -> str:
    """What an error says, on one line; its class if it says nothing, or if reading it fails."""
    try:
        said = one_line(error).rstrip(": .")
    except Exception:  # noqa: BLE001  # an error of the notebook may raise another
        said = ""
    return said or type(error).__name__


def as_python_reads(name: str) -> str:
    """A name as Python's parser normalizes it."""
    return unicodedata.normalize("NFKC", name)


def cut(text: str, limit: int = 60) -> str:
    """`text`, or its beginning and an ellipsis, at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fence_for(text: str) -> str:
    """The backticks that fence `text` as code in Markdown: more than it has in a row."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def count_of(number: int, noun: str) -> str:
    """`1 answer`, `2 answers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dollars(usd: float) -> str:
    """`$8.40`; a sum below a cent with its six places."""
    return f"${usd:,.6f}" if 0 < usd < 0.01 else f"${usd:,.2f}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question that names the closest of the other `names`; empty if none is close."""
    import difflib

    close = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
    return f"Did you mean {close[0]}?" if close else ""


def encodable(text: str) -> str:
    """`text` in the encoding of standard output: other characters as ASCII or as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def agreed(words: str, ask: Callable[[str], str] | None = None) -> bool | None:
    """Whether the person says yes, to `ask` or in the cell; `None` if nobody can answer."""
    try:
        said = (ask or input)(encodable(f"{words} [y/N] "))  # `input` is that of this cell
    except (EOFError, OSError, RuntimeError):  # StdinNotImplementedError is a RuntimeError
        return None
    return said.strip().lower() in ("y", "yes")


def say(words: object) -> None:
    """Prints a text that may be a stranger's, so that it is harmless and always printable."""
    print(encodable(plain(str(words))))
