"""The decoder of `text/event-stream`; pure.

It follows the WHATWG specification (HTML, 9.2.6) with one exception: a last event without its
blank line is not discarded, since its answer was paid for; `flush` returns it. Lines end at CR LF,
LF or CR only: splitting at U+2028, as `str.splitlines` does, breaks JSON.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n?|\n")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event, with the comments before it, holds more bytes than allowed."""


class Decoder:
    """Decodes one stream, in chunks of any size, into the data of each event as text.

    `max_event` is in bytes. Event names, ids and retry times are not kept: the Responses API
    repeats the name inside the data.
    """

    def __init__(self, max_event: int = 8 * 2**20) -> None:
        self._max_event = max_event
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer known to hold no line end
        self._data: list[bytes] = []
        self._size = 0
        self._is_first_line = True
        self._skip_line_feed = False  # the last chunk ended with CR; a LF now belongs to it

    def feed(self, chunk: bytes) -> list[str]:
        """The events that `chunk` completes. Raises EventTooLarge."""
        if self._skip_line_feed and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._skip_line_feed = False
        self._buffer += chunk
        events: list[str] = []
        start = 0
        for end in _LINE_END.finditer(self._buffer, self._searched):
            self._skip_line_feed = end.group() == b"\r" and end.end() == len(self._buffer)
            self._read_line(bytes(self._buffer[start : end.start()]), events)
            start = end.end()
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if self._searched + self._size > self._max_event:
            raise EventTooLarge
        return events

    def flush(self) -> str | None:
        """The event that the end of the stream cut off, if any; called once, at the end."""
        line, self._buffer = bytes(self._buffer), bytearray()
        events: list[str] = []
        self._read_line(line, events)
        self._read_line(b"", events)
        return events[-1] if events else None

    def _read_line(self, line: bytes, events: list[str]) -> None:
        if self._is_first_line:
            line = line.removeprefix(_BOM)
            self._is_first_line = False
        if not line:
            if self._data:
                events.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data, self._size = [], 0
            return
        self._size += len(line) + 1
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
