"""A tutorial with a recording runs in a browser's Python: no compiled package is installed there, and nothing is sent.

AIML_TEST_PYODIDE names a folder in which npm has installed pyodide.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import IPython
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODULES = os.environ.get("AIML_TEST_PYODIDE", "")
if not (MODULES and shutil.which("node")):
    pytest.skip("node, or its pyodide, is not here", allow_module_level=True)

CHECKOUT = Path(__file__).parents[2]
SITE = Path(IPython.__file__).parents[1]
SCRIPT = CHECKOUT / "tests" / "tools" / "pyodide.mjs"


def _pure() -> list[str]:
    """The packages here without compiled code, and the files that describe them."""
    return [
        entry.name
        for entry in SITE.iterdir()
        if not entry.name.startswith(("_", "aiml_magic")) and not any(entry.rglob("*.so"))
        if entry.is_dir() or entry.suffix == ".py"
    ]


def test_tutorial():
    """The tutorial's answers and printed texts are the committed ones."""
    command = [
        "node",
        str(SCRIPT),
        MODULES,
        str(SITE),
        str(CHECKOUT),
        "reproducible-tutorial.ipynb",
    ]
    ran = subprocess.run(
        [*command, *_pure()], capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == ran.returncode, ran.stderr[-2000:]
    notebook = json.loads((CHECKOUT / "notebooks" / "reproducible-tutorial.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    answers = [
        "".join(output["data"]["text/plain"])
        for output in outputs
        if "text/markdown" in output.get("data", {})
    ]
    assert answers
    tutorial, *refused = ran.stdout.split("## ")
    told = re.sub(r"\s+", " ", tutorial)
    for answer in answers:
        assert re.sub(r"\s+", " ", answer).strip() in told
    assert 4 == len(refused)
    for said in refused:
        _, what, way = said.strip().splitlines()
        assert "Nothing was" in what
        assert way.startswith("Run ")


def test_requirements():
    """Each required package is free of compiled code, or is in Pyodide's lock file in a sufficient version."""
    lock = json.loads(Path(MODULES, "node_modules", "pyodide", "pyodide-lock.json").read_text())
    locked = {canonicalize_name(name): each["version"] for name, each in lock["packages"].items()}
    there = {
        "sys_platform": "emscripten",
        "python_version": lock["info"]["python"][:4],
        "extra": "",
    }
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    waiting, seen = list(project["dependencies"]), set()
    while waiting:
        wanted = Requirement(waiting.pop())
        name = canonicalize_name(wanted.name)
        if name in seen or (wanted.marker and not wanted.marker.evaluate(there)):
            continue
        seen.add(name)
        if name in locked:
            assert wanted.specifier.contains(locked[name]), wanted
        else:
            found = distribution(name)
            assert "Root-Is-Purelib: true" in found.read_text("WHEEL"), wanted
            waiting += found.requires or []
    assert {"ipython", "ipywidgets", "nh3", "markdown", "comm"} <= seen
    assert "tornado" not in seen
