"""The API key: where it comes from, and how it is kept from being seen."""

from __future__ import annotations

import base64
import contextlib
import hmac
import html
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aiml_magic import errors, hidden
from aiml_magic.addresses import home
from aiml_magic.files import make_private_folder, short, write_private
from aiml_magic.text import dump, load

MASK = "…"  # stands for a secret that a server echoed
VARIABLES = ("AIML_API_KEY", "AIMLAPI_API_KEY")
_SERVICE, _USER = "aiml_magic", "api_key"
_TOKEN = re.compile(r"sbx~[\w-]{43}", re.ASCII)  # a sandbox's, which no API key looks like
_Said = TypeVar("_Said")
_TELLING = 8  # characters in a row that tell of a secret; fewer may be a part of any word
_ENCODINGS = 3  # one in the other


@dataclass(frozen=True)
class Key:
    """An API key and the place it came from. Its text shows in no representation of it."""

    source: str
    text: str = field(repr=False)

    @property
    def ending(self) -> str:
        """As much of it as its owner needs to tell it from others."""
        return ending(self.text)

    def is_in(self, text: str) -> bool:
        """`text` holds it. One that is too short to be a secret may be a part of any word."""
        return len(self.text) >= _TELLING and self.text in text


def ending(key: str) -> str:
    """The last four characters of a key, if it is long enough to hide the rest."""
    return "…" + key[-4:] if len(key) >= 16 else "…"


