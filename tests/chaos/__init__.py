"""Chaos: workers on a real Kafka and the emulator, under faults of every kind, held against a model.

`python -m tests.chaos --minutes 10` runs it for as long as you like and prints what was done and what came of it.
`--seed` repeats a run's choices; the seed of each run is printed.
"""
