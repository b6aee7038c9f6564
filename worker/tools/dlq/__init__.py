"""Looks after the dead-letter topic: what is there, one dead letter whole, and back to the source topic.

`letters` reads and selects, `listing` counts and shows, `history` looks into the source topics, `plan` decides which dead
letters may be replayed, `send` publishes them.
"""
