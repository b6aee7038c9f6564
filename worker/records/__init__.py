"""From the bytes of a message to a validated vector and its finished JSON fragment."""
