"""The error of the local broker."""


class BrokerError(Exception):
    """The local broker cannot start or continue. The message says what failed, why, and what to do."""
