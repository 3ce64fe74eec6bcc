"""The only module that knows HTTP: one request of the Responses API, from the first byte out to the last byte in.

One POST is one question, and costs money. So the policy of `failures` decides what may be sent
again, each attempt has an id of its own, by which the server's log knows it; redirects are not
followed; the key goes to `base_url` and nowhere else; a dead path is found by TCP keepalive instead
of by a short timeout; and whatever came before a failure is part of the `Reply`. What a server may
make this process hold in memory is bounded. A server may echo the key: whatever it said is masked
here, before anything is made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
import ssl
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from aiml_magic import errors
from aiml_magic.addresses import CERTIFICATES, is_loopback, network
from aiml_magic.api import failures
from aiml_magic.api.pace import Pace
from aiml_magic.api.replies import (
    MAX_BODY,
    MAX_ERROR_BODY,
    Listener,
    Reader,
    Reply,
    Source,
    judged,
    read_whole,
    refused,
    weighed,
)
from aiml_magic.api.responses import Raw, Response, attempt_id, cost, is_response
from aiml_magic.api.sse import EventTooLarge
from aiml_magic.api.stream import Created, with_streamed
from aiml_magic.credentials import Secrets, is_token, proof
from aiml_magic.files import are_used_up, open_limit
from aiml_magic.text import dump

_MAX_STREAM = 2**29  # bytes of one stream, most of them envelopes: 128,000 deltas of 4 kB
_META_WAIT = 2.0  # seconds that the chunk with the cost may come after the terminal event
_POLL_FIRST, _POLL_LAST, _POLL_GROWTH = 2.0, 15.0, 1.5  # seconds, seconds, factor
_STOP_WAIT = 10.0  # seconds
_HANDLE_WAIT = 0.5  # seconds between two tries for want of a free file handle: nothing was sent, so they cost nothing
_PROOF_WAIT = 10.0  # seconds
_MAX_STRANGE = 3  # answers to a poll that are 404 or no response, before they are believed

# A silent connection is dropped by home routers after 60 s, by cloud NATs after 120 to 350 s.
_KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", 45),
        ("TCP_KEEPALIVE", 45),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 6),
    )
    if hasattr(socket, name) and not (name == "TCP_KEEPALIVE" and hasattr(socket, "TCP_KEEPIDLE"))
]


class Client:
    """Sends requests to one server with one key; `secrets` are masked in all that comes back.

    `silence` is the time without a byte, in seconds, after which a request is given up; there is no
    limit to the whole.
    """

    def __init__(self, base_url: str, secrets: Secrets, silence: float = 3600.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._secrets = secrets
        self._headers = {"Authorization": f"Bearer {secrets.key}", "Accept-Encoding": "identity"}
        self._timeout = httpx.Timeout(
            silence, connect=15.0, write=max(120.0, min(silence, 600.0)), pool=None
        )
        self._idle: list[httpx.AsyncClient] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._pace = Pace()

    async def aclose(self) -> None:
        await asyncio.gather(*self._stops)
        await self.drop_idle()

    async def drop_idle(self) -> None:
        """Closes the connections that are only kept warm."""
        while self._idle:
            await self._idle.pop().aclose()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """A connection for one request at a time, warm if there is one; one that failed is not used again.

        Many requests at once in one pool of httpx take it quadratic time.
        """
        http = self._idle.pop() if self._idle else self._new_connection()
        try:
            if is_token(self._secrets.key):
                await self._see_proof(http)
            yield http
        except BaseException:
            await http.aclose()
            raise
        self._idle.append(http)

    async def _see_proof(self, http: httpx.AsyncClient) -> None:
        """Has a sandbox prove that it is the one of this token, before it is told the token or a question.

        Each time: whoever is at its port may be another by now. Raises ConnectError.
        """
        root, nonce = self._base_url.removesuffix("/v1"), secrets.token_hex(16)
        request = http.build_request("GET", f"{root}/sandbox/proof?nonce={nonce}")
        del request.headers["Authorization"]
        shown = b""
        try:
            async with (
                asyncio.timeout(_PROOF_WAIT),
                contextlib.aclosing(await http.send(request, stream=True)) as response,
            ):
                shown = await _read(response, 1000)
        except (httpx.HTTPError, _BodyTooLarge, _BodyCut, TimeoutError) as error:
            if are_used_up(error):
                raise failures.no_handle(open_limit()) from error
        port = urllib.parse.urlsplit(root).port or 80
        if not hmac.compare_digest(shown, proof(self._secrets.key, port, nonce).encode()):
            raise failures.sandbox_gone()

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext | bool:
        return _ssl_context(self._base_url)

    def _new_connection(self) -> httpx.AsyncClient:
        # A transport of our own turns httpx's proxy variables off, so the proxy is looked up here.
        transport = httpx.AsyncHTTPTransport(
            verify=self._ssl_context,
            proxy=_proxy(self._base_url),
            socket_options=_KEEPALIVE,
            limits=httpx.Limits(max_connections=1),
        )
        return httpx.AsyncClient(
            transport=transport,
            timeout=self._timeout,
            follow_redirects=False,
            trust_env=False,
            headers=self._headers,
        )

    async def ask(
        self,
        body: Mapping[str, Any],
        client_request_id: str,
        listener: Listener,
        *,
        attempts: int = 0,
    ) -> Reply:
        """Sends `body` and waits for its response, however long it takes; `attempts` were made before.

        Raises what `listener.on_attempt` raises, and nothing else but for a cancellation.
        """
        reply = await self._ask_with_retries(body, client_request_id, listener, attempts)
        response = Response(reply.response)
        if response.id and reply.error is None and response.outcome == "pending":
            return await self.fetch(response.id, reply, listener)
        if response.id and reply.error is not None and reply.error.retry == "resume":
            fetched = await self.fetch(response.id, reply, listener)
            is_unsupported = (
                isinstance(fetched.error, errors.RetrieveUnsupported)
                and fetched.error.retry == "never"
            )
            return reply if is_unsupported else fetched
        return reply

    async def fetch(self, response_id: str, known: Reply, listener: Listener) -> Reply:
        """Waits for a response that the server works on, and of which `known` came, by asking for it until it has ended.

        GET costs nothing, and what it meets says nothing of the question: that stays taken, and may
        be charged.
        """
        wait, strange, heard = _POLL_FIRST, 0, time.monotonic()
        listener.on_event(Created(response_id))
        while True:
            listener.on_poll(known.response)
            try:
                await asyncio.sleep(wait)
                known = await self._look(response_id, known)
            except asyncio.CancelledError:
                self._stop(response_id)
                raise
            except (
                errors.NotFound,
                errors.MalformedResponse,
            ) as error:  # some gateways answer a page to what they have not
                strange += 1
                if strange >= _MAX_STRANGE:
                    return replace(
                        known, error=failures.not_fetched(response_id, error, is_final=True)
                    )
            except errors.RequestFailed as error:
                is_refused = error.retry == "never" and (error.status or 0) < 500
                if is_refused or time.monotonic() - heard > (self._timeout.read or 0.0):
                    return replace(known, error=failures.not_fetched(response_id, error))
            else:
                response = Response(known.response)
                if response.outcome != "pending":
                    return known
                strange = 0
                if response.status in ("queued", "in_progress"):
                    heard = time.monotonic()
                elif time.monotonic() - heard > (self._timeout.read or 0.0):
                    return replace(known, error=failures.no_answer(response))
            wait = min(wait * _POLL_GROWTH, _POLL_LAST)

    async def _look(self, response_id: str, known: Reply) -> Reply:
        """What has come of a response. Raises RequestFailed."""
        raw = await self.get(_path(response_id))
        if not (isinstance(raw, dict) and is_response(raw)):
            raise failures.malformed("something that is no response", 200)
        named = raw if Response(raw).id else raw | {"id": response_id}
        streamed = [item for item in known.response.get("output") or [] if isinstance(item, dict)]
        whole = with_streamed(named, streamed)
        notices = () if whole is named or not raw.get("output") else ("final_left_out",)
        reply = judged(whole, {}, cost(raw, {}) or known.cost, notices)
        return replace(reply, attempts=known.attempts)

    async def get(self, path: str) -> Any:
        """The JSON at `path`, below `base_url`, or below the server's root if it begins with a slash. Raises RequestFailed."""
        try:
            return await self._get(path)
        except errors.RequestFailed as error:
            raise failures.of_get(error) from error

    async def _get(self, path: str) -> Any:
        url = (
            self._base_url.removesuffix("/v1") + path
            if path.startswith("/")
            else f"{self._base_url}/{path}"
        )
        try:
            async with self._connection() as http, http.stream("GET", url) as response:
                raw = await _read(response, MAX_BODY)
        except _BodyTooLarge as error:
            raise failures.malformed(
                f"more than {MAX_BODY // 2**20} MiB", response.status_code
            ) from error
        except errors.RequestFailed:
            raise
        except Exception as error:  # as of a POST
            if are_used_up(error):
                raise failures.no_handle(open_limit()) from error
            raise failures.not_connected(self._reason(error)) from error
        if not response.is_success:
            raise failures.http_error(
                response.status_code, response.headers, self._secrets.clean(raw), 0.0
            )
        try:
            return self._secrets.load(raw)
        except ValueError as error:
            raise failures.malformed("something that is no JSON", response.status_code) from error

    async def _ask_with_retries(
        self, body: Mapping[str, Any], client_request_id: str, listener: Listener, attempts: int
    ) -> Reply:
        retries, notices = 0, tuple[str, ...]()
        limit, refused_at = failures.limited(), None

        def tell_wait(seconds: float) -> None:
            listener.on_retry(limit, seconds)

        while True:
            burst = await self._pace.turn(tell_wait)
            attempts += 1
            if attempts > 1:
                await listener.on_attempt(attempts)
            reply = await self._post_once_there_is_a_handle(
                body, attempt_id(client_request_id, attempts), listener
            )
            if field := _refused_field(reply, body):
                body = {**body, field: False}
                notices += ("store_refused",) if field == "store" else ()
                continue
            if reply.error and failures.is_limit(reply.error):
                limit, now = reply.error, time.monotonic()
                refused_at = refused_at or now
                self._pace.refused(burst, limit.retry_after)
                if now - refused_at < (self._timeout.read or 0.0):
                    continue
            else:
                self._pace.accepted(burst)
            seconds = failures.seconds_before_retry(reply.error, retries)
            if seconds is None or reply.error is None:
                return replace(reply, attempts=attempts, notices=notices + reply.notices)
            listener.on_retry(reply.error, seconds)
            await asyncio.sleep(seconds)
            retries += 1

    async def _post_once_there_is_a_handle(
        self, body: Mapping[str, Any], attempt: str, listener: Listener
    ) -> Reply:
        """As `_post`, but waits for a file handle where none is free: that is no attempt yet."""
        until = time.monotonic() + (self._timeout.read or 0.0)
        while True:
            reply = await self._post(body, attempt, listener)
            if (
                reply.error is None
                or reply.error.code != failures.NO_HANDLE
                or time.monotonic() > until
            ):
                return reply
            await self.drop_idle()
            listener.on_retry(reply.error, _HANDLE_WAIT)
            await asyncio.sleep(_HANDLE_WAIT)

    async def _post(
        self, body: Mapping[str, Any], client_request_id: str, listener: Listener
    ) -> Reply:
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "X-Client-Request-Id": client_request_id,
        }
        content = dump(body).encode("ascii")
        is_sent = False
        sent_at = time.monotonic()

        async def trace(step: str, told: Mapping[str, Any]) -> None:
            nonlocal is_sent, sent_at
            if (
                step.endswith("send_request_headers.started") and told["request"].method == b"POST"
            ):  # a proxy's CONNECT is none
                is_sent = True
                listener.on_sent()
            sent_at = time.monotonic() if step.endswith("send_request_body.complete") else sent_at

        url = f"{self._base_url}/responses"
        try:
            async with self._connection() as http:
                post = http.build_request(
                    "POST", url, content=content, headers=headers, extensions={"trace": trace}
                )
                async with contextlib.aclosing(await http.send(post, stream=True)) as response:
                    source = Source(body, response.status_code, response.headers, self._secrets)
                    if response.is_success:
                        reply = await self._reply(response, source, listener)
                        return weighed(reply, time.monotonic() - sent_at)
                    raw = self._secrets.clean(await _read(response, MAX_ERROR_BODY, is_cut=True))
                    return refused(raw, source, time.monotonic() - sent_at)
        except Exception as error:  # noqa: BLE001  # a proxy or an address that httpx cannot use; TLS that breaks
            return Reply({}, error=self._failure(error, is_sent=is_sent))

    def _failure(self, error: Exception, *, is_sent: bool) -> errors.RequestFailed:
        """What it means that a request ended with this error, of which the headers were sent or not."""
        if isinstance(error, errors.ConnectError):
            return error
        if not is_sent and are_used_up(error):
            return failures.no_handle(open_limit())
        why = self._reason(error)
        if not isinstance(error, httpx.HTTPError):
            return (
                failures.connection_lost(why)
                if is_sent
                else failures.not_connected(why, is_final=True)
            )
        lost = _transport_error(error, why)
        return (
            lost
            if is_sent or isinstance(lost, errors.ConnectError)
            else failures.not_connected(why)
        )

    async def _reply(self, response: httpx.Response, source: Source, listener: Listener) -> Reply:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return await _read_stream(response, source, listener)
        try:
            return read_whole(await _read(response, MAX_BODY), source)
        except _BodyCut as error:
            return read_whole(error.body, source, error.reason)
        except _BodyTooLarge:
            most = f"more than {MAX_BODY // 2**20} MiB"
            return Reply({}, error=failures.malformed(most, response.status_code))

    def _reason(self, error: BaseException) -> str:
        """Why a connection failed; some words of httpx quote what came."""
        return self._secrets.mask(_reason(error))

    def _stop(self, response_id: str) -> None:
        """Has the server stop its work on a response; whether it does is not waited for."""

        async def post() -> None:
            with contextlib.suppress(httpx.HTTPError, OSError, TimeoutError, errors.RequestFailed):
                async with self._connection() as http:
                    await asyncio.wait_for(
                        http.post(f"{self._base_url}/{_path(response_id)}/cancel"), _STOP_WAIT
                    )

        stop = asyncio.create_task(post())
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)


