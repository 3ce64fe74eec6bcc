"""The models of a server: prices, context lengths, shutdown dates and successors; pure.

Two documents are read: the list of models, and the feed of deprecations. Servers name the same
fields in many ways; unreadable values count as unknown. Only models with a safe name are suggested:
a person may copy it anywhere.
"""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from aiml_magic.api.responses import Raw, as_object, as_objects
from aiml_magic.errors import InvalidRequest, RequestFailed, RetrieveUnsupported
from aiml_magic.text import one_line

MAX_MODELS = 5_000  # of one list: bounds memory and searches
_LONGEST_NAME = 200  # characters
_SAFE = re.compile(r"[A-Za-z0-9][\w.:/@+~-]{0,119}", re.ASCII)  # no quotes, braces or blanks
# Names of fields, in lower case without punctuation.
_CONTEXT = set(
    "contextlength contextwindow contextsize contextmax maxcontext maxcontextlength maxmodellen "
    "maxinputtokens inputtokenlimit".split()
)
_LONGEST = set(
    "outputmax maxoutput maxoutputtokens outputtokenlimit outputlimit maxcompletiontokens "
    "maxtokens".split()
)
_END = set(
    "shutdownat shutdowndate sunsetat sunsetdate retirementdate expirationdate removedat".split()
)
_SUCCESSOR = {"replacedby", "replacement", "successor", "recommendedreplacement"}
_GONE = re.compile(
    r"\bmodels?\b.{0,120}?\b(?:not found|(?:does not|doesn't|do not) exist|(?:is|was|been) unknown"
    r"|no longer|decommissioned|deprecated|retired|discontinued|removed|withdrawn|sunset"
    r"|shut ?down|not available|unavailable|not a valid)"
    r"|\bmodels? (?:\S+ )?(?:is|are) not (?:currently )?supported"
    r"|\b(?:unknown|invalid|no such|nonexistent|unrecognized|unsupported) model\b",
    re.IGNORECASE | re.DOTALL,
)
_GONE_CODE = re.compile(
    r"model.*(?:not_?found|exist|unknown|invalid|decommission|deprecat|retired|gone|withdrawn"
    r"|unavailable|not_?(?:available|supported))"
    r"|(?:unknown|invalid|unsupported)_model|deployment_?not_?found",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Model:
    """One model. Prices are dollars per token, lengths are tokens; `None` is unknown.

    `longest` is the longest output, `end` the day of the shutdown. `state` is the feed's:
    deprecated (it still answers), superseded (another model answers) or withdrawn.
    """

    id: str
    aliases: tuple[str, ...] = ()
    price: tuple[float, float] | None = None  # of input and output
    context: int | None = None
    longest: int | None = None
    end: date | None = None
    successor: str | None = None
    state: str = ""

    def is_gone(self, today: date) -> bool:
        return self.state == "withdrawn" or (self.end is not None and self.end <= today)

    def as_entry(self) -> dict[str, Any]:
        """The entry of a list of models from which `read` makes this one."""
        units = [
            {"unit": f"{kind}_token", "price": dollars, "per": 1}
            for kind, dollars in zip(("input", "output"), self.price or (), strict=False)
        ]
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "pricing": {"kind": "fixed", "units": units},
            "contextLength": self.context,
            "outputMax": self.longest,
            "shutdown_at": self.end.isoformat() if self.end else None,
            "replaced_by": self.successor,
            "status": self.state,
        }


@dataclass(frozen=True)
class Catalogue:
    """The models that a server offers, those that end, and when it was asked."""

    offered: tuple[Model, ...] = ()
    ending: tuple[Model, ...] = ()
    asked_at: float = 0.0  # seconds since 1970

    def find(self, name: str) -> Model | None:
        """The model of this name, from both documents."""
        listed, ends = _lookup(self._offered_by_name, name), _lookup(self._ending_by_name, name)
        if listed is None or ends is None:
            return listed or ends
        return replace(
            listed,
            end=ends.end or listed.end,
            successor=ends.successor or listed.successor,
            state=ends.state,
        )

    @property
    def all(self) -> list[Model]:
        """The offered models, then those that only the feed names."""
        known = self._offered_by_name
        return [*self.offered, *(one for one in self.ending if _lookup(known, one.id) is None)]

    @cached_property
    def _offered_by_name(self) -> dict[str, Model]:
        return _by_name(self.offered)

    @cached_property
    def _ending_by_name(self) -> dict[str, Model]:
        return _by_name(self.ending)

    def fate(self, name: str, today: date) -> str:
        """The end of a model and its successor, on one line; empty if both are unknown."""
        model = self.find(name)
        if model is None or not (model.end or model.successor or model.state):
            return ""
        if model.end is not None:
            what = f"{'ended on' if model.is_gone(today) else 'until'} {model.end}"
        else:
            what = one_line(model.state, 20) or "replaced"
        follower = self.successor(name, today)
        return f"{one_line(name, 100)}: {what}{f', then {follower}' if follower else ''}"

    def successor(self, name: str, today: date) -> str | None:
        """The first successor that still exists; `None` if there is none with a safe name."""
        seen = {name}
        model = self.find(name)
        while model is not None and model.successor and model.successor not in seen:
            follower = model.successor
            seen.add(follower)
            model = self.find(follower)
            if model is None or not model.is_gone(today):
                return follower if _SAFE.fullmatch(follower) else None
        return None

    def nearest(self, name: str, today: date) -> str | None:
        """The offered model whose name is most similar."""
        ids = [
            model.id
            for model in self.offered
            if model.id != name and _SAFE.fullmatch(model.id) and not self._is_gone(model.id, today)
        ]
        by_tail = {_tail(model_id): model_id for model_id in reversed(ids)}
        close = difflib.get_close_matches(name, ids, n=1, cutoff=0.5) or [
            by_tail[tail]
            for tail in difflib.get_close_matches(_tail(name), by_tail, n=1, cutoff=0.5)
        ]
        return close[0] if close else None

    def _is_gone(self, name: str, today: date) -> bool:
        model = self.find(name)
        return model is not None and model.is_gone(today)


