"""`python -m aiml_magic.runner JOURNAL`."""

import importlib.util
import sys

# The command line of httpx, without which it is imported as well: it takes click, rich and pygments
# where they are installed, a third of the time in which a runner starts.
sys.modules["httpx._main"] = None  # type: ignore[assignment]
# httpcore looks for it four times in each request, a fifth of the time that a request takes.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

from aiml_magic.runner.process import main  # noqa: E402

main()
