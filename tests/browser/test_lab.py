"""JupyterLab and Notebook 7 in each state of an answer: live, reopened, untrusted, without widgets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")

if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

import wire
from document import DOCUMENT, streamed
from lab import (
    RENDER,
    browser_page,
    command,
    finish_all,
    jupyter_lab,
    open_notebook,
    start_all,
    wait_for_kernel,
)
from outputs import (
    ANSWERS,
    AXE,
    COPIES,
    MARKS,
    TOO_WIDE,
    barriers,
    errors_shown,
    shoot,
    unfold_by_keyboard,
    visible,
)

from aiml_magic.show import safe

pytestmark = MARKS

LIVE = ".jupyter-widgets .aiml-details > details > summary"
CELLS = [
    "%load_ext aiml_magic\n%config O3Pro.replay = 'off'",
    "%%o3pro\nIs it finite?",
    "%%o3pro --alone\nIn brief?",
    "%%o3pro\nAgain?",
]


class Opened(NamedTuple):
    """A front end with the notebook open, and the server that its cells ask."""

    name: str
    address: str
    page: Any
    folder: Path
    settings: Path
    server: wire.Server


def answer(request: wire.Request) -> wire.Reply:
    if request.method != "POST":
        return wire.Reply(404)
    match request.body["input"]:
        case "Is it finite?":
            # One half at once, the other when it is released.
            return streamed(DOCUMENT, chunks=2, pace=60)
        case "In brief?":
            cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            return wire.json_reply(wire.response("Yes, since", **cut))
        case _:
            return wire.json_reply(
                {"error": {"message": "The model is unknown.", "code": "model_not_found"}}, 404
            )


@pytest.fixture(scope="module", params=["lab", "notebook"])
def opened(request, tmp_path_factory):
    if request.param == "notebook":
        pytest.importorskip("notebook", minversion="7", reason="Notebook 7 is not installed")
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    cells[-1].metadata["tags"] = ["raises-exception"]
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), folder / "answers.ipynb")
    with wire.serve(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIML_API_URL", server.url)
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        with jupyter_lab(folder, settings) as address, browser_page() as page:
            opened = Opened(request.param, address, page, folder, settings, server)
            open_again(opened)
            yield opened


def open_again(opened: Opened, name: str = "answers.ipynb") -> None:
    open_notebook(
        opened.page, opened.address, name, place="lab/tree" if opened.name == "lab" else "notebooks"
    )
    opened.page.evaluate(
        "() => window.jupyterapp.commands.execute('application:set-mode', {mode: 'single-document'}).catch(() => {})"
    )


def finish(opened: Opened) -> None:
    opened.server.release.set()
    finish_all(opened.page)


def darken(opened: Opened) -> None:
    opened.page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )


def narrow(opened: Opened) -> None:
    opened.page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})"
    )
    opened.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    opened.page.set_viewport_size({"width": 520, "height": 900})


def restart(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 1100, "height": 900})
    opened.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    wait_for_kernel(opened.page)


def reopen(opened: Opened) -> None:
    command(opened.page, "docmanager:save")
    command(opened.page, "kernelmenu:shutdown")
    open_again(opened)


def open_without_kernel(opened: Opened) -> None:
    """Opens the notebook without a kernel, like another person's."""
    notebook = json.loads((opened.folder / "answers.ipynb").read_text())
    notebook["metadata"] = {
        "kernelspec": {"name": "no-such-kernel", "display_name": "None", "language": "none"},
        "language_info": {"name": "none"},
    }
    (opened.folder / "stranger.ipynb").write_text(json.dumps(notebook))
    open_again(opened, "stranger.ipynb")
    opened.page.wait_for_selector(".jp-Dialog select", timeout=20_000)
    opened.page.select_option(".jp-Dialog select", label="No Kernel")
    opened.page.click(".jp-Dialog .jp-mod-accept")
    trusted = "() => window.jupyterapp.shell.currentWidget.content.widgets.some(cell => cell.model.trusted && cell.model.type === 'code')"
    assert not opened.page.evaluate(trusted)


def open_without_widgets(opened: Opened) -> None:
    folder = opened.settings / "config" / "labconfig"
    folder.mkdir()
    (folder / "page_config.json").write_text(
        '{"disabledExtensions": {"@jupyter-widgets/jupyterlab-manager": true}}'
    )
    open_again(opened)


# In this order: each begins in the state in which the one before it ended.
STATES: dict[str, tuple[Callable[[Opened], None], str]] = {
    "finished": (finish, LIVE),
    "dark": (darken, LIVE),
    "narrow": (narrow, LIVE),
    "restarted": (restart, LIVE),
    "reopened": (reopen, COPIES),
    "stranger": (open_without_kernel, COPIES),
    "without-widgets": (open_without_widgets, COPIES),
}


def test_axe():
    """axe, the tool that finds barriers, is installed."""
    if AXE is None and not REQUIRED:
        pytest.skip("axe-playwright-python is not installed: barriers are not looked for")
    assert AXE is not None


def test_streaming(opened):
    """While an answer is received, the panel shows its state, how to stop it, and the end of the text."""
    page = opened.page
    start_all(page)
    page.wait_for_selector(".jupyter-widgets pre")
    shoot(page, f"{opened.name}-streaming")
    panel = page.inner_text(".jp-OutputArea-output .jupyter-widgets")
    assert "Writing: " in panel
    assert "Interrupt the kernel to stop it." in panel
    assert "| method | terms | error |" in panel, "what is not finished is not taken for Markdown"
    assert 0 == visible(page, ANSWERS)
    assert [] == barriers(page)


