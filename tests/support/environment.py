"""An environment for the tests, which the user's variables and home do not affect, and in which nothing is left.

The first process makes it before any variable is read. Its child processes, such as pytest's workers, inherit it, and are ended
with it: they are recognized by the variable `AIML_TEST_RUN`, which names the folder of the run.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from aiml_magic.files import open_limit, raise_open_limit

CHECKOUT = Path(__file__).parents[2]
IS_ASCII = f"{CHECKOUT}{sys.prefix}".isascii()  # else Python itself may not start in the C locale
_KEPT = {
    "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD",  # by which programs run at all
    "PATHEXT", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC",  # the same on Windows
    "USER", "LOGNAME", "USERNAME",
    "PY_COLORS",  # the person's choice for pytest
}  # fmt: skip
_KEPT_FAMILIES = ("AIML_TEST_", "PYTEST_", "COV_CORE_", "COVERAGE_", "DYLD_", "PLAYWRIGHT_")
_FILES = 4096
_SHORT = 48  # bytes of a folder for sockets, whose whole path may have 103
_KERNEL = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
}


@cache
def make() -> Path:
    """Replaces the environment of this process and its children; returns its home."""
    folder = _temporary_folder()
    if "AIML_TEST_RUN" not in os.environ:
        _mend_process()
        run = tempfile.mkdtemp(prefix="aiml-", dir=folder)
        _end_with_this_process(run)
        os.environ["AIML_TEST_RUN"] = run
    home = Path(os.environ["AIML_TEST_RUN"]) / os.environ.get("PYTEST_XDIST_WORKER", "home")
    wanted = {name: value for name, value in os.environ.items() if _is_kept(name)} | _variables(
        home, folder
    )
    files_at_once()
    os.environ.clear()
    os.environ.update(wanted)
    tempfile.tempdir = None  # read again from the variable
    return home


def _mend_process() -> None:
    """Restores the signal and the standard input that a daemon or a script may have changed for this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, every exit status would be 0
    if sys.__stdin__ is None:
        sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), "utf-8")  # IPython asks for its encoding


def files_at_once() -> int:
    """The number of files and sockets that a process may have open: 4,096, unless the system allows fewer."""
    raise_open_limit(_FILES)
    return min(_FILES, open_limit() or _FILES)


def _is_kept(name: str) -> bool:
    return name.upper() in _KEPT or (name.startswith(_KEPT_FAMILIES) and name != "PYTEST_ADDOPTS")


def _variables(home: Path, folder: str) -> dict[str, str]:
    """The new variables; creates the files that they name."""
    kernel, plots = (
        home / "jupyter" / "kernels" / "python3" / "kernel.json",
        home / "matplotlib" / "matplotlibrc",
    )
    for path, text in ((kernel, json.dumps(_KERNEL)), (plots, "backend: agg\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    storage = CHECKOUT if os.access(CHECKOUT, os.W_OK) else home
    chosen = {
        "HOME": home,
        "USERPROFILE": home,
        "TMPDIR": folder,
        "TEMP": folder,
        "TMP": folder,
        "IPYTHONDIR": home / "ipython",
        "JUPYTER_PATH": home / "jupyter",  # searched first: `python3` is this Python
        "MPLCONFIGDIR": plots.parent,
        "MATPLOTLIBRC": plots,
        "HYPOTHESIS_STORAGE_DIRECTORY": storage / ".hypothesis",
        "AIML_MAGIC_HOME": home / "aiml_magic",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "PYTHONUTF8": "1",
        "LANG": "C.UTF-8",
    }
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        chosen["PY_COLORS"] = "0"
    return {name: str(value) for name, value in chosen.items()}


def _temporary_folder() -> str:
    """The person's folder for temporary files, unless its name is too long for sockets."""
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) <= _SHORT:
        return given
    return next(
        (folder for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK | os.X_OK)), given
    )


def _end_with_this_process(run: str) -> None:
    """Starts a process that waits for the end of this one, and then ends all its children."""
    command = [sys.executable, str(Path(__file__).with_name("leftovers.py")), run]
    # In its own session: no signal to this process's group or terminal reaches it.
    waiting = subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, cwd=tempfile.gettempdir()
    )

    def end() -> None:
        waiting.stdin.close()
        waiting.wait(30)

    atexit.register(end)
