"""The paths of journal and home, and texts that cannot be a path."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import kernel

from aiml_magic import addresses, credentials
from aiml_magic.errors import BadInput
from aiml_magic.files import short


def test_journal_path(home, monkeypatch):
    """The journal is that of the setting, else of the environment, else at home; `~` is the person's home directory."""
    assert home / "journal.sqlite3" == addresses.journal_path("")
    monkeypatch.setenv("AIML_MAGIC_JOURNAL", "~/mine")
    assert Path.home() / "mine" == addresses.journal_path("")
    assert Path.cwd() / "here" == addresses.journal_path("here")


@pytest.mark.parametrize("named", ["~nosuchuser/x", "a\0b"])
def test_what_is_no_path(named):
    """The home of an unknown user and an impossible file name are errors of two lines, before anything is sent."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        addresses.journal_path(named)
    assert 2 == len(str(refused.value).splitlines())


def test_what_is_no_home(monkeypatch):
    """An AIML_MAGIC_HOME of an unknown user is an error of two lines."""
    monkeypatch.setenv("AIML_MAGIC_HOME", "~nosuchuser/x")
    with pytest.raises(BadInput, match="Nothing was sent"):
        addresses.home()


def test_relative_home(monkeypatch, tmp_path):
    """A relative home begins in the folder of the session, also after %cd."""
    began = tmp_path / "began"
    addresses.begin_in(str(began))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIML_MAGIC_HOME", "data")
    assert began / "data" == addresses.home()
    assert began / "data" / "journal.sqlite3" == addresses.journal_path("")
    monkeypatch.delenv("AIML_MAGIC_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert addresses.home().is_absolute()


def test_relative_home_in_a_notebook(monkeypatch, tmp_path):
    """Sandbox, journal and answers stay in one folder after %cd."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIML_MAGIC_HOME", "data")
    with kernel() as running:
        assert running.run("%aiml sandbox").error is None
        assert running.run("%o3pro -q -o a Why?").error is None
        running.run(f"%cd {elsewhere}")
        assert running.run("%o3pro -q -o b And why that?").error is None
        assert "2" == running.run("print(b.journal_id)").stream.strip()
        assert "stopped" in running.run("%aiml sandbox stop").stream
    assert (tmp_path / "data" / "journal.sqlite3").exists()
    assert [] == list(elsewhere.iterdir())


@pytest.fixture
def homeless(monkeypatch):
    """A user with no home directory and no name, as in a container."""

    def nobody(_):
        raise KeyError("no such user")

    for name in ("HOME", "AIML_MAGIC_HOME", "XDG_DATA_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_no_home_directory(homeless, monkeypatch, tmp_path):
    """Without a home directory the error asks for a folder, and no folder `~` is made; a named folder is used."""
    monkeypatch.chdir(tmp_path)
    for where in (addresses.home, lambda: addresses.journal_path("")):
        with pytest.raises(BadInput, match="Nothing was sent") as refused:
            where()
        assert "Set AIML_MAGIC_HOME" in refused.value.hint
    monkeypatch.setenv("AIML_MAGIC_HOME", str(tmp_path / "data"))
    assert tmp_path / "data" / "journal.sqlite3" == addresses.journal_path("")
    assert str(tmp_path) == short(tmp_path)
    assert not list(tmp_path.iterdir())


def test_key_without_a_home_directory(homeless, monkeypatch, tmp_path):
    """Without a home directory a key is saved, found and removed as usual."""
    monkeypatch.setenv("AIML_MAGIC_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("aiml_magic.credentials._keyring", lambda: None)
    assert credentials.find_key() is None
    credentials.save_key("test-key-0123456789")
    assert "test-key-0123456789" == credentials.need_key().text
    credentials.forget_key()
    assert credentials.find_key() is None


def test_child_process(tmp_path, monkeypatch):
    """A child process finds the modules that its parent finds; a module in the working folder replaces no other."""
    (tmp_path / "only_here.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    (tmp_path / "json.py").write_text("raise SystemExit('beside the notebook')")
    monkeypatch.setattr(sys, "path", [Path("not a text"), str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    told = subprocess.check_output(addresses.child_command("only_here", "a b", "é"))
    assert ["a b", "é"] == json.loads(told)
