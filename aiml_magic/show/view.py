"""What the reader sees of an answer and of a job, in every front end.

In a notebook a cell gives four outputs: a place for the panel that lives while the answer is
awaited, else empty; the answer, Markdown that is displayed once and never updated; the details, a
widget; and a static copy of the details, which a live widget hides, and which a reopened notebook,
an exported page and a front end without widgets show. In a terminal an answer is text, and the
details are a line.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from typing import Any, Protocol

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from aiml_magic import errors
from aiml_magic.api.responses import ToolCall
from aiml_magic.journal.answer import Answer
from aiml_magic.runner.jobs import Job, Progress
from aiml_magic.show import details, safe
from aiml_magic.text import encodable, plain, printable, say

_WIDGET = "application/vnd.jupyter.widget-view+json"
_PANEL_PERIOD = 0.2  # seconds between two updates of a panel

_STATES = {
    "queued": "Starting",
    "connecting": "Connecting",
    "sent": "Sent; waiting for the answer",
    "reasoning": "Reasoning",
    "message": "Writing",
    "in_progress": "The server works on it",
}


Counter = Callable[[int | None], None]  # told how many are done; `None` ends it
Saved = Callable[[int], Answer]


class View(Protocol):
    """How one kind of front end shows things."""

    def follow(self, job: Job, *, is_quiet: bool = False) -> Answer: ...

    def watch(self, job: Job) -> None: ...

    def show(self, answer: Answer) -> None: ...

    def show_result(self, value: Answer | Job) -> None: ...

    def show_chart(self, html: str, text: str = "") -> None: ...

    def counter(self, total: int | None) -> Counter: ...


def view_for(shell: InteractiveShell, saved: Saved) -> View:
    """The view for a kernel, or for a terminal; `saved` reads an answer from the journal."""
    return (
        NotebookView(shell, saved)
        if getattr(shell, "kernel", None) is not None
        else TerminalView(shell)
    )


class _View:
    """What both views do alike."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._shown: tuple[int, Answer | Job] | None = None
        self._watcher = _Watcher()

    def follow(self, job: Job, *, is_quiet: bool = False) -> Answer:
        """Shows how a job goes, then its answer; an interrupt stops the job.

        Raises what went wrong, after what came of it.
        """
        panel = self._panel()
        try:
            try:
                for progress in job.follow():
                    panel.show(progress)
            except KeyboardInterrupt:
                job.interrupt()
            try:
                answer = job.outcome()
            except errors.AimlMagicError as error:
                if error.answer is not None:
                    self.show(error.answer)
                raise
            self._end(panel, None if is_quiet else answer)
        finally:
            panel.close()
        self._mark_as_shown(answer)
        return answer

    def watch(self, job: Job) -> None:
        """Shows a job in this cell from now on, also while other cells run."""
        if job.done:
            self.follow(job)
        else:
            self._watcher.add(job, self._begin(job))
        self._mark_as_shown(job)

    def show(self, answer: Answer) -> None:
        raise NotImplementedError

    def show_result(self, value: Answer | Job) -> None:
        """Shows an answer or a job that is the value of a cell, unless the same cell has just shown it."""
        count, shown = self._shown or (None, None)
        was_shown = shown is value and count == self._shell.execution_count
        self._shown = None
        if was_shown:
            self._point_to(value)
        elif isinstance(value, Answer):
            self.show(value)
        elif value.status in ("completed", "incomplete"):
            self.show(value.outcome())
        else:
            say(value)

    def _mark_as_shown(self, value: Answer | Job) -> None:
        """The value of this cell, which Jupyter would show a second time."""
        self._shown = (self._shell.execution_count, value)

    def _point_to(self, value: Answer | Job) -> None:
        """Stands for what is shown above: in a notebook nothing need."""

    def _panel(self) -> _Panel:
        raise NotImplementedError

    def _begin(self, job: Job) -> _Outputs:
        """The place of a job that is watched."""
        raise NotImplementedError

    def _end(self, panel: _Panel, answer: Answer | None) -> None:
        raise NotImplementedError


