"""The stand-in for the API: answers by rule, no model behind it. `python -m aiml_magic.sandbox`."""
