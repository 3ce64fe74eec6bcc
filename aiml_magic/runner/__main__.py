"""`python -m aiml_magic.runner JOURNAL`."""

from aiml_magic.runner.process import main

main()
