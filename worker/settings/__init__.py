"""The settings: their tables, reading them, their rules, and showing them."""
