"""The prices of models: from the cached list of a server, else requested for one model."""

from __future__ import annotations

import contextlib
import math
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from aiml_magic import errors
from aiml_magic.api.models import Catalogue, read
from aiml_magic.journal import offers
from aiml_magic.session.budget import Price, price_in

# Seconds for which a missing price is not requested again: else each row of a map would wait for a
# server that hangs.
_MISSING = 10.0

Get = Callable[[str], Any]  # the JSON at a path of the server; raises AimlMagicError


class Prices:
    """The prices of servers' models."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], Price] = {}  # by server and model
        self._failed_at: dict[tuple[str, str], float] = {}  # when a request gave none

    def known(self, server: str, model: str) -> Price | None:
        """The price, if it is known without a request."""
        asked = self._asked.get((server, model))
        return asked or price_in(offers.cached(server).find(model))

    def price(self, server: str, model: str, get: Get) -> Price | None:
        """The price, requested by `get` unless a new one is known, or was missing just now."""
        key, catalogue = (server, model), offers.cached(server)
        is_new = key in self._asked or (
            offers.is_of_today(catalogue) and price_in(catalogue.find(model)) is not None
        )
        is_missing = time.monotonic() - self._failed_at.get(key, -math.inf) < _MISSING
        if not (is_missing or is_new):
            path = f"/v1/models?id={urllib.parse.quote(model)}&include=pricing,capabilities"
            price = None
            with contextlib.suppress(errors.AimlMagicError):
                price = price_in(Catalogue(read(get(path))).find(model))
            if price is None:
                self._failed_at[key] = time.monotonic()
            else:
                self._asked[key] = price
        return self.known(server, model)
