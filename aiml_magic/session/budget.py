"""The highest cost of a request, estimated from the server's price list; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aiml_magic.api.models import Model
from aiml_magic.api.responses import Raw, as_count, as_objects
from aiml_magic.text import dollars, one_line

MAX_OUTPUT = 128_000  # tokens of the longest answer, if the server lists no limit
_FREE_TOOLS = ("function", "custom")  # the caller runs them
_STORED = ("prompt", "conversation")  # fields that name texts at the server
_LISTED_TIERS = (None, "auto", "default", "flex")  # flex costs less than is listed
_IMAGE = 9_000  # bytes that an image counts as: more than the largest needs
_BYTES_PER_TOKEN = 3  # fewer than in English prose, so that the estimate is high


class WorstCase(NamedTuple):
    """The highest cost of a request; `usd` is `None` if its server lists no price for it."""

    usd: float | None
    most: str  # the output tokens assumed, and the source of that number, for a message
    unpriced: str = ""  # the parts without a listed price, such as a tool of the server

    def __str__(self) -> str:
        if self.usd is None:
            for_parts = f" for {self.unpriced}" if self.unpriced else ""
            return f"Its highest cost is unknown: the server lists no price{for_parts}"
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


def unpriced(request: Raw) -> str:
    """The tools and fields of a request without a listed price; empty if there are none."""
    tools = [str(tool.get("type")) for tool in as_objects(request.get("tools"))]
    used = [kind for kind in tools if kind not in _FREE_TOOLS]
    used += [name for name in _STORED if request.get(name)]
    if (tier := request.get("service_tier")) not in _LISTED_TIERS:
        used.append(f"service_tier {tier}")
    items = as_objects(request.get("input"))
    parts = [part for item in items for part in (item, *as_objects(item.get("content")))]
    used += [str(part["type"]) for part in parts if _is_of_unknown_size(part)]
    return one_line(", ".join(dict.fromkeys(used)), 60)


def _is_of_unknown_size(part: Raw) -> bool:
    """Whether a part refers to a text that is stored at the server or elsewhere."""
    kind = part.get("type")
    return kind == "item_reference" or (kind == "input_file" and not part.get("file_data"))


def tokens_of(value: Any) -> float:
    """The tokens of all texts in a request, estimated."""
    return size_of(value) / _BYTES_PER_TOKEN


def size_of(value: Any) -> int:
    """The bytes of all texts in a request, and a fixed number for each image."""
    if isinstance(value, Mapping):
        is_image = value.get("type") == "input_image"
        return _IMAGE if is_image else sum(size_of(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return len(str(value).encode("utf-8", "replace"))


def price_in(model: Model | None) -> Price | None:
    """The price of a model, if its server lists one."""
    if model is None or model.price is None:
        return None
    return Price(*model.price, model.longest)