class _Panel(Protocol):
    """Where one sees how a job goes."""

    def show(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


class _Outputs(Protocol):
    """What a cell shows of a job after the cell itself is over."""

    def show(self, progress: Progress) -> None: ...

    def end(self, came: Answer | errors.AimlMagicError) -> None: ...


class NotebookView(_View):
    """Rich outputs, for every front end of a Jupyter kernel."""

    def __init__(self, shell: InteractiveShell, saved: Saved) -> None:
        super().__init__(shell)
        self._saved = saved

    def show(self, answer: Answer) -> None:
        self._display(_bundles(answer, self._saved))

    def _display(self, bundles: Iterable[dict[str, Any]]) -> None:
        with _streams_flushed_once():
            for bundle in bundles:
                display(bundle, raw=True)

    def show_chart(self, html: str, text: str = "") -> None:
        """Shows a chart, or its text where there are none; what is empty is not shown."""
        if bundle := {
            kind: shown for kind, shown in (("text/html", html), ("text/plain", text)) if shown
        }:
            display({"text/plain": "", **bundle}, raw=True)

    def counter(self, total: int | None) -> Counter:
        """An output that says how many of `total` are answered, and is kept: a line of text is seen in every front end."""
        output, latest = _Output(self._shell), 0.0

        def show(done: int | None) -> None:
            nonlocal latest
            if done is not None and (done == total or time.monotonic() - latest >= _PANEL_PERIOD):
                latest = time.monotonic()
                output.put({"text/plain": _counted(done, total)})

        return show

    def _panel(self) -> NotebookPanel:
        return NotebookPanel(self._shell, "Interrupt the kernel to stop it.")

    def _begin(self, job: Job) -> NotebookOutputs:
        return NotebookOutputs(self._shell, job, self._saved)

    def _end(self, panel: Any, answer: Answer | None) -> None:
        with _streams_flushed_once():
            panel.open()
            if answer is not None:
                self._display(_bundles(answer, self._saved, is_new=True))


class NotebookPanel:
    """An empty output, a widget in its place as soon as one waits, and nothing again at the end."""

    def __init__(self, shell: InteractiveShell, way_out: str) -> None:
        self._shell = shell
        self._way_out = way_out
        self._output: _Output | None = None
        self._widget: Any = None
        self._latest = 0.0

    def open(self) -> None:
        if self._output is None:
            self._output = _Output(self._shell)
            self._latest = time.monotonic()

    def show(self, progress: Progress) -> None:
        self.open()
        if time.monotonic() - self._latest < _PANEL_PERIOD:
            return
        self._latest = time.monotonic()
        html = _panel_html(progress, self._way_out)
        if self._widget is None:
            self._widget = _html_widget(html)
            self._put(_widget_bundle(self._widget))
        else:
            self._widget.value = html

    def close(self) -> None:
        if self._widget is not None:
            # A closed widget that is still named in the notebook would be an error line when it is
            # opened again.
            self._put({"text/plain": ""})
            self._widget.value = ""  # nbclient saves closed widgets too
            self._widget.close()
            self._widget = None

    def _put(self, bundle: dict[str, Any]) -> None:
        assert self._output is not None
        self._output.put(bundle)


class NotebookOutputs:
    """The four outputs of a cell, of which the panel lives until the job is over and the others are empty until then."""

    def __init__(self, shell: InteractiveShell, job: Job, saved: Saved) -> None:
        self._saved = saved
        self._panel = NotebookPanel(shell, f"%aiml cancel {job.id} stops it.")
        self._panel.open()
        self._rest = [_Output(shell) for _ in range(3)]

    def show(self, progress: Progress) -> None:
        self._panel.show(progress)

    def end(self, came: Answer | errors.AimlMagicError) -> None:
        answer = came.answer if isinstance(came, errors.AimlMagicError) else came
        if answer is not None:
            for output, bundle in zip(
                self._rest, _bundles(answer, self._saved, is_new=True), strict=True
            ):
                output.put(bundle)
        self._panel.close()
        if isinstance(came, errors.AimlMagicError):
            self._rest[-1].put(_error_bundle(came))


class _Output:
    """An output of a cell that can be changed later, by another thread and while another cell runs."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._publish = (
            shell.display_pub.publish
        )  # the cell's own: a later cell may capture what is displayed
        self._transient = {"display_id": uuid.uuid4().hex}
        self._publish({"text/plain": ""}, transient=self._transient)

    def put(self, bundle: dict[str, Any]) -> None:
        self._publish(bundle, transient=self._transient, update=True)


class _Watcher:
    """Looks after background jobs: in a thread, since cells may compute meanwhile.

    It touches only what is displayed already.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[Job, _Outputs]] = []
        self._lock = threading.Lock()

    def add(self, job: Job, outputs: _Outputs) -> None:
        with self._lock:
            self._watched.append((job, outputs))
            if len(self._watched) == 1:
                threading.Thread(target=self._look, daemon=True, name="aiml_magic-panels").start()

    def _look(self) -> None:
        while True:
            ended = []
            for job, outputs in list(self._watched):
                if job.done:
                    ended.append(job)
                with suppress(Exception):  # what cannot be shown here keeps no other job from it
                    outputs.end(_came(job)) if job in ended else outputs.show(job.progress)
            with self._lock:
                self._watched = [watched for watched in self._watched if watched[0] not in ended]
                if not self._watched:
                    return
            time.sleep(_PANEL_PERIOD)


