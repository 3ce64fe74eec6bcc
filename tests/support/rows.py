"""The columns of a row for tests."""

from __future__ import annotations

import os
import time


def new(**fields) -> dict[str, object]:
    known = {"base_url": "u", "server": "s", "request": {"input": "Why?"}, "client_request_id": os.urandom(8).hex(), "parent": None,
             "chain": None, "session": "one", "notebook": "n", "chat": "main", "cell": "c", "before": None, "key": "k",
             "asked_at": time.time()}  # fmt: skip
    return known | fields
