"""JupyterLab's own Kernel menu while a question is answered: a person restarts, and pays once."""

from __future__ import annotations

import os

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

import wire
from document import streamed
from lab import browser_page, finish_all, jupyter_lab, open_notebook, start_all, wait_for_kernel
from outputs import MARKS, errors_shown, shoot

pytestmark = MARKS

CELLS = ["%load_ext aiml_magic", "%%o3pro\nWhy does it rain?", "1 + 1"]
# The first cell was run in the new kernel, and the second one runs there and shows these words.
FOLLOWS = """words => {
    const [first, second] = window.jupyterapp.shell.currentWidget.content.widgets;
    return first.model.executionCount === 1 && second.model.executionState === 'running' && second.node.innerText.includes(words);
}"""
TEXT = "It rains since clouds are heavy, and since whatever is heavy falls. " * 4


@pytest.mark.parametrize("when", ["stream", "silence"])
def test_restart_and_run_all_from_the_menu(home, tmp_path, monkeypatch, when):
    """*Restart Kernel and Run All Cells* in the middle of an answer: one POST, and the answer in its cell."""
    before, after = (
        ("It rains", "It rains")
        if when == "stream"
        else ("waiting for the answer", "The server works on it")
    )
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    folder, settings = tmp_path / "notebooks", tmp_path / "settings"
    folder.mkdir(), settings.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), folder / "rain.ipynb")

    def reply(_: wire.Request) -> wire.Reply:
        if when == "silence":
            server.release.wait(60)
        return streamed(TEXT, chunks=2, pace=60)  # the second half comes when it is released

    with wire.serve(reply) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        with jupyter_lab(folder, settings) as address, browser_page() as page:
            open_notebook(page, address, "rain.ipynb")
            start_all(page)
            page.wait_for_selector(f"text={before}", timeout=60_000)
            page.click(".lm-MenuBar-itemLabel:text-is('Kernel')")
            page.click(".lm-Menu-itemLabel:text-is('Restart Kernel and Run All Cells…')")
            page.click(".jp-Dialog button:has-text('Restart')")
            page.wait_for_function(FOLLOWS, arg=after, timeout=60_000)
            shoot(page, f"restarted-in-{when}")
            server.release.set()
            wait_for_kernel(page)
            finish_all(page)
            page.wait_for_selector(
                ".jp-RenderedMarkdown >> text=whatever is heavy falls", timeout=60_000
            )
            shoot(page, f"answered-after-restart-in-{when}")
            assert 0 == errors_shown(page)
        assert 1 == len(server.posts)
