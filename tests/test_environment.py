"""The tests neither change the user's files nor depend on the user's environment, and leave nothing behind, however they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environment
import nbformat
import pytest
from leftovers import processes_of
from nbformat.v4 import new_code_cell, new_notebook, new_output
from processes import processes, wait_until

PATH = os.environ.get("PATH", os.defpath)
SHOW = "import environment, json, os; environment.make(); print(json.dumps(dict(os.environ)))"
OF_A_PERSON = {
    "HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere", "IPYTHONDIR": "/nowhere", "JUPYTER_CONFIG_DIR": "/nowhere",
    "JUPYTER_PATH": "/nowhere", "MPLCONFIGDIR": "/nowhere", "MPLBACKEND": "TkAgg", "MATPLOTLIBRC": "/nowhere", "VIRTUAL_ENV": "/nowhere",
    "PYTHONUTF8": "0", "LC_ALL": "C" if environment.IS_ASCII else "C.UTF-8", "HTTPS_PROXY": "http://nowhere", "no_proxy": "", "SSL_CERT_FILE": "", "SSLKEYLOGFILE": "/nowhere",
    "AIML_API_KEY": "sk-of-a-person-0123456789", "AIML_MAGIC_REPLAY": "only", "AIML_MAGIC_JOURNAL": "/nowhere", "PYTHONWARNINGS": "error",
    "PYTEST_ADDOPTS": "-qq",
}  # fmt: skip


def made(**given: str) -> dict[str, str]:
    """The environment that the tests make from one with these variables."""
    command = [sys.executable, "-c", SHOW]
    place = {"PATH": PATH, "PYTHONPATH": str(Path(environment.__file__).parent)}
    return json.loads(
        subprocess.run(command, env=place | given, capture_output=True, check=True).stdout
    )


def test_own_environment():
    """Of a person's variables only those that programs need are left; all files go into a folder that is removed at the end."""
    told = made(**OF_A_PERSON)
    assert not {name: value for name, value in told.items() if OF_A_PERSON.get(name) == value}
    run = told["AIML_TEST_RUN"]
    for name in (
        "HOME",
        "USERPROFILE",
        "IPYTHONDIR",
        "JUPYTER_PATH",
        "MPLCONFIGDIR",
        "MATPLOTLIBRC",
        "AIML_MAGIC_HOME",
    ):
        assert told[name].startswith(f"{run}{os.sep}"), name
    assert told["PATH"] == PATH
    assert not {name for name in told if name.lower().endswith("_proxy")}
    assert not Path(run).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sockets have no paths here")
def test_short_temporary_folder(tmp_path):
    """The person's folder for temporary files is used unless its name is too long for sockets."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    short = tempfile.mkdtemp(prefix="t", dir=tempfile.gettempdir())
    assert len(made(TMPDIR=str(long))["AIML_TEST_RUN"]) < 60
    assert short == made(TMPDIR=short)["TMPDIR"]
    shutil.rmtree(short)


def test_killed_run():
    """A run that is killed leaves no kernel, no runner, no sandbox, no worker and no folder."""
    place = tempfile.mkdtemp(prefix="t")  # the file with the name of that run
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n1",
        str(environment.CHECKOUT / "notebooks" / "quickstart.ipynb"),
    ]
    mine = {
        name: value
        for name, value in os.environ.items()
        if name not in ("AIML_TEST_RUN", "PYTEST_XDIST_WORKER")
    }
    process = subprocess.Popen(
        command,
        env=mine | {"TMPDIR": place},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place,
    )
    try:
        wait_until(lambda: [*Path(place).glob("aiml-*")], 60)
        (run,) = Path(place).glob("aiml-*")
        for part in ("aiml_magic.sandbox", "aiml_magic.runner"):
            wait_until(
                lambda part=part: (
                    {*processes(part)} & {found.pid for found in processes_of(str(run))}
                ),
                60,
            )
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not run.exists(), 60)
    assert [] == [*processes_of(str(run))]
    shutil.rmtree(place)


def sum_of_two(result: str, **metadata: object) -> nbformat.NotebookNode:
    """A notebook of this repository, with a cell that shows 1 + 1."""
    cell = new_code_cell("1 + 1", id="cell-00", execution_count=1)
    cell.outputs = [new_output("execute_result", {"text/plain": result}, execution_count=1)]
    return new_notebook(
        cells=[cell],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}} | metadata,
    )


def test_notebook_that_a_reader_has_saved(tmp_path):
    """Changes that JupyterLab saves in a reader's notebook fail no test; the same in a committed one do."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "notebooks/conftest.py", "notebooks/sanitize.cfg"):
        shutil.copy(environment.CHECKOUT / name, tmp_path / name)
    saved = sum_of_two(
        "a reader's", language_info={"name": "python", "version": "3.99.0"}, widgets={}
    )
    saved.cells.append(new_code_cell("1 / 0", execution_count=7))
    for name, notebook in {
        "saved": saved,
        "right": sum_of_two("2"),
        "wrong": sum_of_two("3"),
    }.items():
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-rA",
        "--color=no",
        str(tmp_path / "notebooks"),
    ]
    settings = {"PYTHONPATH": str(Path(environment.__file__).parent)}
    told = subprocess.run(
        command,
        env=os.environ | settings,
        cwd=tmp_path.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    ).stdout
    assert "1 failed, 2 passed, 1 skipped" in told, told
    assert re.search(r"^FAILED \S*wrong.ipynb::Cell 0", told, re.MULTILINE), told


def test_no_test_imports_another():
    """Shared code of tests is in `tests/support`: each test module can be moved, or run alone."""
    imported = [
        f"{path.name}: {line}"
        for path in Path(__file__).parent.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(from|import) (test_|conftest)", line) and path.stem not in line
    ]
    assert [] == imported
