"""The highest cost of a request, estimated from the server's price list; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aiml_magic.api.models import Catalogue, Model, read
from aiml_magic.api.responses import as_count
from aiml_magic.text import dollars

MAX_OUTPUT = 128_000  # tokens of the longest answer, if the server lists no limit
_IMAGE = 9_000  # bytes that an image counts as: more than the largest needs
_BYTES_PER_TOKEN = 3  # fewer than in English prose, so that the estimate is high


class WorstCase(NamedTuple):
    """The highest cost of a request; `usd` is `None` if its server lists no price."""

    usd: float | None
    most: str  # the output tokens assumed, and the source of that number, for a message

    def __str__(self) -> str:
        if self.usd is None:
            return "What it may cost is unknown: the server lists no price"
        return f"It may cost up to {dollars(self.usd)} ({self.most})"


class Price(NamedTuple):
    """Dollars per token; `longest` is the model's limit of output tokens, reasoning included."""

    input: float
    output: float
    longest: int | None = None


def most_output(price: Price | None, max_output_tokens: Any) -> tuple[int, str]:
    """The most tokens of an answer, reasoning included, and the same in words."""
    if (set_here := as_count(max_output_tokens) or 0) > 0:
        return set_here, f"{set_here:,} output tokens"
    if price is not None and price.longest is not None:
        return price.longest, f"{price.longest:,} output tokens, the most that its server lists"
    return MAX_OUTPUT, f"{MAX_OUTPUT:,} output tokens, since its server lists no limit"


def tokens_of(size: float) -> float:
    return size / _BYTES_PER_TOKEN


def size_of(value: Any) -> int:
    """The bytes of all texts in a request, and a fixed number for each image."""
    if isinstance(value, Mapping):
        is_image = value.get("type") == "input_image"
        return _IMAGE if is_image else sum(size_of(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return len(str(value).encode("utf-8", "replace"))


def price_of(listed: Any, name: str) -> Price | None:
    """The price of a model in the reply to `GET /v1/models?include=pricing`, if it lists one."""
    return price_in(Catalogue(read(listed)).find(name))


def price_in(model: Model | None) -> Price | None:
    """The price of a model, if its server lists one."""
    if model is None or model.price is None:
        return None
    return Price(*model.price, model.longest)
