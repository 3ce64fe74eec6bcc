"""The API key: its sources, its storage, and the masking of it in all that a server sends."""

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
from types import ModuleType
from typing import Any, TypeVar

from aiml_magic import errors, hidden
from aiml_magic.addresses import home
from aiml_magic.files import make_private_folder, short, write_private
from aiml_magic.text import dump, load

MASK = "…"  # stands for a secret that a server echoed
VARIABLES = ("AIML_API_KEY", "AIMLAPI_API_KEY")
_SERVICE, _USER = "aiml_magic", "api_key"
_TOKEN = re.compile(r"sbx~[\w-]{43}", re.ASCII)  # of a sandbox; no API key looks like it
_Reply = TypeVar("_Reply")
_SHORTEST = 8  # characters in a row that reveal a secret; fewer may be a part of any word
_ENCODINGS = 3  # nested in one another
# Words of every response: masked as secrets, they would leave no answer that can be read.
_OF_THE_API = frozenset(
    "annotations application/json assistant cancelled completed created_at function_call"
    " in_progress incomplete incomplete_details input_tokens instructions max_output_tokens"
    " metadata output_text output_tokens parallel_tool_calls previous_response_id reasoning"
    " response summary_text"
    " text/event-stream tool_choice total_tokens truncation".split()
)


@dataclass(frozen=True)
class Key:
    """An API key and its source; its representation does not show it."""

    source: str
    text: str = field(repr=False)

    @property
    def ending(self) -> str:
        """The characters by which its owner knows it."""
        return ending(self.text)

    def is_in(self, text: str) -> bool:
        """Whether `text` holds it, unless it is so short that any word may."""
        return len(self.text) >= _SHORTEST and self.text in text


def ending(key: str) -> str:
    """The last four characters of a key, if it is long enough to hide the rest."""
    return "…" + key[-4:] if len(key) >= 16 else "…"


