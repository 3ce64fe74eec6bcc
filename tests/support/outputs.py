"""The visible outputs in a browser."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from lab import CHROMIUM

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")


MARKS = [
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium on this machine"),
    # Playwright leaves its own sockets open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


SHOTS = os.environ.get("AIML_TEST_SHOTS")


_AXE = importlib.util.find_spec("axe_playwright_python")


AXE = Path(str(_AXE.origin)).with_name("axe.min.js").read_text() if _AXE is not None else None


ANSWERS = ".jp-OutputArea-output.jp-RenderedMarkdown"


COPIES = ".jp-RenderedHTML .aiml-details > details > summary"


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


TOO_WIDE = """() => [...document.querySelectorAll('.jp-OutputArea-output')].filter(
    node => node.checkVisibility() && node.scrollWidth > node.clientWidth + 1).map(node => node.outerHTML.slice(0, 200))"""


def unfold_by_keyboard(page, details: str) -> None:
    """Moves by Tab from the first answer through its details; opens each by Enter and Space in turn."""
    page.evaluate(
        """selector => {
        document.querySelectorAll('.aiml-details details').forEach(node => { node.open = false; });
        const answer = document.querySelector(selector);
        answer.tabIndex = -1;
        answer.focus();
    }""",
        ANSWERS,
    )
    opened, wanted = (
        0,
        page.evaluate(
            "selector => document.querySelector(selector).closest('.aiml-details').querySelectorAll('summary').length",
            details,
        ),
    )
    for _ in range(60):
        page.keyboard.press("Tab")
        if opened < wanted and page.evaluate(
            "() => document.activeElement.matches('.aiml-details summary')"
        ):
            page.keyboard.press("Enter" if opened % 2 else "Space")
            assert page.evaluate("() => document.activeElement.parentElement.open")
            opened += 1
    assert wanted == opened
    page.evaluate("selector => document.querySelector(selector).scrollIntoView()", details)


def barriers(page, place: str = ".jp-OutputArea-output") -> list[str]:
    """The serious or critical findings of axe in the outputs, or in another element; none without axe."""
    if AXE is None:
        return []
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate(
        "place => axe.run({ include: [place] }, { resultTypes: ['violations'] })", place
    )
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found["violations"] if rule["impact"] in ("serious", "critical") for node in rule["nodes"]
    ]  # fmt: skip
