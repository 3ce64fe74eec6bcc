"""The table of errors: the class of each, and whether the request may be sent again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic import errors
from aiml_magic.api import failures

AIML = {"requestId": "r", "statusCode": 500, "message": "Internal server error"}
QUICK, LATE = 0.5, 300.0

TABLE = [
    # status, body, seconds -> error, retry
    (400, {"message": "Body validation error"}, QUICK, errors.InvalidRequest, "never"),
    (401, {"message": "requires a valid API key"}, QUICK, errors.AuthError, "never"),
    (402, {"message": "pay"}, QUICK, errors.OutOfCredits, "never"),
    (403, {"message": "You've run out of credits"}, QUICK, errors.OutOfCredits, "never"),
    (403, {"message": "Forbidden"}, QUICK, errors.PermissionDenied, "never"),
    (404, {}, QUICK, errors.NotFound, "never"),
    (409, {"message": "Conflict"}, QUICK, errors.RateLimited, "auto"),
    (413, "<html>413</html>", QUICK, errors.PayloadTooLarge, "never"),
    (418, {}, QUICK, errors.InvalidRequest, "never"),
    (429, {"message": "Too Many Requests"}, QUICK, errors.RateLimited, "auto"),
    (429, {"message": "free limit reached"}, QUICK, errors.QuotaExceeded, "never"),
    (500, AIML, QUICK, errors.ServerError, "auto"),
    (500, AIML, LATE, errors.ServerError, "ask"),
    (500, "<html>500</html>", QUICK, errors.ServerError, "ask"),
    (500, {"message": "The model is under maintenance"}, QUICK, errors.ServerError, "never"),
    (409, {"message": "Conflict"}, LATE, errors.RateLimited, "ask"),
    (429, {"message": "Too Many Requests"}, LATE, errors.RateLimited, "ask"),
    (502, AIML, QUICK, errors.BadGateway, "auto"),
    (502, AIML, LATE, errors.BadGateway, "ask"),
    (502, "<html>502</html>", QUICK, errors.BadGateway, "ask"),
    (503, AIML, QUICK, errors.Unavailable, "auto"),
    (503, AIML, LATE, errors.Unavailable, "ask"),
    (503, "upstream timed out", LATE, errors.Unavailable, "ask"),
    (504, AIML, LATE, errors.GatewayTimeout, "ask"),
    (524, "<html>524</html>", LATE, errors.GatewayTimeout, "ask"),
    (302, "", QUICK, errors.Redirected, "never"),
    (599, "", QUICK, errors.ServerError, "ask"),
]


@pytest.mark.parametrize(("status", "body", "seconds", "kind", "retry"), TABLE)
def test_table(status, body, seconds, kind, retry):
    """Each row of the vendor's table has the right error, retry and cost: a request is sent again only if it cannot have been executed."""
    raw = body if isinstance(body, str) else json.dumps(body)
    error = failures.http_error(status, {}, raw.encode(), seconds)
    assert (kind, retry) == (type(error), error.retry)
    assert ("It may have been executed" in error.message) == (retry == "ask")
    assert ("Nothing was charged" in error.message) == (retry != "ask")
    assert 2 == len(str(error).splitlines())
    assert error.hint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e12"}, None),
        ({"retry-after": "nan"}, None),
        (
            {
                "retry-after": "Sun, 22 Nov 2026 12:00:30 GMT",
                "date": "Sun, 22 Nov 2026 12:00:00 GMT",
            },
            30,
        ),
        (
            {
                "retry-after": "Sun, 22 Nov 2026 11:00:00 GMT",
                "date": "Sun, 22 Nov 2026 12:00:00 GMT",
            },
            0,
        ),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    """Each form of Retry-After is read, a date by the server's own clock; nonsense is ignored."""
    assert seconds == failures.retry_after(headers)


def test_waits():
    """A refused request is sent again at most twice, after 1 s and 2 s or what the server asks; a doubtful one never."""
    refused = failures.http_error(503, {}, b"{}", QUICK)
    assert 0.75 <= failures.seconds_before_retry(refused, 0) <= 1
    assert 1.5 <= failures.seconds_before_retry(refused, 1) <= 2
    assert failures.seconds_before_retry(refused, 2) is None
    assert 7 == failures.seconds_before_retry(
        failures.http_error(429, {"retry-after": "7"}, b"{}", QUICK), 0
    )
    assert (
        failures.seconds_before_retry(
            failures.http_error(429, {"retry-after": "3600"}, b"{}", QUICK), 0
        )
        is None
    )
    assert (
        failures.seconds_before_retry(
            failures.http_error(503, {"x-should-retry": "false"}, b"{}", QUICK), 0
        )
        is None
    )
    assert failures.seconds_before_retry(failures.connection_lost("reset"), 0) is None
    assert failures.seconds_before_retry(None, 0) is None


bodies = st.binary(max_size=300) | st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "detail", "meta", "issues", "path", "code", "statusCode"]
            ),
            inner,
        )
    ),
).map(lambda value: json.dumps(value).encode())


@given(st.integers(300, 599), bodies, st.floats(0, 1e6))
def test_any_body(status, body, seconds):
    """Any error body gives an error of two lines without control characters."""
    error = failures.http_error(status, {}, body, seconds)
    lines = str(error).split("\n")
    assert 2 == len(lines)
    assert all(line.isprintable() for line in lines)
    assert len(lines[0]) < 500


@given(bodies.filter(lambda body: body[:1] == b"{"))
def test_errors_survive_the_journal(body):
    """An error read from the journal equals the one written."""
    try:
        raw = json.loads(body)
    except ValueError:
        return
    error = failures.error_in_success(raw)
    again = errors.error_from_dict(json.loads(json.dumps(error.as_dict())))
    assert (type(error), error.as_dict()) == (type(again), again.as_dict())


KEPT = [{}, {"message": "\n"}, {"message": 5}, {"message": "x", "later": 1}, {"hint": "\x1b[2Jx\ny\u2028z\r"}, {"class": "Later", "hint": None},
        {"class": ["x"], "may_cost": "no", "message": {"x": 1}}, {"class": "BadInput", "retry": "now"}]  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_errors_of_others(kept):
    """An error from a forged or newer journal has at most two lines, without control characters."""
    error = errors.error_from_dict(kept)
    lines = str(error).split("\n")
    assert len(lines) <= 2
    assert lines[0]
    assert all(line.isprintable() for line in lines)
    assert "may have been charged" in str(error) or str(kept.get("message", "")).strip()


def test_traceback():
    """A cell shows two lines and no frame."""
    assert ["NoKey: No key.", "Run %aiml login."] == errors.NoKey(
        "No key.", "Run %aiml login."
    )._render_traceback_()
