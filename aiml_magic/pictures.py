"""Small pictures, as SVG that stands alone and in which nothing is active."""

from __future__ import annotations

from aiml_magic.safe import escape

_ROW, _STEP, _SIGN = 22, 18, 7.3  # pixels: height of a line, width of a level, width of a character


def tree(lines: list[tuple[int, str]]) -> str:
    """A tree of lines, each with its depth: a dot and a text for each, and a stroke to the one above."""
    width = max((depth * _STEP + len(text) * _SIGN for depth, text in lines), default=0) + 40
    parts = []
    for number, (depth, text) in enumerate(lines):
        x, y = 14 + depth * _STEP, 16 + number * _ROW
        if number:
            above = 14 + lines[number - 1][0] * _STEP
            parts.append(f'<path d="M{above} {y - _ROW}V{y - _ROW / 2}H{x}V{y}" fill="none" stroke="#888"/>')
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#1a5fb4"/><text x="{x + 10}" y="{y + 4}">{escape(text)}</text>')
    # A ground of its own, so that it can be read in a dark theme too.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{len(lines) * _ROW + 12}" role="img" '
        f'font-family="monospace" font-size="12" fill="#111"><title>Conversations</title>'
        f'<rect width="100%" height="100%" rx="4" fill="#f6f6f6"/>{"".join(parts)}</svg>'
    )
