"""The addresses in use: the server, its proxies, the notebook, the journal, this package."""

from __future__ import annotations

import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from aiml_magic.errors import NOTHING_SENT, BadInput

DEFAULT_BASE_URL = "https://api.aimlapi.com/v1"
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # variables that name trusted certificates

_RUN = """\
import runpy, sys
del sys.argv[0]
sys.path += [folder for folder in {!a} if folder not in sys.path]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)"""

# URL parsers disagree about all other characters, so none is allowed.
_PLAIN_URL = r"https?://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w.~%/-]*)?"


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # the folder was removed
        return None


_session_folder = _working_directory()  # when the session began; %cd does not change it


def begin_in(folder: str) -> None:
    """Sets the folder in which the session began: %cd may have run before `%load_ext`."""
    global _session_folder  # noqa: PLW0603  # one for the process, like its environment
    _session_folder = Path(folder)


def notebook() -> str:
    """The name of the notebook: its path on Jupyter's server, else the folder of the session."""
    name = os.environ.get("JPY_SESSION_NAME") or _session_folder or ""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def base_url(setting: str) -> str:
    """The server's address: the setting, else AIML_API_URL, else AI/ML API's.

    https, or http to this machine. Raises BadInput for any other, since a header holds the key.
    """
    return _checked(setting or os.environ.get("AIML_API_URL", "") or DEFAULT_BASE_URL)


@lru_cache(maxsize=8)
def _checked(given: str) -> str:
    url = given.strip().rstrip("/")
    hint = f"Set AIML_API_URL or %config O3Pro.base_url to something like {DEFAULT_BASE_URL}."
    is_plain = re.fullmatch(_PLAIN_URL, url, re.ASCII) is not None
    try:
        parts = urllib.parse.urlsplit(url)
        is_plain = is_plain and parts.port != 0
    except ValueError:  # a port above 65535, or an impossible IPv6 address
        is_plain = False
    if not is_plain:
        raise BadInput(
            "The server's address is not a plain http or https address, so nothing was sent.", hint
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise BadInput(
            "Over plain http the API key could be read on its way; nothing was sent.", hint
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def network() -> dict[str, str]:
    """The environment variables of proxies and certificates; a proxy's may hold a password."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    proxies = {name: os.environ[name] for name in names}
    named = {name: os.environ[name] for name in CERTIFICATES if os.environ.get(name)}
    return proxies | {name: str((_session_folder or Path()) / path) for name, path in named.items()}


def use_network(variables: Mapping[str, str]) -> None:
    """Replaces this process's proxies and certificates by the `network` of another process."""
    for name in network().keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def child_command(module: str, *arguments: str) -> list[str]:
    """The command of a child process that runs `module` and imports from the folders of this one.

    -P, and these folders last: a json.py or httpx.py beside the notebook must not be imported.
    """
    found = [one for one in sys.path if isinstance(one, str) and Path(one).is_absolute()]
    folders = [str(Path(__file__).parents[1]), *found]
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    as_here = [flag for flag, is_set in flags.items() if is_set]
    return [sys.executable, "-P", *as_here, "-c", _RUN.format(folders), module, *arguments]


def home() -> Path:
    """The folder of the package: AIML_MAGIC_HOME, else the user's data directory.

    A relative one is relative to the folder of the session. Raises BadInput.
    """
    if chosen := os.environ.get("AIML_MAGIC_HOME"):
        return _in_session(chosen)
    import platformdirs

    try:
        return _in_session(platformdirs.user_data_dir("aiml_magic", appauthor=False))
    except RuntimeError as error:
        raise BadInput(
            f"This user has no home directory for the journal. {NOTHING_SENT}",
            "Set AIML_MAGIC_HOME to a folder that can be written.",
        ) from error


def journal_path(setting: str) -> Path:
    """The journal's file: the setting, else AIML_MAGIC_JOURNAL, else `journal.sqlite3` at home.

    A relative setting is relative to the working directory, a relative AIML_MAGIC_JOURNAL to the
    folder of the session. Raises BadInput.
    """
    if setting:
        return absolute(_path(setting))
    chosen = os.environ.get("AIML_MAGIC_JOURNAL", "")
    return _in_session(chosen) if chosen else home() / "journal.sqlite3"


def absolute(path: Path) -> Path:
    """A path that %cd does not change. Raises BadInput."""
    try:
        return path.absolute()
    except OSError as error:
        hint = "Name the file by its whole path, or change to another folder with %cd."
        raise _without_folder(str(path), hint) from error


def _without_folder(path: str, hint: str) -> BadInput:
    return BadInput(
        f"{path[:80]!r} begins in a working directory that was removed. {NOTHING_SENT}", hint
    )


def _in_session(chosen: str) -> Path:
    path = _path(chosen)
    if _session_folder is None and not path.is_absolute():
        hint = "Set AIML_MAGIC_HOME or AIML_MAGIC_JOURNAL by its whole path."
        raise _without_folder(chosen, hint)
    return (_session_folder or path) / path


def _path(chosen: str) -> Path:
    try:
        if "\0" not in chosen:
            return Path(chosen).expanduser()
        why = "it contains NUL"
    except RuntimeError as error:  # the home directory of an unknown user
        why = str(error).rstrip(".")
    raise BadInput(
        f"{chosen[:80]!r} is not a path: {why}. {NOTHING_SENT}",
        "Set AIML_MAGIC_HOME, AIML_MAGIC_JOURNAL or the setting journal to one.",
    )
