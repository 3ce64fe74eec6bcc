"""How many files and connections this process may have open at once: the system's limit, `ulimit -n` in a shell.

A process begins with a soft limit, often 256 or 1024, and may raise it as far as the hard one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

_RESERVE = 24  # for the journal, pipes, certificates and the loop; what is above it may be connections
_USED_UP = (errno.EMFILE, errno.ENFILE)


def limit() -> int | None:
    """The soft limit; `None` if there is none, or if the system has no such thing."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def raise_limit(wanted: int = 4096) -> None:
    """Raises the soft limit to what is wanted, or as far as this process may.

    Not without end: programs that it starts inherit the limit, and some go through all handles up to it.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def needed_for(connections: int) -> int:
    """The limit with which there is room for so many connections at once."""
    return connections + _RESERVE


def connections(wanted: int) -> int:
    """How many of the connections that are wanted at once there is room for; at least one."""
    most = limit()
    return wanted if most is None else max(1, min(wanted, most - _RESERVE))


def are_used_up(error: BaseException) -> bool:
    """That there was no free one is why this failed.

    Not every library says so: where a name cannot be looked up for want of one, it is only seen that there still is none.
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