def read(raw: Any) -> tuple[Model, ...]:
    """The models of a list or of a feed. Never raises."""
    return tuple(model for entry in _entries(raw) if (model := _model(entry)))


def may_be_gone(error: RequestFailed) -> bool:
    """Whether an error may mean that the server has no such model any more."""
    is_of_get = isinstance(error, RetrieveUnsupported)
    return not is_of_get and (error.status == 404 or is_gone(error))


def is_gone(error: RequestFailed) -> bool:
    """Whether the server says that it has no such model any more."""
    if isinstance(error, RetrieveUnsupported) or (error.status or 0) >= 500:
        return False
    if isinstance(error, InvalidRequest) and error.param in ("model", "body.model"):
        return True
    message = error.message.partition(": ")[2]  # our own words come before the colon
    has_code = _GONE_CODE.search(error.code or "") is not None
    return error.status == 410 or has_code or _GONE.search(message) is not None


def _entries(raw: Any) -> list[Raw]:
    """The first list of objects with an id, at most three levels deep."""
    waiting: deque[tuple[Any, int]] = deque([(raw, 0)])
    while waiting:
        value, depth = waiting.popleft()
        if isinstance(value, list):
            entries = [entry for entry in as_objects(value) if entry.get("id")]
            if entries:
                return entries[:MAX_MODELS]
        elif isinstance(value, Mapping) and depth < 3:
            waiting.extend((entry, depth + 1) for entry in value.values())
    return []


def _model(entry: Raw) -> Model | None:
    name = _name(entry["id"])
    if name is None:
        return None
    fields = list(_fields(entry))
    aliases = entry.get("aliases")
    named = map(_name, aliases[:20] if isinstance(aliases, list) else [])
    state = entry.get("status")
    return Model(
        id=name,
        aliases=tuple(alias for alias in named if alias),
        price=_price(entry.get("pricing")),
        context=_first(fields, _CONTEXT, _length),
        longest=_first(fields, _LONGEST, _length),
        end=_first(fields, _END, _date),
        successor=_first(fields, _SUCCESSOR, _name),
        state=state.lower() if isinstance(state, str) and state.lower() in _STATES else "",
    )


_STATES = ("deprecated", "superseded", "withdrawn")


def _fields(entry: Raw, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The fields of an entry, outer ones first; names in lower case without punctuation."""
    for name, value in entry.items():
        yield re.sub(r"[\W_]", "", str(name)).lower(), value
    if depth < 2:
        for name, value in entry.items():
            if isinstance(value, Mapping) and name != "pricing":  # a price may expire as well
                yield from _fields(value, depth + 1)


def _first(fields: list[tuple[str, Any]], names: set[str], read_value: Any) -> Any:
    values = (read_value(value) for name, value in fields if name in names)
    return next((value for value in values if value is not None), None)


def _name(value: Any) -> str | None:
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME else None


def _length(value: Any) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 1 <= value < 1e9 else None


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None


def _price(pricing: Any) -> tuple[float, float] | None:
    """Dollars per token of input and of output; the server's price is for `per` units."""
    listed = as_object(pricing)
    prices: dict[str, float] = {}
    for unit in as_objects(listed.get("units")) if listed.get("kind") == "fixed" else []:
        try:
            name, dollars = str(unit["unit"]).lower(), float(unit["price"]) / float(unit["per"])
        except (KeyError, TypeError, ValueError, ArithmeticError):
            continue
        if not 0 <= dollars < 1:  # not a price that a budget could use
            continue
        for kind, signs in (("input", ("input", "prompt")), ("output", ("output", "completion"))):
            if "token" in name and "cache" not in name and any(sign in name for sign in signs):
                prices[kind] = abs(dollars)  # -0.0 would be shown
    return (prices["input"], prices["output"]) if len(prices) == 2 else None


def _by_name(models: Iterable[Model]) -> dict[str, Model]:
    """Models by id and aliases; a name with its maker's in front also as `*/name`."""
    several = list(models)
    named = {model.id: model for model in reversed(several)}
    for model in several:
        for alias in model.aliases:
            named.setdefault(alias, model)
    for name, model in list(named.items()):
        if "/" in name:
            named.setdefault(f"*/{_tail(name)}", model)
    return named


def _lookup(named: Mapping[str, Model], name: str) -> Model | None:
    return named.get(name) or named.get(_tail(name) if "/" in name else f"*/{name}")


def _tail(name: str) -> str:
    return name.rpartition("/")[2]
