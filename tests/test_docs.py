"""The README says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from aiml_magic.commands import COMMANDS
from aiml_magic.magics import O3Pro
from aiml_magic.options import OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_options():
    """Every option is in the README with its short form and nothing else is in that table."""
    rows = set(re.findall(r"^\| `((?:-\w, )?--[\w-]+)", README, re.MULTILINE))
    assert {f"{option.short}, {option.long}" if option.short else option.long for option in OPTIONS} == rows


def test_settings():
    """Every setting is in the README."""
    for name in O3Pro.class_trait_names(config=True):
        assert f"`{name}`" in README


def test_commands():
    """Every command is in the README."""
    for name in COMMANDS:
        assert f"%aiml {name}" in README


@pytest.mark.parametrize("name", ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIML_API_URL", "AIML_MAGIC_HOME", "AIML_MAGIC_JOURNAL"])
def test_variables(name):
    """Every variable is in the README, and is read by the code."""
    assert f"`{name}`" in README
    assert any(name in module.read_text() for module in (ROOT / "aiml_magic").glob("*.py"))


def test_links():
    """Links inside the repository resolve."""
    for page in [ROOT / "README.md", *(ROOT / ".github").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_two_commands():
    """The first shell block holds the two commands of the set-up, a line each, that need nothing but Python."""
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = block[1].splitlines()
    assert 2 == len(lines)
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install") for line in lines)


def test_promises():
    """Each test that SECURITY names is there, and each promise there names one."""
    page = (ROOT / ".github" / "SECURITY.md").read_text()
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", page):
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file}::{name}"
    promises = re.findall(r"^\| (?!promise)[^|]*\| (.*) \|$", page, re.MULTILINE)
    assert promises
    assert all(".py" in held_by for held_by in promises)


def test_licences():
    """The licence of every dependency that a user may install is listed, and each is stated by its package."""
    page = (ROOT / ".github" / "LICENCES.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *extras["rich"], *extras["keyring"]]:
        assert re.search(rf"^\| {re.split('[<>=~ ]', wanted)[0]} \| .*aiml-magic", page, re.MULTILINE), wanted
    assert "not stated" not in page


def test_modules():
    """Every module is in the table of layers, with the sentence that its header begins with in other words."""
    design = (ROOT / ".github" / "DESIGN.md").read_text()
    for module in (ROOT / "aiml_magic").glob("[a-z]*.py"):
        assert f"`{module.stem}`" in design


def test_top_level():
    """Nothing else has settled at the top of the repository."""
    listed = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and not path.name.endswith(".egg-info")}
    assert listed - {"dist", "build"} == {"pyproject.toml", "aiml_magic", "notebooks", "tests", "README.md", "LICENSE"}
