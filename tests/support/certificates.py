"""A certificate for this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a self-signed certificate for this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    key, made = folder / "key.pem", folder / "made.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        *subject,
        "-keyout",
        key,
        "-out",
        made,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return key, made
