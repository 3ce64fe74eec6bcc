"""IPython as a test uses it, without a kernel."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

# History in a file would stay open until the end of all tests.
IN_MEMORY = Config({"HistoryManager": {"hist_file": ":memory:"}})


def run(shell: InteractiveShell, code: str) -> BaseException | None:
    """The error of a cell, or `None`."""
    return shell.run_cell(code).error_in_exec
