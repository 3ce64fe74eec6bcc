"""A question with functions of the notebook: a job per round, until the model calls none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiml_magic.api.responses import Raw, ToolCall, call_result, sum_of
from aiml_magic.errors import AimlMagicError, Interrupted
from aiml_magic.journal.answer import Answer
from aiml_magic.question import tools
from aiml_magic.runner.jobs import Event, Job, Progress


class ToolLoop(Job):
    """Runs the functions that an answer calls, and sends their results as the next request.

    `ask_on` sends the results of an answer's calls, at most `max_rounds` times.
    """

    _steps: Iterator[Progress] | None = None
    _is_over = False

    def __init__(
        self,
        job: Job,
        ask_on: Callable[[Answer, Sequence[Raw]], Job],
        functions: Mapping[str, Callable[..., Any]],
        max_rounds: int,
    ) -> None:
        self.id = job.id
        self._job = job
        self._ask_on = ask_on
        self._functions = functions
        self._rounds_left = max_rounds
        self._earlier: list[Answer] = []
        self._calls: list[ToolCall] = []

    @property
    def progress(self) -> Progress:
        return self._job.progress

    @property
    def retry_in(self) -> float:
        return self._job.retry_in

    def follow(self, tick: float = 0.2) -> Iterator[Progress]:
        """As `Job.follow`; runs the functions in the thread of the caller."""
        while not self._is_over:
            yield from self._job.follow(tick)
            answer = self._answer_of_round()
            if answer is None or answer.response.outcome != "tool_calls" or not self._rounds_left:
                self._is_over = True
                return
            results = []
            for call in answer.response.calls:
                yield replace(self._job.progress, state=f"running {call.name}", retry_at=None)
                result = tools.run(call, self._functions)
                self._calls.append(replace(call, result=result))
                results.append(call_result(call, result))
            self._rounds_left -= 1
            self._earlier.append(answer)
            try:
                self._job = self._ask_on(answer, results)
            except AimlMagicError as error:
                self._outcome, self._is_over = error, True

    def step(self) -> bool:
        self._steps = self._steps or self.follow(0.0)
        return next(self._steps, None) is None

    def withdraw(self) -> None:
        """Withdraws the current round, if it was not sent yet."""
        self._job.withdraw()

    def _stop(self, command: Event, timeout: float) -> None:
        """Stops the current round; the answers of earlier ones are in the journal."""
        self._job._stop(command, timeout)  # noqa: SLF001  # of the base class
        if not self._is_over and self._job.done:
            self._outcome = Interrupted(
                "Interrupted between two rounds of functions; the answers so far are kept.",
                "Run the cell again: it goes on from there.",
            )
        self._is_over = True

    def outcome(self) -> Answer:
        """The last answer, with the tokens, dollars, seconds and calls of all rounds."""
        if isinstance(self._outcome, AimlMagicError):
            raise self._outcome
        last = self._job.outcome()
        rounds = [*self._earlier, last]
        known = [answer.cost_usd for answer in rounds if answer.cost_usd is not None]
        return replace(
            last,
            usage=sum_of([answer.usage for answer in rounds]),
            cost_usd=sum(known) if len(known) == len(rounds) else None,
            seconds=sum(answer.seconds or 0.0 for answer in rounds),
            replayed=all(answer.replayed for answer in rounds),
            recorded=any(answer.recorded for answer in rounds),
            request=rounds[0].request,
            calls=tuple(self._calls),
        )

    def _answer_of_round(self) -> Answer | None:
        with contextlib.suppress(AimlMagicError):
            return self._job.outcome()
        return None
