"""Commands of %aiml for the key, the server, its models and the spending."""

from __future__ import annotations

import getpass
import sys
from typing import Any

from aiml_magic import addresses, credentials
from aiml_magic.api.masking import Secrets
from aiml_magic.errors import AimlMagicError, BadInput
from aiml_magic.files import short
from aiml_magic.notebook.context import Context
from aiml_magic.sandbox import start
from aiml_magic.session import advice
from aiml_magic.session.spending import account_of, midnight
from aiml_magic.text import UNANSWERED, did_you_mean, say

_MOST_DOLLARS = 5e10  # of a balance
_MOST_MODELS = 200  # lines of one list
_NOWHERE = "http://127.0.0.1:9/v1"  # nothing listens there


def status(context: Context, _: str) -> None:
    is_sandbox = context.session.sandbox_url is not None
    key = None if is_sandbox else credentials.find_key()
    server, _ = context.asking.server
    say(f"Key      {f'{key.source}, {key.ending}' if key else _no_key(context)}")
    say(f"Server   {Secrets(key.text).mask(server) if key else server}")
    say(f"Balance  {_balance(context)}")
    say(f"Model    {_model_in_use(context)}")
    say(f"Journal  {short(context.journal.path)}")
    say(f"Spent    {spent(context)}{', in play money' if is_sandbox else ''}")
    for limit in context.asking.spending.limits(context.question().delivery, server):
        say(f"Budget   {limit}")


def _model_in_use(context: Context) -> str:
    """The model in use, with its end and its successor if known."""
    model = context.question().model
    try:
        catalogue = context.asking.models()
    except AimlMagicError:
        return model
    return catalogue.fate(model, advice.today()) or model


def models(context: Context, rest: str) -> None:
    """Prints the models of the server, a line for each."""
    words = rest.lower().split()
    catalogue = context.asking.models(is_wanted=True)
    lines = [advice.line(model.id, catalogue) for model in catalogue.all]
    matching = [line for line in lines if all(word in line.lower() for word in words)]
    say("\n".join(matching[:_MOST_MODELS]) or "The server lists no model with these words.")
    if len(matching) > _MOST_MODELS:
        more = len(matching) - _MOST_MODELS
        say(f"{more:,} more; %aiml models WORDS shows those with the words.")


def spent(context: Context) -> str:
    journal, session, servers = (
        context.journal,
        context.session,
        account_of(context.asking.server[0]),
    )
    here, unknown = journal.spent(servers, session=session.id)
    notebook, _ = journal.spent(servers, notebook=session.notebook)
    day, _ = journal.spent(servers, since=midnight())
    of_unknown_cost = f" (and {unknown} of unknown cost)" if unknown else ""
    return (
        f"${here:,.4f} in this session{of_unknown_cost}, ${notebook:,.4f} in this notebook, "
        f"${day:,.4f} today"
    )


def _no_key(context: Context) -> str:
    if context.session.sandbox_url:
        return "none needed"
    trouble = credentials.trouble()
    return f"none: %aiml login, or set AIML_API_KEY{f' ({trouble})' if trouble else ''}"


def _balance(context: Context) -> str:
    try:
        billing = context.asking.get("/v2/billing")
        return _dollars(billing["current_balance"])
    except AimlMagicError as error:
        return f"unknown ({error.message.split('. ')[0].rstrip('.')})"
    except (KeyError, TypeError, ValueError):
        return "unknown (the server did not report it)"


def _dollars(value: Any) -> str:
    """A sum of money for a message. Raises TypeError and ValueError for other values."""
    if isinstance(value, bool) or not abs(value) < _MOST_DOLLARS:
        raise ValueError(value)
    return f"-${-value:,.2f}" if value < 0 else f"${value:,.2f}"


def login(context: Context, _: str) -> None:
    try:
        text = credentials.strip(getpass.getpass("AI/ML API key (it is not shown): "))
    except UNANSWERED as error:
        raise BadInput("A key cannot be typed here.", "Set AIML_API_KEY instead.") from error
    if not credentials.is_key(text):
        raise BadInput(
            "That is not an API key; nothing was saved.",
            "Copy one from https://aimlapi.com/app/keys: it has no blanks.",
        )
    say(f"Saved in {credentials.save_key(text)}: {credentials.ending(text)}")
    used = credentials.find_key()
    if used is not None and used.text != text:
        say(f"{used.source} is set, and takes precedence.")
    context.session.sandbox_url = None


def logout(*_: Any) -> None:
    sources, why = credentials.forget_key()
    say(f"Removed from {' and '.join(sources)}." if sources else "No key was saved.")
    if why:
        say(f"The system's keyring does not answer ({why}); a key in it stays there.")
    if (left := credentials.find_key()) is not None:
        say(f"{left.source} still has a key.")


def sandbox(context: Context, rest: str, *, if_no_key: bool = False) -> None:
    if rest not in ("", "stop") or (rest and if_no_key):
        hint = did_you_mean(rest, ["--if-no-key", "stop"]) or "It takes --if-no-key or stop."
        raise BadInput(f"%aiml sandbox does not take {rest[:40]}.", hint)
    if rest == "stop":
        context.session.sandbox_url = None
        say(
            "The sandbox is stopped." if start.stop(addresses.home()) else "No sandbox was running."
        )
    elif if_no_key and credentials.find_key() is not None:
        say("A key was found, so the questions go to the API.")
    elif sys.platform == "emscripten":  # a page of JupyterLite
        context.session.sandbox_url = _NOWHERE
        say("A page of JupyterLite cannot start processes, and so no sandbox.")
        say("Its recorded answers can be replayed: %aiml replay FILE.")
    else:
        context.session.sandbox_url = start.find_or_start(addresses.home())
        say("The sandbox answers from now on: no key, no cost, and no model behind it.")
