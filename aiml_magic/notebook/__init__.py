"""What a person types: magics, options, commands, completion, and the same from Python."""
