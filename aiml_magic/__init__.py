"""Ask a reasoning model from a notebook cell: `%load_ext aiml_magic`, then `%%o3pro`.

The rooms of this package, from what a person types down to the wire; each imports only from those
below it:

    notebook/   magics, options, commands, completion; the same from Python (script)
    session/    asking: replays, follows or sends a question; chats, check, spending, recordings
    show/       answers and jobs in every front end; made safe, so that nothing of a model's is active
    runner/     process: outlives the kernel and holds the wire; jobs: the kernel's end of its pipe; cluster: Dask
    journal/    store: every request and answer in SQLite; rows, queries, replay, recording
    question/   prompts, attachments, schemas, tools: what goes along with a question
    sandbox/    the stand-in for the API, with no model behind it
    api/        responses, sse, failures; client, the one module that knows HTTP
    credentials, files, addresses, errors, text: what every room uses

The kernel asks, a runner sends, the journal remembers: `session.asking` writes a row,
`runner.process` sends it and writes what comes, and `show` shows what the row says. Why it is so
stands in `.github/DESIGN.md`.

Loading the extension imports neither an HTTP library nor a widget: those come with the first
question.
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
    """What a script or a notebook uses by name, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Moved(ModuleType):
    """A module under the name that it has in pickles of answers made by version 0.1.0."""

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
