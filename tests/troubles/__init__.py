"""Troubles brought about on purpose, and what a person on call gets to see of each: alerts, `/readyz`, the page."""
