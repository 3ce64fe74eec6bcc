"""The decoder of event streams: the specification's examples, and the laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.api.sse import Decoder, EventTooLarge

CASES = [
    # WHATWG HTML, 9.2.6: its own examples
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
    (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
     ["first event", "second event", " third event"]),
    (b"data\n\ndata\ndata\n\ndata:", ["", "\n"]),
    (b"data:test\n\ndata: test\n\n", ["test", "test"]),
    # and the content of this API's streams
    (b"\xef\xbb\xbfevent: x\ndata: behind a BOM\n\n", ["behind a BOM"]),
    (b"retry: 3000\n\ndata: 1\n\n", ["1"]),
    (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", ["a", "b", "c"]),
    ("data: line\u2028separator\u0085kept\n\n".encode(), ["line\u2028separator\u0085kept"]),
    (b"data: \xff\xfe\n\n", ["\ufffd\ufffd"]),
    (b"unknown: field\ndatax: no\ndata: yes\n\n", ["yes"]),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "events"), CASES)
def test_examples(stream, events):
    """A stream gives the events that the specification says."""
    assert events == Decoder().feed(stream)


streams = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:",
            b"data: \xc3\xa9",
            b"event: e",
            b": comment",
            b"\n",
            b"\r",
            b"\r\n",
            b"\xef\xbb\xbf",
            b"x",
        ]
    )
).map(b"".join)


@given(streams, st.lists(st.integers(0, 40)))
def test_chunking(stream, cuts):
    """However the bytes are cut into chunks, the events are the same."""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    decoder = Decoder()
    events = [
        event
        for i in range(len(places) - 1)
        for event in decoder.feed(stream[places[i] : places[i + 1]])
    ]
    whole = Decoder()
    assert (whole.feed(stream), whole.flush()) == (events, decoder.flush())


@given(st.binary(max_size=200))
def test_never_raises(stream):
    """No bytes are an error."""
    decoder = Decoder()
    decoder.feed(stream)
    decoder.flush()


@given(st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"])))
def test_round_trip(text):
    """Data that is sent as one line is decoded unchanged."""
    assert [text] == Decoder().feed(b"data: " + text.encode() + b"\n\n")


def test_flush():
    """`flush` returns an event that the end cut off once, and no complete event again."""
    decoder = Decoder()
    assert [] == decoder.feed(b"data: last")
    assert "last" == decoder.flush()
    assert decoder.flush() is None


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 2000, b"data: x\n" * 1000])
def test_bounded(stream):
    """An endless event raises EventTooLarge, on one line or on many."""
    with pytest.raises(EventTooLarge):
        Decoder(max_event=1000).feed(stream)
