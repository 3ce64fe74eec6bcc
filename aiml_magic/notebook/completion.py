"""Completions for Tab: options, their values, commands, chats and variables; without IPython.

The line up to the cursor is parsed as by `options`. The words of a question have none: IPython
completes them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from aiml_magic.notebook.commands import COMMANDS
from aiml_magic.notebook.options import FLAGS, WORD, Option
from aiml_magic.notebook.params import FIELDS
from aiml_magic.question.values import Variables

Names = Callable[[], Iterable[str]]
_OPEN_BRACES = re.compile(r"\{\{\s*\w*$")
_MAGIC = re.compile(r"(?:^|[=\s])%%?(o3pro|aiml)\s+(.*)$")


def candidates(before: str, token: str, variables: Variables, chats: Names) -> list[str]:
    """The completions of `token`, which ends `before`, the line up to the cursor.

    `chats` returns the names of the conversations; it is called only if they are needed.
    """
    magic = _MAGIC.search(before)
    if _OPEN_BRACES.search(before):
        texts: Iterable[str] = _public(variables)
    elif magic is None:
        texts = ()
    elif magic[1] == "aiml":
        texts = _of_command(magic[2], chats)
    else:
        texts = _of_line(magic[2], token, variables, chats)
    return [text for text in texts if text.startswith(token) and text.isprintable()]


def _of_command(rest: str, chats: Names) -> Iterable[str]:
    command, space, value = rest.partition(" ")
    if not space:
        return COMMANDS
    if command == "export" and re.search(r"(?:^|\s)(?:-c|--chat)\s+\S*$", value):
        return map(_quoted, chats())
    return ("--if-no-key", "stop") if command == "sandbox" and " " not in value else ()


def _of_line(rest: str, token: str, variables: Variables, chats: Names) -> Iterable[str]:
    words = WORD.findall(rest)
    last = words.pop() if words and rest.endswith(words[-1]) else ""
    while words:
        flag, equals, _ = words.pop(0).partition("=")
        option = FLAGS.get(flag)
        if option is None:  # the question has begun
            return ()
        if option.read is not None and not equals:
            if not words:
                return _values(option, token, variables, chats)
            words.pop(0)
    flag, equals, _ = last.partition("=")
    if not equals or flag not in FLAGS:
        return FLAGS
    # Some front ends treat the flag and its value as one word.
    before = f"{flag}=" if token.startswith(f"{flag}=") else ""
    return [
        before + text for text in _values(FLAGS[flag], token.removeprefix(before), variables, chats)
    ]


def _values(option: Option, token: str, variables: Variables, chats: Names) -> Iterable[str]:
    named = _public(variables)
    match option.name:
        case "attach":
            return [*_names_of(named, lambda value: not callable(value)), *_paths(token)]
        case "schema":
            return _names_of(
                named, lambda value: isinstance(value, type | dict) or hasattr(value, "__origin__")
            )
        case "tool":
            return [
                "web_search",
                *_names_of(named, lambda value: isinstance(value, dict) or _is_function(value)),
            ]
        case "tool_choice":
            return ["auto", "none", "required", *_names_of(named, _is_function)]
        case "param":
            return (f"{name}=" for name in FIELDS)
        case "chat":
            return map(_quoted, chats())
        case "out":
            return named
        case _:
            return option.choices


def _quoted(chat: str) -> str:
    return f'"{chat}"' if " " in chat else chat


def _public(variables: Variables) -> dict[str, Any]:
    """The variables that a question may name."""
    modules = _names_of(variables, lambda value: isinstance(value, ModuleType))
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("_") and name not in modules
    }


def _names_of(named: Mapping[str, Any], fits: Callable[[Any], bool]) -> list[str]:
    """The names of the values that fit; values such as proxies may raise, and do not fit."""
    names = []
    for name, value in named.items():
        with contextlib.suppress(Exception):
            names += [name] if fits(value) else []
    return names


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _paths(start: str) -> Iterable[str]:
    folder, slash, _ = start.rpartition("/")
    try:
        entries = sorted(Path(folder + slash).glob("*"))
        shown = (
            entry for entry in entries if not entry.name.startswith(".") and " " not in entry.name
        )
        return [f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in shown]
    except (OSError, ValueError):
        return []
