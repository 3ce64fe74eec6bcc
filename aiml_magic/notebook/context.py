"""The context of a command of %aiml, and the functions that several commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic import errors
from aiml_magic.text import count_of, one_line, printable

if TYPE_CHECKING:
    from aiml_magic.journal.rows import Row
    from aiml_magic.journal.store import Journal
    from aiml_magic.question.values import Variables
    from aiml_magic.session.asking import Asking, Session
    from aiml_magic.session.question import Question
    from aiml_magic.show.follow import View


class Context(NamedTuple):
    """The session and the notebook that a command works on.

    `view` returns the view, which is made at its first use; `variables` are the notebook's.
    """

    asking: Asking
    question: Callable[[], Question]  # an empty one, with the settings
    view: Callable[[], View]
    variables: Variables

    @property
    def session(self) -> Session:
        return self.asking.session

    @property
    def journal(self) -> Journal:
        return self.asking.journal


def id_of(name: str, variables: Variables) -> str:
    """The id of the answer or job in the variable `name`, else `name` itself.

    Numbers are valid in one journal only, so notebooks for others name variables. Raises BadInput
    for a variable with several answers.
    """
    from aiml_magic.journal.answer import Answer
    from aiml_magic.runner.jobs import Job

    match value_of(name, variables):
        case Answer(journal_id=int(number)) | Job(id=number):
            return str(number)
        case errors.AimlMagicError(row_id=int(number)):  # of a map that keeps errors
            return str(number)
        case str() | bytes():
            return name
        case Sequence() as several:
            raise errors.BadInput(
                f"{name} holds {count_of(len(several), 'answer')}.", f"Name one, as in {name}[0]."
            )
        case _:
            return name


def value_of(name: str, variables: Variables) -> Any:
    """The value of a variable, or of an entry as in `answers[0]`; `None` if there is none."""
    entry = re.fullmatch(r"(\w+)\[(-?\d{1,9})\]", name)
    if entry is None:
        return variables.get(name)
    several: Any = variables.get(entry[1])
    position = int(entry[2])
    if isinstance(several, Sequence) and -len(several) <= position < len(several):
        return several[position]
    return None


def row_of(context: Context, name: str, command: str) -> Row:
    name = id_of(needed(name, command, "the id of an answer"), context.variables)
    return context.journal.row(context.journal.find_id(name))


def line(row: Row) -> str:
    """A row on one line: id, time, status, cost, the question's first words."""
    when, status, cost, words = fields_of(row)
    return f"{row.id:>4}  {when}  {status:<10}  {cost:>12}  {words}"


def fields_of(row: Row) -> tuple[str, str, str, str]:
    """The time, the status and the cost of a row, and the question's first words."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.asked_at))
    cost = "cost unknown" if row.cost_usd is None else f"${row.cost_usd:,.4f}"
    words = one_line(row.question, 60)
    status = str(row.response.get("status") or row.state) if row.state == "done" else row.state
    status = "unknown" if status == "sent" and not row.is_alive else status
    status = "recorded" if row.origin == "recording" else status
    return when, printable(status)[:40], cost, words


def needed(rest: str, command: str, what: str) -> str:
    rest = rest.strip("\"'")
    if not rest:
        raise errors.BadInput(
            f"%aiml {command} needs {what}.", "%aiml help shows how it is written."
        )
    return rest
