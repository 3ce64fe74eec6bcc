"""The state of a sandbox: stored responses with conversations, a log, and counts of faults."""

from __future__ import annotations

import hashlib
import time
from collections import Counter

from aiml_magic.api.responses import Raw
from aiml_magic.sandbox import rules
from aiml_magic.text import dump

_MAX_STORED = 64 * 2**20  # bytes of stored conversations
_MAX_LOG = 10_000  # entries


class Memory:
    """Stored responses and a log, both bounded: the oldest entries are removed first."""

    _stored = 0  # bytes of all responses

    def __init__(self) -> None:
        self.responses: dict[str, Raw] = {}
        self.turns: dict[str, list[rules.Turn]] = {}
        self.sizes: dict[str, int] = {}  # bytes of each response and its conversation, oldest first
        self.logs: list[Raw] = []
        self._times: dict[str, tuple[float, float]] = {}  # begin and delay in the background
        self._faults: Counter[str] = Counter()

    def conversation(self, body: Raw) -> tuple[list[rules.Turn], str]:
        """The turns so far and the new question. Raises KeyError for an unknown response."""
        previous = body.get("previous_response_id")
        return rules.conversation(body["input"], self.turns[previous] if previous else [])

    def respond(self, body: Raw, orders: rules.Orders) -> Raw:
        """The response to a request, stored if `store` or `background` is set.

        Raises KeyError for an unknown `previous_response_id`.
        """
        turns, question = self.conversation(body)
        answer = rules.answer_to(body, turns, question)
        response = rules.respond(body, turns, question, answer=answer, orders=orders)
        if body.get("store") or body.get("background"):
            self._store(response, len(dump(body)) + len(answer))
        if body.get("store"):
            self.turns[response["id"]] = [*turns, (question, answer)]
        if body.get("background"):
            self._times[response["id"]] = time.monotonic(), float(orders.get("delay", 0))
        return response

    def _store(self, response: Raw, size: int) -> None:
        self.forget(response["id"])
        self.responses[response["id"]], self.sizes[response["id"]] = response, size
        self._stored += size
        while self._stored > _MAX_STORED:
            self.forget(next(iter(self.sizes)))

    def forget(self, response_id: str) -> bool:
        """Removes a response; `False` if there is none."""
        self.turns.pop(response_id, None)
        self._stored -= self.sizes.pop(response_id, 0)
        self._times.pop(response_id, None)
        return self.responses.pop(response_id, None) is not None

    def seconds_left(self, response_id: str) -> float:
        """Seconds until a response is complete; zero unless it is a background response."""
        begun, delay = self._times.get(response_id, (0.0, 0.0))
        return max(0.0, begun + delay - time.monotonic()) if delay else 0.0

    def current(self, response_id: str) -> Raw:
        """A stored response as it is now; a background response is unfinished during its delay."""
        response = self.responses[response_id]
        if not (left := self.seconds_left(response_id)):
            return response
        is_queued = left > self._times[response_id][1] / 2
        return rules.unfinished(response, "queued" if is_queued else "in_progress")

    def cancel(self, response_id: str) -> None:
        """Cancels a response that is not complete yet."""
        if self.seconds_left(response_id):
            self.responses[response_id] = rules.unfinished(self.responses[response_id], "cancelled")
            del self._times[response_id]

    def fault(self, question: str, orders: rules.Orders) -> str:
        """The fault of this request; empty for none."""
        fault = orders.get("fault", "")
        if not fault or "times" not in orders:
            return fault
        known = hashlib.sha256(dump(question).encode()).hexdigest()
        self._faults[known] += 1
        return fault if self._faults[known] <= int(orders["times"]) else ""

    def log(
        self,
        client_request_id: str | None,
        body: Raw,
        response: Raw | None,
    ) -> None:
        """Adds an entry for a request; `response` is `None` if it failed."""
        usage = (response or {}).get("usage") or {}
        cost = rules.cost(usage)
        kinds = ("input", "output", "total")
        self.logs.insert(0, {
            "created": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "status": "succeeded" if response else "failed",
            "origin": "api",
            "model": body.get("model"),
            "cost": {"usd": cost["usd_spent"], "credits": cost["credits_used"]},
            "tokens": {kind: usage.get(f"{kind}_tokens", 0) for kind in kinds},
            "request_id": None,
            "inference_id": (response or {}).get("id", ""),
            "client_request_id": client_request_id,
        })  # fmt: skip
        del self.logs[_MAX_LOG:]
