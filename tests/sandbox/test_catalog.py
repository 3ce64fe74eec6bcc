"""The models of the sandbox: offered, ending and ended."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from calling import ask, call

from aiml_magic.text import load


def test_list(sandbox_url):
    """The list has price, context, longest answer and end of each model."""
    models = {entry["id"]: entry for entry in call(f"{sandbox_url}/models")[1]["data"]}
    assert {"openai/o3-pro", "openai/gpt-5.6-sol"} < models.keys()
    old, new = models["openai/o3-pro"], models["openai/gpt-5.6-sol"]
    assert ("2026-12-11", None) == (old["shutdown_date"], new["shutdown_date"])
    assert (100_000, 128_000) == (old["info"]["outputMax"], new["info"]["outputMax"])
    assert all(unit["price"] and unit["per"] for unit in old["pricing"]["units"])
    one = call(f"{sandbox_url}/models?id=openai/o3-pro&include=pricing")[1]["data"]
    assert ["openai/o3-pro"] == [entry["id"] for entry in one]


def test_feed(sandbox_url):
    """The feed lists a model that will end, with its successor, and one that has ended."""
    status, feed = call(f"{sandbox_url}/models/deprecations")
    ends, ended = feed["data"]
    assert (200, "openai/o3-pro", "deprecated", "2026-12-11", "openai/gpt-5.6-sol") == (
        status, ends["id"], ends["status"], ends["shutdown_at"], ends["replaced_by"])  # fmt: skip
    assert '"mode": "pro"' in ends["reason"]
    assert "withdrawn" == ended["status"]
    fields = {"id", "aliases", "status", "deprecated_at", "shutdown_at", "replaced_by", "reason"}
    assert fields == ends.keys() == ended.keys()
    assert feed["generated_at"]


FILTERS = [
    ("status=deprecated", ["openai/o3-pro"]), ("status=withdrawn", ["openai/o1-preview"]), ("status=superseded", []),
    ("since=2025-06-01", ["openai/o3-pro"]), ("since=2027-01-01", []), ("status=withdrawn&since=2025-06-01", []),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_filters(sandbox_url, query, expected):
    """The feed is filtered by status, and by the day of the announcement."""
    feed = call(f"{sandbox_url}/models/deprecations?{query}")[1]
    assert expected == [entry["id"] for entry in feed["data"]]


@pytest.mark.parametrize("query", ["status=ended", "since=yesterday", "since=2026-1-1"])
def test_wrong_filters(sandbox_url, query):
    """An unknown filter of the feed is refused in the vendor's form."""
    status, body = call(f"{sandbox_url}/models/deprecations?{query}")
    assert (400, "/v1/models/deprecations") == (status, body["path"])


@pytest.mark.parametrize("path", ["models", "models/deprecations"])
def test_public_and_cached(sandbox_url, path):
    """A sandbox started by hand sends both lists without a key, cacheable for five minutes; an unchanged list is not sent again."""
    with urllib.request.urlopen(f"{sandbox_url}/{path}", timeout=10) as answer:
        assert "public, max-age=300" == answer.headers["Cache-Control"]
        assert load(answer.read())["data"]
    known = {"If-None-Match": answer.headers["Etag"]}
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(
            urllib.request.Request(f"{sandbox_url}/{path}", headers=known), timeout=10
        )
    with unchanged.value as answer:
        assert (304, b"") == (answer.code, answer.read())


@pytest.mark.parametrize("model", ["openai/o1-preview", "o1-preview"])
def test_gone(sandbox_url, model):
    """A question to a model that ended is answered by 404, whose message names the successor."""
    status, body = ask(sandbox_url, "Why?", model=model)
    assert (404, "model_not_found") == (status, body["error"]["code"])
    assert "openai/o3-pro" in body["error"]["message"]
