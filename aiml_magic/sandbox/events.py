"""A response as the events that stream it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_EMPTY = {"status": "in_progress", "summary": [], "content": [], "arguments": ""}  # a new item's


def events(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events that stream a response."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    found: list[dict[str, Any]] = [
        {"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")
    ]
    for index, item in enumerate(response["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {name: _EMPTY.get(name, value) for name, value in item.items()}
        found.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        found += [{**event, **place} for event in _inside(item)]
        found.append({"type": "response.output_item.done", "output_index": index, "item": item})
    found.append({"type": f"response.{response['status']}", "response": response})
    for number, event in enumerate(found):
        event["sequence_number"] = number
    return found


def _inside(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of an item's arguments or parts."""
    if item["type"] == "function_call":
        yield {"type": "response.function_call_arguments.delta", "delta": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}
    for number, part in enumerate(item.get("summary", [])):
        names = "reasoning_summary_text", "reasoning_summary_part"
        yield from _part(part, *names, {"summary_index": number})
    for number, part in enumerate(item.get("content", [])):
        yield from _part(part, part["type"], "content_part", {"content_index": number})


def _part(
    part: Mapping[str, Any], kind: str, kind_of_part: str, place: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The events of one part, word by word."""
    field = "refusal" if kind == "refusal" else "text"
    place_of_text = {**place, "logprobs": []} if kind == "output_text" else place
    yield {"type": f"response.{kind_of_part}.added", "part": {**part, field: ""}, **place}
    for word in re.findall(r"\s*\S+|\s+", part[field]):
        yield {"type": f"response.{kind}.delta", "delta": word, **place_of_text}
    yield {"type": f"response.{kind}.done", field: part[field], **place_of_text}
    yield {"type": f"response.{kind_of_part}.done", "part": part, **place}
