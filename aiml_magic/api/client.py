"""The HTTP client of the Responses API.

A POST costs money: the policy of `failures` decides whether it is sent again, each attempt has its
own id in the server's log, and a `Reply` keeps everything received before a failure. Redirects are
not followed, so the key goes to `base_url` only. A dead connection is found by TCP keepalive, not
by a short timeout. Memory is bounded, and secrets that a server echoes are masked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import httpx

from aiml_magic.api import failures
from aiml_magic.api.bodies import BodyCut, BodyTooLarge, read, read_stream, reason_of
from aiml_magic.api.masking import Secrets
from aiml_magic.api.network import ssl_context, transport
from aiml_magic.api.pace import Pace
from aiml_magic.api.replies import (
    MAX_BODY,
    MAX_ERROR_BODY,
    Listener,
    Reply,
    Source,
    judged,
    read_whole,
    refused,
    weighed,
)
from aiml_magic.api.responses import Raw, Response, as_objects, attempt_id, cost, is_response
from aiml_magic.api.stream import Created, with_streamed
from aiml_magic.credentials import is_token, proof
from aiml_magic.errors import (
    ConnectError,
    MalformedResponse,
    NotFound,
    RequestFailed,
    RetrieveUnsupported,
    Unavailable,
)
from aiml_magic.files import is_out_of_handles, open_limit
from aiml_magic.text import dump

_POLL_FIRST, _POLL_LAST, _POLL_GROWTH = 2.0, 15.0, 1.5  # seconds, seconds, factor
_STOP_WAIT = 10.0  # seconds
_HANDLE_WAIT = 0.5  # seconds between two tries to get a file handle
_PROOF_WAIT = 10.0  # seconds
_MAX_STRANGE = 3  # replies to polls that are 404 or malformed, before polling ends


class Client:
    """Sends requests to one server with one key; `secrets` are masked in its replies.

    `silence` is the time without a byte, in seconds, after which a request fails; its total time is
    not limited.
    """

    def __init__(self, base_url: str, secrets: Secrets, silence: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._secrets = secrets
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": f"python-httpx/{httpx.__version__}",
        }
        self._silence = silence
        self._timeout = httpx.Timeout(
            silence, connect=15.0, write=max(120.0, min(silence, 600.0)), pool=None
        )
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._pace = Pace()

    async def aclose(self) -> None:
        await asyncio.gather(*self._stops)
        await self.drop_idle()

    async def drop_idle(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            await self._idle.pop().aclose()

    @contextlib.asynccontextmanager
    async def _response(
        self,
        method: str,
        url: httpx.URL | str,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> AsyncIterator[httpx.Response]:
        """The response to one request, on an idle or new connection.

        The connection is reused unless the request fails. Each connection has its own transport:
        httpx's pool takes quadratic time with many requests at once, and its client spends a tenth
        of a request's time on cookies, redirects and logs.
        """
        connection = (
            self._idle.pop() if self._idle else transport(self._base_url, self._ssl_context)
        )
        try:
            if is_token(self._secrets.key):
                await self._check_proof(connection)
            allowed = {"Authorization": f"Bearer {self._secrets.key}", **(headers or {})}
            async with self._exchange(connection, method, url, allowed, **request) as response:
                yield response
        except BaseException:
            await connection.aclose()
            raise
        self._idle.append(connection)

    @contextlib.asynccontextmanager
    async def _exchange(
        self,
        connection: httpx.AsyncHTTPTransport,
        method: str,
        url: httpx.URL | str,
        headers: Mapping[str, str],
        *,
        content: bytes = b"",
        trace: Any = None,
    ) -> AsyncIterator[httpx.Response]:
        extensions = {"timeout": self._timeout.as_dict()} | ({"trace": trace} if trace else {})
        every = {**self._headers, **headers}
        request = httpx.Request(method, url, headers=every, content=content, extensions=extensions)
        async with contextlib.aclosing(await connection.handle_async_request(request)) as response:
            yield response

    async def _check_proof(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Checks that the sandbox knows the token, before token or question are sent.

        Before each request: another program may own the port by now. Raises ConnectError.
        """
        root, nonce = self._base_url.removesuffix("/v1"), secrets.token_hex(16)
        url, received = f"{root}/sandbox/proof?nonce={nonce}", b""
        try:
            async with (
                asyncio.timeout(_PROOF_WAIT),
                self._exchange(connection, "GET", url, {}) as response,
            ):
                received = await read(response, 1000)
        except (httpx.HTTPError, BodyTooLarge, BodyCut, TimeoutError) as error:
            if is_out_of_handles(error):
                raise failures.no_handle(open_limit()) from error
        port = urllib.parse.urlsplit(root).port or 80
        if not hmac.compare_digest(received, proof(self._secrets.key, port, nonce).encode()):
            raise failures.sandbox_gone()

    @cached_property
    def _responses(self) -> httpx.URL:
        return httpx.URL(f"{self._base_url}/responses")  # parsed once

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext | bool:
        return ssl_context(self._base_url)

    async def ask(
        self,
        body: Raw,
        client_request_id: str,
        listener: Listener,
        *,
        attempts: int = 0,
    ) -> Reply:
        """Sends `body` and waits for its response, however long it takes.

        `attempts` counts those made before. Failures are in the reply; only exceptions of
        `listener.on_attempt` and CancelledError are raised.
        """
        reply = await self._ask_with_retries(body, client_request_id, listener, attempts)
        response = Response(reply.response)
        if response.id and reply.error is None and response.outcome == "pending":
            return await self.fetch(response.id, reply, listener)
        if response.id and reply.error is not None and reply.error.retry == "resume":
            fetched = await self.fetch(response.id, reply, listener)
            is_unsupported = (
                isinstance(fetched.error, RetrieveUnsupported) and fetched.error.retry == "never"
            )
            return reply if is_unsupported else fetched
        return reply

    async def fetch(self, response_id: str, known: Reply, listener: Listener) -> Reply:
        """Polls a response until it has ended; `known` is the part received before.

        GET costs nothing. If it fails, the question may still be running and be charged.
        """
        wait, strange, heard = _POLL_FIRST, 0, time.monotonic()
        listener.on_event(Created(response_id))
        while True:
            listener.on_poll(known.response)
            try:
                await asyncio.sleep(wait)
                known = await self._poll(response_id, known)
            except asyncio.CancelledError:
                self._stop(response_id)
                raise
            # Some gateways reply with a page to unknown paths.
            except (NotFound, MalformedResponse) as error:
                strange += 1
                if strange >= _MAX_STRANGE:
                    return replace(
                        known, error=failures.not_fetched(response_id, error, is_final=True)
                    )
            except RequestFailed as error:
                is_refused = error.retry == "never" and (error.status or 0) < 500
                if is_refused or time.monotonic() - heard > self._silence:
                    return replace(known, error=failures.not_fetched(response_id, error))
            else:
                response = Response(known.response)
                if response.outcome != "pending":
                    return known
                strange = 0
                if response.status in ("queued", "in_progress"):
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._silence:
                    return replace(known, error=failures.no_answer(response))
            wait = min(wait * _POLL_GROWTH, _POLL_LAST)

    async def _poll(self, response_id: str, known: Reply) -> Reply:
        """The response as the server has it now. Raises RequestFailed."""
        raw = await self.get(_path(response_id))
        if not (isinstance(raw, dict) and is_response(raw)):
            raise failures.malformed("something that is not a response", 200)
        named = raw if Response(raw).id else raw | {"id": response_id}
        whole = with_streamed(named, as_objects(known.response.get("output")))
        notices = () if whole is named or not raw.get("output") else ("final_left_out",)
        reply = judged(whole, {}, cost(raw, {}) or known.cost, notices)
        return replace(reply, attempts=known.attempts)

    async def get(self, path: str) -> Any:
        """The JSON at `path` below `base_url`; with a leading slash, below the server's root.

        Raises RequestFailed.
        """
        try:
            return await self._get(path)
        except RequestFailed as error:
            raise failures.of_get(error) from error

    async def _get(self, path: str) -> Any:
        url = (
            self._base_url.removesuffix("/v1") + path
            if path.startswith("/")
            else f"{self._base_url}/{path}"
        )
        try:
            async with self._response("GET", url) as response:
                raw = await read(response, MAX_BODY)
        except BodyTooLarge as error:
            raise failures.malformed(
                f"more than {MAX_BODY // 2**20} MiB", response.status_code
            ) from error
        except RequestFailed:
            raise
        except Exception as error:  # as in `_post`
            if is_out_of_handles(error):
                raise failures.no_handle(open_limit()) from error
            raise failures.not_connected(self._reason(error)) from error
        if not response.is_success:
            raise failures.http_error(
                response.status_code, response.headers, self._secrets.clean(raw), 0.0
            )
        try:
            return self._secrets.load(raw)
        except ValueError as error:
            raise failures.malformed("something that is not JSON", response.status_code) from error

    async def _ask_with_retries(
        self, body: Raw, client_request_id: str, listener: Listener, attempts: int
    ) -> Reply:
        retries, notices = 0, tuple[str, ...]()
        limit: RequestFailed | None = None
        began = time.monotonic()

        def on_wait(seconds: float) -> None:
            listener.on_retry(limit or failures.limited(), seconds)

        while True:
            burst = await self._pace.turn(on_wait, began, self._silence)
            if burst is None:
                error = limit or failures.limited()
                return Reply({}, error=error, attempts=attempts, notices=notices)
            attempts += 1
            reply = await self._post_with_handle(body, client_request_id, attempts, listener)
            if field := _refused_field(reply, body):
                body = {**body, field: False}
                notices += ("store_refused",) if field == "store" else ()
                continue
            if reply.error and failures.is_limit(reply.error):
                limit = reply.error
                is_outage = isinstance(limit, Unavailable)
                self._pace.refused(burst, limit.retry_after, is_outage=is_outage)
                continue
            self._pace.accepted(burst)
            seconds = failures.seconds_before_retry(reply.error, retries)
            if seconds is None or reply.error is None:
                return replace(reply, attempts=attempts, notices=notices + reply.notices)
            listener.on_retry(reply.error, seconds)
            await asyncio.sleep(seconds)
            retries += 1

    async def _post_with_handle(
        self, body: Raw, client_request_id: str, attempt: int, listener: Listener
    ) -> Reply:
        """As `_post`, but retries while no file handle is free: nothing was sent then."""
        until = time.monotonic() + self._silence
        while True:
            await listener.on_attempt(attempt)
            reply = await self._post(body, attempt_id(client_request_id, attempt), listener)
            if (
                reply.error is None
                or reply.error.code != failures.NO_HANDLE
                or time.monotonic() > until
            ):
                return reply
            await self.drop_idle()
            listener.on_retry(reply.error, _HANDLE_WAIT)
            await asyncio.sleep(_HANDLE_WAIT)

    async def _post(self, body: Raw, client_request_id: str, listener: Listener) -> Reply:
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "X-Client-Request-Id": client_request_id,
        }
        content = dump(body).encode("ascii")
        is_sent = False
        sent_at = time.monotonic()

        async def trace(step: str, args: Mapping[str, Any]) -> None:
            nonlocal is_sent, sent_at
            is_start = step.endswith("send_request_headers.started")
            if is_start and args["request"].method == b"POST":  # not the CONNECT to a proxy
                is_sent = True
                listener.on_sent()
            sent_at = time.monotonic() if step.endswith("send_request_body.complete") else sent_at

        try:
            async with self._response(
                "POST", self._responses, headers, content=content, trace=trace
            ) as response:
                source = Source(body, response.status_code, response.headers, self._secrets)
                if response.is_success:
                    reply = await self._reply(response, source, listener)
                    return weighed(reply, time.monotonic() - sent_at)
                raw = self._secrets.clean(await read(response, MAX_ERROR_BODY, is_cut=True))
                return refused(raw, source, time.monotonic() - sent_at)
        except Exception as error:  # noqa: BLE001  # also of TLS, of a proxy, of an invalid address
            return Reply({}, error=self._failure(error, is_sent=is_sent))

    def _failure(self, error: Exception, *, is_sent: bool) -> RequestFailed:
        """The failure of a POST with this error; `is_sent` once its headers were being sent."""
        if isinstance(error, ConnectError):
            return error
        if not is_sent and is_out_of_handles(error):
            return failures.no_handle(open_limit())
        why = self._reason(error)
        if not isinstance(error, httpx.HTTPError):
            if is_sent:
                return failures.connection_lost(why)
            return failures.not_connected(why, is_final=True)
        lost = _transport_error(error, why)
        return lost if is_sent or isinstance(lost, ConnectError) else failures.not_connected(why)

    async def _reply(self, response: httpx.Response, source: Source, listener: Listener) -> Reply:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return await read_stream(response, source, listener)
        try:
            return read_whole(await read(response, MAX_BODY), source)
        except BodyCut as error:
            return read_whole(error.body, source, error.reason)
        except BodyTooLarge:
            most = f"more than {MAX_BODY // 2**20} MiB"
            return Reply({}, error=failures.malformed(most, response.status_code))

    def _reason(self, error: BaseException) -> str:
        """Why a connection failed; masked, since httpx may quote the server."""
        return self._secrets.mask(reason_of(error))

    def _stop(self, response_id: str) -> None:
        """Requests the cancellation of a response, in the background."""

        async def post() -> None:
            url = f"{self._base_url}/{_path(response_id)}/cancel"
            failed = httpx.HTTPError, OSError, TimeoutError, RequestFailed
            with contextlib.suppress(*failed):
                async with asyncio.timeout(_STOP_WAIT), self._response("POST", url) as response:
                    await read(response, MAX_ERROR_BODY, is_cut=True)

        stop = asyncio.create_task(post())
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)


def _refused_field(reply: Reply, body: Raw) -> str | None:
    """The optional field that the server refuses, if any: `stream` or `store`."""
    fields = ["stream"] if body.get("background") else ["stream", "store"]
    if reply.error is None or not reply.is_refusal:
        return None
    refused = (name for name in fields if body.get(name) and failures.refuses(reply.error, name))
    return next(refused, None)


def _path(response_id: str) -> str:
    return "responses/" + urllib.parse.quote(response_id, safe="")


def _transport_error(error: httpx.HTTPError, why: str) -> RequestFailed:
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
