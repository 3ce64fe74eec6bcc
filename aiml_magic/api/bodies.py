"""The body of an HTTP response: bounded, decompressed, whole or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import httpx

from aiml_magic.api import failures
from aiml_magic.api.replies import Listener, Reader, Reply, Source
from aiml_magic.api.sse import EventTooLarge

_MAX_STREAM = 2**29  # bytes of one stream, most of them envelopes: 128,000 deltas of 4 kB
_META_WAIT = 2.0  # seconds to wait for the chunk with the cost after the terminal event
_END_WAIT = 0.02  # seconds to wait for the end of the body after both


class BodyCut(Exception):
    """The connection ended inside the body."""

    def __init__(self, reason: str, body: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.body = body


class BodyTooLarge(Exception):
    """The body is larger than an answer may be."""


async def read_stream(response: httpx.Response, source: Source, listener: Listener) -> Reply:
    """The reply of a stream, read until its terminal event and the cost that may follow it."""
    reader = Reader(source, listener)
    ended: str | None = None  # the reason for an early end
    chunks = _decompressed(response, _MAX_STREAM)
    until: float | None = None
    try:
        while not (reader.has_ended and reader.has_cost):
            if reader.has_ended and until is None:
                until = time.monotonic() + _META_WAIT
            wait = None if until is None else max(0.0, until - time.monotonic())
            try:
                chunk = await asyncio.wait_for(anext(chunks), wait)
            except StopAsyncIteration:
                reader.finish()
                break
            reader.feed(chunk)
        await _read_to_end(chunks)
    except TimeoutError:
        pass  # the answer is complete; its cost stays unknown
    except asyncio.CancelledError:
        if not reader.has_ended:  # a complete answer is kept: it was paid for
            raise
    except BodyCut as error:
        ended = source.secrets.mask(error.reason)
    except (EventTooLarge, BodyTooLarge):
        ended = failures.TOO_LARGE
    finally:
        await chunks.aclose()
    return reader.reply(ended)


async def _read_to_end(chunks: AsyncGenerator[bytes, None]) -> None:
    """Reads the end of a body behind its last event: only then can its connection be reused."""
    with contextlib.suppress(TimeoutError, BodyCut, BodyTooLarge):
        async with asyncio.timeout(_END_WAIT):
            async for _ in chunks:
                pass


async def read(response: httpx.Response, limit: int, *, is_cut: bool = False) -> bytes:
    """The whole body. Raises BodyCut and BodyTooLarge; with `is_cut` returns the part received."""
    body = bytearray()
    try:
        async for chunk in _decompressed(response, limit):
            body += chunk
    except BodyCut as error:
        if not is_cut:
            raise BodyCut(error.reason, bytes(body)) from error
    except BodyTooLarge:
        if not is_cut:
            raise
    return bytes(body)


async def _decompressed(response: httpx.Response, limit: int) -> AsyncGenerator[bytes, None]:
    """The chunks of the body, decompressed, up to `limit` bytes."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "deflate"):  # httpx would pass it on unchanged
        raise BodyCut("a body with a Content-Encoding that was not requested")
    size = 0
    try:
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge
            yield chunk
    except (httpx.HTTPError, OSError) as error:  # TLS raises OSError
        raise BodyCut(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return "no byte was received within --timeout"
    if str(error).startswith("peer closed connection"):
        return "the server closed it too early"
    if isinstance(error, httpx.ProxyError):  # its message may hold the proxy's password
        status = str(error)[:3]
        return f"the proxy refused it{f', with {status}' if status.isdecimal() else ''}"
    return str(error) or type(error).__name__
