"""The commands of %aiml: everything that asks nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiml_magic import addresses, errors

if TYPE_CHECKING:
    from aiml_magic.session import Session


class Context(NamedTuple):
    """What a command works on."""

    session: Session
    base_url: str
    journal: Path


def run(line: str, session: Session, base_url: str, journal: Path) -> None:
    """Carries out one command line. Raises BadInput for one that there is not."""
    name, *words = line.split() or ["help"]
    if name not in COMMANDS:
        hint = errors.nearest(name, COMMANDS) or "%aiml help lists them all."
        raise errors.BadInput(f"There is no command {name[:40]}.", hint)
    COMMANDS[name].carry_out(Context(session, base_url, journal), words)


def usage() -> str:
    """The help of %aiml."""
    rows = "\n".join(f"  %aiml {command.usage:<26} {command.help}" for command in COMMANDS.values())
    return f"Look after keys, the sandbox and the session; asks nothing, costs nothing.\n\n{rows}\n\nTo ask: %%o3pro?\n"


def _status(context: Context, words: list[str]) -> None:
    from aiml_magic import credentials
    from aiml_magic.session import SANDBOX

    _take(words)
    is_sandbox = context.session.sandbox_url is not None
    key = None if is_sandbox else credentials.find_key()
    server = SANDBOX if is_sandbox else addresses.base_url(context.base_url)
    usd, unknown = context.session.runner(context.journal).journal.spent(context.session.id, server)
    print(f"Key      {f'{key.source}, {key.ending}' if key else _no_key(context)}")
    print(f"Server   {server}")
    print(f"Balance  {_balance(context)}")
    print(f"Journal  {addresses.short(context.journal)}")
    of_unknown_cost = f", and {unknown} answers of unknown cost" if unknown else ""
    print(f"Spent    ${usd:,.4f} in this session{of_unknown_cost}{', in play money' if is_sandbox else ''}")


def _no_key(context: Context) -> str:
    return "none needed" if context.session.sandbox_url else "none: %aiml login, or set AIML_API_KEY"


def _balance(context: Context) -> str:
    try:
        _, url, key = context.session.server(context.base_url)
        billing = context.session.runner(context.journal).get(url, "/v2/billing", key.text)
        return f"${billing['current_balance']:,.2f}"
    except errors.AimlMagicError as error:
        return f"unknown ({error.message.split('. ')[0].rstrip('.')})"
    except (KeyError, TypeError, ValueError):
        return "unknown (the server's answer holds none)"


def _login(context: Context, words: list[str]) -> None:
    import getpass

    from aiml_magic import credentials

    _take(words)
    try:
        text = getpass.getpass("AI/ML API key (it is not shown): ").strip()
    except (
        EOFError,
        OSError,
        RuntimeError,
    ) as error:  # IPython's StdinNotImplementedError is a RuntimeError or NotImplementedError
        raise errors.BadInput("Nobody can type a key here.", "Set AIML_API_KEY instead.") from error
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise errors.BadInput("That is no API key; nothing was saved.", "Copy it from https://aimlapi.com/app/keys.")
    print(f"Saved in {credentials.save_key(text)}: {credentials.ending(text)}")
    used = credentials.find_key()
    if used is not None and used.text != text:
        print(f"{used.source} is set, and goes before it.")
    context.session.sandbox_url = None


def _logout(_: Context, words: list[str]) -> None:
    from aiml_magic import credentials

    _take(words)
    places = credentials.forget_key()
    print(f"Removed from {' and '.join(places)}." if places else "No key was saved.")
    if (left := credentials.find_key()) is not None:
        print(f"{left.source} still holds one.")


def _help(_: Context, words: list[str]) -> None:
    _take(words)
    print(usage())


def _sandbox(context: Context, words: list[str]) -> None:
    from aiml_magic import credentials, sandbox

    word = _take(words, "--if-no-key", "stop")
    if word == "stop":
        context.session.sandbox_url = None
        print("The sandbox is stopped." if sandbox.stop(addresses.home()) else "No sandbox was running.")
    elif word == "--if-no-key" and credentials.find_key() is not None:
        print("A key was found, so the questions go to the API.")
    else:
        context.session.sandbox_url = sandbox.find_or_start(addresses.home())
        print("The sandbox answers from now on: no key, no cost, and no model behind it.")


def _take(words: list[str], *known: str) -> str | None:
    """The one word that may follow a command, if it is there."""
    unknown = [word for word in words if word not in known]
    if unknown:
        hint = errors.nearest(unknown[0], known) or "%aiml help shows what can."
        raise errors.BadInput(f"{unknown[0][:40]} cannot stand there.", hint)
    return words[0] if words else None


class Command(NamedTuple):
    """One command: how it is written, what it is for, and the function that does it."""

    usage: str
    help: str
    carry_out: Callable[[Context, list[str]], None]


COMMANDS = {
    "status": Command("status", "key, server, balance, journal, and what this session spent", _status),
    "login": Command("login", "give the API key; it is not shown, and kept in the system's keyring or a private file", _login),
    "logout": Command("logout", "remove the saved key", _logout),
    "sandbox": Command("sandbox [--if-no-key|stop]", "try everything without a key: a stand-in server, no model", _sandbox),
    "help": Command("help", "this list", _help),
}
