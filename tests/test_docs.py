"""The README and the notebooks describe all of the code, and their examples work."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import committed
import pytest
from kernels import kernel

from aiml_magic import __version__, errors
from aiml_magic.notebook.commands import COMMANDS
from aiml_magic.notebook.magics import O3Pro
from aiml_magic.notebook.options import OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = "\n".join(
    "".join(cell["source"])
    for path in (ROOT / "notebooks").glob("*.ipynb")
    for cell in json.loads(path.read_text())["cells"]
)
TESTS = "\n".join(
    path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != "test_docs.py"
)


def test_options():
    """The README's table has every option with its short form and nothing else; a test or a notebook uses each."""
    rows = set(re.findall(r"^\| `((?:-\w, )?--[\w-]+)", README, re.MULTILINE))
    assert {", ".join(option.flags) for option in OPTIONS} == rows
    for option in OPTIONS:
        flags = "|".join(option.flags)
        assert re.search(rf"o3pro\b[^\n]*\s(?:{flags})\b", TESTS + NOTEBOOKS), option.long


def test_settings():
    """Every setting is in the README; a test or a notebook sets it."""
    for name in O3Pro.class_trait_names(config=True):
        assert f"`{name}`" in README
        assert re.search(rf"O3Pro\.{name}\b", TESTS + NOTEBOOKS), name


def test_commands():
    """Every command is in the README; a test or a notebook runs it."""
    for name in COMMANDS:
        assert f"%aiml {name}" in README
        assert re.search(rf"%aiml {name}\b|\"aiml\", f?\"{name}\b", TESTS + NOTEBOOKS), name


def test_variables():
    """Every variable that the code reads is in the README, and no other."""
    read = {
        name
        for module in (ROOT / "aiml_magic").rglob("*.py")
        for name in re.findall(r'"(AIML\w*_\w+)"', module.read_text())
    }
    assert read == set(re.findall(r"`(AIML\w*_\w+)`", README))


def test_errors():
    """Every error is in the README, in one row of its table; a test or a notebook sees it."""
    table = re.search(r"^\| what it cost .*?\n\n", README, re.MULTILINE | re.DOTALL)[0]
    named = re.findall(r"`(\w+)`", table)
    classes = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.AimlMagicError)
    }
    assert sorted(classes - {"AimlMagicError", "RequestFailed"}) == sorted(named)
    for name in named:
        assert re.search(rf"\b{name}\b", TESTS + NOTEBOOKS), name


def test_examples(home, monkeypatch):
    """Every example of the README runs, one after the other, in one kernel and without a key."""
    monkeypatch.delenv("AIML_API_KEY")
    with kernel() as running:
        for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
            assert running.run(code).error is None, code
        running.run("%aiml sandbox stop")


def test_length():
    """The README's prose takes five minutes at 240 words a minute; its tables are for looking things up."""
    words = [
        word
        for line in README.splitlines()
        if not line.startswith("|")
        for word in line.split()
        if re.search(r"\w", word)
    ]
    assert len(words) < 1200


def test_links():
    """Links inside the repository resolve, in pages and in notebooks."""
    for page in [
        ROOT / "README.md",
        *(ROOT / ".github").glob("*.md"),
        *(ROOT / "notebooks").glob("*.ipynb"),
    ]:
        for link in re.findall(r"(?:\]\(|src=\")([\w./-]+)[)\"]", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_two_commands():
    """The first shell block has the two commands of the set-up, one line each, which need nothing but Python."""
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = block[1].splitlines()
    assert 2 == len(lines)
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install") for line in lines)
    assert "jupyter lab --allow-root " in lines[0], "in a container one is root"


def test_promises():
    """Each test that SECURITY names exists, and each of its promises names one."""
    page = (ROOT / ".github" / "SECURITY.md").read_text()
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", page):
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (
            f"{file}::{name}"
        )
    promises = re.findall(r"^\| (?!promise)[^|]*\| (.*) \|$", page, re.MULTILINE)
    assert promises
    assert all(".py" in held_by for held_by in promises)


def test_version():
    """The README is cited by the version that the package has, and the changelog begins with it."""
    assert f"version = {{{__version__}}}," in README
    changes = (ROOT / ".github" / "CHANGELOG.md").read_text()
    assert __version__ == re.search(r"^## ([\d.]+)", changes, re.MULTILINE)[1]


def test_elsewhere():
    """The files that other services run exist: the requirements of Binder, the script of the workflow."""
    extra = (ROOT / ".binder" / "requirements.txt").read_text().strip().removeprefix(".")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra.strip("[]") in project["optional-dependencies"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    command = re.search(r"run: (\S+)\n*$", workflow)[1]
    assert os.access(ROOT / command, os.X_OK)


def test_licences():
    """The licence of every dependency that a user may install is listed, and each is stated by its package."""
    page = (ROOT / ".github" / "LICENCES.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *extras["rich"], *extras["keyring"]]:
        assert re.search(
            rf"^\| {re.split('[<>=~ ]', wanted)[0]} \| .*aiml-magic", page, re.MULTILINE
        ), wanted
    assert "not stated" not in page


def test_modules():
    """Every module is named in DESIGN."""
    design = (ROOT / ".github" / "DESIGN.md").read_text()
    for module in (ROOT / "aiml_magic").rglob("[a-z]*.py"):
        assert f"`{module.stem}`" in design


def test_top_level():
    """The top level of the repository has the listed entries only."""
    names = committed.names(ROOT)
    if names is None:
        pytest.skip("without git, files of a person cannot be told from committed ones")
    assert {name for name in names if not name.startswith(".")} == {
        "pyproject.toml", "aiml_magic", "notebooks", "tests", "README.md", "LICENSE",
    }  # fmt: skip
