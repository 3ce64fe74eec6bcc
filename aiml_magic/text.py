"""Text for people and files: printable, on one line, shortened, counted; and JSON in bounds."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

MASK = "…"  # stands for a secret
MAX_JSON = 16 * 2**20  # bytes of one JSON body
_MAX_VALUES = 2**20  # values in one JSON body: each takes far more memory than bytes

_ASCII = str.maketrans(
    {"·": "|", "…": "...", "–": "-", "—": "--", "−": "-", "→": "->"}
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”„", '"')
)

_ENCODER = json.JSONEncoder(separators=(",", ":"))  # `json.dumps` makes one for each text


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
    return _ENCODER.encode(value)


def target(root: Any, reference: str) -> Any:
    """The part of a schema that a reference (RFC 6901) points to. Raises ValueError."""
    start, *steps = reference.split("/")
    missing = ValueError(f"its reference {reference} has no target")
    if start != "#":
        raise missing
    try:
        for step in steps:
            key = step.replace("~1", "/").replace("~0", "~")
            root = root[int(key) if isinstance(root, list) else key]
    except (KeyError, IndexError, TypeError, ValueError):
        raise missing from None
    return root


def plain(text: str) -> str:
    """`text` with control characters made visible, so that a terminal does not obey them."""
    if text.isprintable():
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_visible())


@cache
def _visible() -> dict[int, str]:
    """The signs for control characters, by their codes; built at the first use, not at import."""
    visible = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
    # Lone surrogates, C1 control characters and bidirectional overrides.
    replaced = [*range(0xD800, 0xE000), *range(0x80, 0xA0), *range(0x202A, 0x202F)]
    return visible | {0x7F: "\u2421"} | dict.fromkeys(replaced, "\ufffd")


def plain_line(text: str) -> str:
    """`plain(text)` on one line, not shortened."""
    return " ".join(plain(text).split())


def printable(words: object) -> str:
    """The text of `words` with a blank for each unprintable character; line breaks stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in str(words))


def one_line(words: object, limit: int = 300) -> str:
    """`printable(words)` on one line, cut to `limit` characters."""
    return cut(" ".join(printable(words).split()), limit)


def reason(error: BaseException) -> str:
    """The message of an error on one line; its class name if that is empty or raises."""
    try:
        message = one_line(error).rstrip(": .")
    except Exception:  # noqa: BLE001  # an error of the notebook may raise another
        message = ""
    return message or type(error).__name__


def as_python_reads(name: str) -> str:
    """A name as Python's parser normalizes it (NFKC)."""
    return unicodedata.normalize("NFKC", name)


def cut(text: str, limit: int = 60) -> str:
    """`text`, or its beginning and an ellipsis, at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rows_of(table: str) -> list[list[str]]:
    """The words of each line of a table."""
    return [row for row in map(str.split, table.splitlines()) if row]


def fence_for(text: str) -> str:
    """The fence of a Markdown code block: one backtick more than the longest run in `text`."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def count_of(number: int, noun: str) -> str:
    """`1 answer`, `2 answers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dollars(usd: float) -> str:
    """`$8.40`; a sum below a cent with its six places."""
    return f"${usd:,.6f}" if 0 < usd < 0.01 else f"${usd:,.2f}"


def did_you_mean(name: str, names: Iterable[str], similarity: float = 0.6) -> str:
    """`Did you mean …?` with the closest of the other `names`; empty if none is close."""
    import difflib

    others = [other for other in names if other != name]
    close = difflib.get_close_matches(name, others, n=1, cutoff=similarity)
    return f"Did you mean {close[0]}?" if close else ""


def encodable(text: str) -> str:
    """`text` for the encoding of standard output; other characters become ASCII or escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


# Errors of a prompt: IPython's StdinNotImplementedError is a RuntimeError; a standard input that is
# closed or not UTF-8 raises ValueError, in getpass one that is missing AttributeError.
UNANSWERED = (EOFError, OSError, RuntimeError, ValueError, AttributeError)


def agreed(words: str) -> bool | None:
    """Whether the person answers yes; `None` if no person can answer."""
    try:
        reply = input(encodable(f"{words} [y/N] "))
    except UNANSWERED:
        return None
    return reply.strip().lower() in ("y", "yes")


def say(words: object) -> None:
    """Prints an untrusted text: control characters visible, others as the encoding allows."""
    print(encodable(plain(str(words))))
