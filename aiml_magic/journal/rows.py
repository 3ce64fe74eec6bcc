"""A row of the journal as a value, and the result of a request; pure.

The state of a row:

    queued      on disk; not sent yet, or refused and to be sent again
    sent        the request is in flight, or was when its runner died
    done        there is a response, whatever its status
    failed      there is no response; `error` says why, and whether the request may be charged
    cancelled   the person stopped it
    forgotten   its texts were removed; the time of the request and its cost are left
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, get_type_hints

from aiml_magic import errors
from aiml_magic.api.responses import Cost, Raw, Response, Usage, question_text
from aiml_magic.journal.answer import Answer
from aiml_magic.text import plain

HINT = "Name another file with %config O3Pro.journal or AIML_MAGIC_JOURNAL, or repair this one."
TAIL = 1500  # characters of the newest text that a panel shows
HEARTBEAT = 5.0  # seconds between two heartbeats of a runner
STALE = 4 * HEARTBEAT  # seconds after which a runner without a heartbeat counts as dead


@dataclass(frozen=True)
class Row:
    """A request in the journal.

    JSON columns are parsed; times are in seconds, `asked_at` since 1970. `attempts` is how many
    times the request was sent at most, `None` if unknown.
    """

    id: int
    state: str
    base_url: str
    server: str
    request: Raw
    client_request_id: str
    parent: int | None
    chain: str | None
    notebook: str
    chat: str | None
    cell: str | None
    before: str | None
    key: str | None
    asked_at: float
    response_id: str | None
    text: str
    response: Raw
    notices: tuple[str, ...]
    cost_usd: float | None
    seconds: float | None
    error: Raw | None
    alive_at: float | None
    cluster: str | None = None  # the Dask cluster that sent it
    origin: str = "asked"  # or "recording"
    attempts: int | None = None
    worst_usd: float | None = None  # dollars that it may cost at most

    @property
    def is_alive(self) -> bool:
        """A runner works on it: the last heartbeat is recent.

        A heartbeat in the future does not count: the clock was set back.
        """
        return (
            not self.is_over
            and self.alive_at is not None
            and abs(time.time() - self.alive_at) < STALE
        )

    @property
    def is_accepted(self) -> bool:
        """The server accepted the request, and may return its response by id."""
        if self.response_id is None:
            return False
        if self.state == "sent":
            return bool(
                self.response or (self.request.get("background") and self.request.get("store"))
            )
        if self.state != "failed" or self.error is None:
            return False
        return (
            self.error.get("retry") == "resume" or self.error.get("class") == "RetrieveUnsupported"
        )

    @property
    def can_go_on(self) -> bool:
        """The server accepted the request, and no runner waits for its response."""
        return self.is_accepted and not self.is_alive

    @property
    def is_doubtful(self) -> bool:
        """The request failed, and may have been charged."""
        return self.error is not None and bool(self.error.get("may_cost"))

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled", "forgotten")

    @property
    def identity(self) -> str | None:
        """The parent in the replay key of a follow-up.

        The response id, else the row's own key; `row N` while it is unfinished, and after `forget`.
        """
        return (self.is_over and (self.response_id or self.key)) or f"row {self.id}"

    @property
    def question(self) -> str:
        """The question as text."""
        return question_text(self.request)

    @property
    def has_unknown_cost(self) -> bool:
        """The request may have been charged, and its cost is unknown."""
        if self.cost_usd is not None or self.state in ("queued", "forgotten"):
            return False
        if self.state == "sent":
            return True
        return self.seconds is not None if self.error is None else self.is_doubtful

    @property
    def waits_for_tools(self) -> bool:
        """The model waits for results of tools, or for an approval: the question goes on."""
        return self.state == "done" and Response(self.response).outcome in (
            "tool_calls",
            "approval",
        )

    @property
    def is_replayable(self) -> bool:
        """The response can be replayed; an incomplete one cannot: a higher limit may give more."""
        return self.state == "done" and Response(self.response).outcome != "incomplete"

    @property
    def is_empty(self) -> bool:
        """It is a complete response without a text."""
        return self.state == "done" and Response(self.response).is_empty

    @property
    def can_continue(self) -> bool:
        """A conversation can continue from it: it is a complete answer without open calls."""
        response = Response(self.response)
        is_answer = response.outcome == "answer" and not response.is_empty
        return self.state == "done" and response.status == "completed" and is_answer

    def answer(self) -> Answer:
        """The answer, or the part of it that was received."""
        response = Response(self.response)
        return Answer(
            text=response.text if self.state == "done" else response.text or self.text,
            reasoning=response.reasoning,
            usage=response.usage or Usage(),
            cost_usd=self.cost_usd,
            seconds=self.seconds,
            status=plain(response.status or "") or (None if self.is_over else "in_progress"),
            id=self.response_id and plain(self.response_id),
            model=response.model and plain(response.model),
            parsed=None,
            replayed=False,
            asked_at=datetime.fromtimestamp(self.asked_at, timezone.utc),
            raw=self.response,
            request=self.request,
            journal_id=self.id,
            server=self.server,
            chat=self.chat,
            notices=self.notices,
            recorded=self.origin == "recording",
            cell=self.cell,
            key=self.key,
            error=None if self.error is None else str(self.error.get("message") or self.error),
        )


@dataclass(frozen=True)
class Result:
    """The result of a request.

    `state` is done, failed or cancelled; `seconds` is the time since the request was sent, `None`
    if it was not. `response_id` and `text` are of a partial response. `attempts` is how many times
    it was sent; `None` leaves the column as it is.
    """

    state: str
    response: Raw = field(default_factory=dict)
    seconds: float | None = None
    notices: tuple[str, ...] = ()
    cost: Cost | None = None
    error: errors.RequestFailed | None = None
    response_id: str | None = None
    text: str | None = None
    attempts: int | None = None


# Columns of JSON, and the value of NULL in each.
JSON_COLUMNS = {"request": "{}", "text": '""', "response": "{}", "notices": "[]", "error": "null"}
# The type of each column; of a JSON column, that of its parsed value.
KINDS: Mapping[str, Any] = get_type_hints(Row) | {
    "request": dict, "response": dict, "notices": list, "error": dict | None,
}  # fmt: skip
_MOST = 5e10  # seconds or dollars: an upper bound that is still a valid date


def read_row(raw: sqlite3.Row) -> Row:
    """The row as a value.

    Raises JournalError for values that this package never writes: the file may be forged.
    """
    try:
        values = {
            name: json.loads(raw[name] or JSON_COLUMNS[name]) if name in JSON_COLUMNS else raw[name]
            for name in KINDS
        }
        wrong = wrong_columns(values)
    except IndexError:
        wrong = sorted(KINDS.keys() - raw.keys())
    except (ValueError, TypeError, RecursionError):
        wrong = list(JSON_COLUMNS)
    if wrong:
        raise errors.JournalError(
            f"Row {raw['id']} of the journal is damaged, in its {' or '.join(wrong)}.", HINT
        )
    return row_of(values)


def row_of(values: Raw) -> Row:
    return Row(**{**values, "notices": tuple(map(str, values["notices"]))})


def wrong_columns(values: Raw) -> list[str]:
    """The names of the columns with values that this package never writes."""
    wrong = [name for name, kind in KINDS.items() if not isinstance(values[name], kind)]
    wrong += [
        name
        for name, value in values.items()
        if isinstance(value, float) and not abs(value) < _MOST
    ]
    if not wrong and (values["parent"] or 0) >= values["id"]:  # a cycle
        wrong.append("parent")
    return wrong
