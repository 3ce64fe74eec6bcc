"""Each notebook is run as by a new user: with a journal of its own, and as it is committed."""

from __future__ import annotations

import environment

environment.make()

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import committed
import kernels
import nbformat
import nbval.kernel
import nbval.plugin
import pytest
from nbval.kernel import RunningKernel

_patch = pytest.MonkeyPatch()
_folders: dict[Path, Path] = {}


def pytest_configure(config: pytest.Config) -> None:
    """By its whole path, since nbval looks for it in the folder where pytest was started."""
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(
        Path(__file__).with_name("sanitize.cfg")
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """What a reader did to a notebook in JupyterLab is theirs: their cells are not run, and ours compared with what is committed."""
    if not re.fullmatch(r"cell-\d\d", item.cell.get("id", "")):
        item.options["skip"] = True
    elif "version" in item.parent.nb.metadata.get(
        "language_info", {}
    ):  # Jupyter writes it; in ours there is none
        ours = _committed(item.path).get(item.cell["id"])
        if ours is None:
            item.options["check"] = False
        else:
            item.cell.update(ours)


@cache
def _committed(path: Path) -> dict[str, Any]:
    """The cells of a notebook by their ids, as git has them; none where there is no git."""
    text = committed.text(path)
    return (
        {}
        if text is None
        else {cell["id"]: cell for cell in nbformat.reads(text, as_version=4).cells}
    )


@cache
def _find_fonts() -> None:
    """Has Matplotlib find its fonts, which may take long: in a cell, its output would have a message about it."""
    subprocess.run(
        [sys.executable, "-c", "import matplotlib.font_manager"], capture_output=True, check=False
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first cell the kernel starts, in a copy of this folder: what a notebook writes is not left in the checkout."""
    if item is _cells(item)[0]:
        _find_fonts()
        folder = _folders[item.path] = Path(
            tempfile.mkdtemp(prefix="notebook", dir=environment.make())
        )
        shutil.copytree(
            item.path.parent,
            folder / "cells",
            ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*"),
        )
        _patch.setenv("AIML_MAGIC_HOME", str(folder / "home"))
        _patch.setenv(
            "JPY_SESSION_NAME", str(folder / "cells" / item.path.name)
        )  # as a server of Jupyter does
        _patch.setattr(
            nbval.plugin,
            "RunningKernel",
            lambda name, **given: RunningKernel(name, **given | {"cwd": str(folder / "cells")}),
        )
        _patch.setattr(
            nbval.kernel,
            "KernelManager",
            partial(nbval.kernel.KernelManager, **kernels.without_ports(folder)),
        )


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the last cell."""
    if item is _cells(item)[-1]:
        from aiml_magic.sandbox import start

        folder = _folders.pop(item.path)
        start.stop(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)
        _patch.undo()


def _cells(item: pytest.Item) -> list[pytest.Item]:
    return [other for other in item.session.items if other.path == item.path]
