"""A real kernel, with the messages of a front end."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager


@dataclass
class Ran:
    """The results of a cell: its displays in order, its streams, its error, and the number of messages and bytes."""

    displays: list[dict[str, Any]] = field(default_factory=list)
    stream: str = ""
    error: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kernel_seconds(self) -> float:
        """The seconds from busy to idle by the kernel's clock, without the time of the front end."""
        times = [
            message["header"]["date"]
            for message in self.messages
            if message["msg_type"] == "status"
        ]
        return (times[-1] - times[0]).total_seconds()

    def of_type(self, kind: str) -> list[Any]:
        return [display[kind] for display in self.displays if kind in display]


class Kernel:
    """One running kernel."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=30)
        self.updates: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []  # messages received while waiting for another one

    def start(self, code: str, cell_id: str | None = None, *, allow_stdin: bool = True) -> str:
        """Starts a cell, and returns the id of its request; `allow_stdin`: the person can type."""
        # With stop_on_error the kernel would drop a cell that is sent just after an error.
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "allow_stdin": allow_stdin,
            "stop_on_error": False,
        }
        metadata = {"cellId": cell_id} if cell_id else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def finish(self, request: str, timeout: float = 60) -> Ran:
        """All outputs of the cell until the kernel is idle."""
        ran, started = Ran(), time.monotonic()
        while True:
            message = (
                self._kept.pop(0)
                if self._kept
                else self._next(timeout - (time.monotonic() - started))
            )
            if message["parent_header"].get("msg_id") != request:
                continue
            ran.messages.append(message)
            content = message["content"]
            match message["msg_type"]:
                case "display_data" | "execute_result":
                    ran.displays.append(content["data"])
                case "stream":
                    ran.stream += content["text"]
                case "error":
                    ran.error = content
                case "status" if content["execution_state"] == "idle":
                    ran.seconds = time.monotonic() - started
                    assert (self._status(request, timeout) == "error") == (ran.error is not None)
                    return ran

    def _status(self, request: str, timeout: float) -> str:
        while True:
            reply = self.client.get_shell_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]["status"]

    def run(self, code: str, cell_id: str | None = None, timeout: float = 60) -> Ran:
        return self.finish(self.start(code, cell_id), timeout)

    def wait_for_update(
        self, claim: Callable[[dict[str, Any]], bool], timeout: float = 10.0
    ) -> dict[str, Any]:
        """The content of an update of an earlier output, during any cell."""
        deadline = time.monotonic() + timeout
        while not (found := [update for update in self.updates if claim(update)]):
            self._next(deadline - time.monotonic())
        return found[-1]

    def wait_for_words(self, words: str, timeout: float = 30.0) -> None:
        """Waits until a running cell shows these words; its outputs are stored for `finish`."""
        deadline = time.monotonic() + timeout
        while not self._kept or words not in str(self._kept[-1]["content"]):
            self._kept.append(self._next(deadline - time.monotonic()))

    def _next(self, timeout: float) -> dict[str, Any]:
        message = self.client.get_iopub_msg(timeout=max(0.0, timeout))
        if message["msg_type"] == "update_display_data":
            self.updates.append(message["content"])
        return message

    def change(self, model: str, **state: Any) -> list[dict[str, Any]]:
        """Changes a widget as a front end does; returns the kernel's messages."""
        content = {
            "comm_id": model,
            "data": {"method": "update", "state": state, "buffer_paths": []},
        }
        message = self.client.session.msg("comm_msg", content)
        self.client.shell_channel.send(message)
        came: list[dict[str, Any]] = []
        while not came or came[-1]["content"].get("execution_state") != "idle":
            came += [
                one
                for one in [self._next(10)]
                if one["parent_header"].get("msg_id") == message["header"]["msg_id"]
            ]
        return came

    @property
    def pid(self) -> int:
        return int(self.run("import os; print(os.getpid())").stream)


def without_ports(folder: str | Path) -> dict[str, str]:
    """Settings of a kernel with sockets in files: a free port may be taken before the kernel binds it."""
    return {} if sys.platform == "win32" else {"transport": "ipc", "ip": f"{folder}/ipc"}


@contextmanager
def kernel():
    """A kernel with the extension loaded."""
    folder = tempfile.mkdtemp(prefix="kernel")
    manager = KernelManager(kernel_name="python3", **without_ports(folder))
    manager.start_kernel()
    running = None
    try:
        running = Kernel(manager)
        assert running.run("%load_ext aiml_magic").error is None
        yield running
    finally:
        if running is not None:
            running.client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        shutil.rmtree(folder, ignore_errors=True)
