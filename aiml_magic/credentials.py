"""The API key: where it comes from, and how it is kept from being seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiml_magic import errors
from aiml_magic.addresses import home, make_private_folder, short, write_private

VARIABLES = ("AIML_API_KEY", "AIMLAPI_API_KEY")
_SERVICE = "aiml_magic"


@dataclass(frozen=True)
class Key:
    """An API key and the place it came from. Its text shows in no representation of it."""

    source: str
    text: str = field(repr=False)

    @property
    def ending(self) -> str:
        """As much of it as its owner needs to tell it from others."""
        return ending(self.text)


def ending(key: str) -> str:
    """The last four characters of a key, if it is long enough to hide the rest."""
    return "…" + key[-4:] if len(key) >= 16 else "…"


def mask(text: str, key: str) -> str:
    """`text` without the key. One of fewer than eight characters is no secret, and may be a part of any word."""
    return text.replace(key, "…") if len(key) >= 8 else text


@dataclass(frozen=True)
class Secrets:
    """What one request carries and nothing else may hold: the key, and the headers for MCP servers by their labels."""

    key: str = field(repr=False)
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        for headers in self.headers.values():
            for value in headers.values():
                text = mask(text, value.removeprefix("Bearer "))
        return mask(text, self.key)

    def added_to(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request with the headers in its tools."""
        if not self.headers:
            return dict(body)
        labels = ((tool, self.headers.get(tool.get("server_label"))) for tool in body.get("tools", []))
        return {**body, "tools": [{**tool, "headers": headers} if headers else tool for tool, headers in labels]}


def find_key() -> Key | None:
    """The key of the environment, else of the keyring, else of the key file. Raises BadInput if it cannot be used."""
    for source, text in _places():
        if text and (stripped := text.strip()):
            if not (stripped.isascii() and stripped.isprintable() and " " not in stripped):
                raise errors.BadInput(
                    f"The API key from {source} has characters that no key has; nothing was sent.",
                    "Copy it again, then give it with %aiml login.",
                )
            return Key(source, stripped)
    return None


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
    """Keeps the key in the system's keyring, or if there is none in a file for this user alone; says where. Raises BadInput."""
    with _refusing("The key cannot be saved", text):
        if keyring := _keyring():
            keyring.set_password(_SERVICE, "api_key", text)
            return "the system's keyring"
        path = _key_file()
        make_private_folder(path.parent)
        write_private(path, text + "\n")
        return short(path)


def forget_key() -> list[str]:
    """Removes a saved key; says from where. Raises BadInput for one that cannot be removed."""
    places = []
    with _refusing("The saved key cannot be removed"):
        if _key_file().is_file():
            _key_file().unlink()
            places.append(short(_key_file()))
        keyring = _keyring()
        if keyring and keyring.get_password(_SERVICE, "api_key"):
            keyring.delete_password(_SERVICE, "api_key")
            places.append("the system's keyring")
    return places


def _places() -> list[tuple[str, str | None]]:
    for variable in VARIABLES:
        if os.environ.get(variable, "").strip():
            return [(variable, os.environ[variable])]
    path, saved = _key_file(), None
    with contextlib.suppress(Exception):  # a keyring that is locked has no key, whatever its backend raises
        keyring = _keyring()
        saved = keyring.get_password(_SERVICE, "api_key") if keyring else None
    with _refusing("The saved key cannot be read"):
        kept = path.read_text("utf-8", "replace") if path.is_file() else None
    return [("the system's keyring", saved), (short(path), kept)]


@contextlib.contextmanager
def _refusing(what: str, key: str = "") -> Iterator[None]:
    """Raises BadInput for whatever a disk, a keyring's backend or the person raises: its frames or words could show the key."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        why = " ".join(mask(str(error), key).split()) or type(error).__name__
        raise errors.BadInput(f"{what}: {why.rstrip('.')}.", "Set AIML_API_KEY instead.") from None


def _key_file() -> Path:
    return home() / "key"


@dataclass(frozen=True)
class _Keyring:
    get_password: Callable[[str, str], str | None]
    set_password: Callable[[str, str, str], None]
    delete_password: Callable[[str, str], None]


def _keyring() -> _Keyring | None:
    """The keyring package, if it is installed and finds a store that it can use."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    if isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring):
        return None
    return _Keyring(keyring.get_password, keyring.set_password, keyring.delete_password)
