"""Answers and jobs in a notebook, and the choice of the view for a shell.

A cell has four outputs: the panel, which is empty at the end; the answer, as Markdown that is never
updated; the details, a widget; and a static copy of the details. A live widget hides the copy; a
reopened notebook, an exported page and a front end without widgets show it.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from aiml_magic.api.responses import ToolCall
from aiml_magic.errors import AimlMagicError
from aiml_magic.journal.answer import Answer
from aiml_magic.runner.jobs import Job, Progress
from aiml_magic.show import details, safe
from aiml_magic.show.answers import answer_bundle
from aiml_magic.show.follow import (
    PERIOD,
    Counter,
    Outcome,
    Outputs,
    Panel,
    View,
    counted,
    status_line,
)
from aiml_magic.show.terminal import TerminalView
from aiml_magic.text import plain

_WIDGET = "application/vnd.jupyter.widget-view+json"
# Pages built from a notebook show a box for an empty text/plain, but nothing for this. They say
# that a kernel is needed for an output with a widget and no text/html.
_EMPTY = {"text/html": "", "text/plain": ""}

Saved = Callable[[int], Answer]


def view_for(shell: InteractiveShell, saved: Saved) -> View:
    """The view for a kernel or for a terminal; `saved` reads an answer from the journal."""
    if getattr(shell, "kernel", None) is None:
        return TerminalView(shell)
    return NotebookView(shell, saved)


class NotebookView(View):
    """Rich outputs, for every front end of a Jupyter kernel."""

    def __init__(self, shell: InteractiveShell, saved: Saved) -> None:
        super().__init__(shell)
        self._saved = saved

    def show(self, answer: Answer) -> None:
        with _streams_flushed_once():
            for bundle in _bundles(answer, self._saved):
                self.show_bundle(bundle)

    def show_bundle(self, bundle: dict[str, Any]) -> None:
        self._shell.display_pub.publish(bundle)

    def counter(self, total: int | None, *, is_permanent: bool = True) -> Counter:
        """An output of plain text, which every front end shows; at the end empty, or kept."""
        output, latest = _Output(self._shell), 0.0

        def show(done: int | None, wait: float = 0.0) -> None:
            nonlocal latest
            if done is not None and (done == total or time.monotonic() - latest >= PERIOD):
                latest = time.monotonic()
                output.put({"text/plain": counted(done, total, wait)})
            elif done is None and not is_permanent:
                output.put(_EMPTY)

        return show

    def _point_to(self, value: Answer | Sequence[Any] | Job) -> None:
        """Does nothing, since the answer is above."""

    def _is_watched(self) -> bool:
        """False under nbclient and all that use it, such as papermill, nbconvert and voila.

        They show outputs only at the end of the run, and allow no input from the person.
        """
        parent: Any = getattr(self._shell, "get_parent", dict)()
        return bool(parent.get("content", {}).get("allow_stdin", True))

    def _panel(self) -> NotebookPanel:
        return NotebookPanel(self._shell, "Interrupt the kernel to stop it.")

    def _begin(self, job: Job) -> Outputs:
        if not self._is_watched():
            return super()._begin(job)
        return NotebookOutputs(self._shell, job, self._saved)

    def _end(self, panel: Any, answer: Answer | None) -> None:
        with _streams_flushed_once():
            panel.open()
            if answer is None:
                return
            # A screen reader does not announce a replay.
            for bundle in _bundles(answer, self._saved, is_new=not answer.replayed):
                self.show_bundle(bundle)


class NotebookPanel(Panel):
    """An output that has a widget while the cell waits, and is empty before and after.

    `how_to_stop` is a sentence in the widget.
    """

    def __init__(self, shell: InteractiveShell, how_to_stop: str) -> None:
        self._shell = shell
        self._how_to_stop = how_to_stop
        self._output: _Output | None = None
        self._widget: Any = None
        self._latest = 0.0

    def open(self) -> _Output:
        if self._output is None:
            self._output = _Output(self._shell)
            self._latest = time.monotonic()
        return self._output

    def show(self, progress: Progress) -> None:
        output = self.open()
        if time.monotonic() - self._latest < PERIOD:
            _prepare()
            return
        self._latest = time.monotonic()
        html = _panel_html(progress, self._how_to_stop)
        if self._widget is None:
            self._widget = _html_widget(html)
            output.put(_widget_bundle(self._widget))
        else:
            self._widget.value = html

    def close(self) -> None:
        if self._widget is not None:
            # A reopened notebook shows an error for a closed widget that an output still names.
            self.open().put(_EMPTY)
            self._widget.value = ""  # nbclient saves closed widgets too
            self._widget.close()
            self._widget = None


class NotebookOutputs(Outputs):
    """The four outputs of a cell: the panel until the job is over, then the other three."""

    def __init__(self, shell: InteractiveShell, job: Job, saved: Saved) -> None:
        self._saved = saved
        self._panel = NotebookPanel(shell, f"%aiml cancel {job.id} stops it.")
        self._panel.open()
        self._rest = [_Output(shell) for _ in range(3)]

    def show(self, progress: Progress) -> None:
        self._panel.show(progress)

    def end(self, outcome: Outcome) -> None:
        error = outcome if isinstance(outcome, AimlMagicError) else None
        answer = error.answer if error else outcome
        if isinstance(answer, Answer):
            bundles = _bundles(answer, self._saved, is_new=True)
            for output, bundle in zip(self._rest, bundles, strict=True):
                output.put(bundle)
        self._panel.close()
        if error:
            self._rest[-1].put(_error_bundle(error))


class _Output:
    """An output of a cell that another thread can update while another cell runs."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._publish = shell.display_pub.publish  # a later cell may replace it, as %%capture does
        self._transient = {"display_id": uuid.uuid4().hex}
        self._publish(_EMPTY, transient=self._transient)

    def put(self, bundle: dict[str, Any]) -> None:
        self._publish(bundle, transient=self._transient, update=True)


