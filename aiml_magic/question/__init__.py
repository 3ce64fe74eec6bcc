"""What goes along with a question: `{{names}}`, attachments, schemas and tools.

It asks nothing and keeps nothing.
"""
