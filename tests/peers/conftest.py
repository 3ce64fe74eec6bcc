"""Servers of the Responses API by other authors; each is installed by its own script, and is not part of this project."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "shared" / "servers"
IS_REQUIRED = "peers" in os.environ.get("AIML_TEST_REQUIRE", "")
PORTS = {"llama_cpp": 9131, "llmock": 9132, "ogx": 9133}


@contextmanager
def peer(
    name: str, folder: Path, *arguments: str, health: str, patience: float = 400.0
) -> Iterator[str]:
    """The server of this name, on loopback; skips where it cannot be installed. AIML_TEST_PEERS names a folder that keeps it."""
    script, port = SCRIPTS / f"start-{name}.sh", PORTS[name]
    if not script.exists() or shutil.which("bash") is None:
        if IS_REQUIRED:
            pytest.fail(f"{script} is not there")
        pytest.skip(f"the script that starts {name} is not on this machine")
    if not IS_REQUIRED:
        pytest.skip(f"installing {name} takes a while; AIML_TEST_REQUIRE=peers asks for it")
    kept = os.environ.get("AIML_TEST_PEERS")
    with (folder / "log").open("w+") as log:
        place = str(Path(kept) / name if kept else folder / "venv")
        # Their scripts look for a newer Python, and for pip's settings, where the person keeps them.
        person = os.environ | {"HOME": pwd.getpwuid(os.getuid()).pw_dir}
        process = subprocess.Popen(
            ["bash", script, place, str(port), *arguments], stdout=log, stderr=log, env=person
        )
        try:
            deadline = time.monotonic() + patience
            while not is_there(f"http://127.0.0.1:{port}{health}"):
                if time.monotonic() > deadline or process.poll() is not None:
                    log.seek(0)
                    pytest.fail(f"{name} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)


def is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class LLMock:
    """llmock: answers by orders, stores requests, and judges the client."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = url.removesuffix("v1") + "_llmock"

    def will(self, *behaviors: dict[str, Any]) -> None:
        """Resets the server, and sets its behaviour."""
        self._call("reset", {})
        if behaviors:
            self._call("scenario", {"behaviors": list(behaviors)})

    @property
    def asked(self) -> list[Any]:
        """The questions, without requests for the list of models."""
        return [one for one in self._call("requests")["requests"] if one["method"] == "POST"]

    @property
    def verdict(self) -> Any:
        return self._call("verdict")

    def _call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self._admin}/{path}", headers={"Content-Type": "application/json"}
        )
        request.data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """llama.cpp's own server with SmolLM2-135M, a real model."""
    with peer("llama_cpp", tmp_path_factory.mktemp("llama"), health="/health") as url:
        yield url


@pytest.fixture(scope="session")
def llmock(tmp_path_factory):
    with peer("llmock", tmp_path_factory.mktemp("llmock"), health="/_llmock/verdict") as url:
        yield LLMock(url)


@pytest.fixture(scope="session")
def ogx(llmock, tmp_path_factory):
    """OGX over llmock: the one with real state."""
    options = (llmock.url, "gpt-4o", "remote::openai")
    with peer("ogx", tmp_path_factory.mktemp("ogx"), *options, health="/v1/health") as url:
        yield url
