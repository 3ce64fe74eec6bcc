"""Charts: their shapes fit the reported numbers, their texts are inert, and they are visible on any background."""

from __future__ import annotations

import re
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.session.conversation import tree
from aiml_magic.show import charts
from aiml_magic.show.charts import HEIGHT, WIDTH, Leaf, Turn

TOKENS = st.none() | st.integers(0, 10**7)
TURNS = st.lists(
    st.builds(Turn, st.integers(1, 10**6), TOKENS, TOKENS, st.none() | st.floats(0, 10**4)),
    max_size=60,
)


def parsed(html: str) -> ET.Element:
    return ET.fromstring(html)


def drawings(html: str) -> list[ET.Element]:
    """The drawings, without the swatches of the legend."""
    return [node for node in parsed(html).iter() if node.get("role") == "img"]


def named(node: ET.Element, tag: str) -> list[ET.Element]:
    return [inner for inner in node.iter() if inner.tag.endswith(tag)]


def moves(path: ET.Element) -> list[tuple[str, list[float]]]:
    return [
        (sign, [float(number) for number in rest.split()])
        for sign, rest in re.findall(r"([MHV])([^MHV]+)", path.get("d", ""))
    ]


@given(TURNS)
def test_nothing_leaves_the_drawing(turns):
    """Every shape is inside its drawing, which has a title and the width of the page."""
    for drawing in drawings(charts.usage(turns)) if turns else []:
        assert f"0 0 {WIDTH} {HEIGHT}" == drawing.get("viewBox")
        assert drawing.get("aria-label") == named(drawing, "title")[0].text
        assert "width:100%" in drawing.get("style", "")
        for bar in named(drawing, "rect"):
            x, y, width, height = (
                float(bar.get(name, "")) for name in ("x", "y", "width", "height")
            )
            assert 0 <= x <= x + width <= WIDTH + 0.01
            assert 0 <= y <= y + height <= HEIGHT + 0.01
        for sign, numbers in (move for path in named(drawing, "path") for move in moves(path)):
            most = {"M": (WIDTH, HEIGHT), "H": (WIDTH,), "V": (HEIGHT,)}[sign]
            assert all(
                0 <= number <= limit + 0.01 for number, limit in zip(numbers, most, strict=True)
            )


@given(TURNS)
def test_bars_are_as_high_as_tokens(turns):
    """The heights of each colour are proportional to its tokens; the highest stack fills the drawing."""
    stacks = [turn.stack for turn in turns]
    most = max((sum(stack) for stack in stacks), default=0)
    bars = (
        [bar for drawing in drawings(charts.usage(turns)) for bar in named(drawing, "rect")]
        if turns
        else []
    )
    for number, colour in enumerate((charts.REASONING, charts.TEXT)):
        height = sum(float(bar.get("height", "")) for bar in bars if bar.get("fill") == colour)
        expected = sum(stack[number] for stack in stacks) * HEIGHT / most if most else 0
        assert height == pytest.approx(expected, abs=0.001 * len(turns) + 1e-9)


def test_stack():
    """A stack is the reasoning and the rest of the output tokens, and never higher than these."""
    assert (300, 100) == Turn(1, 400, 300, None).stack
    assert (400, 0) == Turn(1, 400, 900, None).stack
    assert (0, 400) == Turn(1, 400, None, None).stack
    assert (0, 0) == Turn(1, None, None, None).stack


@given(TURNS.filter(lambda turns: any(turn.cost_usd is not None for turn in turns)))
def test_unknown_costs_are_gaps(turns):
    """The line of costs has a gap at a turn of unknown cost, and rises by the costs of the others."""
    path = next(
        path
        for drawing in drawings(charts.usage(turns))
        for path in named(drawing, "path")
        if path.get("stroke") == "currentColor"
    )
    slot, covered, heights, x = WIDTH / max(len(turns), 12), [], [], 0.0
    for sign, numbers in moves(path):
        if sign == "H":
            covered.append(round(x / slot))
            assert numbers[0] - x == pytest.approx(slot, abs=0.01)
        heights += [numbers[-1]] * (sign != "H")
        x = numbers[0] if sign != "V" else x
    assert [number for number, turn in enumerate(turns) if turn.cost_usd is not None] == covered
    assert all(later <= earlier for earlier, later in pairwise(heights)), "money does not come back"


