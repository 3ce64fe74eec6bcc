"""The key for a server; the sandbox, at `sandbox_url`, gets its token and never an API key."""

from __future__ import annotations

from contextlib import suppress

from aiml_magic import credentials
from aiml_magic.credentials import Key
from aiml_magic.errors import NOTHING_SENT, BadInput, NoKey
from aiml_magic.runner.jobs import Sender

_NO_KEY = "no-key-is-needed-here"


def key_of(sandbox_url: str | None) -> Key:
    """The API key, or the token of the sandbox. Raises NoKey."""
    if sandbox_url is None:
        return credentials.need_key()
    from aiml_magic.sandbox import start as sandbox

    if (token := sandbox.token(sandbox_url)) is None:
        raise NoKey(f"The sandbox is gone. {NOTHING_SENT}", "%aiml sandbox starts it again.")
    return Key("the sandbox", token)


def key_for_prices(sandbox_url: str | None) -> Key:
    """A placeholder for a public price list; for the sandbox, its token."""
    return Key("a placeholder", _NO_KEY) if sandbox_url is None else key_of(sandbox_url)


def key_if_any(sandbox_url: str | None) -> Key:
    """The key, if there is one: some servers need it for their list of models."""
    with suppress(BadInput):
        return key_of(sandbox_url)
    return key_for_prices(sandbox_url)


def key_for_sender(sandbox_url: str | None, sender: Sender, *, is_needed: bool) -> Key:
    """The key for a sender, empty if the sender has its own. Raises NoKey if one `is_needed`.

    Following a row needs none.
    """
    if sender.has_keys and sandbox_url is None:
        return Key("the sender", "")
    try:
        return key_of(sandbox_url)
    except NoKey:
        if is_needed:
            raise
        return Key("none", "")


def secret(sandbox_url: str | None) -> Key | None:
    """The API key, which no question may hold; for the sandbox, only if it can be read."""
    if sandbox_url is None:
        return credentials.find_key()
    from aiml_magic.sandbox import start as sandbox

    if sandbox.is_in_this_process(sandbox_url):
        return None
    with suppress(BadInput):
        return credentials.find_key()
    return None


def check_absent(sent: str, sandbox_url: str | None) -> None:
    """Raises BadInput for a text that holds the API key."""
    key = secret(sandbox_url)
    if key is not None and key.is_in(sent):
        raise BadInput(
            "The API key is part of what would be sent, so nothing was sent.",
            "Remove it from the question, the options, the values and the server's address.",
        )
