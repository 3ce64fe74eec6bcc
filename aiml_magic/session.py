"""Asks: checks a question, puts it in its place of a conversation, has it sent; knows no IPython."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiml_magic import addresses, credentials, errors
from aiml_magic.conversation import Conversation
from aiml_magic.credentials import Key
from aiml_magic.jobs import Job, Runner
from aiml_magic.journal import Journal, NewRow, Row

SANDBOX = "sandbox"  # the one server of this name, on whatever port it runs
_SANDBOX_KEY = Key("the sandbox", "no-key-is-needed-here")


@dataclass(frozen=True)
class Question:
    """What to ask, and how. `text` is filled, `cell` is its place in the notebook, `chat` is `None` for one that stands alone."""

    text: str
    cell: str
    model: str
    effort: str | None = None
    summary: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    store: bool = True
    chat: str | None = "main"
    is_new: bool = False
    chain: str = "auto"
    timeout: float = 3600.0  # seconds of silence

    def request(self) -> dict[str, Any]:
        """The body of the POST, without the conversation. `store` is always said, since its default differs by server."""
        reasoning = {"effort": self.effort, "summary": self.summary}
        body: dict[str, Any] = {
            "model": self.model,
            "input": self.text,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "reasoning": {name: value for name, value in reasoning.items() if value} or None,
            "stream": self.stream or None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return {**given, "store": self.store, **self.params}


class Session:
    """The questions of one kernel: one runner, and one conversation for each chat."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.sandbox_url: str | None = None
        self._runner: Runner | None = None
        self._conversations: dict[str, Conversation] = {}

    def ask(self, question: Question, base_url: str, journal_path: Path) -> Job:
        """Writes the question to the journal and has it sent. Raises BadInput and JournalError, and then nothing is."""
        server, url, key = self.server(base_url)
        request = question.request()
        _check(request, key)
        runner = self.runner(journal_path)
        parent = self._parent(question, runner.journal)
        row_id = runner.journal.add(
            NewRow(
                base_url=url,
                server=server,
                request=request,
                client_request_id=f"aiml-magic-{uuid.uuid4().hex}",
                parent=parent.id if parent else None,
                chain=self._chain(question, parent, server, runner.journal),
                session=self.id,
                notebook=os.environ.get("JPY_SESSION_NAME") or str(Path.cwd()),
                chat=question.chat,
                cell=question.cell,
                asked_at=time.time(),
            )
        )
        if question.chat is not None:
            self._conversations[question.chat].note(question.cell, row_id, runner.journal)
        return runner.send(row_id, key.text, question.timeout)

    def server(self, base_url: str) -> tuple[str, str, Key]:
        """Its name, its address and the key for it: the sandbox while it is in use, and it never gets a real key."""
        if self.sandbox_url is not None:
            return SANDBOX, self.sandbox_url, _SANDBOX_KEY
        url = addresses.base_url(base_url)
        return url, url, credentials.need_key()

    def runner(self, journal_path: Path) -> Runner:
        """The runner of this journal; one of another journal finishes what it has and ends."""
        if self._runner is None or self._runner.journal.path != journal_path:
            self.close()
            self._runner = Runner(Journal(journal_path))
        return self._runner

    def close(self, patience: float = 0.0) -> None:
        if self._runner is not None:
            self._runner.close(patience)
            self._runner = None

    def chats(self) -> list[str]:
        return sorted(self._conversations)

    def _parent(self, question: Question, journal: Journal) -> Row | None:
        if question.chat is None:
            return None
        conversation = self._conversations.setdefault(question.chat, Conversation())
        if question.is_new:
            conversation.start_afresh(question.cell)
        parent = conversation.parent(question.cell, journal)
        return None if parent is None else journal.row(parent)

    def _chain(self, question: Question, parent: Row | None, server: str, journal: Journal) -> str | None:
        """How the conversation is sent: by the parent's id where this server is known to have it, else as a transcript."""
        if parent is None:
            return None
        is_kept = parent.server == server and parent.response_id is not None and bool(parent.request.get("store"))
        if question.chain == "auto":
            return "id" if is_kept and not journal.has_lost_chain(self.id, server) else "transcript"
        return "id" if question.chain == "id" and parent.response_id is not None else "transcript"


def _check(request: Mapping[str, Any], key: Key) -> None:
    if not str(request["input"]).strip():
        raise errors.BadInput("The question is empty, so nothing was sent.", "Write it below the %%o3pro line.")
    text = str(request)
    if credentials.mask(text, key.text) != text:
        raise errors.BadInput(
            "The API key stands in what would be sent, so nothing was.",
            "Remove it from the question, the options and the values.",
        )
