"""The process that outlives the kernel and has the connections, and the kernel's end of its pipe.

It runs as `python -m aiml_magic.runner`.
"""
