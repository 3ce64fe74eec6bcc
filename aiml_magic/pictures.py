"""Small pictures, as SVG that stands alone and in which nothing is active."""

from __future__ import annotations

from typing import NamedTuple

from aiml_magic.safe import escape

_ROW, _STEP, _SIGN = 22, 18, 7.3  # pixels: height of a line, width of a level, width of a character


class Leaf(NamedTuple):
    """A line of a tree: how deep it is, what it says, and which line above it continues, if any."""

    depth: int
    text: str
    parent: int | None


def tree(leaves: list[Leaf]) -> str:
    """A tree of lines: a dot and a text for each, and a stroke from the dot that it continues."""
    width = max((leaf.depth * _STEP + len(leaf.text) * _SIGN for leaf in leaves), default=0) + 40
    dots = [(14 + leaf.depth * _STEP, 16 + number * _ROW) for number, leaf in enumerate(leaves)]
    parts = []
    for leaf, (x, y) in zip(leaves, dots, strict=True):
        if leaf.parent is not None:
            above, top = dots[leaf.parent]
            parts.append(f'<path d="M{above} {top}V{y}H{x}" fill="none" stroke="#888"/>')
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#1a5fb4"/><text x="{x + 10}" y="{y + 4}">{escape(leaf.text)}</text>')
    # A ground of its own, so that it can be read in a dark theme too.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{len(leaves) * _ROW + 12}" role="img" '
        f'font-family="monospace" font-size="12" fill="#111"><title>Conversations</title>'
        f'<rect width="100%" height="100%" rx="4" fill="#f6f6f6"/>{"".join(parts)}</svg>'
    )
