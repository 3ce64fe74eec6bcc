"""A function of the notebook as a tool, and a response that calls it."""

from __future__ import annotations

import json

import wire


def price(item: str, count: int = 1) -> float:
    """The price of `count` items."""
    return {"apple": 0.5, "pear": 0.75}[item] * count


def wanting(*calls: tuple[str, str, dict | str], id: str = "resp_1") -> wire.Reply:  # noqa: A002
    """A response that calls functions."""
    items = [
        {
            "type": "function_call",
            "id": f"fc_{key}",
            "call_id": key,
            "name": name,
            "arguments": given if isinstance(given, str) else json.dumps(given),
        }
        for key, name, given in calls
    ]
    return wire.json_reply(
        wire.response(
            id=id, output=items, usage={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        )
    )