async def _read_stream(response: httpx.Response, source: Source, listener: Listener) -> Reply:
    """A streamed answer: events as they come, until the terminal one and, shortly after it, the cost."""
    reader = Reader(source, listener)
    ended: str | None = None  # why the stream ended, if not in good order
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
    except TimeoutError:
        pass  # the answer is whole, only its cost did not come
    except asyncio.CancelledError:
        if not reader.has_ended:  # else the answer is whole, and paid for
            raise
    except _BodyCut as error:
        ended = source.secrets.mask(error.reason)
    except (EventTooLarge, _BodyTooLarge):
        ended = failures.TOO_LARGE
    finally:
        await chunks.aclose()
    return reader.reply(ended)


class _BodyCut(Exception):
    """The connection ended inside the body."""

    def __init__(self, reason: str, body: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.body = body


class _BodyTooLarge(Exception):
    """The body is larger than an answer may be."""


async def _read(response: httpx.Response, limit: int, *, is_cut: bool = False) -> bytes:
    """The whole body. Raises _BodyCut and _BodyTooLarge, or with `is_cut` gives what it has."""
    body = bytearray()
    try:
        async for chunk in _decompressed(response, limit):
            body += chunk
    except _BodyCut as error:
        if not is_cut:
            raise _BodyCut(error.reason, bytes(body)) from error
    except _BodyTooLarge:
        if not is_cut:
            raise
    return bytes(body)


async def _decompressed(response: httpx.Response, limit: int) -> AsyncGenerator[bytes, None]:
    """The chunks of the body; a compressed one, though we ask for none, grows by bounded steps.

    `limit` is in bytes.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise _BodyCut("a body in a coding that was not asked for")
    unzip = (
        None if coding in ("", "identity") else zlib.decompressobj(47)
    )  # 47: gzip or zlib, whichever it is
    size = 0
    try:
        async for chunk in response.aiter_raw():
            for piece in [chunk] if unzip is None else _unzipped(unzip, chunk):
                size += len(piece)
                if size > limit:
                    raise _BodyTooLarge
                yield piece
    except (httpx.HTTPError, OSError, zlib.error) as error:  # OSError: TLS that breaks
        raise _BodyCut(_reason(error)) from error


def _unzipped(unzip: Any, chunk: bytes) -> Iterator[bytes]:
    while chunk:
        yield unzip.decompress(chunk, 2**20)
        chunk = unzip.unconsumed_tail


def _refused_field(reply: Reply, body: Raw) -> str | None:
    """What a server does not do for this request, and what can be left out: streaming, or keeping the answer."""
    fields = ["stream"] if body.get("background") else ["stream", "store"]
    if reply.error is None or not reply.is_refusal:
        return None
    refused = (name for name in fields if body.get(name) and failures.refuses(reply.error, name))
    return next(refused, None)


def _path(response_id: str) -> str:
    return "responses/" + urllib.parse.quote(response_id, safe="")


def _transport_error(error: httpx.HTTPError, why: str) -> errors.RequestFailed:
    is_certificate = isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error)
    match error:
        case (
            httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout() | httpx.ProxyError()
        ):
            return failures.untrusted(why) if is_certificate else failures.not_connected(why)
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return failures.not_connected(type(error).__name__, is_final=True)
        case _:
            return failures.connection_lost(why)


def _reason(error: BaseException) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return "no byte came for as long as --timeout allows"
    if str(error).startswith("peer closed connection"):
        return "the server closed it too early"
    if isinstance(
        error, httpx.ProxyError
    ):  # its other words are the proxy's, and may hold its password
        status = str(error)[:3]
        return f"the proxy refused it{f', with {status}' if status.isdecimal() else ''}"
    return str(error) or type(error).__name__


def settings_of_network() -> tuple[Any, ...]:
    """What a client depends on besides its arguments; one that was made when it was otherwise is not to be used again."""
    file = os.environ.get(CERTIFICATES[0], "")
    with contextlib.suppress(OSError):
        return (*sorted(network().items()), Path(file).stat().st_mtime_ns)
    return tuple(sorted(network().items()))


def _ssl_context(base_url: str) -> ssl.SSLContext | bool:
    """Loading certificates takes 20 ms; plain http to loopback needs none.

    Raises ConnectError for none that can be read.
    """
    if not base_url.startswith("https:"):
        return False
    name = next((name for name in CERTIFICATES if os.environ.get(name)), "")
    try:
        match name:  # httpx before 0.28 passes over a file that is not there
            case "SSL_CERT_FILE":
                return ssl.create_default_context(cafile=os.environ[name])
            case "SSL_CERT_DIR":
                next(
                    Path(os.environ[name]).iterdir(), None
                )  # else nobody says that it is not there
                return ssl.create_default_context(capath=os.environ[name])
            case _:
                return httpx.create_ssl_context(trust_env=False)
    except OSError as error:  # also an SSLError
        why = error.strerror or str(error)
        raise failures.unusable(
            name or "The package certifi", f"names {os.environ.get(name, '')}", why
        ) from error


def _proxy(base_url: str) -> str | None:
    """The proxy of the environment for this server.

    Loopback is never proxied: its plain http must not leave the machine.

    Raises ConnectError for what is no address of a proxy.
    """
    host = urllib.parse.urlsplit(base_url).hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    kind = "https" if proxies.get("https") else "all"
    if not (proxy := proxies.get(kind)):
        return None
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        httpx.Proxy(address)
    except (ValueError, httpx.InvalidURL):  # its words may hold a password
        name = next(
            (name for name in os.environ if name.lower() == f"{kind}_proxy"),
            "The proxy of this system",
        )
        raise failures.unusable(name, "is no address of a proxy", "") from None
    return address
