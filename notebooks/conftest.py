"""Each notebook is run as by somebody new: without a key, and with a journal of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_OF_THE_PERSON = (
    "AIML_API_KEY", "AIMLAPI_API_KEY", "AIML_API_URL", "AIML_MAGIC_JOURNAL", "AIML_MAGIC_REPLAY", "JPY_SESSION_NAME",
)  # fmt: skip
_patch = pytest.MonkeyPatch()
_homes: dict[Path, Path] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first cell, that is before the kernel starts."""
    if item is _cells(item)[0]:
        for name in (*_OF_THE_PERSON, *(name for name in os.environ if name.lower().endswith("_proxy"))):
            _patch.delenv(name, raising=False)
        _homes[item.path] = Path(tempfile.mkdtemp(prefix="aiml_magic"))
        _patch.setenv("AIML_MAGIC_HOME", str(_homes[item.path]))
        _patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the last cell."""
    if item is _cells(item)[-1]:
        from aiml_magic import sandbox

        home = _homes.pop(item.path)
        sandbox.stop(home)
        shutil.rmtree(home, ignore_errors=True)
        _patch.undo()


def _cells(item: pytest.Item) -> list[pytest.Item]:
    return [other for other in item.session.items if other.path == item.path]