def environment() -> dict[str, str]:
    """The environment for a child process: without the API key, which a runner gets by its pipe."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def new_token() -> str:
    """The secret of a sandbox and its user, which takes the place of an API key."""
    return f"sbx~{secrets.token_urlsafe(32)}"


def is_token(key: str) -> bool:
    """Whether a key is the token of a sandbox: it goes only to a server that gave its `proof`."""
    return _TOKEN.fullmatch(key) is not None


def proof(token: str, port: int, nonce: str) -> str:
    """The reply to a nonce that proves knowledge of the token at this port, and hides the token."""
    return hmac.new(token.encode(), f"{port} {nonce}".encode(), "sha256").hexdigest()


@dataclass(frozen=True)
class Secrets:
    """The secrets of a request: the key, and the values that `hidden.split` removed.

    A server may echo them anywhere, in pieces, or encoded as JSON, HTML or a URL. Where the key,
    most of it, or its beginning at the end of a text is found, every eight characters of it in a
    row are masked. Elsewhere as many stay: an id or a number may have them by chance.
    """

    key: str = field(repr=False)
    hidden: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        """`text` without the secrets; decoded, if they are in it as escapes."""
        return self._masked(text) if self._are_in(text) else text

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

    def added_to(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request with its secrets, as it is sent."""
        return hidden.restored(body, self.hidden)

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._masked(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return MASK if is_number and self._masked(str(value)) != str(value) else value

    def _are_in(self, text: str) -> bool:
        return len(text) >= _SHORTEST and any(
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
        """The texts that give the secrets away: each whole and in base64, two thirds of the key."""
        values = [text for value in self.hidden.values() for text in hidden.texts(value)]
        secrets = {
            word for word in {self.key}.union(*map(_words, values)) if len(word) >= _SHORTEST
        }
        secrets -= _OF_THE_API
        most = _runs(self.key, max(_SHORTEST, -(-2 * len(self.key) // 3)))
        return frozenset(secrets.union(most, *map(_in_base64, secrets)))

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(self.key[:end] for end in range(_SHORTEST, len(self.key)))

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """All texts that are masked, the longest first."""
        return tuple(sorted(self._signs | _runs(self.key, _SHORTEST), key=len, reverse=True))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # A lookahead, since matches may overlap.
        return re.compile(f"(?=({'|'.join(map(re.escape, self._pieces))}))")


# Escapes of ASCII in JSON, Python, Markdown and URLs.
_ESCAPE = re.compile(r"(?:\\u00|\\x|%)([2-7][0-9A-Fa-f])|\\([!-/:-@\[-`{-~])")
_CHUNK = 2**18  # characters that are decoded at once: each escape takes memory


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
    """The secrets in a header or a field: the whole without its scheme, and words with signs."""
    words = {word for word in re.split(r"[\s;,=\"]+", value) if not word.isalpha()}
    return words | {re.sub(r"(?i)^(bearer|basic|token)\s+", "", value)}


def _in_base64(secret: str) -> set[str]:
    """Pieces of a secret in base64, at each of the three offsets at which it may begin."""
    parts = set()
    for before, first in ((0, 0), (1, 2), (2, 3)):
        raw = b"\0" * before + secret.encode("utf-8", "replace")
        signs = base64.b64encode(raw).decode()[first : len(raw) * 8 // 6]
        parts |= {signs[at : at + 8] for at in range(0, len(signs) - 7, 4)}
    return parts


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans, ordered by their starts, with those merged that touch."""
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
    for source, text in _sources():
        if text and (stripped := strip(text)):
            if not is_key(stripped):
                raise errors.BadInput(
                    f"The API key from {source} has characters that no key has; nothing was sent.",
                    "Copy it again, then give it with %aiml login.",
                )
            return Key(source, stripped)
    return None


def strip(text: str) -> str:
    """A key without what was copied along: blanks, quotes, invisible characters, `Bearer` …"""
    while (shorter := _AROUND.sub("", text)) != text:
        text = shorter
    return text


def is_key(text: str) -> bool:
    """Whether a header can hold a text, and it has no quotes, as a command would."""
    return re.fullmatch(r"[!-~]+", text) is not None and not set(text) & set("\"'`")


_EDGE = (
    r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    r"\"'`\xab\xbb\u2018-\u201f\u2039\u203a;,]"
)
_NAMES = r"[A-Z][A-Z0-9_]*_KEY|(?:x-)?api-?key|authorization"
_AROUND = re.compile(
    rf"^{_EDGE}+|{_EDGE}+$|^(?:export|setx?|bearer){_EDGE}+"
    rf"|^(?:\$env:)?(?:{_NAMES})(?:{_EDGE}*[=:]|{_EDGE}+)",
    re.IGNORECASE,
)


def need_key() -> Key:
    """As `find_key`. Raises NoKey if there is none."""
    key = find_key()
    if key is None:
        raise errors.NoKey(
            "No API key was found, so nothing was sent.",
            "Run %aiml login, or set AIML_API_KEY; or try it without a key: %aiml sandbox.",
        )
    return key


def save_key(text: str) -> str:
    """Saves the key in the system's keyring, else in a private file; returns a text for its place.

    Raises BadInput.
    """
    with _refusing("The key cannot be saved", text):
        is_kept, why = _ask_keyring(lambda keyring: _keeps(keyring, text))
        path = _key_file()
        if is_kept:
            path.unlink(missing_ok=True)  # of an earlier login
            return "the system's keyring"
        make_private_folder(path.parent)
        write_private(path, text + "\n")
        return short(path) + (f" (the system's keyring did not take it: {why})" if why else "")


def forget_key() -> tuple[list[str], str]:
    """Removes the saved key; returns its sources, and the error of the keyring, if any.

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
    """The error of the system's keyring; empty if it works, or if there is none."""
    return _ask_keyring(_kept_in)[1]


def _sources() -> Iterator[tuple[str, str | None]]:
    """The sources of a key and what each holds, the first one first.

    The file comes before the keyring: it exists only if the keyring did not take the key.
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
    """Turns every exception into BadInput, since its frames or its message could show the key."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        why = Secrets(key).mask(" ".join(str(error).split())) or type(error).__name__
        raise errors.BadInput(f"{what}: {why.rstrip('.')}.", "Set AIML_API_KEY instead.") from None


def _key_file() -> Path:
    return home() / "key"


def _ask_keyring(question: Callable[[ModuleType], _Reply]) -> tuple[_Reply | None, str]:
    """The reply of the system's keyring, if there is one, and the class of its error, if any.

    The message of the error is left out: it could hold the key.
    """
    try:
        keyring = _keyring()
        return (None if keyring is None else question(keyring)), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is not an Exception
        return None, type(error).__name__


def _kept_in(keyring: ModuleType) -> str | None:
    kept = keyring.get_password(_SERVICE, _USER)
    return kept if isinstance(kept, str) else None


def _keeps(keyring: ModuleType, key: str) -> bool:
    keyring.set_password(_SERVICE, _USER, key)
    return _kept_in(keyring) == key  # some keyrings fail silently


def _removes(keyring: ModuleType) -> bool:
    is_kept = bool(_kept_in(keyring))
    if is_kept:
        keyring.delete_password(_SERVICE, _USER)
    return is_kept


def _keyring() -> ModuleType | None:
    """The keyring package, if it is installed and has a backend."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    return None if isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring) else keyring
