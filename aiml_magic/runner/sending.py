"""Sends a claimed row: its request, or a GET for the response that the server has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain as joined
from typing import Any

from aiml_magic import errors
from aiml_magic.api import failures
from aiml_magic.api.client import Client
from aiml_magic.api.masking import Secrets
from aiml_magic.api.replies import Listener, Reply
from aiml_magic.api.responses import Response, as_items, turn_items
from aiml_magic.journal.replay import sendable, without_hashed
from aiml_magic.journal.rows import Result, Row, read_row
from aiml_magic.journal.store import Journal


async def reply_to(
    row: Row, conversations: Conversations, secrets: Secrets, client: Client, listener: Listener
) -> Reply:
    """The reply to a row; a request that the server accepted before is fetched by its response id.

    If the server refuses the parent's response id, the conversation is sent as a transcript.
    """
    if row.can_go_on and row.response_id is not None:
        return await client.fetch(row.response_id, Reply(row.response), listener)
    body = secrets.added_to(conversations.body(row, row.chain))
    earlier = (row.attempts or 1) - 1
    reply = await client.ask(body, row.client_request_id, listener, attempts=earlier)
    if "previous_response_id" not in body:
        return reply
    field = "previous_response_id"
    if reply.is_refusal and reply.error and failures.refuses(reply.error, field, body[field]):
        with contextlib.suppress(errors.JournalError):  # the result has the notice as well
            conversations.journal.note_chain(row.id, "transcript", "chain_refused")
        body = secrets.added_to(conversations.body(row, "transcript"))
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


class Conversations:
    """The conversations of a journal in the form of a transcript.

    The turns of the conversation sent last are cached: only `forget` changes a finished turn, and
    its state shows that.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._turns: dict[int, list[Any]] = {}

    def body(self, row: Row, chain: str | None) -> dict[str, Any]:
        """The request with its conversation, by the parent's response id or as a transcript."""
        body = sendable(row.request)
        if row.parent is None:
            return body
        if chain == "id" and (response_id := self.journal.row(row.parent).response_id) is not None:
            return body | {"previous_response_id": response_id}
        return body | {"input": [*self._items(row.parent), *as_items(body["input"])]}

    def _items(self, row_id: int) -> Iterator[Any]:
        states = self.journal.states(row_id)
        turns = {
            turn: self._turns[turn]
            for turn in states.keys() & self._turns
            if states[turn] == "done"
        }
        numbers = {turn: number for number, turn in enumerate(states, start=1)}
        for row in map(read_row, self.journal.raw_rows([*(states.keys() - turns)])):
            asked = without_hashed(row.request.get("input", ""))
            turns[row.id] = turn_items(numbers[row.id], asked, Response(row.response))
        self._turns = turns
        return joined.from_iterable(turns[turn] for turn in states)
