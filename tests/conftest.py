"""Fixtures: a home of its own for each test, a session, the sandbox, a shell."""

from __future__ import annotations

import environment

environment.make()

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import KEY, Asker
from hypothesis import HealthCheck, settings
from IPython.core.interactiveshell import InteractiveShell
from shells import IN_MEMORY

from aiml_magic import load_ipython_extension, unload_ipython_extension
from aiml_magic.notebook import script

# Few examples: the whole suite must run in three minutes; `tests/tools/fuzz.py` tries thousands.
settings.register_profile(
    "tests", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty AIML_MAGIC_HOME, with a key in the environment."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AIML_MAGIC_HOME", str(folder))
    monkeypatch.setenv("AIML_API_KEY", KEY)
    return folder


@pytest.fixture
def plain_script(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plain script without a notebook, with default settings."""
    script._without_notebook.cache_clear()
    monkeypatch.setenv("AIML_MAGIC_REPLAY", "auto")
    yield
    script._without_notebook().session.close(10)
    script._without_notebook.cache_clear()


@pytest.fixture
def shell(home: Path) -> Iterator[InteractiveShell]:
    """IPython with the extension loaded."""
    shell = InteractiveShell(config=IN_MEMORY)
    load_ipython_extension(shell)
    yield shell
    shell.find_line_magic("aiml").__self__.session.close(10)
    unload_ipython_extension(shell)
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.fixture
def asker(home: Path) -> Iterator[Asker]:
    asker = Asker(home / "journal.sqlite3")
    yield asker
    asker.session.close(10)


@pytest.fixture(scope="module")
def _module_asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    asker = Asker(tmp_path_factory.mktemp("module") / "journal.sqlite3")
    yield asker
    asker.session.close(10)


@pytest.fixture
def module_asker(_module_asker: Asker, home: Path) -> Asker:
    """One session, and one runner, for cases that need neither a journal nor a conversation of their own."""
    return _module_asker


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    """A sandbox that the tests started by hand."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aiml_magic.sandbox"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    process.terminate()
    process.wait(5)
    process.stdout.close()
