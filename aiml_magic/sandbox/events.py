"""The events that stream a response."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiml_magic.api.responses import Raw
from aiml_magic.sandbox.rules import unfinished

_STEPS = {"web_search_call": ("searching", "completed"), "mcp_call": ("completed",)}
_EMPTY = {"status": "in_progress", "summary": [], "content": [], "arguments": ""}  # of a new item


def events(response: Raw) -> list[Raw]:
    """The numbered events, from `response.created` to the terminal one."""
    begun = unfinished(response, "in_progress")
    queued = unfinished(response, "queued")
    steps: list[Raw] = [{"type": "response.created", "response": begun}]
    if response.get("background"):
        steps = [
            {"type": "response.created", "response": queued},
            {"type": "response.queued", "response": queued},
        ]
    steps.append({"type": "response.in_progress", "response": begun})
    for index, item in enumerate(response["output"]):
        position = {"output_index": index, "item_id": item["id"]}
        empty = {name: _EMPTY.get(name, value) for name, value in item.items()}
        steps.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        steps += [{**event, **position} for event in _inside(item)]
        steps.append({"type": "response.output_item.done", "output_index": index, "item": item})
    steps.append({"type": f"response.{response['status']}", "response": response})
    return [{**event, "sequence_number": number} for number, event in enumerate(steps)]


def _inside(item: Raw) -> Iterator[Raw]:
    """The events of an item's arguments or parts."""
    kind = f"response.{item['type']}"
    if item["type"] in _STEPS:
        yield {"type": f"{kind}.in_progress"}
    if item["type"] in ("function_call", "mcp_call"):
        yield {"type": f"{kind}_arguments.delta", "delta": item["arguments"]}
        yield {"type": f"{kind}_arguments.done", "arguments": item["arguments"]}
    for step in _STEPS.get(item["type"], ()):
        yield {"type": f"{kind}.{step}"}
    for number, part in enumerate(item.get("summary", [])):
        names = "reasoning_summary_text", "reasoning_summary_part"
        yield from _part(part, *names, {"summary_index": number})
    for number, part in enumerate(item.get("content", [])):
        yield from _part(part, part["type"], "content_part", {"content_index": number})


def _part(part: Raw, kind: str, kind_of_part: str, position: Raw) -> Iterator[Raw]:
    """The events of one part, word by word."""
    field = "refusal" if kind == "refusal" else "text"
    position_of_text = {**position, "logprobs": []} if kind == "output_text" else position
    yield {"type": f"response.{kind_of_part}.added", "part": {**part, field: ""}, **position}
    for word in re.findall(r"\s*\S+|\s+", part[field]):
        yield {"type": f"response.{kind}.delta", "delta": word, **position_of_text}
    yield {"type": f"response.{kind}.done", field: part[field], **position_of_text}
    yield {"type": f"response.{kind_of_part}.done", "part": part, **position}
