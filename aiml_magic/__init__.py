"""Ask o3-pro from a notebook cell: `%load_ext aiml_magic`, then `%%o3pro`.

Loading the extension imports neither an HTTP library nor a widget: those come with the first question.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from aiml_magic.asking import ask
    from aiml_magic.tools import confirm

__version__ = "0.1.0"
_HOMES = {"ask": "aiml_magic.asking", "confirm": "aiml_magic.tools"}
__all__ = ["ask", "confirm", "load_ipython_extension", "unload_ipython_extension"]


def __getattr__(name: str) -> Any:
    """What a script or a notebook uses by name, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext aiml_magic`."""
    from aiml_magic.magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%unload_ext aiml_magic`."""
    from aiml_magic.magics import unload

    unload(shell)
