"""The settings, set by `%config O3Pro.effort = "high"` or IPython's configuration file."""

from __future__ import annotations

import copy
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from IPython.core.magic import Magics
from traitlets import Bool, Enum, Float, Integer, TraitError, TraitType, Unicode, validate

from aiml_magic import addresses, errors
from aiml_magic.notebook import options
from aiml_magic.text import one_line

# Settings that decide the answer.
DECISIVE = "model base_url effort mode summary instructions max_output_tokens".split()
_REPLAYS = ("auto", "only", "off")


class Finite(Float):  # type: ignore[type-arg]  # older ones take no arguments
    """A finite number, not a boolean."""

    def validate(self, obj: Any, value: Any) -> Any:
        number = super().validate(obj, value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise TraitError(f"{self.name} cannot be {value}")
        return number


def _choice(values: Sequence[str], meaning: str) -> Enum[Any]:
    """One of some values, or None."""
    return Enum(values, None, allow_none=True, help=meaning)


def _limit(meaning: str) -> Finite:
    """Dollars, or None."""
    return Finite(None, min=0.0, allow_none=True, help=meaning)


class Settings(Magics):
    """The settings of the magics; each is a trait."""

    model = Unicode("openai/o3-pro", help="Which model to ask.")
    base_url = Unicode("", help="The server; else AIML_API_URL, else https://api.aimlapi.com/v1.")
    effort = _choice(options.EFFORTS, "How much to reason.")
    mode = _choice(options.MODES, "How to reason.")
    summary = _choice(options.SUMMARIES, "Summarize the reasoning.")
    instructions = Unicode(None, allow_none=True, help="How to answer; sent with every turn.")
    max_output_tokens = Integer(
        None, min=16, allow_none=True, help="Where to stop, reasoning included."
    )
    stream = Bool(True, help="Receive the text while it is written.")
    store = Bool(
        True, help="Let the server store the answer, so that a conversation can go on by its id."
    )
    timeout = Finite(3600.0, min=0.1, help="Seconds without a byte after which the wait ends.")
    replay = _choice(
        _REPLAYS,
        "Replay an answer of the journal: auto, only (never ask) or off; "
        "else AIML_MAGIC_REPLAY, else auto.",
    )
    budget_usd = _limit("Dollars that this session may spend at most.")
    budget_usd_per_notebook = _limit("Dollars that this notebook may spend, ever.")
    budget_usd_per_day = _limit(
        "Dollars that all notebooks of the journal may spend from one midnight to the next.",
    )
    confirm_above_usd = _limit(
        "Ask before a question that may cost more dollars; without a person it is not sent.",
    )
    max_concurrency = Integer(64, min=1, help="Questions in flight at once; the others wait.")
    max_tool_rounds = Integer(
        8, min=0, help="How many times results of functions are sent back for one question."
    )
    chain = Enum(
        ["auto", "id", "transcript"],
        "auto",
        help="How a conversation is sent: by the response's id, or whole.",
    )
    journal = Unicode(
        "", help="The journal's file; else AIML_MAGIC_JOURNAL, else in the user's data directory."
    )

    @validate("journal")
    def _absolute(self, proposal: Any) -> str:
        """Makes a path absolute when it is set, so that %cd does not change it."""
        value: str = proposal["value"]
        return str(addresses.journal_path(value)) if value else value

    def changed(self, values: Mapping[str, Any]) -> Self:
        """A copy with other settings, for one call. Raises BadInput for a value of a wrong type."""
        other = copy.copy(self)
        for name, value in values.items():
            try:
                setattr(other, name, _read(value, self.traits()[name]))
            except (TraitError, TypeError) as error:
                trait = self.traits()[name]
                least = getattr(trait, "min", None)
                kind = trait.info() if least is None else f"a number, at least {least:g}"
                raise errors.BadInput(
                    f"{name} cannot be {one_line(repr(value), 60)}. {errors.NOTHING_SENT}",
                    f"{HELP[name]} It takes {kind}.",
                ) from error
        return other

    def is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != self.traits()[name].default_value)

    def replay_of(self, given: Mapping[str, Any]) -> str:
        mode = self.replay_mode()
        if given.get("fresh") and mode == "only":
            raise errors.ReplayMiss(
                'Replay is "only", so nothing is asked afresh, and nothing was sent.',
                'Leave --fresh out, or set %config O3Pro.replay = "auto".',
            )
        return "off" if given.get("fresh") else mode

    def replay_mode(self) -> str:
        mode = self.replay or os.environ.get("AIML_MAGIC_REPLAY", "").strip() or "auto"
        if mode not in _REPLAYS:
            raise errors.BadInput(
                f"AIML_MAGIC_REPLAY cannot be {mode[:40]!r}. Nothing was sent.",
                "It takes auto, only or off.",
            )
        return mode


def _read(value: Any, trait: TraitType[Any, Any]) -> Any:
    """A number or a path in the type of its trait. Raises TypeError for a boolean as a number."""
    match value:
        case bool() if isinstance(trait, Integer | Float):
            raise TypeError(value)
        case numbers.Integral() if isinstance(trait, Integer):
            return int(value)
        case numbers.Number() if isinstance(trait, Float):  # a Decimal is one, but not Real
            return float(value)  # type: ignore[arg-type]  # a complex number is refused here
        case os.PathLike():
            return os.fspath(value)
        case _:
            return value


_SETTINGS = {name: one for name, one in vars(Settings).items() if isinstance(one, TraitType)}
HELP = {name: str(setting.help) for name, setting in _SETTINGS.items()}
for _setting in _SETTINGS.values():
    _setting.tag(config=True)  # so that %config and configuration files set it
