"""The representations that front ends choose; and any answer can be shown."""

from __future__ import annotations

import re

import pytest
import wire
from document import DOCUMENT
from elements import Elements, check_inert, rendered
from kernels import kernel

from aiml_magic.runner.jobs import Progress
from aiml_magic.show import pages, parse, safe
from aiml_magic.show.view import _panel_html

WIDGET = "application/vnd.jupyter.widget-view+json"
# The preferred types, from VS Code's sources and Colab's documentation; neither was run. A reopened notebook has no state of widgets:
# VS Code then either takes another representation, or says that it cannot render this one.
ORDER = ["text/html", "image/svg+xml", "text/latex", "text/markdown", "image/png", "text/plain"]
RULES = {
    "VS Code": [WIDGET, *ORDER],
    "VS Code, reopened": ORDER,
    "VS Code, reopened, with an error": [WIDGET, *ORDER],
    "Colab": [WIDGET, "text/html", "text/markdown", "text/plain"],
    "Colab, reopened": ["text/html", "text/markdown", "text/plain"],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A cell that was answered, in a real kernel."""
    with (
        pytest.MonkeyPatch.context() as patch,
        wire.serve(lambda _: wire.json_reply(wire.response("**Forty-two.**"))) as server,
    ):
        patch.setenv("AIML_MAGIC_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        patch.setenv("AIML_API_URL", server.url)
        with kernel() as running:
            yield running.run("%%o3pro\nWhat is 6*7?")


@pytest.mark.parametrize("front_end", RULES)
def test_seen_once(ran, front_end):
    """By the rules of this front end the answer and its details are shown once each."""
    is_live = not front_end.partition(",")[2]
    opened = [message["content"] for message in ran.messages if message["msg_type"] == "comm_open"]
    widgets = {content["comm_id"]: content["data"]["state"] for content in opened}

    def shown(model: str) -> str:
        children = widgets[model].get("children", [])
        return "".join(shown(child.removeprefix("IPY_MODEL_")) for child in children) or str(
            widgets[model].get("value")
        )

    seen = []
    for display in ran.displays:
        assert 2 >= sum(map(bool, display.values())), (
            "one representation besides text: the order of the others decides nothing"
        )
        kind = next(kind for kind in RULES[front_end] if kind in display)
        dead = "" if is_live else "Could not render content"
        seen.append(display[kind] if kind != WIDGET else dead or shown(display[WIDGET]["model_id"]))
    assert 1 == seen.count("**Forty-two.**")
    page = "\n".join(seen)
    ids = re.findall(r'<div id="(o3pro-\w+)"><div class="aiml-details', page)
    hidden = [each for each in ids if f"#{each}{{display:none}}" in page]
    assert 1 == page.count('<div class="aiml-details') - len(hidden)
    assert is_live == bool(hidden), "the copy is hidden only where the widget lives"


def test_what_came_is_plain_text_until_it_is_whole():
    """During streaming, the end of the text is shown as plain text, without markup, at every moment."""
    for end in range(0, len(DOCUMENT), 7):
        tail = DOCUMENT[max(0, end - 1500) : end]
        page = _panel_html(
            Progress(state="writing", seconds=1.0, characters=end, tail=tail), "Stop it."
        )
        elements = Elements()
        elements.feed(page)
        assert ["div", "pre"][: 1 + bool(tail)] == [tag for tag, _ in elements.found]


def test_prefixes():
    """An answer cut off anywhere is shown: inert, and with its text."""
    for end in range(0, len(DOCUMENT), 11):
        check_inert(rendered(safe.markdown(DOCUMENT[:end])))
        check_inert(pages.html(DOCUMENT[:end]))
        assert all(isinstance(token.content, str) for token in parse.tokens(DOCUMENT[:end]))


def test_long_answer():
    """An answer of 100 kB is made safe completely."""
    long = "\n\n".join([DOCUMENT] * 80)
    assert 100_000 < len(long.encode())
    assert 80 == safe.markdown(long).count("# Why $")
