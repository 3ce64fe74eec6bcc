"""An attached exception: its traceback as Python prints it, without frames of IPython and without secrets."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from asking import KEY

from aiml_magic.errors import BadInput
from aiml_magic.question.attachments import attach
from aiml_magic.question.tracebacks import traceback_of


def _raised(code: str, name: str = "study.py") -> BaseException:
    try:
        exec(compile(textwrap.dedent(code), name, "exec"), {})
    except Exception as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def _text(parts) -> str:
    return "".join(part.get("text", "") for part in parts)


def test_variable_that_holds_an_exception(home):
    """An attached exception has its causes and its source, and the label has its class."""
    error = _raised(
        """
        try:
            {}["absent"]
        except KeyError as missing:
            raise ValueError("no such star") from missing
        """
    )
    told = _text(attach("failed", {"failed": error}))
    assert told.startswith("Attachment failed (traceback of ValueError):")
    assert "KeyError: 'absent'" in told
    assert "direct cause" in told
    assert "ValueError: no such star" in told


def test_members_of_a_group(home):
    """Each exception of a group is in the text; a circular cause is in it once."""
    one = ValueError("one")
    one.__cause__ = KeyError("two")
    one.__cause__.__cause__ = one
    told = traceback_of(ExceptionGroup("both", [one, TypeError("three")]))
    assert all(f"{words}" in told for words in ("both", "one", "'two'", "three"))


def test_last_error_of_the_notebook(home):
    """`-a error` is the exception that the notebook showed last, without frames of IPython."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
from aiml_magic.question.attachments import attach
shell = InteractiveShell.instance()
shell.run_cell("def ratio(x):\\n    return 1 / x")
shell.run_cell("ratio(0)")
print("====", attach("error", {})[0]["text"])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = told.stdout.partition("====")[2]
    assert "Attachment the last error (traceback of ZeroDivisionError):" in told
    assert "return 1 / x" in told
    assert "IPython" not in told
    assert "ipython" not in told


def test_variable_goes_before_the_last_error(home, monkeypatch):
    """A variable or a file of the name `error` precedes the last exception."""
    monkeypatch.setattr(sys, "last_value", ValueError("shown"), raising=False)
    assert "mine" in _text(attach("error", {"error": "mine"}))


def test_no_error_yet(home, monkeypatch):
    """Before any exception, `error` is a name like any other."""
    for name in ("last_value", "last_exc"):
        monkeypatch.delattr(sys, name, raising=False)
    with pytest.raises(BadInput, match="no variable and no file error"):
        attach("error", {})


def test_secrets_are_masked(home, monkeypatch):
    """The key, variables named like secrets, and passwords in addresses are not sent."""
    monkeypatch.setenv("SERVICE_TOKEN", "t0k3n-of-a-service")
    error = RuntimeError(
        f"{KEY} t0k3n-of-a-service postgres://me:hidden@db/x X-Api-Key: hidden api_key='hidden' "
        "{'password': 'hidden'} https://e.example/?code=hidden&sig=hidden"
    )
    told = traceback_of(error)
    assert not any(secret in told for secret in (KEY, "t0k3n", "hidden"))
    assert "postgres://db/x" in told


@pytest.mark.parametrize(
    "gap",
    ["\n", "\r\n    ", "\\n", "'\n  '", '" + "', "\n> ", "\n  │ ", "=\n", "%0A", "<br>", "\x1b[0m", "\u200b", "' b'"],
)  # fmt: skip
def test_secrets_in_several_lines_are_masked(home, monkeypatch, gap):
    """No part of a secret is sent that a terminal, a library or a group of exceptions has broken into lines."""
    monkeypatch.setenv("GITHUB_PAT", "p4t-of-a-service")
    words = f"Sent {KEY[:9]}{gap}{KEY[9:18]}{gap}{KEY[18:]} and p4t-of{gap}-a-service"
    for error in (RuntimeError(words), ExceptionGroup("both", [ValueError(words)])):
        told = traceback_of(error)
        assert "Sent" in told
        assert not any(part in told for part in (KEY[:5], KEY[10:15], KEY[-5:], "p4t", "-service"))


def test_paths_are_relative(home, tmp_path, monkeypatch):
    """Files of the notebook's folder have relative paths."""
    monkeypatch.chdir(tmp_path)
    told = traceback_of(_raised("1 / 0", str(tmp_path / "study" / "stars.py")))
    assert 'File "study/stars.py", line 1' in told
    assert str(tmp_path) not in told


def test_long_recursion(home):
    """An endless recursion is shown by its first and last frames, with the number of the others."""
    told = traceback_of(_raised("def a(n): b(n)\ndef b(n): a(n)\na(1)"))
    assert "frames are left out" in told
    assert len(told) < 8000
    assert "RecursionError" in told


def test_exception_that_cannot_be_told(home):
    """An exception whose text cannot be read is shown by its class name."""
    told = traceback_of(
        _raised("class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd")
    )
    assert "Odd" in told
