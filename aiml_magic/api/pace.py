"""The pace of requests to one server, learned from its refusals: 429, and 503 with Retry-After.

Without a refusal there is no limit. After one, nothing is sent for the time that the server names,
else for 1 s, doubled with each further refusal up to 60 s. Then one request is the probe. Once it
is accepted, as many follow as the server took before it refused: a burst. The time from one burst
to the next is that between the first request that was accepted and the probe. After some bursts
without a refusal they grow by a tenth each, until there is no limit any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST, _LAST = 1.0, 60.0  # seconds of a pause
_PROMPT = 5.0  # seconds after which a probe without a reply is taken for accepted
_MINUTE = 60.0  # seconds of the longest burst without a limit: most limits are by the minute
_MARGIN = 1.02  # of the period: clocks and networks are not exact
_KEPT = 3  # bursts without a refusal, after which they grow
_NO_LIMIT = 1000  # requests of a burst


@dataclass(eq=False)
class Burst:
    """Requests that are sent together; `began` and `ended` are when the first and the last were."""

    began: float = 0.0
    ended: float = 0.0
    sent: int = 0
    refused: int = 0
    is_probe: bool = False

    @property
    def taken(self) -> int:
        """Requests that were not refused: an answer may take minutes, a refusal comes at once."""
        return self.sent - self.refused


class Pace:
    """Lets requests go as fast as a server takes them.

    Each waits for its `turn`, and then is `accepted` or `refused` as one of the burst that it got.
    """

    def __init__(self) -> None:
        self._burst = Burst()
        self._limited: Burst | None = None  # the last one in which the server refused
        self._quota: int | None = None  # requests of a burst; `None` without a limit
        self._period: float | None = None  # seconds from one burst to the next
        self._pause = _FIRST
        self._resume_at = 0.0
        self._kept = 0  # bursts in a row without a refusal
        self._is_used_up = False  # the burst
        self._changed = asyncio.Event()

    async def turn(self, on_wait: Callable[[float], None]) -> Burst:
        """Waits until a request may be sent; `on_wait` is told for how many seconds at most."""
        while (seconds := self._seconds_to_wait(time.monotonic())) > 0:
            on_wait(seconds)
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)
        burst = self._burst
        burst.ended = time.monotonic()
        burst.began = burst.began or burst.ended
        burst.sent += 1
        return burst

    def accepted(self, burst: Burst) -> None:
        if burst is self._burst and burst.is_probe:
            self._end_probe()

    def refused(self, burst: Burst, retry_after: float | None) -> None:
        """The server refused a request for the number of requests, not for what it asks."""
        burst.refused += 1
        if burst is not self._burst or burst.refused > 1:
            return  # the pause for this burst has begun
        if retry_after is not None:
            self._pause = retry_after
        else:
            self._pause = min(2 * self._pause, _LAST) if burst.is_probe else _FIRST
        if not burst.is_probe:
            self._limited = burst
        self._resume_at = time.monotonic() + self._pause
        if self._period and burst.taken:
            self._resume_at = max(self._resume_at, burst.ended + self._period)
        self._tell()

    def _seconds_to_wait(self, now: float) -> float:
        if now < self._resume_at:
            return self._resume_at - now
        if self._burst.refused or self._is_used_up:
            self._begin_next()
        burst = self._burst
        if burst.is_probe and burst.sent:
            if now - burst.began < _PROMPT:
                return burst.began + _PROMPT - now
            self._end_probe()
        if self._quota is None:
            if burst.began and now - burst.began > _MINUTE and not burst.is_probe:
                self._burst = Burst()
            return 0.0
        if self._burst.sent >= self._quota:
            self._is_used_up = True
            self._resume_at = self._burst.ended + (self._period or 0.0)
            return self._resume_at - now
        return 0.0

    def _begin_next(self) -> None:
        """Begins a burst where the limit is known, else a probe."""
        last, self._is_used_up = self._burst, False
        if not (self._period and last.taken) or last.is_probe:
            self._burst, self._quota, self._period = Burst(is_probe=True), None, None
            return
        self._burst = Burst()
        self._kept = 0 if last.refused else self._kept + 1
        if last.refused:
            self._quota = last.taken
        elif self._quota is not None and self._kept >= _KEPT:
            self._quota += 1 + self._quota // 10
            if self._quota > _NO_LIMIT:
                self._quota = self._period = None

    def _end_probe(self) -> None:
        """The probe is the first of a burst."""
        probe, limited = self._burst, self._limited
        probe.is_probe = False
        if limited is not None:
            self._quota = max(1, limited.taken)
            self._period = _MARGIN * (probe.began - limited.began)
        self._tell()

    def _tell(self) -> None:
        """Wakes all that wait: they look again."""
        self._changed.set()
        self._changed = asyncio.Event()
