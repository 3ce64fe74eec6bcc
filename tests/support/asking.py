"""A session as a test uses it."""

from __future__ import annotations

from pathlib import Path

from aiml_magic.journal.answer import Answer
from aiml_magic.session.asking import Asking, Question, Session

KEY = "test-key-0123456789abcdef"


class Asker:
    """Asks in one session, each question in a cell of its own unless it names one."""

    def __init__(self, journal: Path) -> None:
        self.session = Session()
        self.path = journal
        self.cells = 0

    def start(self, url: str, text: str = "Why?", **options):
        self.cells += 1
        options = {
            "cell": f"cell {self.cells}",
            "model": "openai/o3-pro",
            "replay": "off",
        } | options
        return self.on(url).ask(Question(text, **options))

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
