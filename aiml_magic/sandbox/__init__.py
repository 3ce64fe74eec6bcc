"""The sandbox, a stand-in for the API that answers by rule. `python -m aiml_magic.sandbox`."""
