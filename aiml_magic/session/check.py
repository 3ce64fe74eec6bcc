"""The fate of a request without an answer, from the server's responses and its log."""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

from aiml_magic.api.responses import (
    Cost,
    Raw,
    Response,
    attempt_of,
    cost,
    is_response,
    log_entries,
    logged_cost,
    status_of,
    sum_of_costs,
)
from aiml_magic.errors import BadInput, RequestFailed
from aiml_magic.journal.rows import Row
from aiml_magic.journal.store import Journal
from aiml_magic.session.prices import Get
from aiml_magic.session.question import SANDBOX

_MAX_LOG = 2000  # entries of the server's log that are searched
_LONGEST_LOG = 92 * 24  # hours that a server's log goes back
_IN_LOG_AFTER = 24  # hours after which a request that arrived is in the log: far more than it takes


class Finding(NamedTuple):
    """The fate of a request, and its cost.

    `fate` is answered (and the answer is in the journal now), done (it was there before), pending,
    charged, failed (and free), lost (and free: it never arrived) or unknown.
    """

    fate: str
    cost_usd: float | None


def check(row: Row, journal: Journal, server: str, get: Get) -> Finding:
    """The fate of a request at the server in use; its answer and cost go into the journal.

    Raises RequestFailed if the server has no log, and BadInput for a row of another server: a
    journal, which may be forged, must not decide where the key is sent.
    """
    if row.server != server:
        remedy = "Name that server with %config O3Pro.base_url"
        if row.server == SANDBOX:
            remedy = "Use it with %aiml sandbox"
        raise BadInput(
            f"Question {row.id} was asked at {row.server[:80]}, which is not the server in use. "
            "Nothing was sent.",
            f"{remedy}, then try again.",
        )
    try:
        return _fate_of(row, journal, get)
    except RequestFailed as error:
        error.message += f" Question {row.id} stays as it was: it may have been charged."
        raise


def _fate_of(row: Row, journal: Journal, get: Get) -> Finding:
    """The fate of a request by its response id, else by the server's log."""
    if row.state == "done" and row.has_unknown_cost:
        _, spent = _logged(row, get)
        if spent is not None:
            journal.note_cost(row.id, spent)
        return Finding("done", spent.usd if spent else None)
    raw = _stored_response(row, get)
    response = Response(raw)
    if response.outcome == "pending":
        journal.note_pending(row.id, row.response or raw)
        return Finding("pending", None)
    if response.outcome != "failed" and (response.has_begun or response.status == "completed"):
        spent = cost(raw, {})
        if spent is None:
            with contextlib.suppress(RequestFailed):  # not every server has a log
                spent = _logged(row, get)[1]
        journal.recover(row.id, raw, spent)
        return Finding("answered", spent.usd if spent else None)
    try:
        fate, spent = _logged(row, get)
    except RequestFailed:
        if response.outcome != "failed" or response.has_output:
            raise
        fate, spent = "failed", None
    if fate == "absent":
        is_lost = _never_arrived(row)
        fate, spent = ("lost", Cost(0.0, None, "log")) if is_lost else ("unknown", None)
    if fate == "failed" and row.cost_usd:  # the response reported a cost that the log lacks
        return Finding("charged", row.cost_usd)
    if fate == "failed":
        journal.note_free(row.id)
    elif spent is not None:
        journal.note_cost(row.id, spent)
    return Finding(fate, spent.usd if spent else None)


def _stored_response(row: Row, get: Get) -> Raw:
    """The response that the server returns by its id; empty if there is none."""
    if row.response_id is None:
        return {}
    try:
        raw = get("responses/" + urllib.parse.quote(row.response_id, safe=""))
    except RequestFailed:
        return {}
    return raw if isinstance(raw, Mapping) and is_response(raw) else {}


def _logged(row: Row, get: Get) -> tuple[str, Cost | None]:
    """The fate of a request in the server's log, and the cost of all attempts.

    It was charged if one attempt was. It failed, and is free, only if the last attempt failed too:
    an earlier one that is not in the log was refused, but the last one may still appear there.
    """
    entries, is_whole = _log_entries(row, get)
    costs = [logged_cost(entry) for _, entry in entries]
    known = [spent for spent in costs if spent is not None]
    has_failed = [status_of(entry.get("status")) == "failed" for _, entry in entries]
    total = sum_of_costs(known)
    if not all(has_failed) or (total is not None and total.usd > 0):
        are_known = all(
            spent is not None for spent, failed in zip(costs, has_failed, strict=True) if not failed
        )
        return "charged", total if are_known else None
    if row.attempts in [attempt for attempt, _ in entries]:
        return "failed", Cost(0.0, None, "log")
    return "absent" if is_whole else "unknown", None


def _never_arrived(row: Row) -> bool:
    """Whether a request that is absent from the log would be in it, had it arrived."""
    has_arrived = row.response_id or row.text or row.response
    return not has_arrived and _IN_LOG_AFTER <= _hours_since(row) < _LONGEST_LOG


def _hours_since(row: Row) -> int:
    """Hours since a row was asked; the most for a future time, since the clock was set back."""
    seconds = time.time() - row.asked_at
    return _LONGEST_LOG if seconds < 0 else int(seconds / 3600)


def _log_entries(row: Row, get: Get) -> tuple[list[tuple[int, Raw]], bool]:
    """The finished attempts of a request in the log, each with its number; and whether it has all.

    It has if it was read to its end, names each request, and has no pending attempt.
    """
    hours = min(_hours_since(row) + 2, _LONGEST_LOG)
    model = urllib.parse.quote(str(row.request.get("model", "")))
    attempts: list[tuple[int, Raw]] = []
    is_whole = True
    for offset in range(0, _MAX_LOG, 100):
        entries, more = log_entries(
            get(f"/v2/logs?period={hours}h&model={model}&limit=100&offset={offset}")
        )
        for entry in entries:
            attempt = attempt_of(row.client_request_id, entry)
            is_pending = attempt is not None and Response(entry).outcome == "pending"
            is_whole = is_whole and bool(entry.get("client_request_id")) and not is_pending
            if attempt is not None and not is_pending:
                attempts.append((attempt, entry))
        if not more or len({attempt for attempt, _ in attempts}) == row.attempts:
            return attempts, is_whole and not more
    return attempts, False
