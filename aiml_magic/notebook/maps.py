"""Many questions at once: their jobs and their answers in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aiml_magic.errors import AimlMagicError, BudgetExceeded, Interrupted, RequestFailed
from aiml_magic.journal.answer import Answer
from aiml_magic.notebook.answers import Answers
from aiml_magic.runner.jobs import Job
from aiml_magic.text import count_of

if TYPE_CHECKING:
    from aiml_magic.show.follow import Counter

Start = Callable[[], Job]  # asks the question of a row
_TICK = 0.005  # seconds between two polls of the jobs
_UNSENT = ("queued", "waiting", "retry")  # states of a job
_FREE = "nothing else was charged"


def gather(
    starts: Iterable[Start],
    at_once: float,
    *,
    keeps_errors: bool = False,
    show: Counter = lambda *_: None,
) -> Answers:
    """The answers of jobs that are started in order, at most `at_once` at a time.

    `show` is called with the number of answers and the seconds to wait for the server, and at the
    end with `None`. With `keeps_errors` an error is in the place of its answer; else the first
    error is raised, with an entry for each job as its `answers`.
    """
    asked = _Asked(show, keeps_errors=keeps_errors)
    try:
        for start in starts:
            asked.add(start)
            asked.settle(at_once)
        asked.settle(1)
    except (AimlMagicError, KeyboardInterrupt) as error:
        raise asked.stopped(error) from error
    except BaseException:  # raised by the iterable of rows
        asked.withdraw()
        raise
    finally:
        show(None, 0.0)
    return Answers(asked.answers)


class _Asked:
    """The rows of a map asked so far: their answers, and the jobs of those without one."""

    def __init__(self, show: Counter, *, keeps_errors: bool) -> None:
        self.answers: list[Answer | AimlMagicError | None] = []
        self.show = show
        self._keeps_errors = keeps_errors
        self._running: dict[int, Job] = {}  # by the index of the row

    def add(self, start: Start) -> None:
        """Asks the next row."""
        try:
            self._running[len(self.answers)] = self._started(start)
        except AimlMagicError as error:
            if not self._keeps_errors:
                raise
            self.answers.append(error)
        else:
            self.answers.append(None)

    def _started(self, start: Start) -> Job:
        """The job of a row; without room in a limit it waits until others are charged.

        Raises BudgetExceeded if no other job is running.
        """
        while True:
            try:
                return start()
            except BudgetExceeded:
                if not self._running:
                    raise
                self.settle(len(self._running))

    def settle(self, limit: float) -> None:
        """Stores new answers, and waits until fewer than `limit` jobs are running."""
        while True:
            for index in [index for index, job in self._running.items() if job.step()]:
                self.answers[index] = self._outcome(self._running.pop(index))
            wait = max((job.retry_in for job in self._running.values()), default=0.0)
            self.show(len(self.answers) - len(self._running), wait)
            if len(self._running) < limit:
                return
            time.sleep(_TICK)

    def stopped(self, error: AimlMagicError | KeyboardInterrupt) -> AimlMagicError:
        """The error of the whole map; jobs that were sent go on, unless the person interrupted."""
        stopped: AimlMagicError
        if isinstance(error, AimlMagicError):
            stopped = error
            self.withdraw()
        else:
            count = sum(isinstance(answer, Answer) for answer in self.answers)
            sent = sum(job.progress.state not in _UNSENT for job in self._running.values())
            cost = f"{count_of(sent, 'question')} under way may be charged" if sent else _FREE
            stopped = Interrupted(
                f"Interrupted after {count_of(count, 'answer')}; {cost}.",
                "Ask again: the answered rows are replayed.",
            )
            for job in self._running.values():
                job.interrupt(0)
        stopped.answers = Answers(self.answers)  # type: ignore[attr-defined]  # of a map only
        return stopped

    def withdraw(self) -> None:
        """Cancels the jobs that were not sent yet."""
        for job in self._running.values():
            job.withdraw()

    def _outcome(self, job: Job) -> Answer | AimlMagicError:
        try:
            return job.outcome()
        except AimlMagicError as error:
            if isinstance(error, RequestFailed):
                error.name_again(job.id)
            if not self._keeps_errors:
                raise
            return error
