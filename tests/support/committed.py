"""The committed state of this checkout, without later changes: JupyterLab saves a notebook that is only read and run."""

from __future__ import annotations

import subprocess
from pathlib import Path


def text(path: Path) -> str | None:
    """The committed text of a file; `None` without one, or without git."""
    return _git(path.parent, "show", f"HEAD:./{path.name}")


def names(folder: Path) -> set[str] | None:
    """The files of a folder; `None` without git."""
    listed = _git(folder, "ls-tree", "--name-only", "HEAD")
    return None if listed is None else {*listed.splitlines()}


def _git(folder: Path, *arguments: str) -> str | None:
    # Also for a checkout of another user, such as one mounted into a container.
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return None
