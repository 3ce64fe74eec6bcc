"""What a request may cost before it is sent: an estimate, from the server's own price list; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_OUTPUT = 100_000  # tokens that o3-pro writes at most, reasoning included
_IMAGE = 9_000  # characters that an image counts as: more than the tokens of the largest
_CHARACTERS_PER_TOKEN = 3  # fewer than in English prose, so that the estimate is rather too high


@dataclass(frozen=True)
class Price:
    """Dollars for one token."""

    input: float
    output: float

    def worst_case(self, characters: int, max_output_tokens: int | None) -> float:
        """Dollars that a request of so many characters costs at most, if the model writes all it may."""
        tokens = characters / _CHARACTERS_PER_TOKEN
        return tokens * self.input + (max_output_tokens or MAX_OUTPUT) * self.output


def characters(value: Any) -> int:
    """The length of a request as the model reads it: of all its texts, with a fixed length for each image."""
    if isinstance(value, Mapping):
        return sum(characters(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(map(characters, value))
    return _IMAGE if isinstance(value, str) and value.startswith("data:image/") else len(str(value))


def price_of(models: Any, model: str) -> Price | None:
    """The price of `model` in an answer of `GET /v1/models?include=pricing`; `None` if it quotes none for tokens.

    A price counts together with `per`, the number of units that it is for.
    """
    entries = models.get("data") if isinstance(models, Mapping) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and model in _names(entry):
            return _price(entry.get("pricing"))
    return None


def _names(entry: Mapping[str, Any]) -> list[Any]:
    aliases = entry.get("aliases")
    return [entry.get("id"), *(aliases if isinstance(aliases, list) else [])]


def _price(pricing: Any) -> Price | None:
    units = (
        pricing.get("units")
        if isinstance(pricing, Mapping) and pricing.get("kind") == "fixed"
        else None
    )
    found: dict[str, float] = {}
    for unit in units if isinstance(units, list) else []:
        try:
            name, dollars = str(unit["unit"]).lower(), float(unit["price"]) / float(unit["per"])
        except (KeyError, TypeError, ValueError, ArithmeticError):
            continue
        if not 0 <= dollars < 1:  # no price of a token, and no number to keep to a budget with
            continue
        for kind, signs in (("input", ("input", "prompt")), ("output", ("output", "completion"))):
            if "token" in name and "cache" not in name and any(sign in name for sign in signs):
                found[kind] = abs(dollars)  # -0.0 is none to show
    return Price(**found) if len(found) == 2 else None
