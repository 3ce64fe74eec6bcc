"""An exception of the notebook as text for a model: its traceback as Python prints it.

Frames of IPython and of this package are left out, paths are relative to the working directory.
Masked are the API key and the environment variables that are named like secrets.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from aiml_magic.api import hidden
from aiml_magic.api.masking import Secrets, wrapped
from aiml_magic.credentials import SHORTEST, find_key
from aiml_magic.files import short
from aiml_magic.text import MASK

_MAX_FRAMES = 40  # of one exception; a recursion has thousands
_NOT_OF_USER = re.compile(r"[/\\](IPython|ipykernel|aiml_magic|runpy\.py)([/\\]|$)|^<frozen ")
_CELL = re.compile(r"<ipython-input-(\d+)-\w+>|.*[/\\]ipykernel_\d+[/\\]\d+\.py")
_GAP = re.compile(r'  File "([\d,]+ frames are left out)", line 0, in …')


def last_error() -> BaseException | None:
    """The exception that the notebook showed last; `None` if there was none."""
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def traceback_of(error: BaseException) -> str:
    """The traceback of `error` and of its causes, as text without secrets."""
    whole = traceback.TracebackException.from_exception(error)
    for each in _chained(whole):
        frames = [frame for frame in each.stack if not _NOT_OF_USER.search(frame.filename)]
        for frame in frames:
            frame.filename = _shown(frame.filename)
        each.stack[:] = frames if len(frames) <= _MAX_FRAMES else _ends(frames)
        if isinstance(filename := getattr(each, "filename", None), str):  # of a SyntaxError
            each.filename = _shown(filename)
    return _without_secrets(_GAP.sub(r"  … \1", "".join(whole.format())))


def _chained(error: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """The exception, its causes, and the members of groups, each once."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            linked = (each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ()))
            waiting += [other for other in linked if other is not None]


def _ends(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The first and last frames, with the number of the others between them."""
    half = _MAX_FRAMES // 2
    left_out = f"{len(frames) - 2 * half:,} frames are left out"
    gap = traceback.FrameSummary(left_out, 0, "…", lookup_line=False, line="")
    return [*frames[:half], gap, *frames[-half:]]


def _shown(path: str) -> str:
    """A path for messages: relative to the working directory, or to the home directory."""
    if cell := _CELL.fullmatch(path):
        return f"cell {cell[1]}" if cell[1] else "a cell"
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # a path elsewhere, or a removed working directory
        return short(Path(path))


def _without_secrets(text: str) -> str:
    key = find_key()
    text = Secrets(key.text).mask(text) if key else text
    named = {value for name, value in os.environ.items() if hidden.names_secret(name)}
    for secret in sorted(named, key=len, reverse=True):
        text = wrapped(secret).sub(MASK, text) if len(secret) >= SHORTEST else text
    return hidden.without_logins(text)
