"""The checks before sending: whether replay is "only", and whether a runner can start here."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from aiml_magic.api.responses import Raw, as_object
from aiml_magic.errors import NOTHING_SENT, ReplayMiss
from aiml_magic.journal.replay import differences, nearest, short_json
from aiml_magic.journal.store import Journal
from aiml_magic.session.question import Plan, Question


def check_recorded(
    question: Question, plan: Plan, journal: Journal, replayed: Collection[int]
) -> None:
    """Raises ReplayMiss for an unanswered question that may not or cannot be sent."""
    if question.delivery.replay == "only":
        raise _replay_miss(question, plan, journal, replayed)
    _check_runner()


def check_server(*, is_replay_only: bool) -> None:
    """Raises ReplayMiss if the server may not or cannot be asked."""
    if is_replay_only:
        raise ReplayMiss(
            f'Replay is "only", so the server was not asked. {NOTHING_SENT}',
            '%config O3Pro.replay = "auto" allows it.',
        )
    _check_runner()


def _check_runner() -> None:
    """Raises ReplayMiss in JupyterLite, where no process can start."""
    if sys.platform == "emscripten":
        raise ReplayMiss(
            "A page of JupyterLite cannot start processes, so it answers only what is recorded. "
            f"{NOTHING_SENT}",
            "Run %aiml replay FILE with a recording of it, or ask in Jupyter on a computer.",
        )


def _replay_miss(
    question: Question, plan: Plan, journal: Journal, replayed: Collection[int]
) -> ReplayMiss:
    """The error for a question that may not be sent; `replayed` are rows of recordings."""
    recorded = [row for row in journal.history() if row.state == "done"]
    ours = {"server": plan.server, **plan.request}
    others = [{"server": row.server, **row.request} for row in recorded]
    position = nearest(ours, others)
    lines = ['No answer to this question is recorded, and replay is "only", so nothing was sent.']
    hint = 'Ask it with %config O3Pro.replay = "auto", or undo the differences.'
    if position is not None:
        row, other = recorded[position], others[position]
        day = datetime.fromtimestamp(row.asked_at, timezone.utc).strftime("%Y-%m-%d")
        lines.append(f"The nearest is answer {row.id} of {day}:")
        changed = differences(ours, other)[:4]
        hint = _settings_to_unset(question.settings, ours, other) or hint
        if not changed and row.origin == "recording" and row.id not in replayed:
            changed = ["the same question, in a recording that was not replayed in this session"]
            hint = "Run %aiml replay FILE with that recording first."
        lines += changed or ["the same question, behind another answer"]
    return ReplayMiss("\n".join(lines), hint)


def _settings_to_unset(
    settings: Mapping[str, tuple[Any, Any]], ours: Raw, recorded: Raw
) -> str | None:
    """The hint with the settings that make a request differ from the recorded one."""
    causes = [name for name in settings if _field(name, ours) != _field(name, recorded)]
    if not causes:
        return None
    values = " and ".join(
        f"O3Pro.{name} is set to {short_json(settings[name][0])}" for name in causes
    )
    commands = " and ".join(f"%config O3Pro.{name} = {settings[name][1]!r}" for name in causes)
    return f"{values} in your configuration; {commands} asks without."


def _field(setting: str, request: Raw) -> Any:
    """The value in a request that a setting decides."""
    if setting == "base_url":
        return request.get("server")
    if setting in ("effort", "summary", "mode"):
        return as_object(request.get("reasoning")).get(setting)
    return request.get(setting)
