"""Sends a claimed row: its request, or a GET for the response that the server has."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from aiml_magic import errors
from aiml_magic.api import failures
from aiml_magic.api.client import Client
from aiml_magic.api.masking import Secrets
from aiml_magic.api.replies import Listener, Reply
from aiml_magic.api.responses import Response, transcript
from aiml_magic.journal.replay import sendable, without_hashed
from aiml_magic.journal.rows import Result, Row
from aiml_magic.journal.store import Journal


async def reply_to(
    row: Row, journal: Journal, secrets: Secrets, client: Client, listener: Listener
) -> Reply:
    """The reply to a row; a request that the server accepted before is fetched by its response id.

    If the server refuses the parent's response id, the conversation is sent as a transcript.
    """
    if row.can_go_on and row.response_id is not None:
        return await client.fetch(row.response_id, Reply(row.response), listener)
    body = secrets.added_to(_body(row, row.chain, journal))
    earlier = (row.attempts or 1) - 1
    reply = await client.ask(body, row.client_request_id, listener, attempts=earlier)
    if "previous_response_id" not in body:
        return reply
    field = "previous_response_id"
    if reply.is_refusal and reply.error and failures.refuses(reply.error, field, body[field]):
        with contextlib.suppress(errors.JournalError):  # the result has the notice as well
            journal.note_chain(row.id, "transcript", "chain_refused")
        body = secrets.added_to(_body(row, "transcript", journal))
        reply = await client.ask(body, row.client_request_id, listener, attempts=reply.attempts)
        return replace(reply, notices=("chain_refused", *reply.notices))
    if reply.error is None and not reply.response.get("previous_response_id"):
        return replace(reply, notices=(*reply.notices, "chain_ignored"))
    return reply


def result_of(reply: Reply, state: str, seconds: float | None) -> Result:
    """The result of a request for the journal."""
    return Result(
        state,
        reply.response,
        seconds,
        reply.notices,
        reply.cost,
        reply.error,
        attempts=reply.attempts or None,
    )


def _body(row: Row, chain: str | None, journal: Journal) -> dict[str, Any]:
    """The request with its conversation, by the parent's response id or as a transcript."""
    body = sendable(row.request)
    if row.parent is None:
        return body
    turns = journal.ancestors(row.parent)
    if chain == "id" and turns[-1].response_id is not None:
        return body | {"previous_response_id": turns[-1].response_id}
    past = (
        (without_hashed(turn.request.get("input", "")), Response(turn.response)) for turn in turns
    )
    return body | {"input": transcript(past, body["input"])}
