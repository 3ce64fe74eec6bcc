"""What a request may cost: an estimate before it is sent, from the server's price list; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiml_magic.api.models import find, read

MAX_OUTPUT = 128_000  # tokens that a model writes at most, where its server does not say
_IMAGE = 9_000  # characters that an image counts as: more than the tokens of the largest
_CHARACTERS_PER_TOKEN = 3  # fewer than in English prose, so that the estimate is rather too high


@dataclass(frozen=True)
class Price:
    """Dollars for one token, and the tokens that the model writes at most, reasoning included."""

    input: float
    output: float
    longest: int = MAX_OUTPUT

    def worst_case(self, characters: int, max_output_tokens: int | None) -> float:
        """Dollars for so many characters, and for the longest answer that the model may write."""
        tokens = characters / _CHARACTERS_PER_TOKEN
        return tokens * self.input + (max_output_tokens or self.longest) * self.output


def characters(value: Any) -> int:
    """The length of all texts of a request, with a fixed length for each image."""
    if isinstance(value, Mapping):
        return sum(characters(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(map(characters, value))
    return _IMAGE if isinstance(value, str) and value.startswith("data:image/") else len(str(value))


def price_of(listed: Any, name: str) -> Price | None:
    """The price of a model in an answer of `GET /v1/models?include=pricing`; `None` without one."""
    model = find(read(listed), name)
    if model is None or model.price is None:
        return None
    return Price(*model.price, model.longest or MAX_OUTPUT)