def _came(job: Job) -> Answer | errors.AimlMagicError:
    try:
        return job.outcome()
    except errors.AimlMagicError as error:
        return error


class TerminalView(_View):
    """Text, for IPython in a terminal."""

    def show(self, answer: Answer) -> None:
        print_answer(answer)

    def show_chart(self, html: str, text: str = "") -> None:  # noqa: ARG002  # a terminal shows none
        if text:
            say(text)

    def counter(self, total: int | None) -> Counter:
        """A line that is written over and over, if somebody watches."""

        def show(done: int | None) -> None:
            if sys.stderr.isatty():
                sys.stderr.write("\n" if done is None else f"\r{_counted(done, total)}")
                sys.stderr.flush()

        return show

    def _point_to(self, value: Answer | Job) -> None:
        """The prompt Out[n] is there already, and gets a word."""
        say(f"<Answer {value.journal_id}>" if isinstance(value, Answer) else value)

    def _panel(self) -> _Panel:
        return TerminalPanel()

    def _begin(self, job: Job) -> _Outputs:
        say(
            f"Job {job.id} goes on in the background: %aiml jobs, %aiml show {job.id}, %aiml cancel {job.id}."
        )
        return NoOutputs()

    def _end(self, panel: _Panel, answer: Answer | None) -> None:
        panel.close()
        if answer is not None:
            self.show(answer)


def print_answer(answer: Answer) -> None:
    """Prints an answer, and below it its details on a line."""
    text = details.with_banner(answer)
    if not _print_rich(text):
        say(_wrapped(plain(text)))
    say(_wrapped(f"[{details.line_with_replay(answer)}]"))


class TerminalPanel:
    """One line that is written over and over, if somebody watches."""

    def __init__(self) -> None:
        self._written = 0

    def show(self, progress: Progress) -> None:
        status, width = _status_line(progress), shutil.get_terminal_size().columns - 1
        line = f"{status}  (Ctrl-C stops it)"
        self._write(line if len(line) <= width else status[:width])

    def close(self) -> None:
        self._write("")

    def _write(self, line: str) -> None:
        if sys.stderr.isatty():
            rest = " " * (
                self._written - len(line)
            )  # no escape sequence, which a dumb terminal would show
            sys.stderr.write(f"\r{line}{rest}\r{line}")
            sys.stderr.flush()
            self._written = len(line)


class NoOutputs:
    """A terminal keeps no place for a job: what came of it would be written into the prompt."""

    def show(self, progress: Progress) -> None: ...

    def end(self, came: Answer | errors.AimlMagicError) -> None: ...


_newest: list[Any] = []  # the details of which a screen reader is told


def _counted(done: int, total: int | None) -> str:
    return f"{done:,} of {'?' if total is None else f'{total:,}'} answered"


def _bundles(answer: Answer, saved: Saved, *, is_new: bool = False) -> tuple[dict[str, Any], ...]:
    """The answer, its details, and the static copy of those."""
    live, static = details.details(answer)
    widget = _details_widget(live, answer, saved)
    if is_new:
        for (
            earlier
        ) in _newest:  # else all would be told of, one by one, when the page is loaded again
            earlier.remove_class("aiml-new")
        _newest[:] = [widget.add_class("aiml-new")]
    return (
        details.answer_bundle(answer),
        _widget_bundle(widget),
        {"text/html": static, "text/plain": details.details_line(answer)},
    )


def _error_bundle(error: errors.AimlMagicError) -> dict[str, str]:
    text = plain(f"{type(error).__name__}: {error}")
    return {"text/html": f'<pre role="alert">{safe.escape(text)}</pre>', "text/plain": text}


@contextmanager
def _streams_flushed_once() -> Iterator[None]:
    """The kernel flushes both streams before each display, which takes longer than the display; one flush keeps the order."""

    class Stream:
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def flush(self) -> None: ...

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if threading.current_thread() is not threading.main_thread():
        yield  # streams belong to all threads
        return
    with redirect_stdout(Stream(sys.stdout)), redirect_stderr(Stream(sys.stderr)):
        yield


