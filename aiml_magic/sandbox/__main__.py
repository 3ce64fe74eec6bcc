"""`python -m aiml_magic.sandbox`."""

from aiml_magic.sandbox.server import main

main()
