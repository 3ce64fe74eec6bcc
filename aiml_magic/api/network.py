"""How a server is reached: the proxy and certificates of the environment, and TCP keepalive."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from aiml_magic.addresses import CERTIFICATES, is_loopback
from aiml_magic.api import failures
from aiml_magic.files import why

# A silent connection is dropped by home routers after 60 s, by cloud NATs after 120 to 350 s.
_IDLE = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # the latter: macOS
_KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in ((_IDLE, 45), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6))
    if hasattr(socket, name)
]


def transport(base_url: str, verify: ssl.SSLContext | bool) -> httpx.AsyncHTTPTransport:  # noqa: FBT001  # as in httpx
    # httpx ignores the proxy variables if it is given a transport, so they are read here.
    return httpx.AsyncHTTPTransport(
        verify=verify,
        proxy=_proxy(base_url),
        socket_options=_KEEPALIVE,
        limits=httpx.Limits(max_connections=1),
    )


def settings_of_network(variables: Mapping[str, str]) -> tuple[Any, ...]:
    """The proxies and certificates in use: if they change, a client is replaced."""
    settings = tuple(sorted(variables.items()))
    if file := variables.get(CERTIFICATES[0]):
        with contextlib.suppress(OSError):
            return (*settings, Path(file).stat().st_mtime_ns)
    return settings


def ssl_context(base_url: str) -> ssl.SSLContext | bool:
    """The certificates to trust; `False` for plain http, since loading them takes 20 ms.

    Raises ConnectError if they cannot be read.
    """
    if not base_url.startswith("https:"):
        return False
    name = next((name for name in CERTIFICATES if os.environ.get(name)), "")
    try:
        match name:  # httpx before 0.28 ignores a missing file
            case "SSL_CERT_FILE":
                return ssl.create_default_context(cafile=os.environ[name])
            case "SSL_CERT_DIR":
                next(Path(os.environ[name]).iterdir(), None)  # ssl ignores a missing folder
                return ssl.create_default_context(capath=os.environ[name])
            case _:
                return httpx.create_ssl_context(trust_env=False)
    except OSError as error:  # also an SSLError
        raise failures.unusable(
            name or "The package certifi", f"names {os.environ.get(name, '')}", why(error)
        ) from error


def _proxy(base_url: str) -> str | None:
    """The proxy of the environment for this server.

    Loopback is never proxied: its plain http must not leave the machine. Raises ConnectError for an
    invalid address.
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
    except (ValueError, httpx.InvalidURL):  # the error's message may hold a password
        name = next(
            (name for name in os.environ if name.lower() == f"{kind}_proxy"),
            "The proxy of this system",
        )
        raise failures.unusable(name, "is not the address of a proxy", "") from None
    return address
