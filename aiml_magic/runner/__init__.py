"""The process that outlives the kernel and holds the wire, and the kernel's end of its pipe.

`python -m aiml_magic.runner`.
"""
