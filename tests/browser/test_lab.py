"""The quickstart in JupyterLab, in Chromium: live, then saved and opened again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from lab import CHROMIUM, browser_page, command, jupyter_lab, open_notebook, run_all

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # playwright's own sockets
]
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
ASKED = 6  # cells of the quickstart that show an answer
SHOTS = os.environ.get("AIML_TEST_SHOTS")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    notebook = json.loads(NOTEBOOK.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    (folder / "quickstart.ipynb").write_text(json.dumps(notebook))
    with jupyter_lab(folder, settings) as address, browser_page() as page:
        open_notebook(page, address, "quickstart.ipynb")
        run_all(page)
        yield address, page, folder
        if SHOTS is None:
            shutil.rmtree(settings, ignore_errors=True)


def shoot(page, name: str) -> None:
    if SHOTS is not None:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def visible(page, selector: str) -> int:
    script = "selector => [...document.querySelectorAll(selector)].filter(node => node.checkVisibility()).length"
    return page.evaluate(script, selector)


def errors_shown(page) -> int:
    script = """() => [...document.querySelectorAll('.jp-OutputArea-output')].filter(
        node => node.checkVisibility() && /Error displaying widget|model not found/.test(node.textContent)).length"""
    return page.evaluate(script)


def open_by_keyboard(page) -> bool:
    """Tabs from the first answer to its details and opens them with Enter."""
    page.evaluate("""() => {
        const answer = document.querySelector('.jp-OutputArea .jp-RenderedMarkdown');
        answer.tabIndex = -1;
        answer.focus();
    }""")
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
            return page.evaluate("() => document.activeElement.parentElement.open")
    return False


def test_live(lab):
    """Every question is answered; the details are live, and their copies hidden."""
    _, page, _ = lab
    shoot(page, "live")
    assert ASKED - 1 == visible(page, ".jp-OutputArea .jp-RenderedMarkdown table"), (
        "one is asked outside the conversation, one is quiet"
    )
    assert ASKED - 1 == visible(page, ".jupyter-widgets .aiml-details")
    assert 0 == visible(page, ".jp-RenderedHTML .aiml-details")
    assert 0 == errors_shown(page)


def test_keyboard(lab):
    """The details open by keyboard."""
    _, page, _ = lab
    assert open_by_keyboard(page)
    shoot(page, "live-open")


def test_reopened(lab):
    """Saved and opened again, with a kernel that knows nothing of it, the answers and the details are there, and no error."""
    address, page, _ = lab
    command(page, "docmanager:save")
    page.wait_for_timeout(1000)
    command(page, "kernelmenu:shutdown")
    page.wait_for_timeout(500)
    open_notebook(page, address, "quickstart.ipynb")
    page.wait_for_timeout(2000)
    check_static(page, "reopened")


def test_untrusted_without_kernel(lab):
    """Somebody else's notebook, without any kernel, shows the answers and the details too."""
    address, page, folder = lab
    notebook = json.loads((folder / "quickstart.ipynb").read_text())
    notebook["metadata"] = {
        "kernelspec": {"name": "no-such-kernel", "display_name": "None", "language": "none"},
        "language_info": {"name": "none"},
    }
    (folder / "stranger.ipynb").write_text(json.dumps(notebook))
    open_notebook(page, address, "stranger.ipynb")
    page.wait_for_selector(".jp-Dialog select", timeout=20_000)
    page.select_option(".jp-Dialog select", label="No Kernel")
    page.click(".jp-Dialog .jp-mod-accept")
    page.wait_for_timeout(1000)
    check_static(page, "stranger")


def check_static(page, name: str) -> None:
    page.evaluate("() => document.querySelector('.jp-OutputArea .jp-RenderedMarkdown').scrollIntoView()")
    page.wait_for_timeout(500)
    shoot(page, name)
    assert ASKED - 1 == visible(page, ".jp-OutputArea .jp-RenderedMarkdown table")
    assert ASKED - 1 == visible(page, ".jp-RenderedHTML .aiml-details > details > summary")
    assert 0 == errors_shown(page)
    assert open_by_keyboard(page)
    shoot(page, f"{name}-open")
