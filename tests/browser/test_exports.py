"""An answered notebook as a page without network, as Markdown and as LaTeX; and the answer in `jupyter console`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    for module in ("playwright", "nbconvert", "jupyter_console", "pypandoc"):
        pytest.importorskip(module, reason=f"{module} is not installed")

import nbconvert
import pypandoc
import wire
from document import DOCUMENT, streamed
from lab import browser_page
from outputs import (
    ANSWERS,
    COPIES,
    MARKS,
    TOO_WIDE,
    barriers,
    shoot,
    unfold_by_keyboard,
    visible,
)
from terminals import Terminal, typed

from aiml_magic.api.responses import Usage
from aiml_magic.journal.answer import Answer
from aiml_magic.show import export

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    with (
        wire.serve(lambda _: streamed(DOCUMENT, chunks=4, pace=0.2)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AIML_API_URL", server.url)
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        patch.setenv("PATH", str(Path(pypandoc.get_pandoc_path()).parent), prepend=os.pathsep)
        yield server


@pytest.fixture(scope="module")
def executed(server, tmp_path_factory):
    """The notebook as nbconvert executes it, with the state of its widgets."""
    folder = tmp_path_factory.mktemp("executed")
    cells = [
        nbformat.v4.new_code_cell(cell)
        for cell in ("%load_ext aiml_magic", "%%o3pro\nIs it finite?")
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "asked.ipynb")
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--execute",
        "--to=notebook",
        "--inplace",
        "--log-level=ERROR",
        "asked.ipynb",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return nbformat.read(folder / "asked.ipynb", as_version=4)


# Whether the first and the last section of the copy are open on paper.
ON_PAPER = """() => {
    const tables = document.querySelectorAll("[id^=o3pro-] details > div > details > :not(summary)");
    return [tables[0], tables[tables.length - 1]].map(each => each.checkVisibility());
}"""


FONT_OF_CODE = """() => getComputedStyle(document.querySelector(
    ".jp-RenderedMarkdown .highlight pre")).fontFamily"""


@pytest.mark.parametrize("has_state", [True, False])
def test_page_without_network(executed, tmp_path, has_state):
    """A page shows the answer and its details once each, also without a network, where formulas are source text. On paper the details are open, except the raw JSON."""
    notebook = nbformat.from_dict(dict(executed))
    assert "widgets" in notebook.metadata
    notebook.metadata = {
        name: value for name, value in notebook.metadata.items() if has_state or name != "widgets"
    }
    file = tmp_path / "page.html"
    file.write_text(nbconvert.HTMLExporter().from_notebook_node(notebook)[0], "utf-8")
    with browser_page() as page:
        page.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
        page.goto(file.as_uri())
        page.wait_for_timeout(500)
        shoot(page, f"nbconvert-{'with' if has_state else 'without'}-state")
        assert 1 == visible(page, ANSWERS)
        assert 1 == visible(page, ".aiml-details > details > summary") == visible(page, COPIES)
        answer = page.inner_text(ANSWERS)
        for part in (
            "is $5, two are $10;",
            r"$\sum_{n=1}^\infty \frac{1}{n^2}",
            "def zeta(s: float",
            "<script>window",
            "שלום",
            "[^1]: The note",
        ):
            assert part in answer
        assert [] == page.evaluate(TOO_WIDE)
        assert page.evaluate(FONT_OF_CODE).endswith("monospace")
        assert [] == barriers(page)
        page.emulate_media(media="print")
        assert [True, False] == page.evaluate(ON_PAPER)
        page.emulate_media(media="screen")
        unfold_by_keyboard(page, COPIES)
        shoot(page, f"nbconvert-{'with' if has_state else 'without'}-state-open")


# As the theme of Jupyter Book styles outputs in the dark.
BRIGHT_BOX = """<style>html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe))
    {background-color: white; padding: 8px}</style>"""
BOXES = """() => [...document.querySelectorAll(".text_html")].map(each =>
    [getComputedStyle(each).backgroundColor, getComputedStyle(each).padding])"""


def test_no_bright_box_in_the_dark(executed):
    """In its dark theme a page of Jupyter Book has no bright box around details or an empty output; other outputs keep theirs."""
    shown = [
        output.data["text/html"]
        for output in executed.cells[1].outputs
        if "text/html" in output.data
    ]
    assert ["", "", "<"] == [html[:1] for html in shown]
    boxes = "".join(f'<div class="text_html">{html}</div>' for html in [*shown, "<b>other</b>"])
    with browser_page() as page:
        page.set_content(
            f'{BRIGHT_BOX}<div class="bd-content"><div class="cell_output">{boxes}</div></div>'
        )
        page.evaluate("() => document.documentElement.dataset.theme = 'dark'")
        none, bright = ["rgba(0, 0, 0, 0)", "0px"], ["rgb(255, 255, 255)", "8px"]
        assert [none, none, none, bright] == page.evaluate(BOXES)


def test_exported_conversation(tmp_path):
    """An exported page fits a phone's width with any content, axe finds no serious barrier, and a printed page has wide code in full."""
    wide = (
        f"# {'word ' * 40}\n\n{'word' * 40} https://example.org/{'way/' * 40}\n\n"
        f"```python\nx = '{'y' * 200}'\n```\n\n|{'a|' * 20}\n|{'-|' * 20}"
    )
    asked_at, usage = datetime(2026, 1, 2, tzinfo=UTC), Usage(1, 0, 2, 1, 3)
    turns = [
        Answer(
            text,
            "",
            usage,
            0.5,
            9.0,
            "completed",
            "resp_1",
            "o3-pro",
            None,
            False,
            asked_at,
            {},
            {"input": f"Why?\n  {wide}"},
        )
        for text in (DOCUMENT, wide)
    ]
    file = tmp_path / "talk.html"
    export.write(file, turns)
    with browser_page() as page:
        page.set_viewport_size({"width": 360, "height": 800})
        page.goto(file.as_uri())
        shoot(page, "exported")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(
            "[...document.querySelectorAll('nav a')].every(entry => entry.innerText.length <= 70)"
        )
        assert [] == barriers(page, "body")
        page.emulate_media(media="print")
        assert page.evaluate(
            "[...document.querySelectorAll('pre')].every(code => code.scrollWidth <= code.clientWidth)"
        )


