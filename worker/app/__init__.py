"""The process: the main loop, and what it is made of."""