def test_never_zero_dollars_for_unknown_ones():
    """Without any reported cost there is no sum; with some missing, their number is shown."""
    page = charts.usage([Turn(1, 10, 5, None), Turn(2, None, None, None)])
    assert "No cost was reported" in page
    assert "$0.00" not in page
    assert "The tokens of 1 turn were not reported" in page
    assert "gaps: 2 turns of unknown cost" in charts.usage(
        [Turn(1, 1, 1, None), Turn(2, 1, 1, 0.5), Turn(3, 1, 1, None)]
    )
    assert "" == charts.usage([])


def test_figures_without_drawings():
    """Without drawings and styles, as on GitHub, the text still has the numbers."""
    nh3 = pytest.importorskip("nh3")
    turns = [Turn(7, 1500, 1000, 0.25), Turn(8, 100, 60, 0.5), Turn(12, 2000, 1500, 0.125)]
    left = nh3.clean(charts.usage(turns), tags={"div", "span"}, clean_content_tags={"svg"})
    words = " ".join(re.sub(r"<[^>]+>", " ", left.replace("</span> <span>", " … ")).split())
    assert words == (
        "Output tokens by turn: 2,560 of reasoning, above it 1,040 of text; up to 2,000 in one turn"
        " turn 7 … turn 12 Dollars, added up: $0.8750 turn 7 … turn 12"
    )


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return sum(
            weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [charts.REASONING, charts.TEXT, charts.GROUND])
@pytest.mark.parametrize("ground", ["#ffffff", "#111111", "#1e1e1e"])
def test_colours(colour, ground):
    """Shapes have contrast on a light and on a dark theme; text has the colour of the page."""
    assert contrast(colour, ground) >= 3
    pages = charts.usage([Turn(1, 5, 3, 0.1)]) + charts.tree(
        [Leaf(0, 1, None, "main", "Why?", "completed", is_stale=True)]
    )
    assert not re.search(r"[\s;\"]color:|<text", pages)


def leaves(parents: list[int | None], question: str = "Why?") -> list[Leaf]:
    rows = [
        SimpleNamespace(id=number, chat="main", cell=None, parent=parent, can_continue=True)
        for number, parent in enumerate(parents)
    ]
    return [
        Leaf(depth, row.id, row.parent, row.chat, question, "completed", is_stale)
        for depth, row, is_stale in tree(rows)
    ]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40))
def test_tree_is_nested_as_the_turns_are(numbers):
    """Each turn is a list entry; its parent is the entry before it, or the entry that contains its list."""
    parents = [number if number < index else None for index, number in enumerate(numbers)]
    root = parsed(charts.tree(leaves(parents)))
    outer = {inner: node for node in root.iter() for inner in node}
    shown = {}
    for entry in root.iter("li"):
        inside = list(outer[entry])
        before = inside[inside.index(entry) - 1] if inside.index(entry) else outer[outer[entry]]
        shown[int(entry[0].text)] = int(before[0].text) if before.tag == "li" else None
    assert dict(enumerate(parents)) == shown


def test_a_long_line_stays_at_its_depth():
    """Fifty successive turns are one list; with a fork from each, two levels of lists."""
    assert 1 == charts.tree(leaves([None, *range(49)])).count("<ul")
    forked = leaves([None, *(2 * ((number - 1) // 2) for number in range(1, 50))])
    assert {0, 1} == {leaf.depth for leaf in forked}


def test_stale_is_a_word():
    """A stale turn is marked by a word, and a fork names its parent."""
    page = charts.tree(
        [
            Leaf(0, 1, None, "main", "a", "", is_stale=False),
            Leaf(1, 2, 1, "main", "b", "", is_stale=True),
        ]
    )
    assert ["stale"] == re.findall(r"<strong>(stale)</strong>", page)
    assert "Fork of 1" in page
    assert "Outside every conversation" in charts.tree(
        [Leaf(0, 1, None, None, "a", "", is_stale=False)]
    )


@given(
    st.text()
    | st.sampled_from(
        [
            "</div><script>x</script>",
            "<b onclick='x'>",
            '"><img src=x onerror=x>',
            "&lt;b&gt;",
            "$\\href{x}{y}$",
        ]
    )
)
def test_words_are_words(text):
    """Any question in any chat is shown as text, without an element."""
    page = charts.tree([Leaf(0, 1, None, text, text, text, is_stale=False)])
    plain = parsed(charts.tree([Leaf(0, 1, None, "chat", "question", "told", is_stale=False)]))
    assert [node.tag for node in plain.iter()] == [node.tag for node in parsed(page).iter()]
    assert "mathjax_ignore" in parsed(page).get("class", "")
