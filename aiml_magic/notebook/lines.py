"""Input transformers for lines of a cell that IPython would misread."""

from __future__ import annotations

import re

_LINE_QUESTION = r"^(\s*(?:[\w., ]+=\s*)?)%(o3pro|aiml)\s+(.*\S\s*\?+)\s*$"


def keep_question_marks(lines: list[str]) -> list[str]:
    """Rewrites `%o3pro why?`, which IPython would read as a request for help."""
    if not any(re.match(_LINE_QUESTION, line) for line in lines) or "".join(
        lines
    ).lstrip().startswith("%%"):
        return lines
    rewritten, is_in_string = [], False
    for line in lines:
        match = None if is_in_string else re.match(_LINE_QUESTION, line)
        rewritten.append(
            f"{match[1]}get_ipython().run_line_magic({match[2]!r}, {match[3]!r})\n"
            if match
            else line
        )
        if match is None and (line.count('"""') + line.count("'''")) % 2 == 1:
            is_in_string = not is_in_string
    return rewritten


def begin_with_magic(lines: list[str]) -> list[str]:
    """Drops comments above `%%o3pro`, with which IPython would read the cell as Python."""
    first = next(
        (
            number
            for number, line in enumerate(lines)
            if line.strip() and not line.lstrip().startswith("#")
        ),
        0,
    )
    return lines[first:] if re.match(r"%%o3pro(\s|$)", lines[first] if lines else "") else lines


TRANSFORMERS = (begin_with_magic, keep_question_marks)
