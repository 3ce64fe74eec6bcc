"""Commands of %aiml for questions without an answer: unfinished, lost, or to be approved."""

from __future__ import annotations

from dataclasses import replace

from aiml_magic.api.responses import Response, as_objects
from aiml_magic.errors import NOTHING_SENT, BadInput, hint_to_check
from aiml_magic.journal.rows import Row
from aiml_magic.notebook.context import Context, line, row_of
from aiml_magic.question.tools import shown_request
from aiml_magic.runner.jobs import left_at_cluster
from aiml_magic.session.question import Place, Question
from aiml_magic.text import count_of, printable, say

_FATES = {
    "done": "Question {id} is answered, and cost {usd}: %aiml show {id}.",
    "answered": "The server still has the answer to question {id}; "
    "it is in the journal now: %aiml show {id}.",
    "pending": "The server still works on question {id}.\n"
    "Check again in some minutes, or run its cell again: "
    "that waits for the answer, and sends nothing.",
    "charged": "The server finished question {id} and charged {usd}, "
    "but does not return its text.\n"
    "Only --fresh, or %aiml again {id}, asks once more, and pays once more.",
    "failed": "Question {id} failed at the server; nothing was charged.\n"
    "Run its cell again to ask once more.",
    "lost": "The server's log has no question {id}, a day later: it never arrived, "
    "and nothing was charged.\n--fresh, or %aiml again {id}, asks it.",
    "unknown": "The server's log has no question {id}. "
    "It may not have arrived, or is not over: the log is written at the end.\n"
    "Check again in some minutes; if it never appears there, nothing was charged, "
    "and --fresh, or %aiml again {id}, asks once more.",
}


def resume(context: Context, rest: str) -> None:
    chats = context.asking.chats.resume(rest.strip("\"'"))
    counts = ", ".join(
        f"{printable(chat)} ({count_of(count, 'answer')})" for chat, count in chats.items()
    )
    say(
        f"The conversations of this notebook go on: {counts}."
        if chats
        else "Nothing was asked in this notebook yet."
    )
    jobs = context.asking.unfinished(context.question().delivery)
    for job in jobs:
        say(f"Question {job.id} is still being answered.")
    for row in context.journal.unfinished(context.session.notebook):
        if row.state == "sent" and not row.is_alive:
            lost = f"Question {row.id} was sent, but its runner has ended."
            message = f"{lost} {hint_to_check(row.id)}"
            say(message if row.cluster is None else left_at_cluster(row))
        elif row.state == "queued" and row.id not in [job.id for job in jobs]:
            say(f"Question {row.id} was not sent; run its cell to ask it.")
    for job in jobs:
        context.view().watch(job)


def jobs(context: Context, _: str) -> None:
    rows = context.journal.unfinished(context.session.notebook)
    say("\n".join(map(line, rows)) or "No question of this notebook waits for its answer.")


def cancel(context: Context, rest: str) -> None:
    row = row_of(context, rest, "cancel")
    if not context.asking.cancel(row):
        say(f"Question {row.id} is run by another kernel; it stops within seconds.")
        return
    is_sent = context.journal.row(row.id).seconds is not None
    cost = "it was sent, and may be charged" if is_sent else "nothing was charged"
    say(f"Question {row.id} is cancelled; {cost}.")


def again(context: Context, rest: str) -> None:
    row = row_of(context, rest, "again")
    if row.state == "queued" or row.is_alive:
        raise BadInput(
            f"Question {row.id} waits for its answer. {NOTHING_SENT}",
            f"%aiml cancel {row.id} stops it.",
        )
    context.view().follow(context.asking.ask(_afresh(row, context.question())))


def _afresh(row: Row, question: Question) -> Question:
    """The question of a row in its place, to be asked afresh. Raises BadInput."""
    asked = row.request.get("input")
    kinds = [tool.get("type") for tool in as_objects(row.request.get("tools"))]
    if asked is None or row.origin != "asked" or "function" in kinds:
        raise BadInput(
            f"Question {row.id} was forgotten, is of a recording, or calls functions of a "
            f"notebook. {NOTHING_SENT}",
            "Run its cell with --fresh.",
        )
    is_only = question.delivery.replay == "only"
    return question.as_asked(
        row.request,
        text=asked if isinstance(asked, str) else "",
        items=[] if isinstance(asked, str) else asked,
        place=Place(row.cell or question.place.cell, row.chat, continues=row.parent),
        delivery=replace(question.delivery, replay="only" if is_only else "off"),
    )


def approve(context: Context, rest: str) -> None:
    row = row_of(context, rest, "approve")
    for request in Response(row.response).of_type("mcp_approval_request"):
        try:
            say(f"Allowed: {shown_request(request)}")
        except ValueError as error:
            raise BadInput(
                f"Answer {row.id} waits for a call that cannot be judged: {error}. {NOTHING_SENT}",
                f"%aiml deny {row.id} does not allow it.",
            ) from error
    _decide(context, row, is_approved=True)


def deny(context: Context, rest: str) -> None:
    _decide(context, row_of(context, rest, "deny"), is_approved=False)


def _decide(context: Context, row: Row, *, is_approved: bool) -> None:
    job = context.asking.decide(row, context.question(), is_approved=is_approved)
    context.view().follow(job)


def check(context: Context, rest: str) -> None:
    row = row_of(context, rest, "check")
    if row.state == "done" and not (row.has_unknown_cost and row.origin == "asked"):
        say(f"Question {row.id} is answered: %aiml show {row.id}.")
    elif row.is_alive:
        say(f"Question {row.id} is being answered: %aiml jobs.")
    elif row.state == "queued" or (row.state == "cancelled" and row.seconds is None):
        say(f"Question {row.id} was never sent, and cost nothing.")
    else:
        fate, usd = context.asking.check(row)
        say(_FATES[fate].format(id=row.id, usd="an unknown sum" if usd is None else f"${usd:,.4f}"))
