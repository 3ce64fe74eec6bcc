"""`python -m aiml_magic.sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from pathlib import Path

from aiml_magic.credentials import new_token
from aiml_magic.files import raise_open_limit
from aiml_magic.sandbox import access, server, start

_IDLE = 30 * 60.0  # seconds without a request after which it ends


def main() -> None:
    args = _parser().parse_args()
    raise_open_limit()
    try:
        if args.home is None:
            asyncio.run(_serve(args))
        elif (lock := start.lock(args.home)) is None:
            print("Another sandbox of this home is running.")
        else:
            asyncio.run(_serve(args, lock))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except sqlite3.Error as error:
        sys.exit(f"{args.home}: {error}")


async def _serve(args: argparse.Namespace, lock: sqlite3.Connection | None = None) -> None:
    """Serves on loopback until it is stopped or idle; in a home it writes its port and token."""
    sockets, port = server.bind(args.port)
    note = start.Note(port, "" if args.home is None else new_token())
    state = access.State(*note, has_meta=not args.no_meta)
    running = server.serve(state, sockets)
    print(f"The sandbox listens on {note.url}", flush=True)
    if args.home is None:
        words = f"To ask it, set AIML_API_URL={note.url} and AIML_API_KEY to anything"
        print(f"{words}: it accepts any key.", flush=True)
    else:
        note.write(args.home)
        print(f"It requires the token in {start.path_of(args.home, 'json')}", flush=True)
        _close_stderr()
    while not state.stopped.is_set() and time.monotonic() - state.last_used < args.idle:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(state.stopped.wait(), min(args.idle, 60))
    if lock is not None:
        lock.close()  # before the port, so that the next sandbox finds the lock free
    running.stop()
    await asyncio.sleep(0.1)  # for the reply to the request that stopped it


def _close_stderr() -> None:
    """Redirects stderr: it is not read after the start, and a full pipe would block."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiml_magic.sandbox", description="A stand-in for the API; no model."
    )
    parser.add_argument(
        "--port", type=int, default=0, help="the port on 127.0.0.1; 0 takes a free one"
    )
    parser.add_argument(
        "--home",
        type=Path,
        help="a folder for a file with the port and a token, which is then required",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=_IDLE,
        help="seconds without a request after which it ends",
    )
    parser.add_argument(
        "--no-meta",
        action="store_true",
        help="answer as a plain server of Open Responses: "
        "no `meta` with the cost, [DONE] at the end",
    )
    return parser


if __name__ == "__main__":
    main()
