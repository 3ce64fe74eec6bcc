"""The parts of a question: `{{names}}`, attachments, schemas and tools; it sends nothing."""
