"""What a server says of its models: asked for in time, and told in an error that it explains.

It is asked for where a person wants to see it, where it explains an error, and else at most once a
day, when no question has been on its way for some seconds. Nothing is switched by itself: another
model is another question.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from aiml_magic import errors
from aiml_magic.api import models
from aiml_magic.api.models import Catalogue
from aiml_magic.journal import offers
from aiml_magic.text import one_line

LIST, FEED = "models?include=pricing,capabilities", "models/deprecations"
_LOOK_EVERY = 1.0  # seconds
_QUIET = 5  # looks in a row at which no question was on its way
_LEVEL = r"\b(?:none|minimal|low|medium|high|xhigh|max|standard|pro)\b"
_OFFERED = re.compile(
    r"\b(?:(?:supported|allowed|valid|permitted|possible|available)"
    r" (?:values?|options?|efforts?|levels?)"
    r"|expected|one of|must be|should be|accepts?|takes)\b"
)

Get = Callable[[str], Any]  # the JSON at a path of the server; raises AimlMagicError


def catalogue(server: str, get: Get, *, is_wanted: bool = False) -> Catalogue:
    """What a server says of its models: as it is kept, or asked for if that is a day old.

    With `is_wanted` the list is asked for anyhow, and its error is raised.
    """
    known = offers.kept(server)
    is_new = offers.is_of_today(known)
    if is_new and not is_wanted:
        return known
    offered, ending = known.offered, known.ending
    with contextlib.nullcontext() if is_wanted else contextlib.suppress(errors.RequestFailed):
        offered = models.read(get(LIST))
    if not is_new:
        with contextlib.suppress(errors.RequestFailed):  # not every server has one
            ending = models.read(get(FEED))
    said = Catalogue(offered, ending, known.asked_at if is_new else time.time())
    offers.keep(server, said)
    return said


def explain(error: errors.RequestFailed, model: str, ask: Callable[[], Catalogue]) -> None:
    """Says in the hint of an error which model to ask instead, or which effort it takes."""
    if models.may_be_gone(error):
        other = _another_model(error, model, ask())
        is_settled = models.is_gone(error) and not error.may_cost
        error.hint = other if other and is_settled else f"{other}\n{error.hint}".strip()
    elif isinstance(error, errors.InvalidRequest) and _concerns_reasoning(error):
        error.hint = _another_way(error.message)


def line(name: str, said: Catalogue) -> str:
    """A model on one line: id, price, context, longest answer, end and successor, where known."""
    model = said.find(name)
    told = [one_line(name, 100)]
    if model is not None and model.price is not None:
        into, out = (f"${dollars * 1e6:,.2f}" for dollars in model.price)
        told.append(f"{into} in, {out} out for a million tokens")
    if model is not None and model.context is not None:
        told.append(f"context {model.context:,}")
    if model is not None and model.longest is not None:
        told.append(f"answer up to {model.longest:,}")
    _, _, fate = said.fate(name, today()).partition(": ")
    return " · ".join([*told, fate] if fate else told)


def today() -> date:
    return datetime.now().astimezone().date()


def _another_model(error: errors.RequestFailed, model: str, said: Catalogue) -> str:
    """The model to ask instead, and the line that has it asked; empty if the server names none."""
    if said.find(model) and not said.fate(model, today()) and not models.is_gone(error):
        return ""  # it is there: something else was not found
    fate, other = said.fate(model, today()), said.successor(model, today())
    if other is None:
        other = said.nearest(model, today())
        fate = f"{fate}. " * bool(fate) + (
            f"The nearest that it offers is {other}" if other else ""
        )
    if other is None:
        return fate and f"{fate.rstrip()} %aiml models lists what the server offers."
    return f'{fate}. For one cell -m {other}, for all that follow:\n%config O3Pro.model = "{other}"'


def _concerns_reasoning(error: errors.RequestFailed) -> bool:
    return re.search(r"reasoning|\beffort\b", f"{error.param} {error.message}") is not None


def _another_way(message: str) -> str:
    """How to ask a model that refuses an effort, a mode or `reasoning`, in its server's words."""
    offered = _OFFERED.split(message.partition(": ")[2].lower(), maxsplit=1)[1:]
    words = offered[0].partition("received")[0] if offered else ""
    taken = re.findall(r"['\"`]([\w-]+)['\"`]", words) or re.findall(_LEVEL, words)
    if taken:
        option = "--mode" if {"standard", "pro"} & set(taken) else "-e"
        return f"It takes {', '.join(taken)}: {option} {taken[-1]}, say."
    return (
        "Ask it without -e, --mode and --summary; "
        "%config O3Pro.effort = None unsets a setting, and so for the others."
    )


class _Ended(Exception):
    """The session ended: nothing more is asked for."""


class Lookout:
    """One thread that asks the server about its models when no question is on its way, and ends."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, server: str, get: Get, is_busy: Callable[[], bool]) -> None:
        """Asks once `is_busy` was false for a while, unless that is being waited for already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._wait,
            args=(server, get, is_busy, self._stop),
            daemon=True,
            name="aiml_magic-models",
        )
        self._thread.start()

    def end(self) -> None:
        self._stop.set()

    def _wait(
        self, server: str, get: Get, is_busy: Callable[[], bool], stop: threading.Event
    ) -> None:
        def get_unless_ended(path: str) -> Any:
            if stop.is_set():  # it would start another runner
                raise _Ended
            return get(path)

        quiet = 0
        while quiet < _QUIET:
            if stop.wait(_LOOK_EVERY):
                return
            quiet = 0 if is_busy() else quiet + 1
        with contextlib.suppress(errors.AimlMagicError, _Ended):
            catalogue(server, get_unless_ended)
