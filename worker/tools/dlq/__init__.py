"""Looks after the dead-letter topic: what is there, one dead letter whole, and back to the source topic.

`command` is one run of list and show: `letters` reads and selects, `listing` counts and shows.

`replay` is one run of a replay. `decide` reads the dead letters (`candidates`: what is kept of each), says which vector each is
about (`names`), and which record of its message (`elements`). `history` looks into the source topics, `plan` refuses what
must not be replayed, `send` publishes the rest.
"""
