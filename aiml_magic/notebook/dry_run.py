"""The dry run of a question: its exact request, its size, its highest cost, and its replay."""

from __future__ import annotations

import json

from aiml_magic import errors
from aiml_magic.journal.replay import sendable, with_file_hashes
from aiml_magic.notebook import params
from aiml_magic.session.asking import Asking
from aiml_magic.session.question import Question
from aiml_magic.session.spending import Terms, asks_first


def dry_run(question: Question, asking: Asking) -> str:
    """The request of a question, its size, its highest cost, and whether it would be replayed."""
    plan = asking.plan(question)
    request = sendable(plan.request)
    body = json.dumps(with_file_hashes(request), indent=1, ensure_ascii=False)
    size = len(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace"))
    lines = [body, f"{size:,} bytes to {plan.server}; nothing was sent."]
    if plan.hidden:
        lines.append("Headers, keys, tokens and passwords in it would be sent, but are not shown.")
    lines += [
        f"The vendor's description of a request has no field {name}; it would still be sent."
        for name in params.undescribed(request)
    ]
    if plan.parent is not None:
        form = "by its id" if asking.chats.chain(question, plan) == "id" else "as a transcript"
        lines.append(f"It continues answer {plan.parent.id}, sent {form}.")
    if plan.known is not None and plan.known.state == "done":
        lines.append(
            f"It would be replayed: answer {plan.known.id} is in the journal, so it costs nothing."
        )
    elif plan.known is not None and plan.known.is_doubtful:
        doubt = f"It would not be sent: question {plan.known.id} may have been charged."
        lines.append(f"{doubt} {errors.hint_to_check(plan.known.id)}")
    else:
        price = asking.price(str(request["model"]))
        worst = asking.spending.worst_case(request, plan.parent_id, price)
        lines.append(
            f"{worst}."
            if worst.usd is None
            else f"{worst}: an estimate, by the server's price list."
        )
        lines += [
            f"It would be refused by the budget of {limit}."
            for limit in asking.spending.limits(question.delivery, plan.server)
            if worst.usd is None or not limit.has_room(worst.usd)
        ]
        if asks_first(question.delivery, worst, Terms(price)):
            lines.append("You would be asked whether to send it.")
    return "\n".join(lines)