def _panel_html(progress: Progress, way_out: str) -> str:
    status = f"<div>{safe.escape(_status_line(progress))}. {way_out}</div>"
    if not progress.tail:
        return status
    return f'{status}<pre style="white-space:pre-wrap;opacity:.8;margin:.5em 0 0">{safe.escape(progress.tail)}</pre>'


def _status_line(progress: Progress) -> str:
    if progress.retry_at is not None:
        left = max(0, round(progress.retry_at - progress.seconds))
        return f"{progress.why} Sending it again in {left} s"
    state = _STATES.get(progress.state, printable(progress.state).replace("_", " ").capitalize())
    if progress.state == "waiting":
        state = (
            "In line behind other questions"
            if progress.parent is None
            else f"Waiting for answer {progress.parent}"
        )
    elif progress.state == "writing":
        state = f"Writing: {progress.characters:,} characters"
    return f"{state}, {int(progress.seconds)} s"


def _print_rich(text: str) -> bool:
    """Prints Markdown in colours, if rich is installed and somebody watches."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.markdown import Markdown
    except ImportError:
        return False
    shown = Markdown("", hyperlinks=False)
    shown.parsed = safe.tokens(text)
    console = Console(color_system=None) if os.environ.get("NO_COLOR") else Console()
    with console.capture() as captured:
        console.print(
            shown, width=shutil.get_terminal_size().columns
        )  # it would take 80 for granted where a terminal is dumb
    print(encodable(captured.get()), end="")  # with colours, which are ours
    return True


def _wrapped(text: str) -> str:
    """`text` with its long lines broken at spaces, if somebody watches; code and tables stay as they are."""
    if not sys.stdout.isatty():
        return text
    width, lines, is_code = shutil.get_terminal_size().columns - 1, [], False
    for line in text.split("\n"):
        is_code ^= line.lstrip().startswith(("```", "~~~"))
        is_prose = len(line) > width and not is_code and not line.startswith(("|", "    "))
        lines += (
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
            if is_prose
            else [line]
        )
    return "\n".join(lines)


def _html_widget(value: str) -> Any:
    import ipywidgets

    layout, style, _ = _layout_and_styles()
    return ipywidgets.HTML(value, layout=layout, style=style)


def _details_widget(live: str, answer: Answer, saved: Saved) -> Any:
    """The details, and below them a button by which they fetch from the journal what a notebook is too small for."""
    import ipywidgets

    shown = _html_widget(live)
    if answer.journal_id is None:
        return shown
    layout, _, style = _layout_and_styles()
    button = ipywidgets.ToggleButton(
        description="▸ Raw JSON, and what was cut",
        layout=layout,
        style=style,
        _dom_classes=["aiml-more"],
    )
    box = ipywidgets.VBox([shown, button], layout=layout, _dom_classes=["aiml-box"])
    row_id, response_id, calls = (
        answer.journal_id,
        answer.id,
        answer.calls,
    )  # not the answer, which may be large

    def toggle(change: Mapping[str, Any]) -> None:
        button.description = f"{'▾' if change['new'] else '▸'} {button.description[2:]}"
        for fetched in box.children[2:]:
            fetched.close()
        box.children = (shown, button)
        if change["new"]:
            fetched = _html_widget(_opened(row_id, response_id, calls, saved))
            fetched.add_class("aiml-more")
            box.children = (shown, button, fetched)

    button.observe(toggle, "value")
    return box


def _opened(row_id: int, response_id: str | None, calls: tuple[ToolCall, ...], saved: Saved) -> str:
    try:
        answer = saved(row_id)
    except errors.AimlMagicError as error:
        return f"<p>{safe.escape(str(error))}</p>"
    if answer.id != response_id:
        return "<p>The journal in use does not hold this answer.</p>"
    return details.opened(replace(answer, calls=calls))


_shared: list[Any] = []  # layout, style, and style of a button


def _layout_and_styles() -> tuple[Any, Any, Any]:
    """One for all widgets: each would else bring two models of its own, and take three times as long."""
    import ipywidgets

    if _shared and all(
        part.comm is not None for part in _shared
    ):  # else somebody closed all widgets
        return tuple(_shared)
    page = ipywidgets.HTML()
    button = ipywidgets.ToggleButton(layout=page.layout)
    _shared[:] = page.layout, page.style, button.style
    page.close()
    button.close()
    return tuple(_shared)


def _widget_bundle(widget: Any) -> dict[str, Any]:
    return {
        _WIDGET: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id},
        "text/plain": "",
    }
