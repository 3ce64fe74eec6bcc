"""Lists the licences of everything that an installation brings, as the packages themselves state them.

python tests/tools/licences.py > .github/LICENCES.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

# The extras for users; lab and test are for development only.
EXTRAS = (
    "rich",
    "keyring",
)


def requirements(name: str, extras: tuple[str, ...]) -> Iterator[str]:
    """Names of what a package needs here, with these extras."""
    for line in metadata.requires(name) or []:
        wanted = Requirement(line)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            yield re.sub(r"[-_.]+", "-", wanted.name).lower()


def licence(name: str) -> str:
    """The licence that the package states: an expression, else its classifiers, else a text."""
    stated = metadata.metadata(name)
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in stated.get_all("Classifier", [])
        if entry.startswith("License ::")
    ]
    words = (stated["License"] or "").strip().partition("\n")[0]
    return (
        stated["License-Expression"]
        or ", ".join(dict.fromkeys(classified))
        or words[:80]
        or "not stated"
    )


def main() -> None:
    needed_by: dict[str, list[str]] = {"aiml-magic": []}
    missing = set()
    for name in (queue := list(needed_by)):
        for other in requirements(name, EXTRAS if name == "aiml-magic" else ()):
            try:
                metadata.metadata(other)
            except metadata.PackageNotFoundError:
                missing.add(other)
                continue
            if other not in needed_by:
                queue.append(other)
            needed_by.setdefault(other, []).append(name)
    if missing:
        sys.exit(f"Not installed here: {', '.join(sorted(missing))}")
    print(
        "# Licences\n\naiml_magic is BSD-3-Clause. This is what else an installation brings, with the extras `rich` and `keyring`, as each"
    )
    print(
        "package states it; written by `python tests/tools/licences.py > .github/LICENCES.md`.\n\n| package | licence | needed by |\n|---|---|---|"
    )
    for name in sorted(needed_by.keys() - {"aiml-magic"}):
        print(f"| {name} | {licence(name)} | {', '.join(sorted(needed_by[name]))} |")


if __name__ == "__main__":
    main()
