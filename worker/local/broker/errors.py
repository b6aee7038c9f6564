"""What the local broker says when it cannot go on."""


class BrokerError(Exception):
    """The local broker cannot start or go on; the message says what, why and what to do, for a person to read."""
