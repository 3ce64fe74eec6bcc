"""The pace of requests to one server, learned from its refusals: 429, and 503 with Retry-After.

Without a refusal there is no limit. After one, nothing is sent for the time that the server names,
else for 1 s, doubled with each further refusal up to 60 s; a named time below 1 s is doubled up to
1 s. Then one request is sent as a probe. Once it is accepted, a burst follows, of as many requests
as the server accepted before its refusal. Bursts begin as far apart as the first accepted request
and the probe. After some bursts without a refusal, each is larger by a tenth, until the limit is
dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

_LEAST, _FIRST, _LAST = 0.05, 1.0, 60.0  # seconds of a pause
_PROMPT = 5.0  # seconds after which a probe without a reply counts as accepted
_MINUTE = 60.0  # seconds of the longest burst without a limit: most limits are per minute
_MARGIN = 1.02  # factor on the period: clocks and networks are not exact
_GROW_AFTER = 3  # bursts without a refusal
_NO_LIMIT = 1000  # requests in a burst: beyond it the limit is dropped


@dataclass(eq=False)
class Burst:
    """Requests that are sent together; `began` and `ended`: when the first and last were sent."""

    began: float = 0.0
    ended: float = 0.0
    sent: int = 0
    refused: int = 0
    is_probe: bool = False
    is_outage: bool = False  # the server was unavailable, which tells nothing of its limit

    @property
    def accepted(self) -> int:
        """The number of requests not refused: an answer may take minutes, a refusal is prompt."""
        return self.sent - self.refused


class Pace:
    """Sends requests as fast as a server accepts them.

    Each waits for its `turn`, which returns its burst, and then reports `accepted` or `refused`.
    """

    _limited: Burst | None = None  # the last burst with a refusal, other than a probe
    _quota: int | None = None  # requests in a burst; `None` without a limit
    _period: float | None = None  # seconds from one burst to the next
    _pause = _FIRST
    _resume_at = 0.0
    _refused_since: float | None = None  # the first refusal after the last acceptance
    _unrefused = 0  # bursts in a row without a refusal
    _is_used_up = False  # whether the burst has sent its quota

    def __init__(self) -> None:
        self._burst = Burst()
        self._changed = asyncio.Event()

    async def turn(
        self, on_wait: Callable[[float], None], began: float, timeout: float
    ) -> Burst | None:
        """Waits until a request may be sent; calls `on_wait` with the longest wait in seconds.

        Returns `None` after `timeout` seconds of refusals alone, counted from when it `began`.
        """
        while (seconds := self._seconds_to_wait(time.monotonic())) > 0:
            left = timeout - self._seconds_of_refusals(began)
            if left <= 0:
                return None
            on_wait(seconds)
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(seconds, left))
        burst = self._burst
        burst.ended = time.monotonic()
        burst.began = burst.began or burst.ended
        burst.sent += 1
        return burst

    def accepted(self, burst: Burst) -> None:
        self._refused_since = None
        if burst is self._burst and burst.is_probe:
            self._end_probe()

    def refused(self, burst: Burst, retry_after: float | None, *, is_outage: bool = False) -> None:
        """Reports a request that the server refused only because there were too many."""
        burst.refused += 1
        burst.is_outage |= is_outage
        self._refused_since = self._refused_since or time.monotonic()
        if burst is not self._burst or burst.refused > 1:
            return  # the pause after this burst has begun
        first, last = (_FIRST, _LAST) if retry_after is None else (_LEAST, _FIRST)
        pause = min(2 * self._pause, last) if burst.is_probe else first
        self._pause = max(pause, retry_after or 0.0)
        if not burst.is_probe:
            self._limited = burst
        self._resume_at = time.monotonic() + self._pause
        if self._period and burst.accepted:
            self._resume_at = max(self._resume_at, burst.ended + self._period)
        self._wake_all()

    def _seconds_of_refusals(self, began: float) -> float:
        since = self._refused_since
        return 0.0 if since is None else time.monotonic() - max(since, began)

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
        """Begins a burst if the limit is known, else a probe."""
        last, self._is_used_up = self._burst, False
        if not (self._period and last.accepted) or last.is_probe or last.is_outage:
            self._burst, self._quota, self._period = Burst(is_probe=True), None, None
            return
        self._burst = Burst()
        self._unrefused = 0 if last.refused else self._unrefused + 1
        if last.refused:
            self._quota = last.accepted
        elif self._quota is not None and self._unrefused >= _GROW_AFTER:
            self._quota += 1 + self._quota // 10
            if self._quota > _NO_LIMIT:
                self._quota = self._period = None

    def _end_probe(self) -> None:
        """Makes the probe the first request of a burst."""
        probe, limited = self._burst, self._limited
        probe.is_probe = False
        if limited is not None and limited.accepted and not limited.is_outage:
            self._quota = limited.accepted
            self._period = _MARGIN * (probe.began - limited.began)
        self._wake_all()

    def _wake_all(self) -> None:
        """Has every waiting `turn` compute its wait anew."""
        self._changed.set()
        self._changed = asyncio.Event()
