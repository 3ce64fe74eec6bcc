"""Two answers compared: each field that differs, and the differences of the texts, bounded and inert."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from xml.etree import ElementTree as ET

import payloads
import pytest
from asking import ANSWER
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.journal.answer import Answer
from aiml_magic.show.comparison import bundle, compared
from aiml_magic.text import plain

REQUEST = {
    "model": "openai/o3-pro",
    "input": "Which star is it?",
    "instructions": "Be brief.",
    "reasoning": {"effort": "low"},
    "text": {
        "format": {"type": "json_schema", "schema": {"properties": {"score": {"maximum": 5}}}}
    },
    "tools": [{"type": "function", "name": "area"}],
    "store": True,
}
ONE = replace(ANSWER, text="Vega.\nIt is blue.", request=REQUEST)
NAMES = ("one", "two")
HOSTILE = list(payloads.each("http://evil.invalid").values())
TAGS = {"div", "strong", "small", "span", "table", "tr", "th", "td", "del", "ins"}


def asked(*parts, **fields) -> Answer:
    """The answer to the same request with some other fields, or with parts after the question."""
    texts = [{"type": "input_text", "text": REQUEST["input"]}, *parts]
    message = [{"type": "message", "role": "user", "content": texts}]
    return replace(ONE, request=REQUEST | ({"input": message} if parts else {}) | fields)


def words(first: Answer, second: Answer) -> str:
    return bundle(first, second, NAMES)["text/plain"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (asked(model="m"), "model: openai/o3-pro → m"),
        (asked(reasoning={"effort": "high"}), "reasoning.effort: low → high"),
        (asked(instructions="Be long."), "instructions: Be brief. → Be long."),
        (asked(store=False), "store: true → false"),
        (asked(seed=7), "seed: (none) → 7"),
        (asked(tools=[{"type": "function", "name": "rim"}]), "tools[0].name: area → rim"),
        (
            asked(text={"format": {"type": "json_schema"}}),
            "text.format.schema.properties.score.maximum: 5 → (none)",
        ),
        (asked(input="Which sun?"), "question: Which star is it? → Which sun?"),
        (asked(**{"aiml_magic.sample": 2}), "sample: (none) → 2"),
        (replace(ONE, continues="resp_0"), "continues: (none) → resp_0"),
        (replace(ONE, cost_usd=None), "cost: $0.0125 → cost not reported"),
        (replace(ONE, status="incomplete"), "status: completed → incomplete"),
        (replace(ONE, text="Vega.\nIt is red."), "text:\n  Vega.\n- It is blue.\n+ It is red."),
    ],
)
def test_each_field(other, told):
    """Each difference is named with both values, and nothing else."""
    shown = words(ONE, other)
    assert told in shown
    assert 1 == shown.count(" differ:")
    assert 1 == shown.count("are the same.")
    assert told.count(" → ") == shown.count(" → ")


def test_attachments():
    """Files are compared by their hashes, in any form of the request."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="}
    other = {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG9v"}
    name = {"type": "input_text", "text": "Attachment stars.csv (text, 9 B):\n\n```\na,b\n```"}
    shown = words(asked(name, image), asked(name, other))
    assert "  Attachment stars.csv (text, 9 B): sha256," in shown
    assert "- data:image/png;sha256," in shown
    assert "+ data:image/png;sha256," in shown
    assert "a,b" not in shown
    assert "The requests are the same." in words(asked(name, image), asked(name, image))


def test_same():
    """Equal answers have no differences."""
    assert "- one\n+ two\n\nThe requests are the same.\n\nThe answers are the same." == words(
        ONE, ONE
    )


def test_words_are_marked():
    """Only the differing words of the changed sentence in a long paragraph are marked."""
    first = "It is a star. " * 30 + "The light of it is blue and cold."
    second = "It is a star. " * 30 + "The light of it is red and warm."
    page = ET.fromstring(
        bundle(replace(ONE, text=first), replace(ONE, text=second), NAMES)["text/html"]
    )
    assert ["blue", "cold"] == [node.text for node in page.iter("del")]
    assert ["red", "warm"] == [node.text for node in page.iter("ins")]
    assert "28 equal lines" in "".join(page.itertext())


def test_what_is_not_seen():
    """Texts that differ only in line ends are not called equal, and show no line."""
    assert "line breaks" in words(ONE, replace(ONE, text="Vega.\r\nIt is blue."))


TEXTS = st.lists(st.sampled_from(["", "a", "b", "a b c", "a b d", "It is. So!"]), max_size=40)


@given(TEXTS, TEXTS)
def test_every_line_is_in_it(first, second):
    """Each text consists of the lines with its sign, the common lines, and the counted ones."""
    lines = compared("\n".join(first), "\n".join(second))
    if "line breaks" in lines[0].text:
        return
    counted = sum(int(line.text.split()[1]) for line in lines if line.sign == "…")
    for sign, text in (("-", first), ("+", second)):
        shown = [line.text[2:] for line in lines if line.sign in (" ", sign)]
        assert max(1, len(text)) == len(shown) + counted
        rest = iter(text or [""])
        assert all(line in rest for line in shown), "in their order"


def _long(rng: random.Random, kind: str) -> str:
    """A text of a megabyte that is hard to compare."""
    numbers = [str(number) for number in range(150_000)]
    rng.shuffle(numbers)
    match kind:
        case "lines of two kinds":
            return "\n".join(rng.choices("ab", k=500_000))
        case "words of two kinds":
            return "\n".join(" ".join(rng.choices("ab", k=290)) for _ in range(1700))
        case "a line":
            return rng.choice("xy") * 1_000_000 + rng.choice("ab")
        case _:
            return "\n".join(numbers)


@pytest.mark.parametrize("kind", ["lines of two kinds", "words of two kinds", "a line", "numbers"])
def test_long_texts(kind):
    """Two texts of a megabyte take seconds at most, and a bounded part of them is shown."""
    texts = [_long(random.Random(seed), kind) for seed in (1, 2)]
    started = time.process_time()
    shown = bundle(*(replace(ONE, text=text) for text in texts), NAMES)
    assert time.process_time() - started < 15
    assert max(map(len, shown.values())) < 150_000
    assert "not compared" in shown["text/plain"]


def test_many_fields():
    """Of many differing fields some are shown and the others counted; deeply nested objects are compared as values."""
    many = asked(metadata={f"k{number}": number for number in range(300)})
    assert "200 more fields differ." in words(ONE, many)
    deep: list[object] = []
    for _ in range(99):
        deep = [deep]
    assert "metadata[0]" in words(ONE, asked(metadata=deep))


@given(st.text() | st.sampled_from(HOSTILE), st.text())
def test_texts_are_inert(text, other):
    """For any text, name or field, the page has only our elements, and no character acts on a terminal."""
    first = replace(asked(instructions=text, **{text: text}), text=text, model=text, status=text)
    shown = bundle(first, replace(ONE, text=other), (text, other))
    page = ET.fromstring(shown["text/html"])
    for node in page.iter():
        assert node.tag in TAGS
        assert set(node.attrib) <= {"class", "style"}
        assert "evil" not in str(node.attrib)
    assert "mathjax_ignore" in page.get("class", "")
    assert plain(shown["text/plain"]) == shown["text/plain"]


def test_every_payload_is_inert():
    """No hostile text leaves a mark in the page."""
    for text in HOSTILE:
        shown = bundle(replace(ONE, text=text), ONE, NAMES)["text/html"]
        assert {node.tag for node in ET.fromstring(shown).iter()} <= TAGS
