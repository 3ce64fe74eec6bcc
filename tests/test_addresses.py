"""Where the journal and the home are, and names that are no path."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiml_magic import addresses
from aiml_magic.errors import BadInput


def test_journal_path(home, monkeypatch):
    """The setting, else the environment, else at home; `~` is the person's own."""
    assert home / "journal.sqlite3" == addresses.journal_path("")
    monkeypatch.setenv("AIML_MAGIC_JOURNAL", "~/mine")
    assert Path.home() / "mine" == addresses.journal_path("")
    assert Path.cwd() / "here" == addresses.journal_path("here")


@pytest.mark.parametrize("named", ["~nosuchuser/x", "a\0b"])
def test_what_is_no_path(named):
    """The home of nobody and what no file can be called are two lines of error, before anything is sent."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        addresses.journal_path(named)
    assert 2 == len(str(refused.value).splitlines())


def test_what_is_no_home(monkeypatch):
    """So is an AIML_MAGIC_HOME that is nobody's."""
    monkeypatch.setenv("AIML_MAGIC_HOME", "~nosuchuser/x")
    with pytest.raises(BadInput, match="Nothing was sent"):
        addresses.home()
