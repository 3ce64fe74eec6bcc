"""A server's models: a feed of deprecations, a list, and the refusal of an ended model."""

from __future__ import annotations

PRO, NEXT = "openai/o3-pro", "openai/gpt-5.6-sol"
FEED = {
    "generated_at": "2026-11-25T00:00:00Z",
    "deprecations": [
        {"id": PRO, "aliases": ["o3-pro-2025-06-10"], "status": "deprecated", "deprecated_at": "2026-06-11",
         "shutdown_at": "2099-12-11", "replaced_by": NEXT, "reason": "succeeded"},
        {"id": "openai/o1", "status": "withdrawn", "shutdown_at": "2026-07-01", "replaced_by": "openai/o3"},
        {"id": "openai/o3", "status": "withdrawn", "shutdown_at": None, "replaced_by": NEXT},
        {"id": "openai/gpt-4", "status": "superseded", "shutdown_at": None, "replaced_by": None},
        {"id": "a", "status": "withdrawn", "replaced_by": "b"}, {"id": "b", "status": "withdrawn", "replaced_by": "a"},
    ],
}  # fmt: skip
LISTED = {
    "data": [
        {"id": PRO, "info": {"contextLength": 200_000}, "capabilities": {"outputMax": 100_000}, "pricing": {"kind": "fixed", "units": [
            {"unit": "input_token", "price": 20.0, "per": 1_000_000}, {"unit": "output_token", "price": 80.0, "per": 1_000_000}]}},
        {"id": NEXT}, {"id": "openai/gpt-6"}, {"id": "openai/o3"}, {"id": "openai/gpt-5-pro", "shutdown_date": "2099-01-31"},
    ]
}  # fmt: skip
GONE = {"error": {"message": f"The model `{PRO}` does not exist.", "type": "invalid_request_error", "param": None, "code": "model_not_found"}}  # fmt: skip


def looks(server) -> list[str]:
    return [request.path for request in server.requests if request.method == "GET"]
