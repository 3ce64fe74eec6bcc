"""The prices of models: from the cached list of a server, else requested for one model."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Callable
from typing import Any

from aiml_magic import errors
from aiml_magic.api.models import Catalogue, read
from aiml_magic.journal import offers
from aiml_magic.session.budget import Price, price_in

Get = Callable[[str], Any]  # the JSON at a path of the server; raises AimlMagicError


class Prices:
    """The prices of servers' models."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], Price] = {}  # by server and model

    def known(self, server: str, model: str) -> Price | None:
        """The price, if it is known without a request."""
        asked = self._asked.get((server, model))
        return asked or price_in(offers.kept(server).find(model))

    def are_new(self, server: str, model: str) -> bool:
        """Whether the known price is of today, or of this session."""
        catalogue = offers.kept(server)
        is_listed = offers.is_of_today(catalogue) and price_in(catalogue.find(model)) is not None
        return is_listed or (server, model) in self._asked

    def price(self, server: str, model: str, get: Get) -> Price | None:
        """The price, requested by `get` unless a new one is known."""
        if not self.are_new(server, model):
            path = f"/v1/models?id={urllib.parse.quote(model)}&include=pricing,capabilities"
            with contextlib.suppress(errors.AimlMagicError):
                price = price_in(Catalogue(read(get(path))).find(model))
                if price is None:
                    return None
                self._asked[server, model] = price
        return self.known(server, model)
