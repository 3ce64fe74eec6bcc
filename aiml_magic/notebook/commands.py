"""The commands of %aiml: their usage, and the parser of a command line.

The function of a command has the command's name; its module is imported at the first use.
"""

from __future__ import annotations

import importlib
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic.errors import BadInput
from aiml_magic.notebook import options
from aiml_magic.text import did_you_mean, say

if TYPE_CHECKING:
    from aiml_magic.notebook.context import Context


def run(line: str, context: Context) -> None:
    """Runs one command line. Raises BadInput for an unknown command."""
    name, _, rest = line.strip().partition(" ")
    name = name or "help"
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "%aiml help lists them all."
        raise BadInput(f"%aiml has no command {name[:40]}.", hint)
    given, rest = _given(name, rest.strip())
    if rest and COMMANDS[name].usage == name:
        raise BadInput(
            f"%aiml {name} takes no argument, but got {rest[:40]}.",
            "%aiml help shows how each is written.",
        )
    module = importlib.import_module(f"aiml_magic.notebook.{COMMANDS[name].module}")
    getattr(module, name)(context, rest, **given)


def _given(name: str, rest: str) -> tuple[options.Given, str]:
    """The options of a command by name, anywhere in its line, and the rest. Raises BadInput.

    Words in quotes and those after `--` are not options; for `search`, only the first word can be
    one.
    """
    known = options.by_flag(COMMANDS[name].options)
    given: dict[str, Any] = {}
    while (word := _option(rest, is_first=name == "search")) is not None:
        flag, equals, value = word.group().partition("=")
        option = known.get(flag)
        if option is None:
            hint = (
                did_you_mean(flag, known)
                or "%aiml help shows how each is written; words that begin with - go after --."
            )
            raise BadInput(f"%aiml {name} has no option {flag[:40]}.", hint)
        end = word.end()
        if option.read is not None and not equals:
            argument = options.WORD.search(rest, end)
            if argument is None:
                raise BadInput(
                    f"{flag} needs a value: {option.metavar}.", f"{option.long}: {option.help}."
                )
            value, end = argument.group(), argument.end()
        given[option.name] = (
            True if option.read is None else options.check(option, options.unquoted(value))
        )
        rest = f"{rest[: word.start()].rstrip()} {rest[end:].lstrip()}".strip()
    return given, re.sub(r"(?:^|\s)--(?:\s|$)", " ", rest, count=1).strip()


def _option(rest: str, *, is_first: bool) -> re.Match[str] | None:
    """The first option of a line, if any; with `is_first` it must be the first word."""
    words = takewhile(lambda word: word.group() != "--", options.WORD.finditer(rest))
    option = next((word for word in words if re.match(r"--?[A-Za-z]", word.group())), None)
    return None if option is not None and is_first and option.start() > 0 else option


def usage() -> str:
    """The help of %aiml."""
    rows = "\n".join(f"  %aiml {command.usage:<30} {command.help}" for command in COMMANDS.values())
    purpose = "Look after keys, answers and the session; asks nothing, costs nothing."
    return f"{purpose}\n\n{rows}\n\nTo ask: %%o3pro?\n"


def help(*_: Any) -> None:  # noqa: A001  # the command's name
    """Prints the usage of every command."""
    say(usage())


class Command(NamedTuple):
    """One command: its usage, its purpose, and the module of its function."""

    usage: str
    help: str
    module: str
    options: tuple[options.Option, ...] = ()

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]


_IF_NO_KEY = options.Option("    --if-no-key", "use it only where no key is found")
_CHAT = options.Option(
    "-c, --chat NAME", "the conversation (default main)", options.encodable_words
)
_ALL = options.Option("    --all", "all of this notebook: each chat, single questions, maps")
_OVERWRITE = options.Option("    --overwrite", "replace a file that is not an export")
_COMMANDS = (
    Command("status", "key, server, balance, journal, spending and budgets", "account"),
    Command(
        "login",
        "give the API key; it is not shown, and kept in the system's keyring or a private file",
        "account",
    ),
    Command("logout", "remove the saved key", "account"),
    Command(
        "sandbox [--if-no-key|stop]",
        "try everything without a key: a stand-in server, no model",
        "account",
        (_IF_NO_KEY,),
    ),
    Command(
        "models [WORDS]",
        "the models of the server: price, context, longest answer, end and successor",
        "account",
    ),
    Command("history", "the questions of this notebook, and their cost", "past"),
    Command("search WORDS", "answers of any notebook with these words", "past"),
    Command("show ID", "show an answer again; asks nothing", "past"),
    Command(
        "diff A B", "what differs between two answers: in their requests and in their texts", "past"
    ),
    Command("tree", "the conversations of this notebook, as a tree", "past"),
    Command(
        "resume [NOTEBOOK]",
        "continue this notebook's conversations, or those of its earlier name",
        "pending",
    ),
    Command("jobs", "the questions of this notebook that wait for their answer", "pending"),
    Command("cancel ID", "stop a question that waits for its answer", "pending"),
    Command(
        "approve ID", "let the model use the tool that answer ID asks for, and go on", "pending"
    ),
    Command("deny ID", "do not let it, and go on", "pending"),
    Command(
        "check ID", "ask the server for the fate of a request whose connection was lost", "pending"
    ),
    Command("again ID", "ask that question once more, and pay once more", "pending"),
    Command("record FILE", "also write every answer to a file, for readers without a key", "past"),
    Command("replay FILE", "replay the answers of such a file", "past"),
    Command(
        "export [-c NAME|--all] FILE",
        "write a conversation as .md, .html, .jsonl, .tex or .bib",
        "past",
        (_CHAT, _ALL, _OVERWRITE),
    ),
    Command(
        "forget ID...",
        "remove the texts of answers from the journal, and the recording being made",
        "past",
    ),
    Command("help", "this list", "commands"),
)
COMMANDS = {command.name: command for command in _COMMANDS}
