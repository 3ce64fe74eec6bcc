"""The API key: its sources and its storage."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from aiml_magic import errors
from aiml_magic.addresses import home
from aiml_magic.files import make_private_folder, short, write_private

VARIABLES = ("AIML_API_KEY", "AIMLAPI_API_KEY")
_SERVICE, _USER = "aiml_magic", "api_key"
_TOKEN = re.compile(r"sbx~[\w-]{43}", re.ASCII)  # of a sandbox; no API key looks like it
_Result = TypeVar("_Result")
SHORTEST = 8  # characters in a row that reveal a secret; fewer may be part of any word


@dataclass(frozen=True)
class Key:
    """An API key and its source; its representation does not show it."""

    source: str
    text: str = field(repr=False)

    @property
    def ending(self) -> str:
        """The last characters, by which its owner recognizes it."""
        return ending(self.text)

    def is_in(self, text: str) -> bool:
        """Whether `text` holds the key; False for one so short that any word may hold it."""
        return len(self.text) >= SHORTEST and self.text in text


def ending(key: str) -> str:
    """The last four characters of a key, if it is long enough to hide the rest."""
    return "…" + key[-4:] if len(key) >= 16 else "…"


def environment() -> dict[str, str]:
    """The environment for a child process: without the API key, which a runner gets by its pipe."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def new_token() -> str:
    """A secret that a sandbox and its user share, in place of an API key."""
    return f"sbx~{secrets.token_urlsafe(32)}"


def is_token(key: str) -> bool:
    """Whether a key is the token of a sandbox, sent only to a server that returned its `proof`."""
    return _TOKEN.fullmatch(key) is not None


def proof(token: str, port: int, nonce: str) -> str:
    """The HMAC of a nonce and the port: proves knowledge of the token without showing it."""
    return hmac.new(token.encode(), f"{port} {nonce}".encode(), "sha256").hexdigest()


def find_key() -> Key | None:
    """The first key of all sources. Raises BadInput if it cannot be used."""
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
    """A key without the blanks, quotes, invisible characters, `Bearer` … copied with it."""
    while (shorter := _AROUND.sub("", text)) != text:
        text = shorter
    return text


def is_key(text: str) -> bool:
    """Whether a text can be a key: printable ASCII, as headers need, without quotes."""
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
        why = f" ({failed})" if (failed := _trouble_of_services()) else ""
        raise errors.NoKey(
            f"No API key was found{why}, so nothing was sent.",
            "Run %aiml login, or set AIML_API_KEY; or try it without a key: %aiml sandbox.",
        )
    return key


def save_key(text: str) -> str:
    """Saves the key in the system's keyring, else in a private file; returns the name of either.

    Raises BadInput.
    """
    with _refusing("The key cannot be saved", text):
        is_saved, why = _try_keyring(lambda keyring: _save_in(keyring, text))
        path = _key_file()
        if is_saved:
            path.unlink(missing_ok=True)  # of an earlier login
            return "the system's keyring"
        make_private_folder(path.parent)
        write_private(path, text + "\n")
        return short(path) + (f" (the system's keyring did not accept it: {why})" if why else "")


def forget_key() -> tuple[list[str], str]:
    """Removes the saved key; returns the sources that had it, and the keyring's error, if any.

    Raises BadInput.
    """
    removed = []
    with _refusing("The saved key cannot be removed"):
        if _key_file().is_file():
            _key_file().unlink()
            removed.append(short(_key_file()))
        was_saved, why = _try_keyring(_remove_from)
        if was_saved:
            removed.append("the system's keyring")
    return removed, why


def trouble() -> str:
    """The sources of the key that failed, and why; empty if none did."""
    why = _try_keyring(_saved_in)[1]
    keyring = f"the system's keyring does not answer: {why}" if why else ""
    return "; ".join(filter(None, [_trouble_of_services(), keyring]))


def _trouble_of_services() -> str:
    failed = [f"{name}: {why}" for name, ask in _services() if (why := _ask_once(name, ask)[1])]
    return f"{', '.join(failed)}; asked again after a restart" if failed else ""


def _sources() -> Iterator[tuple[str, str | None]]:
    """The sources of a key with the text that each holds, in order of precedence.

    The file comes before the keyring: it exists only if the keyring did not accept the key.
    """
    for variable in VARIABLES:
        if strip(os.environ.get(variable, "")):
            yield variable, os.environ[variable]
    for source, ask in _services():
        reply, _ = _ask_once(source, ask)
        yield source, reply if isinstance(reply, str) else None
    path = _key_file()
    with _refusing("The saved key cannot be read"):
        saved = path.read_text("utf-8", "replace") if path.is_file() else None
    yield short(path), saved
    yield "the system's keyring", _try_keyring(_saved_in)[0]


@contextlib.contextmanager
def _refusing(what: str, key: str = "") -> Iterator[None]:
    """Turns every exception into BadInput, since its frames or its message could show the key."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        message = " ".join(str(error).split())
        why = (message.replace(key, ending(key)) if key else message) or type(error).__name__
        raise errors.BadInput(f"{what}: {why.rstrip('.')}.", "Set AIML_API_KEY instead.") from None


def _key_file() -> Path:
    return home() / "key"


def _try_keyring(operation: Callable[[ModuleType], _Result]) -> tuple[_Result | None, str]:
    """The result of an operation on the system's keyring, and the class of its error, if any."""

    def ask() -> _Result | None:
        keyring = _keyring()
        return None if keyring is None else operation(keyring)

    return _try(ask)


def _try(ask: Callable[[], _Result]) -> tuple[_Result | None, str]:
    """The result of a call, and the class of its error, if any.

    The message of the error is left out: it could hold the key.
    """
    try:
        return ask(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a panic of Rust is not an Exception
        return None, type(error).__name__


_replies: dict[str, tuple[Any, str]] = {}
_asking = threading.Lock()


def _services() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The notebook services that store secrets (Kaggle, Colab), by the name of the key there."""
    if os.environ.get("KAGGLE_USER_SECRETS_TOKEN"):
        yield f"Kaggle's secret {VARIABLES[0]}", _ask_kaggle
    if sys.modules.get("google.colab"):
        yield f"Colab's secret {VARIABLES[0]}", _ask_colab


def _ask_once(name: str, ask: Callable[[], Any]) -> tuple[Any, str]:
    """The reply of a service, requested once: without an open page this takes seconds."""
    with _asking:
        if name not in _replies:
            _replies[name] = _try(ask)
        return _replies[name]


def _ask_colab() -> Any:
    from google.colab import userdata

    return userdata.get(VARIABLES[0])


def _ask_kaggle() -> Any:
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(VARIABLES[0])


def _saved_in(keyring: ModuleType) -> str | None:
    saved = keyring.get_password(_SERVICE, _USER)
    return saved if isinstance(saved, str) else None


def _save_in(keyring: ModuleType, key: str) -> bool:
    keyring.set_password(_SERVICE, _USER, key)
    return _saved_in(keyring) == key  # some keyrings fail silently


def _remove_from(keyring: ModuleType) -> bool:
    was_saved = bool(_saved_in(keyring))
    if was_saved:
        keyring.delete_password(_SERVICE, _USER)
    return was_saved


def _keyring() -> ModuleType | None:
    """The keyring package, if it is installed and has a backend."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    return None if isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring) else keyring
