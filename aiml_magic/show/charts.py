"""Charts of a notebook: tokens and dollars by turn, and conversations as a tree.

They are HTML without active content. Text is HTML, so that it wraps, follows the theme, and stays
if a front end removes SVG; only shapes are SVG, stretched to the page. Colours have contrast on
white and on black, and no meaning is in a colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from aiml_magic.show.safe import escape
from aiml_magic.text import count_of

REASONING, TEXT, GROUND = "#1f6fc4", "#c87f00", "#808080"
WIDTH, HEIGHT = 520, 80  # units of the viewBox of a drawing
_MIN_SLOTS = 12  # for bars, else the first turns would fill the page

# No formulas here: they are typeset in answers only.
_BOX = (
    '<div class="aiml-chart mathjax_ignore tex2jax_ignore" '
    'style="{style};margin-top:.5em;line-height:1.5">{inside}</div>'
)
_STROKE = 'stroke-width="2" vector-effect="non-scaling-stroke"'


class Turn(NamedTuple):
    """The tokens and dollars of a question; None if the server did not report them."""

    id: int
    output_tokens: int | None
    reasoning_tokens: int | None
    cost_usd: float | None

    @property
    def stack(self) -> tuple[int, int]:
        """The tokens of reasoning and of text."""
        output = self.output_tokens or 0
        return (thought := min(self.reasoning_tokens or 0, output)), output - thought


class Leaf(NamedTuple):
    """A turn in a tree: its depth, the turn that it continues, the question and a remark."""

    depth: int
    id: int
    parent: int | None
    chat: str | None
    question: str
    remark: str
    is_stale: bool


def usage(turns: Sequence[Turn]) -> str:
    """Stacked tokens by turn, and the sum of the dollars; unknown numbers are gaps, not zeros."""
    if not turns:
        return ""
    parts = [*_tokens(turns), *_dollars(turns)]
    return _BOX.format(style=f"max-width:{WIDTH}px", inside="".join(parts))


def _tokens(turns: Sequence[Turn]) -> Iterator[str]:
    most = max(sum(turn.stack) for turn in turns)
    unreported = sum(turn.output_tokens is None for turn in turns)
    if most:
        # The numbers as well, for front ends that remove drawings.
        thought, written = (sum(part) for part in zip(*(turn.stack for turn in turns), strict=True))
        reasoning = f"{_swatch(REASONING)} {thought:,} of reasoning"
        legend = f"{reasoning}, above it {_swatch(TEXT)} {written:,} of text"
        yield f"<div>Output tokens by turn: {legend}; up to {most:,} in one turn</div>"
        title = f"Output tokens of {len(turns)} turns, up to {most:,}"
        yield _drawing(title, "".join(_bars(turns, most)))
        yield _scale(turns)
    if unreported:
        yield f"<div>The tokens of {count_of(unreported, 'turn')} were not reported.</div>"


def _bars(turns: Sequence[Turn], most: int) -> Iterator[str]:
    width = _slot(turns)
    for number, turn in enumerate(turns):
        top = float(HEIGHT)
        for tokens, colour in zip(turn.stack, (REASONING, TEXT), strict=True):
            height = tokens * HEIGHT / most
            top -= height
            if tokens:
                x = (number + 0.1) * width
                yield (
                    f'<rect x="{x:.3f}" y="{abs(top):.3f}" width="{0.8 * width:.3f}" '
                    f'height="{height:.3f}" fill="{colour}"/>'
                )


def _dollars(turns: Sequence[Turn]) -> Iterator[str]:
    unknown = sum(turn.cost_usd is None for turn in turns)
    sums = list(accumulate(turn.cost_usd or 0 for turn in turns))
    missing = f" (gaps: {count_of(unknown, 'turn')} of unknown cost)" if unknown else ""
    if unknown == len(turns):
        yield "<div>No cost was reported.</div>"
        return
    yield f"<div>Dollars, added up: ${sums[-1]:,.4f}{missing}</div>"
    line = f'<path d="{_line(turns, sums)}" fill="none" stroke="currentColor" {_STROKE}/>'
    yield _drawing(f"Dollars of {len(turns)} turns, added up to ${sums[-1]:,.4f}", line)
    yield _scale(turns)


def _line(turns: Sequence[Turn], sums: Sequence[float]) -> str:
    """The path of a line with a step for each turn of known cost."""
    width, steps, is_drawing = _slot(turns), [], False
    for number, (turn, total) in enumerate(zip(turns, sums, strict=True)):
        if turn.cost_usd is not None:
            y = HEIGHT - (HEIGHT - 2) * total / sums[-1] - 1 if sums[-1] else HEIGHT - 1
            steps.append(f"V{y:.3f}" if is_drawing else f"M{number * width:.3f} {y:.3f}")
            steps.append(f"H{(number + 1) * width:.3f}")
        is_drawing = turn.cost_usd is not None
    return "".join(steps)


def _drawing(title: str, shapes: str) -> str:
    ground = f'<path d="M0 {HEIGHT}H{WIDTH}" stroke="{GROUND}" {_STROKE}/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{escape(title)}" '
        f'style="display:block;width:100%;height:{HEIGHT}px">'
        f"<title>{escape(title)}</title>{ground}{shapes}</svg>"
    )


def _scale(turns: Sequence[Turn]) -> str:
    """The ids of the first and the last turn, below a drawing."""
    share = 100 * len(turns) * _slot(turns) / WIDTH
    ends = turns[:: len(turns) - 1] if len(turns) > 1 else turns
    labels = " ".join(f"<span>turn {turn.id}</span>" for turn in ends)
    return (
        '<div style="display:flex;justify-content:space-between;gap:.7em;min-width:max-content;'
        f'width:{share:.1f}%;margin-bottom:.7em">{labels}</div>'
    )


def _slot(turns: Sequence[Turn]) -> float:
    return WIDTH / max(len(turns), _MIN_SLOTS)


def _swatch(colour: str) -> str:
    square = f'<rect width="1" height="1" fill="{colour}"/>'
    return f'<svg width="10" height="10" viewBox="0 0 1 1" aria-hidden="true">{square}</svg>'


def tree(leaves: Sequence[Leaf]) -> str:
    """The conversations as nested lists: a fork is a list in the list of its parent.

    A parent comes before its children; the last child stays in the parent's list.
    """
    if not leaves:
        return ""
    parts: list[str] = []
    above: list[int] = []  # the last turn of each open list
    for leaf in leaves:
        while len(above) > leaf.depth + 1 or (
            len(above) == leaf.depth + 1 and above[-1] != leaf.parent
        ):
            above.pop()
            parts.append("</li></ul>")
        if len(above) == leaf.depth + 1:
            above[-1] = leaf.id
            parts.append("</li>")
        else:
            parts.append(_begun(leaf, is_fork=bool(above)))
            above.append(leaf.id)
        parts.append(f"<li>{_entry(leaf)}")
    parts.append("</li></ul>" * len(above))
    return _BOX.format(style="max-width:60em", inside="".join(parts))


def _begun(leaf: Leaf, *, is_fork: bool) -> str:
    chat = "Outside every conversation" if leaf.chat is None else f"Conversation {leaf.chat}"
    head = f"<div>Fork of {leaf.parent}</div>" if is_fork else f"<div>{escape(chat)}</div>"
    style = "list-style:none;margin:0 0 .3em .3em;padding-left:.9em;border-left:2px solid"
    return f'{head}<ul style="{style} {GROUND}">'


def _entry(leaf: Leaf) -> str:
    stale = " · <strong>stale</strong>" if leaf.is_stale else ""
    small = f"<small>{escape(leaf.remark)}{stale}</small>"
    return f"<strong>{leaf.id}</strong> {escape(leaf.question)} {small}"
