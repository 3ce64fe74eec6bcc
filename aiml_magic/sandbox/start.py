"""Finds, starts and stops the sandbox of a home folder, and checks its identity.

A sandbox writes a private file at home with its port and its token. Another program may own the
port later, so the token is sent only to a server that has proved to know it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aiml_magic.addresses import child_command, home
from aiml_magic.credentials import environment, new_token, proof
from aiml_magic.errors import SandboxError
from aiml_magic.files import make_private_folder, write_private
from aiml_magic.text import dump, load

_TIMEOUT = 2.0  # seconds for the proof of a running sandbox
_BY_HAND = (
    "Correct that, or set AIML_MAGIC_HOME to a folder that can be written; "
    "without a folder: python -m aiml_magic.sandbox"
)
_started: list[subprocess.Popen[bytes]] = []  # a Popen without a reference warns
_here: dict[str, str] = {}  # the tokens of the sandboxes in this process, by address


class Note(NamedTuple):
    """The port and the token of a sandbox: a private file at home."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def write(self, home: Path) -> None:
        _sweep(home)
        write_private(path_of(home, "json"), dump(self._asdict()))


def find_or_start(home: Path, timeout: float = 20.0) -> str:
    """The base URL of the home's sandbox, started if none runs. Raises SandboxError."""
    note = _running(home)
    if note is None:
        process = _start(home)
        deadline = time.monotonic() + timeout
        while (note := _running(home)) is None:
            if process.poll() or time.monotonic() > deadline:
                raise _not_started(process)
            time.sleep(0.02)
        if process.stderr is not None:
            process.stderr.close()
    return note.url


def is_in_this_process(url: str) -> bool:
    return url in _here


def token(url: str) -> str | None:
    """The token of the sandbox at `url`, in this process or of this home; `None` if it is gone."""
    if url in _here:
        return _here[url]
    note = _note(home())
    return note.token if note is not None and note.url == url else None


def stop(home: Path) -> bool:
    """Stops the home's sandbox; `False` if none was running. Raises SandboxError."""
    note = _running(home)
    if note is not None:
        authorization = f"Authorization: Bearer {note.token}\r\n"
        if not _call(note.port, "DELETE", "/sandbox", authorization):
            raise SandboxError("The sandbox did not answer, and may go on.", "Try again.")
        for process in _started:
            if process.args[-1] == str(home):  # type: ignore[index]  # a list, as `_start` gives it
                with suppress(subprocess.TimeoutExpired):
                    process.wait(2)
    _started[:] = [process for process in _started if process.poll() is None]
    return note is not None


@contextmanager
def in_this_process() -> Iterator[str]:
    """The base URL of a sandbox in a thread of this process. Raises OSError."""
    from aiml_magic.sandbox import access, server

    sockets, port = server.bind(0)
    note, loop = Note(port, new_token()), asyncio.new_event_loop()
    state = access.State(*note)

    async def run() -> None:
        running = server.serve(state, sockets)
        await state.stopped.wait()
        running.stop()
        await running.close_all_connections()

    thread = threading.Thread(
        target=loop.run_until_complete, args=(run(),), daemon=True, name="aiml_magic-sandbox"
    )
    thread.start()
    _here[note.url] = note.token
    try:
        yield note.url
    finally:
        del _here[note.url]
        loop.call_soon_threadsafe(state.stopped.set)
        thread.join()
        loop.close()


def lock(home: Path) -> sqlite3.Connection | None:
    """The lock of the sandbox of a home; `None` if another process has it."""
    make_private_folder(home)
    path = path_of(home, "lock")
    path.touch(0o600)
    return _locked(path)


def path_of(home: Path, ending: str) -> Path:
    """The note or the lock of the sandbox on this machine's loopback.

    Machines and containers may share a home, but each has its own loopback: so the name is a hash
    of the host, its boot id and its network namespace.
    """
    names = [socket.gethostname()]
    with suppress(OSError):  # only Linux has these
        names.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        names.append(str(Path("/proc/self/ns/net").readlink()))
    return home / f"sandbox-{hashlib.sha256(dump(names).encode()).hexdigest()[:12]}.{ending}"


def _start(home: Path) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(
            child_command("aiml_magic.sandbox", "--home", str(home)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,  # so that it outlives the kernel
        )
    except OSError as error:
        raise SandboxError(f"The sandbox did not start: {error}.", _BY_HAND) from error
    _started.append(process)
    return process


def _not_started(process: subprocess.Popen[bytes]) -> Exception:
    """The error for a sandbox that ended or is not ready in time, with the last line of stderr."""
    assert process.stderr is not None
    with process.stderr as stderr:
        if not process.poll():
            return SandboxError(
                "The sandbox did not start in time; another one of this home may hang.",
                "Try again when the machine is less busy;"
                " or set AIML_MAGIC_HOME to another folder.",
            )
        lines = stderr.read().decode("utf-8", "replace").split("\n")
    why = f"it ended with code {process.returncode}"
    why = next((line.strip() for line in reversed(lines) if line.strip()), why)
    return SandboxError(f"The sandbox did not start: {why[:300].rstrip('.')}.", _BY_HAND)


def _running(home: Path) -> Note | None:
    """The note of the home's sandbox, if the server at its port proves to have the token."""
    note = _note(home)
    if note is None:
        return None
    nonce = secrets.token_hex(16)
    received = _call(note.port, "GET", f"/sandbox/proof?nonce={nonce}")
    expected = proof(note.token, note.port, nonce).encode()
    return note if hmac.compare_digest(received, expected) else None


def _note(home: Path) -> Note | None:
    try:
        raw = load(path_of(home, "json").read_text("utf-8"))
        port, token = int(raw["port"]), raw["token"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return Note(port, token) if 0 < port < 2**16 and isinstance(token, str) and token else None


def _call(port: int, method: str, path: str, headers: str = "") -> bytes:
    """The beginning of the body of a reply from a port of this machine, within the timeout.

    Bounded, since another program may own the port and stream without end.
    """
    deadline, answer, body = time.monotonic() + _TIMEOUT, b"", b""
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Connection: close\r\n\r\n"
    )
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection,
    ):
        connection.sendall(request.encode("ascii"))
        while (left := deadline - time.monotonic()) > 0 and len(answer) < 2000 and len(body) < 64:
            connection.settimeout(left)
            if not (chunk := connection.recv(1000)):
                break
            answer += chunk
            body = answer.partition(b"\r\n\r\n")[2]
    return body


def _locked(path: Path) -> sqlite3.Connection | None:
    """A lock that the system releases if the process dies; `None` if another process has it."""
    # SQLite's locks are the same on every system.
    lock = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return None
    return lock


def _sweep(home: Path) -> None:
    """Removes the notes and locks of ended machines and containers."""
    for path in home.glob("sandbox*.lock"):
        with suppress(OSError, sqlite3.Error):
            if path != path_of(home, "lock") and (lock := _locked(path)) is not None:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
                lock.close()
