"""A question in the background, in JupyterLab: answered while a later cell computes, and across a restart of the kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from lab import browser_page, command, jupyter_lab, open_notebook
from outputs import MARKS, errors_shown, shoot

pytestmark = MARKS

CELLS = [
    "%load_ext aiml_magic\n%aiml sandbox",
    "%%o3pro -b\nWhere do whales sleep?\nsandbox: delay=3",
    "import time\ntime.sleep(12)\nprint('computed')",
]
OUTPUT = "number => document.querySelectorAll('.jp-CodeCell')[number].querySelector('.jp-Cell-outputArea').innerText"
PROMPT = "number => document.querySelectorAll('.jp-CodeCell')[number].querySelector('.jp-InputPrompt').innerText"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    (folder / "jobs.ipynb").write_text(nbformat.writes(notebook))
    with jupyter_lab(folder, settings) as address, browser_page() as page:
        open_notebook(page, address, "jobs.ipynb")
        yield address, page, folder


def run_all_and_go_on(page) -> None:
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def wait_for(page, number: int, words: str, timeout: float = 20) -> None:
    page.wait_for_function(
        f"words => ({OUTPUT})({number}).includes(words)", arg=words, timeout=1000 * timeout
    )


def test_answered_while_another_cell_computes(opened):
    """The panel is live in its own cell, and the answer comes there, while a later cell is still running."""
    _, page, _ = opened
    before = answered(page)
    run_all_and_go_on(page)
    wait_for(page, 1, "waiting for the answer")
    assert "%aiml cancel" in page.evaluate(OUTPUT, 1)
    shoot(page, "background-waiting")
    wait_for(page, 1, "This is the sandbox")
    assert "*" in page.evaluate(PROMPT, 2)
    # Then the panel disappears.
    page.wait_for_function(f"() => !({OUTPUT})(1).includes('waiting for the answer')", timeout=1000)
    assert "*" in page.evaluate(PROMPT, 2)
    shoot(page, "background-answered")
    wait_for(page, 2, "computed")
    assert "sandbox" not in page.evaluate(OUTPUT, 2)
    assert 0 == errors_shown(page)
    assert before + 1 == answered(page)


def test_restart_of_the_kernel(opened):
    """The kernel is restarted while a job waits; the cells are run again, and the job goes on, asked once.

    The saved notebook holds the answer in the cell that asked.
    """
    _, page, folder = opened
    before = answered(page)
    page.evaluate(
        """() => {
            const cell = window.jupyterapp.shell.currentWidget.content.widgets[1];
            cell.model.sharedModel.setSource('%%o3pro -b\\nAnd where do they eat?\\nsandbox: delay=6');
        }"""
    )
    run_all_and_go_on(page)
    wait_for(page, 1, "waiting for the answer")
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    run_all_and_go_on(page)
    wait_for(page, 1, "The server works on it")
    shoot(page, "background-restarted")
    wait_for(page, 1, "This is the sandbox")
    wait_for(page, 1, "tokens")
    shoot(page, "background-answered-after-restart")
    assert 0 == errors_shown(page)
    outputs = saved(page, folder)
    assert "And where do they eat?" in "".join(outputs[1]["data"]["text/markdown"])
    assert before + 1 == answered(page)


def answered(page) -> int:
    """How many questions the sandbox has answered, by its own log."""
    total = 0
    for file in Path(os.environ["AIML_MAGIC_HOME"]).glob("sandbox-*.json"):
        note = json.loads(file.read_text())
        key = {"Authorization": f"Bearer {note['token']}"}
        log = page.request.get(f"http://127.0.0.1:{note['port']}/v2/logs", headers=key).json()
        total += len([entry for entry in log["data"] if entry["status"] == "succeeded"])
    return total


def saved(page, folder) -> list[dict[str, Any]]:
    """The outputs of the question once they are in the saved notebook, with the details of the answer."""
    while True:
        command(page, "docmanager:save")
        page.wait_for_timeout(500)
        outputs = json.loads((folder / "jobs.ipynb").read_text())["cells"][1]["outputs"]
        if len(outputs) > 3 and "<details>" in "".join(outputs[3]["data"].get("text/html", "")):
            return outputs
