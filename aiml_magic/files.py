"""Private files, and the limit of open files and connections.

A process begins with a soft limit of open files, often 256 or 1024 (`ulimit -n` in a shell), and
may raise it up to the hard limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from aiml_magic.errors import NOTHING_SENT, BadInput

_RESERVE = 24  # handles for the journal, pipes, certificates and the event loop
_USED_UP = (errno.EMFILE, errno.ENFILE)


def make_private_folder(folder: Path) -> None:
    """Makes a folder of mode 0700; an existing one stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


# The files that SQLite has open in this process; a reload of the module keeps them.
databases: list[Path] = globals().get("databases", [])


def check_no_database(path: Path) -> None:
    """Raises BadInput for a file that SQLite has open in this process, its log or its index.

    Closing another handle of such a file would drop SQLite's locks
    (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    for database in databases:
        for ending in ("", "-wal", "-shm"):
            try:
                is_open = path.samefile(f"{os.path.realpath(database)}{ending}")
            except (OSError, ValueError):  # a missing file, or an impossible name
                continue
            if is_open:
                raise BadInput(
                    f"{path.name[:80]!r} is part of the journal in use, which only SQLite opens. "
                    f"{NOTHING_SENT}",
                    "Name another file, or a copy of it that !cp has made.",
                )


def write_private(path: Path, text: str) -> None:
    """Replaces a file by one of mode 0600; after a crash it is the old one or the new one.

    A symbolic link is replaced, not followed. Raises OSError, and BadInput for the journal.
    """
    check_no_database(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    draft.unlink(missing_ok=True)
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else the rename may reach the disk before the content
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def append_private(path: Path, line: str) -> None:
    """Adds a line to a file that `write_private` wrote, on the disk when it returns.

    Raises OSError, and then the file is as it was, and BadInput for the journal.
    """
    check_no_database(path)
    with path.open("ab", buffering=0) as file:
        size, content = file.tell(), line.encode()
        try:
            while content:  # after a short write the next one reports a full disk
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def why(error: Exception) -> str:
    """The reason of an error of a file, without the names in it: one may be of a draft."""
    return getattr(error, "strerror", None) or str(error)


def short(path: Path) -> str:
    """A path for messages: `~` for the home directory."""
    try:
        return "~/" + path.relative_to(Path.home()).as_posix()
    except (ValueError, RuntimeError):  # a path elsewhere, or a user without a home directory
        return str(path)


def open_limit() -> int | None:
    """The soft limit of open files; None if there is none."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

        soft, _ = getrlimit(RLIMIT_NOFILE)
    except (ImportError, OSError):
        return None
    return None if soft == RLIM_INFINITY else soft


def raise_open_limit(wanted: int = 4096) -> None:
    """Raises the soft limit of open files, at most to the hard one.

    The default is modest: child processes inherit the limit, and some close all handles up to it.
    Windows has no such module, and JupyterLite an empty one.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

        soft, hard = getrlimit(RLIMIT_NOFILE)
        most = wanted if hard == RLIM_INFINITY else min(wanted, hard)
        if soft != RLIM_INFINITY and soft < most:
            setrlimit(RLIMIT_NOFILE, (most, hard))


def limit_for(connections: int) -> int:
    """The limit of open files that this number of connections needs."""
    return connections + _RESERVE


def connections_within(wanted: int) -> int:
    """The number of connections that the limit of open files allows; at least one."""
    most = open_limit()
    return wanted if most is None else max(1, min(wanted, most - _RESERVE))


def is_out_of_handles(error: BaseException) -> bool:
    """Whether an error was caused by a lack of file handles.

    Some errors hide the cause, such as that of a failed DNS lookup: so a file is opened as a test.
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
