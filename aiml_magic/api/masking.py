"""Masks the secrets of a request in everything that a server sends."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain
from typing import Any

from aiml_magic.api import hidden
from aiml_magic.credentials import SHORTEST
from aiml_magic.text import MASK, dump, load

_ENCODINGS = 3  # levels of nested escapes that are decoded
# Words of every response: masked as secrets, they would make every answer unreadable.
_OF_THE_API = frozenset("""
    annotations application/json assistant cancelled completed created_at function_call in_progress
    incomplete incomplete_details input_tokens instructions max_output_tokens metadata output_text
    output_tokens parallel_tool_calls previous_response_id reasoning response summary_text
    text/event-stream tool_choice total_tokens truncation
""".split())  # fmt: skip


@dataclass(frozen=True)
class Secrets:
    """The secrets of a request: the key, and the values that `hidden.split` removed.

    A server may echo them anywhere, in pieces, or encoded as JSON, HTML or a URL. A text that holds
    a secret, two thirds of the key, or a beginning of the key at its end, loses every run of eight
    characters of the key. Other texts keep such runs: an id or a number may have one by chance.
    """

    key: str = field(repr=False)
    hidden: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        """`text` without the secrets; decoded if they were escaped in it."""
        left = wrapped(self.key).sub(MASK, text) if self.key else text
        return self._masked(left) if left != text or self._are_in(text) else text

    def load(self, body: bytes | str) -> Any:
        """The value of a JSON text that a server sent, without the secrets. Raises ValueError."""
        value = load(body)
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        may_hold = any(piece in reading for reading in _readings(text) for piece in self._pieces)
        return self.without(value) if may_hold else value

    def clean(self, body: bytes) -> bytes:
        """The body of a reply, JSON or another text, without the secrets."""
        try:
            return dump(self.load(body)).encode("ascii")
        except (ValueError, RecursionError):
            return self.mask(body.decode("utf-8", "replace")).encode("utf-8", "replace")

    def without(self, value: Any) -> Any:
        """A JSON value without the secrets, in place: in names, texts and numbers of any depth."""
        whole = [value]
        scalars = (scalar for node in _nodes(whole) for scalar in _scalars(node))
        if any(self._are_in(str(scalar)) for scalar in scalars):
            for node in _nodes(whole):
                if isinstance(node, dict):
                    masked = {self._masked(key): self._scalar(node[key]) for key in node}
                    node.clear()
                    node.update(masked)
                else:
                    node[:] = map(self._scalar, node)
        return whole[0]

    def added_to(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The body of a request with its secrets, as it is sent."""
        return hidden.restored(body, self.hidden)

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._masked(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return MASK if is_number and self._masked(str(value)) != str(value) else value

    def _are_in(self, text: str) -> bool:
        return len(text) >= SHORTEST and any(
            reading.endswith(self._beginnings) or any(sign in reading for sign in self._signs)
            for reading in _readings(text)
        )

    def _masked(self, text: str, encodings: int = _ENCODINGS) -> str:
        masked = self._without_pieces(text)
        read = _read(masked) if encodings else masked
        if read == masked:
            return masked
        inner = self._masked(read, encodings - 1)
        return masked if inner == read else inner

    def _without_pieces(self, text: str) -> str:
        if not any(piece in text for piece in self._pieces):
            return text
        parts, end = [], 0
        for start, stop in _joined(found.span(1) for found in self._pattern.finditer(text)):
            parts += [text[end:start], MASK]
            end = stop
        return "".join([*parts, text[end:]])

    @cached_property
    def _signs(self) -> frozenset[str]:
        """The texts that prove an echo: each secret, its base64, and two thirds of the key."""
        values = [text for value in self.hidden.values() for text in hidden.texts(value)]
        secrets = {word for word in {self.key}.union(*map(_words, values)) if len(word) >= SHORTEST}
        secrets -= _OF_THE_API
        most = _runs(self.key, max(SHORTEST, -(-2 * len(self.key) // 3)))
        return frozenset(secrets.union(most, *map(_in_base64, secrets)))

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(self.key[:end] for end in range(SHORTEST, len(self.key)))

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """All texts that are masked, longest first."""
        return tuple(sorted(self._signs | _runs(self.key, SHORTEST), key=len, reverse=True))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # A lookahead, since matches may overlap.
        return re.compile(f"(?=({'|'.join(map(re.escape, self._pieces))}))")


# The texts between two characters of a broken secret: marks, blanks, and encoded line breaks.
_BREAK = (
    r"(?:\x1b\[[\d;]*[A-Za-z]|\\x[\da-f]{2}|\\u[\da-f]{4}|\\[nrt]|%0[AD]|<br\s*/?>|\bb(?=['\"])"
    r"|[^0-9A-Za-z]){0,12}"
)


@cache
def wrapped(secret: str) -> re.Pattern[str]:
    """A pattern of a secret that may be broken into several lines."""
    return re.compile(_BREAK.join(map(re.escape, secret)))


# Escapes of ASCII in JSON, Python, Markdown and URLs.
_ESCAPE = re.compile(r"(?:\\u00|\\x|%)([2-7][0-9A-Fa-f])|\\([!-/:-@\[-`{-~])")
_CHUNK = 2**18  # characters decoded at once: each escape takes memory


def _read(text: str) -> str:
    """`text` with its escapes and entities decoded."""
    if not any(sign in text for sign in "\\%&"):
        return text
    chunks = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
    return "".join(html.unescape(_ESCAPE.sub(_sign, chunk)) for chunk in chunks)


def _sign(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]


def _readings(text: str) -> Iterator[str]:
    """`text`, and the text decoded once, twice and so on."""
    yield text
    for _ in range(_ENCODINGS):
        if (read := _read(text)) == text:
            return
        yield (text := read)


def _nodes(value: list[Any]) -> Iterator[list[Any] | dict[str, Any]]:
    """A list and all lists and objects in it, without recursion, which deep JSON would exceed."""
    waiting: list[Any] = [value]
    while waiting:
        yield (node := waiting.pop())
        entries = node.values() if isinstance(node, dict) else node
        waiting += [entry for entry in entries if isinstance(entry, dict | list)]


def _scalars(node: list[Any] | dict[str, Any]) -> Iterator[Any]:
    entries = chain(node, node.values()) if isinstance(node, dict) else node
    return (entry for entry in entries if isinstance(entry, str | int | float))


def _runs(key: str, length: int) -> set[str]:
    """All pieces of a key of this length."""
    return {key[start : start + length] for start in range(len(key) - length + 1)}


def _words(value: str) -> set[str]:
    """The secrets in a header or a field: all of it without its scheme, and its non-alpha words."""
    words = {word for word in re.split(r"[\s;,=\"]+", value) if not word.isalpha()}
    return words | {re.sub(r"(?i)^(bearer|basic|token)\s+", "", value)}


def _in_base64(secret: str) -> set[str]:
    """Pieces of the base64 of a secret, at each of its three possible alignments."""
    parts = set()
    for before, first in ((0, 0), (1, 2), (2, 3)):
        raw = b"\0" * before + secret.encode("utf-8", "replace")
        signs = base64.b64encode(raw).decode()[first : len(raw) * 8 // 6]
        parts |= {signs[at : at + 8] for at in range(0, len(signs) - 7, 4)}
    return parts


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans, ordered by their starts; those that touch are merged."""
    start, end = 0, -1
    for begin, stop in spans:
        if begin > end:
            if end > start:
                yield start, end
            start = begin
        end = max(end, stop)
    if end > start:
        yield start, end
