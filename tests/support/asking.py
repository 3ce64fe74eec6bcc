"""A session for tests, with questions and an answer."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from aiml_magic.api.responses import Usage
from aiml_magic.journal.answer import Answer
from aiml_magic.session.asking import Asking, Session
from aiml_magic.session.question import Delivery, Place, Question

KEY = "test-key-0123456789abcdef"
ANSWER = Answer(  # every field of a server is known; `replace` gives it a request and a text
    text="Vega.",
    reasoning="",
    usage=Usage(10, 0, 30, 20, 40),
    cost_usd=0.0125,
    seconds=61.5,
    status="completed",
    id="resp_1",
    model="openai/o3-pro-2025-06-10",
    parsed=None,
    replayed=False,
    asked_at=datetime(2026, 11, 26, 10, 30, tzinfo=timezone.utc),
    raw={},
    request={},
    server="https://api.aimlapi.com/v1",
)


def question(
    text: str = "Why?", cell: str = "a cell", model: str = "openai/o3-pro", **options
) -> Question:
    """A question with these options of the question, its place or its delivery."""
    place, delivery = (
        {name: options.pop(name) for name in part.__dataclass_fields__ if name in options}
        for part in (Place, Delivery)
    )
    return Question(text, model, Place(cell, **place), Delivery(**delivery), **options)


class Asker:
    """Asks in one session, each question in a new cell unless it names one."""

    def __init__(self, journal: Path) -> None:
        self.session = Session()
        self.path = journal
        self.cells = 0

    def start(self, url: str, text: str = "Why?", **options):
        self.cells += 1
        options = {"cell": f"cell {self.cells}", "replay": "off"} | options
        return self.on(url).ask(question(text, **options))

    def ask(self, url: str, text: str = "Why?", **options) -> Answer:
        job = self.start(url, text, **options)
        for _ in job.follow():
            pass
        return job.outcome()

    def on(self, url: str) -> Asking:
        return self.session.on(url, self.path)

    @property
    def asking(self) -> Asking:
        return self.on("")

    @property
    def journal(self):
        return self.asking.journal