def test_markdown(executed):
    """In Markdown the answer is Markdown, once, and the details fold."""
    text = nbconvert.MarkdownExporter().from_notebook_node(executed)[0]
    assert 1 == text.count(executed.cells[1].outputs[1].data["text/markdown"])
    assert 1 == text.count('<div class="aiml-details')


def test_latex(executed):
    """In LaTeX mathematics, tables and code are kept, and the details are one line. It is not compiled here."""
    text = nbconvert.LatexExporter().from_notebook_node(executed)[0]
    body = text[text.index(r"\maketitle") :]
    for part in (r"\(\sum_{n=1}^\infty \frac{1}{n^2} = \frac{\pi^2}{6}\)", r"\[\int_0^1 \frac{\ln(1-x)}{x}\,dx", r"\begin{pmatrix} a & b \\",
                 r"{\$}5, two are {\$}10", r"\begin{longtable}", r"\href{https://example.org/proof?a=1&b=2}", "6,912 tokens"):  # fmt: skip
        assert part in body
    code = re.sub(r"\\[A-Za-z]+Tok|[{}\\]", "", body)
    for part in (
        "def zeta(s: float, terms: int = 1000)",
        'echo "inside a list"',
        "<script>window".replace("<", "textless ").replace(">", "textgreater "),
    ):
        assert part in code


def test_console(tmp_path, monkeypatch):
    """`jupyter console` shows the text of an answer once, with the details on a line, without escapes and widgets."""
    monkeypatch.setenv("AIML_MAGIC_HOME", str(tmp_path))
    command = [sys.executable, "-W", "ignore", "-m", "jupyter_console", "--simple-prompt"]
    lines = ["%load_ext aiml_magic", "%o3pro Is it finite?", "1 + 1", "exit"]
    screen = typed(
        command, lines, Terminal(80, {"TERM": "xterm-256color"}), dict(os.environ)
    ).replace("\r", "")
    shown = screen[screen.index("In [2]: ") : screen.index("In [3]: ")]
    assert DOCUMENT.strip() in shown
    assert 1 == shown.count("6,912 tokens")
    assert "\x1b" not in shown
    assert not re.search("HTML|Widget|Layout|model_id", shown.replace(DOCUMENT.strip(), ""))
    assert "Out[3]: 2" in screen