def test_news(opened):
    """A screen reader announces the complete answer once, and no change of the panel."""
    page = opened.page
    page.evaluate(WATCH)
    page.wait_for_function("() => window.ticks > 2")
    assert [] == page.evaluate("() => window.news")
    finish(opened)
    page.wait_for_function("() => window.news.length")
    page.wait_for_timeout(1500)
    told = page.evaluate("() => window.news")
    assert {"The answer is there."} == set(told)
    assert len(told) <= 2, (
        "there are two answers; one that is followed at once by another is not announced"
    )
    assert 1 == visible(page, "[role=status] .aiml-news"), (
        "the earlier is not announced again when the page is loaded again"
    )


@pytest.mark.parametrize("state", STATES)
def test_state(opened, state):
    """Each answer is shown once, its details once and openable by keyboard; there is no dead widget and no overflow."""
    go, details = STATES[state]
    go(opened)
    page = opened.page
    page.wait_for_function(
        "selector => [...document.querySelectorAll(selector)].filter(node => node.checkVisibility()).length == 2",
        arg=details,
    )
    page.evaluate("selector => document.querySelector(selector).scrollIntoView()", ANSWERS)
    page.wait_for_timeout(500)  # themes and formulas
    shoot(page, f"{opened.name}-{state}")
    assert 2 == visible(page, ANSWERS)
    assert 2 == visible(page, ".aiml-details > details > summary")
    assert "Interrupt the kernel" not in page.inner_text(".jp-Notebook"), "the panel is gone"
    assert 0 == errors_shown(page)
    assert [] == page.evaluate(TOO_WIDE)
    assert [] == barriers(page)
    unfold_by_keyboard(page, details)
    assert [] == page.evaluate(TOO_WIDE)
    assert [] == barriers(page)
    shoot(page, f"{opened.name}-{state}-open")


# Text that appears in an existing live region of an output.
WATCH = """() => {
    window.ticks = 0;
    window.news = [];
    const told = new Set();
    const isSeen = node => node.checkVisibility({ visibilityProperty: true });
    const look = () => document.querySelectorAll('.jp-OutputArea-output :is([role=status],[role=alert],[aria-live])').forEach(place => {
        for (const node of place.querySelectorAll('*')) if (isSeen(node) && node.textContent && !told.has(node)) {
            told.add(node);
            window.news.push(place.known ? node.textContent : 'too early: ' + node.textContent);
        }
        place.known = true;
    });
    new MutationObserver(() => { window.ticks += 1; look(); }).observe(
        document.querySelector('.jp-Notebook'), { subtree: true, childList: true, characterData: true, attributes: true });
    setInterval(look, 100);
}"""


SEEN = {  # how many elements of an answer, and words that are in the first of them
    "h1": (1, "Why"),
    "p > strong": (1, "absolutely"),
    "mjx-container": (7, ""),
    "mjx-container[display=true]": (2, ""),
    "table": (1, "method"),
    "tbody tr": (3, "direct sum"),
    "td[align=right], td[style*=right]": (3, "1,000"),
    "td code": (2, "1e-12"),
    "pre code.language-python": (2, "return sum(n**-s for n in range(1, terms + 1))"),
    "pre code.language-python span[class]": (None, ""),
    "li pre code.language-bash": (1, 'echo "inside a list"'),
    "ol > li": (2, "First, compare."),
    "ol > li > ul > li": (2, "with an integral"),
    "ul ul > li": (2, "from below"),
    "blockquote blockquote": (1, "And one inside."),
    "a[href='https://example.org/proof?a=1&b=2']": (1, "the proof"),
    "a[href='https://example.org/notes_on_it']": (1, "notes_on_it"),
    "a[href='https://example.org/plot.png']": (1, "picture: a plot"),
    "img, script, b, input": (0, ""),
}
READ = ["A coffee is $5, two are $10; with tax $5.40 and then", 'echo "$HOME costs $5"', "terms = {n: 1 / n**2 for n in [1, 2]}",
        "☑ checked by hand", "☐ checked by machine", "a note[^1]", "[^1]: The note says that it was Euler.", "漢字とかな、中文：费马大定理。",
        "שלום עולם, مرحبا بالعالم", "👩\u200d👩\u200d👧", "🇸🇰", "naïve", "Inline <b>HTML</b>, a <script>window.__pwned = 1</script> and a\nare text."]  # fmt: skip


def test_document(opened):
    """The page has a model's tables, highlighted code, lists, quotations, links and formulas; everything else is text."""
    page = opened.page
    found = {
        selector: page.evaluate(
            "([answer, selector]) => [...document.querySelector(answer).querySelectorAll(selector)].map(node => node.innerText)",
            [ANSWERS, selector],
        )
        for selector in SEEN
    }
    for selector, (count, words) in SEEN.items():
        assert len(found[selector]) == count or (count is None and found[selector]), selector
        assert words in "".join(found[selector][:1]), selector
    text = page.inner_text(ANSWERS)
    assert [] == [words for words in READ if words not in text]


def test_long_answer(opened):
    """An answer of 100 kB is rendered completely."""
    page = opened.page
    page.evaluate(RENDER, ["text/markdown", [safe.markdown("\n\n".join([DOCUMENT] * 80))]])
    assert 80 == page.evaluate("() => document.querySelectorAll('.fuzzed table').length")
    assert 80 == page.evaluate(
        "() => document.querySelector('.fuzzed').innerText.split('The note says').length - 1"
    )
