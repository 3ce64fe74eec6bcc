"""IPython without a kernel, for tests."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

# A history file would stay open until the end of all tests.
IN_MEMORY = Config({"HistoryManager": {"hist_file": ":memory:"}})


def run(shell: InteractiveShell, code: str) -> BaseException | None:
    """The error of a cell, or `None`."""
    return shell.run_cell(code).error_in_exec
