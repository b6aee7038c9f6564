"""The formats: each reads what a message says. `worker.records` has how to add one, `contract.py` what one has to do."""
