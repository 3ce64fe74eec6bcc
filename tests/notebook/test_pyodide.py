"""A tutorial with a recording runs in a browser's Python: nothing is installed there that is compiled, and nothing is sent.

AIML_TEST_PYODIDE names a folder in which npm has installed pyodide.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import IPython
import pytest

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
    """Its answers are those that are committed, and what the cells say beside them is said."""
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
    told = re.sub(r"\s+", " ", ran.stdout)
    for answer in answers:
        assert re.sub(r"\s+", " ", answer).strip() in told
