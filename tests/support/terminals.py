"""Programs in a pseudo-terminal, with typed lines."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import NamedTuple

import pytest

if sys.platform == "win32":
    pytest.skip("there are no such terminals here", allow_module_level=True)

import fcntl
import pty
import struct
import termios

IS_RICH = importlib.util.find_spec("rich") is not None


class Terminal(NamedTuple):
    """The columns of a terminal, its environment variables, and whether rich is installed."""

    columns: int
    environment: dict[str, str]
    is_rich: bool = IS_RICH


TERMINALS = {
    "wide": Terminal(80, {"TERM": "xterm-256color"}),
    "narrow": Terminal(40, {"TERM": "xterm-256color"}),
    "without colour": Terminal(80, {"TERM": "xterm-256color", "NO_COLOR": "1"}),
    "dumb": Terminal(40, {"TERM": "dumb"}),
    "without rich": Terminal(40, {"TERM": "xterm-256color"}, is_rich=False),
}


def typed(
    command: list[str], lines: list[str], terminal: Terminal, environment: dict[str, str]
) -> str:
    """The whole output of a command in a terminal, with these lines typed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, terminal.columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | terminal.environment
    )
    os.close(theirs)
    os.write(ours, "".join(f"{line}\n" for line in lines).encode())
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert 0 == process.wait(10)
    return written.decode("utf-8", "replace")
