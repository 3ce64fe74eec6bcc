"""The processes of this machine, and a wait for a condition."""

from __future__ import annotations

import time
from pathlib import Path

import pytest


def processes(name: str, parent: int | None = None) -> list[int]:
    """The ids of the processes with `name` in their command line, and with this parent, if given."""
    if not Path("/proc/self").exists():
        pytest.skip("this system does not list its processes in /proc")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            state, parent_id, *_ = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        # Bytes: names of others may be in any encoding.
        if name.encode() in command and parent in (None, int(parent_id)) and state != b"Z":
            found.append(int(folder.name))
    return found


def wait_until(claim, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not claim():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)
