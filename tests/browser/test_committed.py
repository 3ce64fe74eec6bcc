"""Each committed notebook, opened in JupyterLab in Chromium without a kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from lab import browser_page, jupyter_lab, open_notebook
from outputs import MARKS, errors_shown, shoot, visible

pytestmark = MARKS

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    for path in NOTEBOOKS:
        kernel = {"name": "no-such-kernel", "display_name": "None", "language": "none"}
        metadata = {"kernelspec": kernel, "language_info": {"name": "none"}}
        (folder / path.name).write_text(
            json.dumps(json.loads(path.read_text()) | {"metadata": metadata})
        )
    with jupyter_lab(folder, settings) as address, browser_page() as page:
        yield address, page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed(lab, path):
    """A committed notebook shows every answer, every figure and the details of each answer, and no error."""
    address, page = lab
    open_notebook(page, address, path.name)
    page.wait_for_selector(".jp-Dialog select", timeout=20_000)
    page.select_option(".jp-Dialog select", label="No Kernel")
    page.click(".jp-Dialog .jp-mod-accept")
    page.wait_for_timeout(1000)
    outputs = [
        output.get("data", {})
        for cell in json.loads(path.read_text())["cells"]
        for output in cell.get("outputs", [])
    ]
    for kind, selector in (
        ("text/markdown", ".jp-OutputArea .jp-RenderedMarkdown"),
        ("image/png", ".jp-OutputArea img"),
    ):
        assert sum(kind in output for output in outputs) == visible(page, selector)
    copies = sum("aiml-details" in "".join(output.get("text/html", "")) for output in outputs)
    assert copies == visible(page, ".jp-RenderedHTML .aiml-details > details > summary")
    assert 0 == errors_shown(page)
    height = page.evaluate("() => document.querySelector('.jp-WindowedPanel-inner').scrollHeight")
    page.set_viewport_size({"width": 1100, "height": height + 200})
    shoot(page, f"committed-{path.stem}")
    page.set_viewport_size({"width": 1100, "height": 900})
