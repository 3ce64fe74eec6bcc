"""Answers and jobs in a terminal, as text."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from aiml_magic.journal.answer import Answer
from aiml_magic.runner.jobs import Progress
from aiml_magic.show.answers import with_banner
from aiml_magic.show.details import line_with_replay
from aiml_magic.show.follow import Counter, Panel, Shown, View, counted, status_line
from aiml_magic.show.parse import tokens
from aiml_magic.text import encodable, plain, say


class TerminalView(View):
    """Text, for IPython in a terminal."""

    is_live = True

    def show(self, answer: Answer) -> None:
        print_answer(answer)

    def show_bundle(self, bundle: dict[str, str]) -> None:
        if text := bundle["text/plain"]:
            say(text)

    def counter(self, total: int | None, *, is_permanent: bool = True) -> Counter:  # noqa: ARG002
        """A line that is overwritten, unless standard error is redirected."""

        def show(done: int | None, wait: float = 0.0) -> None:
            if _is_terminal(sys.stderr):
                text = "\n" if done is None else f"\r{counted(done, total, wait):<60}"
                sys.stderr.write(text)
                sys.stderr.flush()

        return show

    def _point_to(self, value: Shown) -> None:
        """Prints a reference after the prompt Out[n], which IPython has printed already."""
        if isinstance(value, Sequence):
            say(f"<{len(value)} answers>")
        else:
            say(f"<Answer {value.journal_id}>" if isinstance(value, Answer) else value)

    def _panel(self) -> Panel:
        return TerminalPanel()

    def _end(self, panel: Panel, answer: Answer | None) -> None:
        panel.close()
        if answer is not None:
            self.show(answer)


class TerminalPanel(Panel):
    """A line that is overwritten, unless standard error is redirected."""

    _written = 0

    def show(self, progress: Progress) -> None:
        status, width = status_line(progress), _width()
        line = f"{status}  (Ctrl-C stops it)"
        self._write(line if len(line) <= width else status[:width])

    def close(self) -> None:
        self._write("")

    def _write(self, line: str) -> None:
        if _is_terminal(sys.stderr):
            # Blanks, since a dumb terminal would show an escape sequence.
            blanks = " " * (self._written - len(line))
            sys.stderr.write(f"\r{line}{blanks}\r{line}")
            sys.stderr.flush()
            self._written = len(line)


def print_answer(answer: Answer) -> None:
    """Prints an answer, and its details on a line below it."""
    text = with_banner(answer)
    if not _print_rich(text):
        say(_wrapped(plain(text)))
    say(_wrapped(f"[{line_with_replay(answer)}]"))


def _print_rich(text: str) -> bool:
    """Prints Markdown in colours; False if rich is not installed or the output is redirected."""
    if not _is_terminal(sys.stdout):
        return False
    try:
        from rich.console import Console
        from rich.markdown import Markdown
    except ImportError:
        return False
    shown = Markdown("", hyperlinks=False)
    shown.parsed = tokens(text)
    console = Console(color_system=None) if os.environ.get("NO_COLOR") else Console()
    with console.capture() as captured:
        console.print(shown, width=_width() + 1)  # rich assumes 80 columns for a dumb terminal
    print(encodable(captured.get()), end="")  # not `say`: the colours are escape sequences
    return True


def _wrapped(text: str) -> str:
    """`text` with long lines of prose wrapped, unless the output is redirected."""
    if not _is_terminal(sys.stdout):
        return text
    lines: list[str] = []
    is_code = False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
        if is_code or len(line) <= _width() or line.startswith(("|", "    ")):
            lines.append(line)
        else:
            lines += textwrap.wrap(line, _width(), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; one that the process was started without is None."""
    return stream is not None and stream.isatty()


def _width() -> int:
    """The columns of the terminal without the last, after which some terminals wrap."""
    return shutil.get_terminal_size().columns - 1
