"""The lists of models and of deprecations that the sandbox sends.

Questions to models outside the list are answered as well.
"""

from __future__ import annotations

from aiml_magic.api.responses import Raw

GENERATED_AT = "2026-01-01T00:00:00.000Z"  # fixed, so that outputs can be compared
STATUSES = ("deprecated", "superseded", "withdrawn")

# The vendor's prices in dollars per million tokens.
PRICES = {"input": 21.0, "output": 84.0}
_UNITS = [
    {"unit": f"{kind}_token", "price": price, "per": 1_000_000} for kind, price in PRICES.items()
]
_DEPRECATED = (
    {
        "id": "openai/o3-pro",
        "aliases": ["o3-pro", "o3-pro-2025-06-10"],
        "status": "deprecated",
        "deprecated_at": "2025-12-11",
        "shutdown_at": "2026-12-11",
        "replaced_by": "openai/gpt-5.6-sol",
        "reason": 'Ended by OpenAI; ask openai/gpt-5.6-sol with reasoning {"mode": "pro"}.',
    },
    {
        "id": "openai/o1-preview",
        "aliases": ["o1-preview", "o1-preview-2024-09-12"],
        "status": "withdrawn",
        "deprecated_at": "2025-04-28",
        "shutdown_at": "2025-07-28",
        "replaced_by": "openai/o3-pro",
        "reason": "Ended by OpenAI; ask openai/o3-pro.",
    },
)


def models(wanted: str = "") -> list[Raw]:
    """The entries of the list of models; of one model, if an id is wanted."""
    entries = [
        _entry("openai/o3-pro", 200_000, 100_000, shutdown_date="2026-12-11"),
        _entry("openai/gpt-5.6-sol", 400_000, 128_000),
        _entry("openai/gpt-5-5-pro", 400_000, 128_000),
    ]
    return [entry for entry in entries if wanted in ("", entry["id"])]


def deprecations(status: str = "", since: str = "") -> list[Raw]:
    """The entries of the feed with this status, announced on the day `since` or later."""
    return [
        dict(entry)
        for entry in _DEPRECATED
        if status in ("", entry["status"]) and str(entry["deprecated_at"]) >= since
    ]


def withdrawn(model: str) -> str:
    """The error for a withdrawn model, with its successor; empty for other models."""
    for entry in deprecations("withdrawn"):
        if model in (entry["id"], *entry["aliases"]):
            return f"The model {model} does not exist any more. {entry['reason']}"
    return ""


def _entry(model: str, context: int, longest: int, shutdown_date: str | None = None) -> Raw:
    name = model.rpartition("/")[2]
    return {
        "id": model,
        "type": "responses",
        "info": {
            "name": f"{name} (sandbox)",
            "developer": "nobody",
            "contextLength": context,
            "outputMax": longest,
        },
        "tags": [],
        "capabilities": ["streaming"],
        "pricing": {"kind": "fixed", "units": _UNITS},
        "shutdown_date": shutdown_date,
    }
