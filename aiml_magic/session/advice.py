"""The models of a server: when they are requested, and the hints that they give for errors.

They are requested for a person who lists them, for an error that they explain, and else at most
once a day, after some seconds without a question in flight. The model of a question is never
changed automatically.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from typing import Any

from aiml_magic.api import models
from aiml_magic.api.models import Catalogue
from aiml_magic.errors import AimlMagicError, InvalidRequest, RequestFailed, RunnerDied
from aiml_magic.journal import offers
from aiml_magic.session.prices import Get
from aiml_magic.text import one_line

LIST, FEED = "models?include=pricing,capabilities", "models/deprecations"
_LOOK_EVERY = 1.0  # seconds
_SILENCE = 60.0  # seconds for which a list that did not come is not requested again
_QUIET = 5  # checks in a row without a question in flight
_LEVEL = r"\b(?:none|minimal|low|medium|high|xhigh|max|standard|pro)\b"
_OFFERED = re.compile(
    r"\b(?:(?:supported|allowed|valid|permitted|possible|available)"
    r" (?:values?|options?|efforts?|levels?)"
    r"|expected|one of|must be|should be|accepts?|takes)\b"
)


def catalogue(server: str, get: Get, *, is_wanted: bool = False) -> Catalogue:
    """The models of a server: cached, or requested if the cache is a day old.

    With `is_wanted` the list is requested in any case, and its error is raised. Raises RunnerDied
    if it does not come in time.
    """
    known = offers.cached(server)
    is_new = offers.is_of_today(known)
    if is_new and not is_wanted:
        return known
    offered, ending = known.offered, known.ending
    try:
        offered = models.read(get(LIST))
    except RequestFailed as error:
        if is_wanted or isinstance(error, RunnerDied):
            raise
    if not is_new:
        with suppress(RequestFailed):  # not every server has one
            ending = models.read(get(FEED))
    updated = Catalogue(offered, ending, known.asked_at if is_new else time.time())
    offers.cache(server, updated)
    return updated


def explain(error: RequestFailed, model: str, ask: Callable[[], Catalogue]) -> None:
    """Adds the model to ask instead, or the efforts that it supports, to the hint of an error."""
    if models.may_be_gone(error):
        other = _another_model(error, model, ask())
        is_final = models.is_gone(error) and not error.may_cost
        error.hint = other if other and is_final else f"{other}\n{error.hint}".strip()
    elif isinstance(error, InvalidRequest) and re.search(
        r"reasoning|\beffort\b", f"{error.param} {error.message}"
    ):
        error.hint = _hint_for_reasoning(error.message)


def line(name: str, catalogue: Catalogue) -> str:
    """A model on one line: id, price, context, longest answer, end and successor, if known."""
    model = catalogue.find(name) or models.Model(name)
    facts = [one_line(name, 100)]
    if model.price is not None:
        into, out = (f"${dollars * 1e6:,.2f}" for dollars in model.price)
        facts.append(f"{into} in, {out} out for a million tokens")
    if model.context is not None:
        facts.append(f"context {model.context:,}")
    if model.longest is not None:
        facts.append(f"answer up to {model.longest:,}")
    _, _, fate = catalogue.fate(name, today()).partition(": ")
    return " · ".join([*facts, fate] if fate else facts)


def today() -> date:
    return datetime.now().astimezone().date()


def _another_model(error: RequestFailed, model: str, catalogue: Catalogue) -> str:
    """The model to ask instead, and the option and setting for it; empty if there is none."""
    fate, other = catalogue.fate(model, today()), catalogue.successor(model, today())
    if catalogue.find(model) and not fate and not models.is_gone(error):
        return ""  # the model exists: something else was not found
    if other is None:
        other = catalogue.nearest(model, today())
        nearest = f"The nearest that it offers is {other}" if other else ""
        fate = f"{fate}. {nearest}" if fate else nearest
    if other is None:
        return fate and f"{fate.rstrip()} %aiml models lists what the server offers."
    return f'{fate}. For one cell -m {other}, for all that follow:\n%config O3Pro.model = "{other}"'


def _hint_for_reasoning(message: str) -> str:
    """The hint for a model that refuses an effort, a mode or `reasoning`."""
    offered = _OFFERED.split(message.partition(": ")[2].lower(), maxsplit=1)[1:]
    words = offered[0].partition("received")[0] if offered else ""
    allowed = re.findall(r"['\"`]([\w-]+)['\"`]", words) or re.findall(_LEVEL, words)
    if allowed:
        option = "--mode" if {"standard", "pro"} & set(allowed) else "-e"
        return f"It takes {', '.join(allowed)}: for example {option} {allowed[-1]}."
    return (
        "Ask it without -e, --mode and --summary; "
        "%config O3Pro.effort = None unsets a setting, and so for the others."
    )


class _Ended(Exception):
    """The session ended before the next request."""


class Updates:
    """Requests the models of servers: for a person at once, else in a thread between questions."""

    _thread: threading.Thread | None = None

    def __init__(self) -> None:
        self._silent_until: dict[str, float] = {}  # of `time.monotonic`, by server
        self._stop = threading.Event()

    def catalogue(self, server: str, get: Get, *, is_wanted: bool = False) -> Catalogue:
        """As `catalogue`; a list that did not come in time is not requested again for a minute."""
        if not is_wanted and time.monotonic() < self._silent_until.get(server, 0.0):
            return offers.cached(server)
        try:
            return catalogue(server, get, is_wanted=is_wanted)
        except RunnerDied:
            self._silent_until[server] = time.monotonic() + _SILENCE
            if is_wanted:
                raise
            return offers.cached(server)

    def begin(self, server: str, get: Get, is_busy: Callable[[], bool]) -> None:
        """Requests the models once `is_busy` was false for a while, unless a thread does so."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._wait,
            args=(server, get, is_busy, self._stop),
            daemon=True,
            name="aiml_magic-models",
        )
        with suppress(RuntimeError):  # the system allows no more threads: tried at the next answer
            self._thread.start()

    def end(self) -> None:
        self._stop.set()

    def _wait(
        self, server: str, get: Get, is_busy: Callable[[], bool], stop: threading.Event
    ) -> None:
        def get_unless_ended(path: str) -> Any:
            if stop.is_set():  # the request would start another runner
                raise _Ended
            return get(path)

        quiet = 0
        while quiet < _QUIET:
            if stop.wait(_LOOK_EVERY):
                return
            quiet = 0 if is_busy() else quiet + 1
        with suppress(AimlMagicError, _Ended):
            catalogue(server, get_unless_ended)
