"""Random documents of payloads and syntax are inert.

AIML_TEST_FUZZ says how many, and with which seed: "2000" or "2000:7".
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

import payloads
from inert import MATHJAX, MATHJAX_URL, Watched
from lab import RENDER, browser_page, jupyter_lab, open_notebook
from outputs import MARKS

from aiml_magic.show import pages, safe

pytestmark = MARKS

COUNT, SEED = (int(part) for part in f"{os.environ.get('AIML_TEST_FUZZ') or 200}:1".split(":")[:2])
BATCH = 100  # documents that are shown together
ORIGIN = "http://fuzz.invalid"
SYNTAX = [
    "\n", "\n\n", "\n    ", "\n> ", "\n- ", "\n1. ", "\n\n\t", "  \n", "\\\n", "\n===\n", "\n---\n", "\n# ", "\n```\n", "\n~~~\n", "\n````html\n",
    "```", "`", "``", "*", "**", "_", "~~", "[", "]", "](", "![", "!", ")", "(", "<", ">", "/>", "</", "<!--", "-->", "\"", "'", "\\", "&", ";", "&#",
    "$", "$$", "\\(", "\\)", "\\[", "\\]", "\\begin{align}", "\\end{align}", "\\text{", "{", "}", "%", "@@0@@", "@", "^", "_{", "\\frac", "\\href",
    "|", "\n|---|---|\n", ":", "://", "//", "https://example.org/", "javascript:", "#", "&lt;", "&colon;", "&#36;", "&bsol;", "[^1]", "\n[^1]: ", "\n[r]: ",
    "\x00", "\x1b", "\u200b", "\u202e", "\u2028", "\xa0", "\ufeff", "\ud800", "é", "日本", "😀", "\r", "\x0c", "word", "5", " ",
]  # fmt: skip
AROUND = ["{}", "[{}](https://example.org)", "[{}](javascript:1)", "![{}](https://example.org)", "**{}**", "*{}*", "~~{}~~", "`{}`", "``{}``",
          "${}$", "$${}$$", "\\({}\\)", "\\[{}\\]", "\\text{{{}}}", "<b title='{}'>", "<!--{}-->", "\n\n- {}\n\n", "\n\n> {}\n\n", "\n\n| {} |\n|---|\n",
          "\n\n```\n{}\n```\n\n", "\n\n- x\n\n  ```{}\n  ```\n", "\n\n# {}\n\n", "<https://example.org/{}>", "[x](https://example.org/{})"]  # fmt: skip


def documents() -> list[str]:
    rng = random.Random(SEED)
    known = list(payloads.each(ORIGIN).values())

    def piece() -> str:
        if rng.random() < 0.5:
            return rng.choice(SYNTAX)
        text = rng.choice(known)
        if rng.random() < 0.5:
            start = rng.randrange(len(text))
            text = text[start : start + rng.randrange(1, 60)]
        return rng.choice(AROUND).format(text) if rng.random() < 0.4 else text

    texts = ("".join(piece() for _ in range(rng.randint(2, 14))) for _ in range(COUNT))
    return [text.replace("WORD", f"document{number}") for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def browser():
    with browser_page() as page:
        yield page.context.browser


@pytest.fixture
def watched(browser):
    return Watched(browser.new_page())


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A page of JupyterLab with access to its renderers."""
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Fuzz")]),
        folder / "fuzz.ipynb",
    )
    with jupyter_lab(folder, settings) as address:
        watched = Watched(browser.new_page())
        open_notebook(watched.page, address, "fuzz.ipynb")
        yield watched, (address, address.replace("http", "ws", 1))


def check(show: Callable[[list[str]], list[str]]) -> None:
    """Checks all documents, many at a time; each document of an active batch is checked alone."""
    texts = documents()
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        if together := show(batch):
            alone = [f"{text!r}: {active}" for text in batch if (active := show([text]))]
            raise AssertionError("\n".join(alone or ["only together:", *together]))


def render(lab: tuple[Watched, tuple[str, ...]], kind: str, texts: list[str]) -> list[str]:
    watched, own = lab
    watched.requests.clear()
    watched.page.evaluate(RENDER, [kind, texts])
    return watched.active(".fuzzed", allowed=own, wait=0.5)


def test_markdown_in_lab(lab):
    """Answers are inert in JupyterLab's renderer of trusted Markdown."""
    check(lambda texts: render(lab, "text/markdown", list(map(safe.markdown, texts))))


def test_html_in_lab(lab):
    """Summaries of the reasoning are inert in JupyterLab's renderer of trusted HTML."""
    ignored = '<div class="mathjax_ignore tex2jax_ignore">{}</div>'
    check(
        lambda texts: render(lab, "text/html", [ignored.format(pages.html(text)) for text in texts])
    )


def test_nbconvert(watched, tmp_path):
    """Answers are inert in nbconvert's page of the notebook."""
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    exporter = nbconvert.HTMLExporter(**{"mathjax_url": MATHJAX_URL} if MATHJAX else {})
    file = tmp_path / "fuzz.html"
    allowed = (
        file.as_uri(),
        "https://cdnjs.cloudflare.com/ajax/libs/",
        *([MATHJAX] if MATHJAX else []),
    )

    def show(texts: list[str]) -> list[str]:
        outputs = [
            nbformat.v4.new_output("display_data", {"text/markdown": safe.markdown(text)})
            for text in texts
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
        file.write_text(exporter.from_notebook_node(notebook)[0], "utf-8")
        watched.requests.clear()
        watched.page.goto(file.as_uri())
        return watched.active(".jp-OutputArea-output", allowed=allowed, wait=0.2)

    check(show)


def test_export(watched, tmp_path):
    """Answers are inert in a page of %aiml export, without its Content-Security-Policy."""
    file = tmp_path / "fuzz.html"

    def show(texts: list[str]) -> list[str]:
        file.write_text(
            f"<!doctype html><meta charset=utf-8><body>{''.join(map(pages.html, texts))}", "utf-8"
        )
        watched.requests.clear()
        watched.page.goto(file.as_uri())
        return watched.active("body", allowed=(file.as_uri(),), wait=0.2)

    check(show)
