"""The notebooks without nbval: run with a key by papermill, and by the commands that one of them prints."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import committed
import pytest

from aiml_magic.sandbox import start as sandbox

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TUTORIAL = "reproducible-tutorial"
COMMANDS = [
    line
    for cell in json.loads((FOLDER / f"{TUTORIAL}.ipynb").read_text())["cells"]
    for block in re.findall(r"```bash\n(.*?)```", "".join(cell["source"]), re.DOTALL)
    for line in block.splitlines()
]


def by_name(path):
    return path.stem


@pytest.fixture
def folder(home, tmp_path):
    """A copy of the notebooks, to run in."""
    copy = shutil.copytree(
        FOLDER,
        tmp_path / "notebooks",
        ignore=shutil.ignore_patterns("conftest.py", "__pycache__", ".*"),
    )
    yield copy
    sandbox.stop(home)


def sources(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_with_a_key(path, folder, sandbox_url, monkeypatch):
    """With a key the unchanged cells, run by papermill, ask the server, and none fails."""
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("AIML_API_URL", sandbox_url)
    run = papermill.execute_notebook(
        folder / path.name, folder / "run.ipynb", cwd=folder, progress_bar=False
    )
    told = json.dumps([cell.get("outputs") for cell in run.cells])
    assert ("A key was found" in told) == ("sandbox --if-no-key" in "".join(sources(run)))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_commands_of_the_tutorial(command, folder, monkeypatch):
    """The commands that the tutorial prints work beside the notebook and its recording, without a key."""
    module = {"pytest": "nbval", "papermill": "papermill", "jupyter": "nbconvert"}[
        command.split()[0]
    ]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    monkeypatch.delenv("AIML_API_KEY")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    # A plugin that shuffles tests would shuffle cells.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "nbval.plugin")
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("extension", "settings"),
    [
        (
            "myst_nb",
            {
                "myst_enable_extensions": ["dollarmath"],
                "myst_dmath_double_inline": True,
                "nb_execution_mode": "off",
            },
        ),
        (
            "nbsphinx",
            {
                "nbsphinx_execute": "never",
                "mathjax3_config": {
                    "options": {"ignoreHtmlClass": "document", "processHtmlClass": "math"}
                },
            },
        ),
    ],
)
def test_sphinx(extension, settings, tmp_path, monkeypatch):
    """Sphinx makes pages of all notebooks without a warning: tables are tables, and empty outputs have no box."""
    if importlib.util.find_spec(extension) is None:
        pytest.skip(f"{extension} is not installed")
    pandoc = Path(pytest.importorskip("pypandoc").get_pandoc_path()).parent
    monkeypatch.setenv("PATH", str(pandoc), prepend=os.pathsep)
    for path in NOTEBOOKS:
        shutil.copy(path, tmp_path)
    pages = "".join(f"\n   {path.stem}" for path in NOTEBOOKS)
    (tmp_path / "index.rst").write_text(f"Notebooks\n=========\n\n.. toctree::\n{pages}\n")
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    (tmp_path / "conf.py").write_text("\n".join([f"extensions = [{extension!r}]", *lines]))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ".", "made"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    made = "".join((tmp_path / "made" / f"{path.stem}.html").read_text() for path in NOTEBOOKS)
    assert '<th class="head"><p>sent with it</p></th>' in made, "of an answer"
    assert not re.search(r"<pre[^>]*>(\s|<span></span>)*</pre>", made)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_committed(path):
    """Committed notebooks were run in order, without errors and without traces of their author; no output is very long."""
    text = committed.text(path)
    if text is None:
        pytest.skip("git does not have it")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert list(range(1, len(code) + 1)) == [cell["execution_count"] for cell in code]
    assert not [
        output
        for cell in code
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    outputs = [output.get("data") for cell in code for output in cell["outputs"]]
    assert {"text/plain": []} not in outputs, "pages show it as an empty box"
    widgets = [data for data in outputs if data and any("widget-view" in kind for kind in data)]
    assert all("text/html" in data for data in widgets), "else Thebe says that it needs a kernel"
    assert {"display_name": "Python 3", "language": "python", "name": "python3"} == notebook[
        "metadata"
    ]["kernelspec"]
    assert "python" == notebook["metadata"]["language_info"]["name"], (
        "as Jupyter writes it, but without the version"
    )
    assert "version" not in notebook["metadata"]["language_info"]
    assert {"render_markdown_format": "myst"} == notebook["metadata"]["mystnb"], (
        "else MyST-NB reads answers as bare CommonMark, without tables and formulas"
    )
    assert not {"widgets", "signature", "orig_nbformat"} & notebook["metadata"].keys()
    assert {"tags"} >= {name for cell in notebook["cells"] for name in cell["metadata"]}
    assert all(re.fullmatch(r"cell-\d\d", cell["id"]) for cell in notebook["cells"]), (
        "by it ours are known from a reader's"
    )
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)
    assert notebook["cells"][0]["source"][0].startswith("# ")
    words = " ".join("".join(cell["source"]) for cell in notebook["cells"]).split()
    assert len(words) < 1200
