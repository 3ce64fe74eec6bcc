"""The input of a person: magics, options, commands, completion, and the Python interface."""