_newest: list[Any] = []  # the widget that a screen reader announces


def _bundles(answer: Answer, saved: Saved, *, is_new: bool = False) -> tuple[dict[str, Any], ...]:
    """The outputs of an answer, its details, and their static copy."""
    live, static = details.details(answer)
    widget = _details_widget(live, answer, saved, ["aiml-new"] if is_new else [])
    if is_new:
        for earlier in _newest:  # a page that is loaded again would announce them all
            earlier.remove_class("aiml-new")
        _newest[:] = [widget]
    return (
        answer_bundle(answer),
        _widget_bundle(widget),
        {"text/html": static, "text/plain": details.details_line(answer)},
    )


def _error_bundle(error: AimlMagicError) -> dict[str, str]:
    text = plain(f"{type(error).__name__}: {error}")
    return {"text/html": f'<pre role="alert">{safe.escape(text)}</pre>', "text/plain": text}


class _Unflushed:
    """A stream without its `flush`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def flush(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _streams_flushed_once() -> Iterator[None]:
    """Flushes the streams once for all displays in the block, which keeps the order of outputs.

    The kernel flushes both before each display, which takes longer than the display itself, since
    it waits for the thread that sends all outputs; that thread sends them in order anyway.
    """
    for stream in (sys.stdout, sys.stderr):
        if sending := getattr(stream, "pub_thread", None):
            sending.schedule(stream.flush)
        else:
            stream.flush()
    if threading.current_thread() is not threading.main_thread():
        yield  # redirected streams are redirected in all threads
        return
    with redirect_stdout(_Unflushed(sys.stdout)), redirect_stderr(_Unflushed(sys.stderr)):
        yield


def _panel_html(progress: Progress, how_to_stop: str) -> str:
    status = f"<div>{safe.escape(status_line(progress))}. {how_to_stop}</div>"
    if not progress.tail:
        return status
    style = "white-space:pre-wrap;opacity:.8;margin:.5em 0 0"
    return f'{status}<pre style="{style}">{safe.escape(progress.tail)}</pre>'


def _html_widget(value: str, classes: Iterable[str] = ()) -> Any:
    import ipywidgets

    layout, style, _ = _layout_and_styles()
    return ipywidgets.HTML(value, layout=layout, style=style, _dom_classes=classes)


def _details_widget(live: str, answer: Answer, saved: Saved, classes: Iterable[str]) -> Any:
    """The details, and a button that shows the parts left out, from the journal."""
    import ipywidgets

    if answer.journal_id is None:
        return _html_widget(live, classes)
    shown = _html_widget(live)
    # Not the answer itself, which may be large: the widget lives as long as the kernel.
    fetch = partial(_opened, answer.journal_id, answer.id, answer.calls, saved)
    layout, _, style = _layout_and_styles()
    button = ipywidgets.ToggleButton(
        description="▸ Raw JSON, and what was cut",
        layout=layout,
        style=style,
        _dom_classes=["aiml-more"],
    )
    box = ipywidgets.VBox([shown, button], layout=layout, _dom_classes=["aiml-box", *classes])

    def toggle(change: Mapping[str, Any]) -> None:
        button.description = f"{'▾' if change['new'] else '▸'} {button.description[2:]}"
        for fetched in box.children[2:]:
            fetched.close()
        box.children = (shown, button)
        if change["new"]:
            fetched = _html_widget(fetch(), ["aiml-more"])
            box.children = (shown, button, fetched)

    button.observe(toggle, "value")
    return box


def _opened(row_id: int, response_id: str | None, calls: tuple[ToolCall, ...], saved: Saved) -> str:
    try:
        answer = saved(row_id)
    except AimlMagicError as error:
        return f"<p>{safe.escape(str(error))}</p>"
    if answer.id != response_id:
        return "<p>The journal in use does not hold this answer.</p>"
    return details.opened(replace(answer, calls=calls))


def _prepare() -> None:
    """Imports the modules that will show the answer, while the server works on it."""
    if not _shared:
        _layout_and_styles()
        safe.markdown("text")


_shared: list[Any] = []  # layout, style, and style of a button


def _layout_and_styles() -> tuple[Any, Any, Any]:
    """The layout and the styles that all widgets share: three times as fast as one set each."""
    import ipywidgets

    # `Widget.close_all()` closes these too, and then new ones are needed.
    if _shared and all(part.comm is not None for part in _shared):
        return tuple(_shared)
    page = ipywidgets.HTML()
    button = ipywidgets.ToggleButton(layout=page.layout)
    _shared[:] = page.layout, page.style, button.style
    page.close()
    button.close()
    return tuple(_shared)


def _widget_bundle(widget: Any) -> dict[str, Any]:
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {_WIDGET: view, **_EMPTY}
