"""Where things are: the server and the way to it, the notebook, this package's home and the journal."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from aiml_magic.errors import NOTHING_SENT, BadInput

DEFAULT_BASE_URL = "https://api.aimlapi.com/v1"
CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)  # the variables that say whose certificates are believed


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


_BEGAN = _working_directory()  # where the session began, wherever a notebook goes from there


def begin_in(folder: str) -> None:
    """Says where the session began, for a notebook that went elsewhere before it loaded the extension."""
    global _BEGAN  # noqa: PLW0603  # the variables of the environment, which are read from there, are the process's too
    _BEGAN = Path(folder)


def notebook() -> str:
    """What the notebook is called: by Jupyter's own servers by its path, else by the folder in which the session began."""
    name = os.environ.get("JPY_SESSION_NAME") or _BEGAN or ""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def base_url(setting: str) -> str:
    """The server's address: the setting, else AIML_API_URL, else AI/ML API's.

    https, or http to this machine. Raises BadInput for any other, since the key travels in a
    header.
    """
    url = (setting or os.environ.get("AIML_API_URL", "") or DEFAULT_BASE_URL).strip().rstrip("/")
    hint = (
        "Set AIML_API_URL or %config O3Pro.base_url to something like https://api.aimlapi.com/v1."
    )
    # Parsers disagree on what else may stand in an address, so nothing else may.
    is_plain = (
        re.fullmatch(
            r"https?://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w.~%/-]*)?", url, re.ASCII
        )
        is not None
    )
    try:
        parts = urllib.parse.urlsplit(url)
        is_plain = is_plain and parts.port != 0
    except ValueError:  # a port above 65535, or in brackets what is no IPv6 address
        is_plain = False
    if not is_plain:
        raise BadInput(
            "The server's address is no plain http or https address, so nothing was sent.", hint
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise BadInput(
            "Over plain http the API key could be read on its way; nothing was sent.", hint
        )
    return url


def is_loopback(host: str) -> bool:
    """`host` is this machine."""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def network() -> dict[str, str]:
    """The variables of this process that say how the network is reached, as they are now.

    The address of a proxy may hold a password.
    """
    found = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    named = {name: os.environ[name] for name in CERTIFICATES if os.environ.get(name)}
    return found | {name: str((_BEGAN or Path()) / path) for name, path in named.items()}


def use_network(variables: Mapping[str, str]) -> None:
    """Has this process reach the network as the one that `network` was asked in."""
    for name in network().keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def home() -> Path:
    """The folder of the journal, the key file and the sandbox's note: AIML_MAGIC_HOME, else the user's data directory.

    A relative one begins where the session began. Raises BadInput.
    """
    if chosen := os.environ.get("AIML_MAGIC_HOME"):
        return _from_the_beginning(chosen)
    import platformdirs

    try:
        return _from_the_beginning(platformdirs.user_data_dir("aiml_magic", appauthor=False))
    except RuntimeError as error:
        raise BadInput(
            f"This user has no home directory, and so no place for the journal. {NOTHING_SENT}",
            "Set AIML_MAGIC_HOME to a folder that can be written.",
        ) from error


def journal_path(setting: str) -> Path:
    """The journal's file: the setting, else AIML_MAGIC_JOURNAL, else `journal.sqlite3` at home.

    Raises BadInput.

    A relative AIML_MAGIC_JOURNAL begins where the session began; a setting is meant from the folder
    where it is set.
    """
    if setting:
        return absolute(_path(setting))
    chosen = os.environ.get("AIML_MAGIC_JOURNAL", "")
    return _from_the_beginning(chosen) if chosen else home() / "journal.sqlite3"


def absolute(path: Path) -> Path:
    """The file that is meant, wherever the notebook goes from here. Raises BadInput."""
    try:
        return path.absolute()
    except OSError as error:
        raise _begins_nowhere(
            str(path), "Name the file by its whole path, or go elsewhere with %cd."
        ) from error


def _begins_nowhere(path: str, hint: str) -> BadInput:
    return BadInput(
        f"{path[:80]!r} begins in a working directory that was removed. {NOTHING_SENT}", hint
    )


def _from_the_beginning(chosen: str) -> Path:
    path = _path(chosen)
    if _BEGAN is None and not path.is_absolute():
        raise _begins_nowhere(
            chosen, "Set AIML_MAGIC_HOME or AIML_MAGIC_JOURNAL by its whole path."
        )
    return (_BEGAN or path) / path


def _path(chosen: str) -> Path:
    try:
        if "\0" not in chosen:
            return Path(chosen).expanduser()
        why = "there is a NUL in it"
    except RuntimeError as error:  # the home of nobody
        why = str(error).rstrip(".")
    raise BadInput(
        f"{chosen[:80]!r} is no path: {why}. {NOTHING_SENT}",
        "Set AIML_MAGIC_HOME, AIML_MAGIC_JOURNAL or the setting journal to one.",
    )
