"""`python -m aiml_magic.runner JOURNAL`."""

import importlib.util
import sys

# The optional command line of httpx imports click, rich and pygments where they are installed: a
# third of the time that a runner takes to start.
sys.modules["httpx._main"] = None  # type: ignore[assignment]
# httpcore tries to import it four times in each request: a fifth of the request's time.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

from aiml_magic.runner.process import main  # noqa: E402

main()
