"""The dead-letter topic: what is written to it, when, and how it is read again."""
