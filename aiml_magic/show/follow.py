"""Following a job to its answer: the base of the views for notebooks and terminals."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from aiml_magic.errors import AimlMagicError
from aiml_magic.journal.answer import Answer
from aiml_magic.runner.jobs import Job, Progress
from aiml_magic.show.several import bundle
from aiml_magic.text import dollars, printable, say

PERIOD = 0.25  # seconds between two updates of a panel

_STATES = {
    "queued": "Starting",
    "connecting": "Connecting",
    "sent": "Sent; waiting for the answer",
    "reasoning": "Reasoning",
    "message": "Writing",
    "in_progress": "The server works on it",
}

# Called with the number of answers, `None` at the end, and the seconds to wait for the server.
Counter = Callable[[int | None, float], None]
Outcome = Answer | AimlMagicError
Shown = Answer | Sequence[Any] | Job  # the value of a cell


class Panel:
    """Shows the progress of a job while a cell waits for it; this one shows nothing."""

    def show(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


class Outputs:
    """The outputs of a job whose cell is over; none here, since a terminal then shows a prompt."""

    def show(self, progress: Progress) -> None: ...

    def end(self, outcome: Outcome) -> None: ...


class View(ABC):
    """Shows answers and jobs in one kind of front end; if `is_live`, outputs are not saved."""

    is_live = False

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._shown: tuple[int, Shown] | None = None
        self._watcher = _Watcher()

    def follow(self, job: Job, *, is_quiet: bool = False) -> Answer:
        """Shows the progress of a job, then its answer; an interrupt stops the job.

        Raises the error of a job that failed, after showing the part received.
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
            except AimlMagicError as error:
                if error.answer is not None:
                    self.show(error.answer)
                raise
            self._end(panel, None if is_quiet else answer)
        finally:
            panel.close()
        self._mark_as_shown(answer)
        return answer

    def watch(self, job: Job, *, is_quiet: bool = False) -> None:
        """Shows a job in this cell from now on, also while other cells run."""
        if not is_quiet:
            self._show_progress(job)
        self._mark_as_shown(job)

    def _show_progress(self, job: Job) -> None:
        """Shows a job until it is over.

        If later outputs are not shown, the cell waits; an interrupt ends the wait, not the job.
        """
        if not self._is_watched():
            with suppress(KeyboardInterrupt):
                for _ in job.follow():
                    pass
        if job.done:
            self.follow(job)
        else:
            self._watcher.add(job, self._begin(job))

    def show_several(self, answers: Sequence[Any], *, is_quiet: bool = False) -> None:
        """Shows several answers in a table, once per cell."""
        if not is_quiet:
            self.show_bundle(bundle(answers, is_live=self.is_live))
        self._mark_as_shown(answers)

    def show_chart(self, html: str, text: str = "") -> None:
        """Shows a chart, or its text in a terminal; nothing if both are empty."""
        if html or text:
            self.show_bundle({**({"text/html": html} if html else {}), "text/plain": text})

    def show_result(self, value: Shown) -> None:
        """Shows an answer or a job as the value of a cell, unless the cell has shown it already."""
        count, shown = self._shown or (None, None)
        was_shown = shown is value and count == self._shell.execution_count
        self._shown = None
        if was_shown:
            self._point_to(value)
        elif isinstance(value, Answer):
            self.show(value)
        elif isinstance(value, Sequence):
            self.show_bundle(bundle(value, is_live=self.is_live))
        elif value.status in ("completed", "incomplete"):
            self.show(value.outcome())
        else:
            say(value)

    def _mark_as_shown(self, value: Shown) -> None:
        """Notes the value of this cell, so that IPython does not show it a second time."""
        self._shown = (self._shell.execution_count, value)

    @abstractmethod
    def show(self, answer: Answer) -> None:
        """Shows an answer and its details."""

    @abstractmethod
    def show_bundle(self, bundle: dict[str, str]) -> None:
        """Shows one output, given as texts of several media types."""

    @abstractmethod
    def counter(self, total: int | None, *, is_permanent: bool = True) -> Counter:
        """A line that counts the answers, out of `total` if known.

        With `is_permanent` it stays in the notebook, since nothing else shows the answers.
        """

    @abstractmethod
    def _point_to(self, value: Shown) -> None:
        """Shows a reference to a value that is shown above."""

    def _is_watched(self) -> bool:
        """Whether the front end shows outputs that change after the end of their cell."""
        return True

    @abstractmethod
    def _panel(self) -> Panel: ...

    def _begin(self, job: Job) -> Outputs:
        """The outputs of a background job; here a line with the commands for it."""
        commands = f"%aiml jobs, %aiml show {job.id}, %aiml cancel {job.id}"
        say(f"Job {job.id} goes on in the background: {commands}.")
        return Outputs()

    @abstractmethod
    def _end(self, panel: Panel, answer: Answer | None) -> None:
        """Shows the answer of a job below its panel, or nothing."""


class _Watcher:
    """Updates the outputs of background jobs in a thread, since other cells may run meanwhile.

    It only updates outputs: a new one would appear in the cell that is running.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[Job, Outputs]] = []
        self._lock = threading.Lock()

    def add(self, job: Job, outputs: Outputs) -> None:
        with self._lock:
            self._watched.append((job, outputs))
            if len(self._watched) == 1:
                thread = threading.Thread(target=self._run, daemon=True, name="aiml_magic-panels")
                try:
                    thread.start()
                except RuntimeError:  # the system allows no more threads: the output stays as it is
                    self._watched.clear()

    def _run(self) -> None:
        while True:
            ended = []
            for job, outputs in list(self._watched):
                if job.done:
                    ended.append(job)
                with suppress(Exception):  # an output that fails must not stop the others
                    outputs.end(_outcome(job)) if job in ended else outputs.show(job.progress)
            with self._lock:
                self._watched = [watched for watched in self._watched if watched[0] not in ended]
                if not self._watched:
                    return
            time.sleep(PERIOD)


def _outcome(job: Job) -> Outcome:
    try:
        return job.outcome()
    except AimlMagicError as error:
        return error


def status_line(progress: Progress) -> str:
    """The state of a job, its seconds and its highest cost, on one line."""
    worst = progress.worst_usd
    cost = "" if worst is None else f", may cost up to {dollars(worst)}"
    if progress.retry_at is not None:
        left = max(0, round(progress.retry_at - progress.seconds))
        return f"{progress.why} Sending it again in {left} s{cost}"
    state = _STATES.get(progress.state, printable(progress.state).replace("_", " ").capitalize())
    if progress.state == "writing":
        state = f"Writing: {progress.characters:,} characters"
    elif progress.state == "waiting" and progress.parent is None:
        state = "Queued behind other questions"
    elif progress.state == "waiting":
        state = f"Waiting for answer {progress.parent}"
    return f"{state}, {int(progress.seconds)} s{cost}"


def counted(done: int, total: int | None, wait: float) -> str:
    every = "?" if total is None else f"{total:,}"
    waiting = f", waiting {math.ceil(wait)} s for the server" if wait else ""
    return f"{done:,} of {every} answered{waiting}"
