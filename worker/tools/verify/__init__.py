"""Compares an index with its topic: what each key must be, what the index holds, and how they differ."""
