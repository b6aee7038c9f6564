"""The page for people on call."""
