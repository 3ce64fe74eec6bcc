"""Runs the property tests for a given time, on new random inputs.

    python tests/tools/fuzz.py 60 [safe sse ...]

Every property test of the suite is a law; the words choose those of the files that are called so. Half of the time hypothesis makes
the inputs up, the other half atheris, if it is installed, which looks at what code they reach. An input that takes longer than
SECONDS is a failure as well. Each failure becomes a test of its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import inspect
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import environment

SECONDS = 30  # for one input, on a busy machine
Law = Callable[..., None]


environment.make()
settings.register_profile(
    "fuzz", deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fuzz")  # before any law is made


def laws(words: list[str]) -> dict[str, Law]:
    """The property tests by name."""
    files = [
        path
        for path in sorted(Path(__file__).parents[1].rglob("test_*.py"))
        if "\n@given(" in path.read_text()
    ]
    sys.path += {str(path.parent) for path in files}
    modules = [
        importlib.import_module(path.stem)
        for path in files
        if not words or path.stem.removeprefix("test_") in words
    ]
    return {
        f"{module.__name__}::{name}": law
        for module in modules
        for name, law in vars(module).items()
        if hasattr(law, "hypothesis")
        and law.__module__ == module.__name__
        and not hasattr(law, "pytestmark")
    }


def bounded(law: Law) -> Law:
    """The law, for which an input that takes too long is a failure."""

    def run(*args: object, **kwargs: object) -> None:
        signal.alarm(SECONDS)
        # Python handles no signal during a long statement of SQLite.
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
        try:
            law(*args, **kwargs)
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.alarm(0)

    return run


def too_long(*_: object) -> None:
    raise TimeoutError(f"one input takes more than {SECONDS} s")


def make_up(chosen: dict[str, Law], seconds: float) -> None:
    """Runs each law in turn with hypothesis, again and again."""
    signal.signal(signal.SIGALRM, too_long)
    for law in chosen.values():
        law.hypothesis.inner_test = bounded(law.hypothesis.inner_test)
    end, rounds = time.monotonic() + seconds, Counter()
    while time.monotonic() < end:
        name = min(chosen, key=rounds.__getitem__)
        with tempfile.TemporaryDirectory() as folder:
            place = SimpleNamespace(
                getbasetemp=lambda: Path(folder),
                mktemp=lambda _: Path(tempfile.mkdtemp(dir=folder)),
            )
            try:
                chosen[name](**dict.fromkeys(inspect.signature(chosen[name]).parameters, place))
            except BaseException:
                print(f"{name} does not hold:", file=sys.stderr)
                raise
        rounds[name] += 1
    print(
        f"hypothesis: {len(rounds)} of {len(chosen)} laws held, in {rounds.total()} rounds of many inputs"
    )


def look_inside(words: list[str], seconds: float) -> None:
    """Atheris: bytes that reach new code are kept and changed; the first one chooses the law, the others are its input."""
    import atheris

    with atheris.instrument_imports(include=["aiml_magic"]):
        known = [law for law in laws(words).values() if not inspect.signature(law).parameters]

    def one(content: bytes) -> None:
        if content:
            known[content[0] % len(known)].hypothesis.fuzz_one_input(content[1:])

    options = [
        f"-max_total_time={seconds:.0f}",
        f"-timeout={SECONDS}",
        "-max_len=4096",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    with contextlib.chdir(tempfile.mkdtemp()):  # where it leaves an input that fails
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


def main() -> None:
    seconds, *words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        return look_inside(words[1:], float(seconds))
    has_atheris = importlib.util.find_spec("atheris") is not None
    make_up(laws(words), float(seconds) / (1 + has_atheris))
    if not has_atheris:
        return print("atheris is not installed")
    command = [sys.executable, __file__, str(float(seconds) / 2), "--inside", *words]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
