"""`python -m aiml_magic`: a question, its answer and its details in any terminal, without the person's files, and without leftovers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid

import pytest
import wire
from environment import IS_ASCII
from leftovers import processes_of
from processes import processes, wait_until
from terminals import TERMINALS, typed

COMMAND = [sys.executable, "-m", "aiml_magic"]
CELL = "%%o3pro\nA bat and a ball cost $1.10 together."
DETAILS = r"^\[383 tokens \(256 reasoning\) {0} \$0\.0300 {0} .+ {0} o3-pro-sandbox\]$"


@pytest.fixture
def run(tmp_path):
    """The environment of a first look, by which its processes are recognized."""
    return os.environ | {"AIML_TEST_RUN": f"first look {uuid.uuid4().hex}"}


def left_by(run: dict[str, str]) -> list[object]:
    return [*processes_of(run["AIML_TEST_RUN"])]


def test_look(run):
    """The output has the question, the answer, its details and the next steps; no process is left."""
    done = subprocess.run(COMMAND, env=run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(CELL)
    assert "no model is behind it" in done.stdout
    assert re.search(DETAILS.format("·"), done.stdout, re.MULTILINE)
    assert "%load_ext aiml_magic" in done.stdout
    assert "" == done.stderr
    assert [] == left_by(run)


def test_nothing_of_the_person(run, tmp_path):
    """Neither the key, the server, the journal, the replay mode nor the home of the person is used; none of them is made."""
    with wire.serve(lambda _: wire.json_reply(wire.response("Charged."))) as server:
        theirs = {
            "AIML_API_KEY": "sk-of-a-person-0123456789", "AIML_API_URL": server.url, "AIML_MAGIC_REPLAY": "only",
            "AIML_MAGIC_HOME": str(tmp_path / "home"), "AIML_MAGIC_JOURNAL": str(tmp_path / "journal"), "HOME": str(tmp_path / "nobody"),
            "XDG_DATA_HOME": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython"), "SSL_CERT_FILE": str(tmp_path / "none"),
            "HTTPS_PROXY": server.url, "HTTP_PROXY": server.url, "ALL_PROXY": server.url,
        }  # fmt: skip
        done = subprocess.run(
            COMMAND, env=run | theirs, capture_output=True, text=True, check=True, cwd=tmp_path
        )
    assert "no model is behind it" in done.stdout
    assert [] == server.requests
    assert [] == [*tmp_path.iterdir()]


@pytest.mark.skipif(not IS_ASCII, reason="Python does not start here in the C locale")
def test_ascii(run):
    """An output with ASCII only gets the whole output, also if it is the only one of the standard streams."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND],
        env=run | {"PYTHONUTF8": "0", "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert re.search(DETAILS.format(r"\|"), done.stdout.decode("ascii"), re.MULTILINE)


@pytest.mark.parametrize("name", ["wide", "narrow", "without rich"])
def test_terminals(run, name, tmp_path):
    """The output in a terminal is the same, with colours if rich is installed."""
    terminal = TERMINALS[name]
    (tmp_path / "rich.py").write_text("raise ImportError")
    path = {} if terminal.is_rich else {"PYTHONPATH": str(tmp_path)}
    screen = typed(COMMAND, [], terminal, run | path).replace("\r", "")
    assert terminal.is_rich == ("\x1b[" in screen)
    assert "no model is behind it" in " ".join(re.sub(r"\x1b\[[\d;]*m", "", screen).split())
    assert "%load_ext aiml_magic" in screen


def test_reader_that_has_read_enough(run):
    """`| head -n 1` shows the first line and no error."""
    command = subprocess.Popen(
        COMMAND, env=run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "%%o3pro\n" == command.stdout.readline()
    command.stdout.close()
    assert "" == command.stderr.read()
    command.stderr.close()
    assert 0 == command.wait(20)


def test_no_place_for_files(run, tmp_path):
    """Without a writable folder the first look is an error of two lines."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']")
    done = subprocess.run(
        COMMAND,
        env=run | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 1 == done.returncode
    assert 2 == len(done.stderr.splitlines())
    assert "TMPDIR" in done.stderr


def test_killed(run):
    """A first look that is killed leaves no process."""
    command = subprocess.Popen(COMMAND, env=run, stdout=subprocess.DEVNULL)
    wait_until(
        lambda: processes("aiml_magic.runner", parent=command.pid) or command.poll() is not None, 20
    )
    command.kill()
    command.wait()
    wait_until(lambda: not left_by(run), 20)
