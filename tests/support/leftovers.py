"""Ends all processes of a run of the tests: `python leftovers.py FOLDER`, with a pipe to the run as standard input.

The pipe is closed with the run, even if the run is killed. Then every process whose variable `AIML_TEST_RUN` is FOLDER is ended, and
FOLDER removed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator

import psutil


def processes_of(run: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.environ().get("AIML_TEST_RUN") == run
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process


def end(run: str) -> None:
    while found := list(processes_of(run)):  # one may start another meanwhile
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)
    shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
