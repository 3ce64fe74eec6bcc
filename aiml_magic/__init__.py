"""Ask a reasoning model from a notebook cell: `%load_ext aiml_magic`, then `%%o3pro`.

The rooms of the package, from a person's input down to the wire; each imports only those below it:

    notebook/   magics, options, commands, completion; script: from Python; answers: several at once
    session/    asking: replays, follows or sends a question; chats, check, spending, recordings
    show/       view, terminal: answers and jobs; details, several, export; safe: no active content
    runner/     process: the connections, beyond the kernel's life; child: its client; jobs, cluster
    journal/    store: all requests and answers in SQLite; rows, queries, replay, recording
    question/   prompts, attachments, schemas, tools
    sandbox/    the stand-in for the API, without a model
    api/        responses, stream, failures, models; client: sends, at the pace of the server
    credentials, files, addresses, errors, text: for every room

The kernel asks, a runner sends, the journal remembers: `session.asking` writes a row,
`runner.process` sends it and writes the response, and `show` shows the row. The reasons are in
`.github/DESIGN.md`.

Loading the extension imports neither an HTTP library nor widgets: the first question does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from aiml_magic.notebook.script import ask, history
    from aiml_magic.question.tools import confirm

__version__ = "0.1.0"
__all__ = ["ask", "confirm", "history", "load_ipython_extension", "unload_ipython_extension"]

_HOMES = {
    "ask": "aiml_magic.notebook.script",
    "history": "aiml_magic.notebook.script",
    "confirm": "aiml_magic.question.tools",
}
_MOVED = {
    "aiml_magic.answer": "aiml_magic.journal.answer",
    "aiml_magic.responses": "aiml_magic.api.responses",
}


def __getattr__(name: str) -> Any:
    """The public functions, imported at their first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Moved(ModuleType):
    """A module under its former name, which pickles of version 0.1.0 contain."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(_MOVED[self.__name__]), name)


sys.modules.update({name: _Moved(name) for name in _MOVED})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext aiml_magic`."""
    from aiml_magic.notebook.magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%unload_ext aiml_magic`."""
    from aiml_magic.notebook.magics import unload

    unload(shell)