def environment() -> dict[str, str]:
    """The environment for a process that is started here: without the API key, which is told where it is needed."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def new_token() -> str:
    """What a sandbox is asked with instead of an API key: a secret between it and its user."""
    return f"sbx~{secrets.token_urlsafe(32)}"


def is_token(key: str) -> bool:
    """`key` is the token of a sandbox: to be told only to a server that has given a `proof` of knowing it."""
    return _TOKEN.fullmatch(key) is not None


def proof(token: str, port: int, nonce: str) -> str:
    """What only a sandbox at this port that knows `token` can answer to `nonce`, and what does not give the token away."""
    return hmac.new(token.encode(), f"{port} {nonce}".encode(), "sha256").hexdigest()


@dataclass(frozen=True)
class Secrets:
    """What a request carries and nothing else may hold: the key, and what `hidden.split` left out of what is kept.

    A server may echo them anywhere, in pieces, or written as JSON, a page or an address writes
    them. Where the key or most of it is found, or its beginning at an end, which may be a cut,
    every eight characters of it in a row are masked. Elsewhere as many are left: an id or a number
    may have them too.
    """

    key: str = field(repr=False)
    hidden: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        """`text` without the secrets; where they are encoded it is given as it reads."""
        return self._masked(text) if self._are_in(text) else text

    def load(self, body: bytes | str) -> Any:
        """The value of a JSON text that a server sent, without the secrets. Raises ValueError."""
        value = load(body)
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        may_hold = any(piece in reading for reading in _readings(text) for piece in self._pieces)
        return self.without(value) if may_hold else value

    def clean(self, body: bytes) -> bytes:
        """What a server sent, be it JSON or a page, without the secrets."""
        try:
            return dump(self.load(body)).encode("ascii")
        except (ValueError, RecursionError):
            return self.mask(body.decode("utf-8", "replace")).encode("utf-8", "replace")

    def without(self, value: Any) -> Any:
        """A JSON value without the secrets: names, texts and numbers are masked in place, however deep they are."""
        whole = [value]
        if any(
            self._are_in(str(scalar)) for place in _places_in(whole) for scalar in _scalars(place)
        ):
            for place in _places_in(whole):
                if isinstance(place, dict):
                    entries = [
                        (self._masked(name), self._scalar(entry)) for name, entry in place.items()
                    ]
                    place.clear()
                    place.update(entries)
                else:
                    place[:] = map(self._scalar, place)
        return whole[0]

    def added_to(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request with its secrets, as it is sent."""
        return hidden.restored(body, self.hidden)

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._masked(value)
        if (
            isinstance(value, bool | dict | list)
            or value is None
            or self._masked(str(value)) == str(value)
        ):
            return value
        return MASK

    def _are_in(self, text: str) -> bool:
        return len(text) >= _TELLING and any(
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
        kept, end = [], 0
        for start, stop in _joined(found.span(1) for found in self._pattern.finditer(text)):
            kept += [text[end:start], MASK]
            end = stop
        return "".join([*kept, text[end:]])

    @cached_property
    def _signs(self) -> frozenset[str]:
        """The texts by which the secrets are known: each whole, or in base64, and two thirds of the key."""
        values = [text for value in self.hidden.values() for text in hidden.texts(value)]
        secrets = {word for word in {self.key}.union(*map(_words, values)) if len(word) >= _TELLING}
        most = _runs(self.key, max(_TELLING, -(-2 * len(self.key) // 3)))
        return frozenset(secrets.union(most, *map(_in_base64, secrets)))

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(self.key[:end] for end in range(_TELLING, len(self.key)))

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """The texts of which none may be seen, the longest first."""
        return tuple(sorted(self._signs | _runs(self.key, _TELLING), key=len, reverse=True))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Looked for at each place, since one piece may begin within another.
        return re.compile(f"(?=({'|'.join(map(re.escape, self._pieces))}))")


# ASCII as JSON, Python, Markdown and addresses write it otherwise; HTML's entities beside it.
_ESCAPE = re.compile(r"(?:\\u00|\\x|%)([2-7][0-9A-Fa-f])|\\([!-/:-@\[-`{-~])")
_CHUNK = 2**18  # characters that are read at once: each escape takes memory


def _read(text: str) -> str:
    """What `text` says where its escapes are read."""
    if not any(sign in text for sign in "\\%&"):
        return text
    chunks = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
    return "".join(html.unescape(_ESCAPE.sub(_sign, chunk)) for chunk in chunks)


def _sign(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]


def _readings(text: str) -> Iterator[str]:
    """`text`, and what it says where its escapes are read once, twice and so on."""
    yield text
    for _ in range(_ENCODINGS):
        if (read := _read(text)) == text:
            return
        yield (text := read)


def _places_in(value: list[Any]) -> Iterator[list[Any] | dict[str, Any]]:
    """A list and all lists and objects in it; not by recursion, which JSON may be too deep for."""
    waiting: list[Any] = [value]
    while waiting:
        yield (place := waiting.pop())
        entries = place.values() if isinstance(place, dict) else place
        waiting += [entry for entry in entries if isinstance(entry, dict | list)]


def _scalars(place: list[Any] | dict[str, Any]) -> Iterator[Any]:
    entries = chain(place, place.values()) if isinstance(place, dict) else place
    return (
        entry
        for entry in entries
        if not isinstance(entry, bool | dict | list) and entry is not None
    )


def _runs(key: str, length: int) -> set[str]:
    """All that many characters in a row of a key."""
    return {key[start : start + length] for start in range(len(key) - length + 1)}


def _words(value: str) -> set[str]:
    """The secrets in a value: all of it but for the scheme, and its words that are none of a language."""
    words = {word for word in re.split(r"[\s;,=\"]+", value) if not word.isalpha()}
    return words | {re.sub(r"(?i)^(bearer|basic|token)\s+", "", value)}


def _in_base64(secret: str) -> set[str]:
    """Parts of what base64 makes of a secret, wherever in a text it begins; twelve signs of it hold one."""
    parts = set()
    for before, first in ((0, 0), (1, 2), (2, 3)):
        raw = b"\0" * before + secret.encode("utf-8", "replace")
        signs = base64.b64encode(raw).decode()[first : len(raw) * 8 // 6]
        parts |= {signs[at : at + 8] for at in range(0, len(signs) - 7, 4)}
    return parts


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans, which come by their starts, with those in one that touch."""
    start, end = 0, -1
    for begin, stop in spans:
        if begin > end:
            if end > start:
                yield start, end
            start = begin
        end = max(end, stop)
    if end > start:
        yield start, end


def find_key() -> Key | None:
    """The key of the environment, else the saved one. Raises BadInput if it cannot be used."""
    for source, text in _places():
        if text and (stripped := strip(text)):
            if not is_key(stripped):
                raise errors.BadInput(
                    f"The API key from {source} has characters that no key has; nothing was sent.",
                    "Copy it again, then give it with %aiml login.",
                )
            return Key(source, stripped)
    return None


def strip(text: str) -> str:
    """A key without what is easily copied along: blanks, quotes, signs of no width, its variable, `Bearer`."""
    while (shorter := _AROUND.sub("", text)) != text:
        text = shorter
    return text


def is_key(text: str) -> bool:
    """A header can carry it, and nothing in it says that it is more than a key, or less."""
    return re.fullmatch(r"[!-~]+", text) is not None and not set(text) & set("\"'`")


_EDGE = (
    r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    r"\"'`\xab\xbb\u2018-\u201f\u2039\u203a;,]"
)
_NAMES = r"[A-Z][A-Z0-9_]*_KEY|(?:x-)?api-?key|authorization"
_AROUND = re.compile(
    rf"^{_EDGE}+|{_EDGE}+$|^(?:export|setx?|bearer){_EDGE}+|^(?:\$env:)?(?:{_NAMES})(?:{_EDGE}*[=:]|{_EDGE}+)",
    re.IGNORECASE,
)


def need_key() -> Key:
    """As `find_key`. Raises NoKey, which says how to come by one."""
    key = find_key()
    if key is None:
        raise errors.NoKey(
            "No API key was found, so nothing was sent.",
            "Run %aiml login, or set AIML_API_KEY; or try it without a key: %aiml sandbox.",
        )
    return key


def save_key(text: str) -> str:
    """Keeps the key in the system's keyring, else in a file for this user alone; says where.

    Raises BadInput.
    """
    with _refusing("The key cannot be saved", text):
        is_kept, why = _ask_keyring(lambda keyring: _keeps(keyring, text))
        path = _key_file()
        if is_kept:
            path.unlink(missing_ok=True)  # an older one
            return "the system's keyring"
        make_private_folder(path.parent)
        write_private(path, text + "\n")
        return short(path) + (f" (the system's keyring did not take it: {why})" if why else "")


def forget_key() -> tuple[list[str], str]:
    """Removes a saved key; says from where, and why the keyring could not be asked.

    Raises BadInput.
    """
    places = []
    with _refusing("The saved key cannot be removed"):
        if _key_file().is_file():
            _key_file().unlink()
            places.append(short(_key_file()))
        was_kept, why = _ask_keyring(_removes)
        if was_kept:
            places.append("the system's keyring")
    return places, why


def keyring_trouble() -> str:
    """Why the system's keyring cannot be asked; empty if it can, or if there is none."""
    return _ask_keyring(_kept_in)[1]


def _places() -> Iterator[tuple[str, str | None]]:
    """Where a key may be.

    The file counts before the keyring: it is there only if that did not take the key.
    """
    for variable in VARIABLES:
        if strip(os.environ.get(variable, "")):
            yield variable, os.environ[variable]
    path = _key_file()
    with _refusing("The saved key cannot be read"):
        kept = path.read_text("utf-8", "replace") if path.is_file() else None
    yield short(path), kept
    yield "the system's keyring", _ask_keyring(_kept_in)[0]


@contextlib.contextmanager
def _refusing(what: str, key: str = "") -> Iterator[None]:
    """Raises BadInput for whatever a disk, a keyring's backend or the person raises: its frames or words could show the key."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        why = Secrets(key).mask(" ".join(str(error).split())) or type(error).__name__
        raise errors.BadInput(f"{what}: {why.rstrip('.')}.", "Set AIML_API_KEY instead.") from None


def _key_file() -> Path:
    return home() / "key"


class _Keyring(Protocol):
    """As much of the keyring package as is used."""

    def get_password(self, service: str, user: str, /) -> str | None: ...

    def set_password(self, service: str, user: str, password: str, /) -> None: ...

    def delete_password(self, service: str, user: str, /) -> None: ...


def _ask_keyring(question: Callable[[_Keyring], _Said]) -> tuple[_Said | None, str]:
    """What the system's keyring answers, if there is one, and the kind of error: its words may be anything."""
    try:
        keyring = _keyring()
        return (None if keyring is None else question(keyring)), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is no Exception
        return None, type(error).__name__


def _kept_in(keyring: _Keyring) -> str | None:
    kept = keyring.get_password(_SERVICE, _USER)
    return kept if isinstance(kept, str) else None


def _keeps(keyring: _Keyring, key: str) -> bool:
    keyring.set_password(_SERVICE, _USER, key)
    return _kept_in(keyring) == key  # not every one says that it cannot


def _removes(keyring: _Keyring) -> bool:
    is_kept = bool(_kept_in(keyring))
    if is_kept:
        keyring.delete_password(_SERVICE, _USER)
    return is_kept


def _keyring() -> _Keyring | None:
    """The keyring package, if it is installed and finds a store that it can use."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    return None if isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring) else keyring
