"""Text as people and files take it: plain for a terminal, cut to a length, counted, corrected, and JSON within bounds."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

MAX_JSON = 16 * 2**20  # bytes of one JSON body
_MAX_VALUES = 2**20  # values in one JSON body: bounds the memory that few bytes can ask for

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    0x7F: "\u2421"
}
_CONTROL |= dict.fromkeys(
    [*range(0xD800, 0xE000), *range(0x80, 0xA0), *range(0x202A, 0x202F)], "\ufffd"
)
_LIKE_THEM = str.maketrans(
    {"·": "|", "…": "...", "–": "-", "—": "--", "−": "-", "→": "->"}
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”„", '"')
)


def load(body: bytes | str, max_size: int = MAX_JSON) -> Any:
    """The value of a JSON text.

    Raises ValueError, also for one too large or too deep to be an answer.
    """
    if isinstance(body, bytes):
        body = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if len(body) > max_size or sum(body.count(sign) for sign in "{[,") > _MAX_VALUES:
        raise ValueError(f"more than {max_size // 2**20} MiB or {_MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dump(value: Any) -> str:
    """JSON in ASCII: a lone surrogate, which is no UTF-8, survives as its escape."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def plain(text: str) -> str:
    """`text` with every control character made visible; what is no character, or overrides the order of others, is replaced."""
    if text.isprintable():
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL)


def printable(words: object) -> str:
    """Words without control characters; the line breaks stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in str(words))


def one_line(words: object, limit: int = 300) -> str:
    """`words` on one line, without control characters, at most `limit` characters long."""
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
    """`text`, or its beginning and an ellipsis: at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def count_of(number: int, noun: str) -> str:
    """`1 answer`, `2 answers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question whether the closest of `names` was meant, or the empty string if none is close."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""


def encodable(text: str) -> str:
    """`text` as standard output can take it: characters that it lacks as others like them, else by their numbers."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_LIKE_THEM).encode(encoding, "backslashreplace").decode(encoding)
    return text


def say(words: object) -> None:
    """Prints what others may have written: made plain, and in characters that standard output can take."""
    print(encodable(plain(str(words))))
