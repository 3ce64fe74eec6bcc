"""Requests to a server, sent without this package."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


def call(url: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of the reply to a request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"} | headers
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(url: str, text: Any, /, **fields: Any) -> tuple[int, Any]:
    """As `call`, for a question whose answer is stored."""
    body = {"model": "openai/o3-pro", "input": text, "store": True} | fields
    return call(f"{url}/responses", body)


def stream(url: str, body: Any = None) -> list[Any]:
    """The data of each event of a stream, parsed as JSON; [DONE] unchanged."""
    request = urllib.request.Request(url, body and json.dumps(body).encode())
    request.add_header("Authorization", "Bearer x")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = [line[6:].decode().strip() for line in answer if line.startswith(b"data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text(response: Any) -> str:
    return response["output"][-1]["content"][0]["text"]
