"""A cache of servers' models on disk: a private file for each server, valid for a day.

A damaged, foreign or oversized file counts as missing.
"""

from __future__ import annotations

import hashlib
import stat
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from aiml_magic import addresses
from aiml_magic.api.models import Catalogue, read
from aiml_magic.errors import BadInput
from aiml_magic.files import make_private_folder, write_private
from aiml_magic.text import dump, load

_DAY = 86_400.0  # seconds
_MAX_SIZE = 4 * 2**20  # bytes
_unwritten: dict[str, Catalogue] = {}  # by server, if no file could be written


def cached(server: str) -> Catalogue:
    """The models of a server when it was last asked; empty if it never was."""
    if server in _unwritten:
        return _unwritten[server]
    with suppress(OSError, BadInput):
        path = _path(server)
        state = path.stat()
        if state.st_size <= _MAX_SIZE and stat.S_ISREG(state.st_mode):
            return _read(path, server, state.st_mtime_ns, state.st_ino)
    return Catalogue()


def cache(server: str, catalogue: Catalogue) -> None:
    """Caches the models of a server; in memory if no file can be written."""
    _unwritten[server] = catalogue
    content = {
        "server": server,
        "asked_at": catalogue.asked_at,
        "offered": [model.as_entry() for model in catalogue.offered],
        "ending": [model.as_entry() for model in catalogue.ending],
    }
    with suppress(OSError, BadInput):
        path = _path(server)
        make_private_folder(path.parent)
        write_private(path, dump(content))
        del _unwritten[server]


def is_of_today(catalogue: Catalogue) -> bool:
    """Whether a catalogue is less than a day old; one from the future (a changed clock) is old."""
    return 0 <= time.time() - catalogue.asked_at < _DAY


def _path(server: str) -> Path:
    name = hashlib.sha256(server.encode("utf-8", "replace")).hexdigest()[:16]
    return addresses.home() / f"models-{name}.json"


@lru_cache(maxsize=8)
def _read(path: Path, server: str, *_version: int) -> Catalogue:
    try:
        raw = load(path.read_bytes(), _MAX_SIZE)
        if raw["server"] != server:
            return Catalogue()
        return Catalogue(read(raw["offered"]), read(raw["ending"]), float(raw["asked_at"]))
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return Catalogue()
