"""The process with the connections, which outlives the kernel, and the kernel's end of its pipe.

It runs as `python -m aiml_magic.runner`.
"""
