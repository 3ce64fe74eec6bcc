"""Files of this user alone, and how many files and connections this process may have open at once.

A process begins with a soft limit of open files, often 256 or 1024 (`ulimit -n` in a shell), and
may raise it as far as the hard one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from aiml_magic.errors import NOTHING_SENT, BadInput

_RESERVE = (
    24  # for the journal, pipes, certificates and the loop; what is above it may be connections
)
_USED_UP = (errno.EMFILE, errno.ENFILE)


def make_private_folder(folder: Path) -> None:
    """Makes `folder` for this user alone; one that is there already stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


databases: list[Path] = globals().get(
    "databases", []
)  # those that SQLite has open in this process; a reload keeps them


def check_no_database(path: Path) -> None:
    """Raises BadInput for a file that SQLite has open here, its log or its index.

    Whoever opens such a file beside SQLite drops its locks by closing it
    (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    for database in databases:
        for ending in ("", "-wal", "-shm"):
            try:
                is_open = path.samefile(f"{os.path.realpath(database)}{ending}")
            except (OSError, ValueError):  # it is not there, or has a name that no disk takes
                continue
            if is_open:
                raise BadInput(
                    f"{path.name[:80]!r} is part of the journal in use, which nothing else may open here. {NOTHING_SENT}",
                    "Name another file, or a copy of it that !cp has made.",
                )


def write_private(path: Path, text: str) -> None:
    """Writes the whole file anew, for this user alone, so that a crash leaves the old one or the new one.

    A link that lies in its place, or in its draft's, is replaced: what it points to stays as it is.
    Raises OSError, and BadInput for the journal.
    """
    check_no_database(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600),
            "w",
            encoding="utf-8",
            newline="",
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a name that outlives a power cut is to have its content
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def short(path: Path) -> str:
    """`path` as a person reads it: `~` for the home directory."""
    try:
        return "~/" + path.relative_to(Path.home()).as_posix()
    except (ValueError, RuntimeError):  # it is elsewhere, or this user has no home directory
        return str(path)


def open_limit() -> int | None:
    """The soft limit; `None` if there is none, or if the system has no such thing."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def raise_open_limit(wanted: int = 4096) -> None:
    """Raises the soft limit to what is wanted, or as far as this process may.

    Not without end: programs that it starts inherit the limit, and some go through all handles up
    to it.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def limit_for(connections: int) -> int:
    """The limit with which there is room for so many connections at once."""
    return connections + _RESERVE


def connections_within(wanted: int) -> int:
    """How many of the connections that are wanted at once there is room for; at least one."""
    most = open_limit()
    return wanted if most is None else max(1, min(wanted, most - _RESERVE))


def are_used_up(error: BaseException) -> bool:
    """That there was no free one is why this failed.

    Not every library says so: where a name cannot be looked up for want of one, it is only seen
    that there still is none.
    """
    if any(isinstance(cause, OSError) and cause.errno in _USED_UP for cause in _causes(error)):
        return True
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as now:
        return now.errno in _USED_UP
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield from error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        yield error
        error = error.__cause__ or error.__context__
