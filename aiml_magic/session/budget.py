"""What a request may cost: an estimate before it is sent, from the server's price list; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiml_magic.api.models import Model, find, read
from aiml_magic.text import dollars

MAX_OUTPUT = 128_000  # tokens that a model writes at most, where its server does not say
_IMAGE = 9_000  # bytes that an image counts as: more than the tokens of the largest
_BYTES_PER_TOKEN = 3  # fewer than in English prose, so that the estimate is rather too high


class WorstCase(NamedTuple):
    """The most that a request may cost: `usd` is `None` where its server lists no price."""

    usd: float | None
    most: str  # the tokens that are counted for the answer, and whence that number is

    def __str__(self) -> str:
        if self.usd is None:
            return "What it may cost is unknown: the server lists no price"
        return f"It may cost up to {dollars(self.usd)} ({self.most})"


@dataclass(frozen=True)
class Price:
    """Dollars for one token, and the tokens that the model writes at most, reasoning included.

    `longest` is `None` where the server does not say.
    """

    input: float
    output: float
    longest: int | None = None

    def worst_case(self, size: float, max_output_tokens: int | None) -> float:
        """Dollars for so many bytes, and for the longest answer that the model may write."""
        tokens, _ = most_output(self, max_output_tokens)
        return tokens_of(size) * self.input + tokens * self.output


def most_output(price: Price | None, max_output_tokens: Any) -> tuple[int, str]:
    """The tokens that an answer has at most, reasoning included, and this in words."""
    if isinstance(max_output_tokens, int) and max_output_tokens > 0:
        return max_output_tokens, f"{max_output_tokens:,} output tokens"
    if price is not None and price.longest is not None:
        return price.longest, f"{price.longest:,} output tokens, the most that its server lists"
    return MAX_OUTPUT, f"{MAX_OUTPUT:,} output tokens, since its server lists no limit"


def tokens_of(size: float) -> float:
    return size / _BYTES_PER_TOKEN


def size_of(value: Any) -> int:
    """The bytes of all texts of a request, with a fixed number for each image."""
    if isinstance(value, Mapping):
        is_image = value.get("type") == "input_image"
        return _IMAGE if is_image else sum(size_of(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return len(str(value).encode("utf-8", "replace"))


def price_of(listed: Any, name: str) -> Price | None:
    """The price of a model in an answer of `GET /v1/models?include=pricing`; `None` without one."""
    return price_in(find(read(listed), name))


def price_in(model: Model | None) -> Price | None:
    """The price of a model as its server lists it."""
    if model is None or model.price is None:
        return None
    return Price(*model.price, model.longest)
