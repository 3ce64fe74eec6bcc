"""A server with a rate limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import wire


class Limit:
    """A limit of `count` requests in `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self._taken: list[float] = []
        self._lock = threading.Lock()

    def takes(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._taken = [at for at in self._taken if at > now - self.seconds]
            if len(self._taken) < self.count:
                self._taken.append(now)
                return True
            return False


def limited(limit: Limit, **headers: str) -> Callable[[wire.Request], wire.Reply]:
    def answer(request: wire.Request) -> wire.Reply:
        if not limit.takes():
            return wire.json_reply({"error": {"message": "Slow down."}}, status=429, **headers)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    return answer
