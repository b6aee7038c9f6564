"""The exit codes of every command. Programs rely on them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. A second signal ends `run` at once with 128 and the signal's number."""

    DONE = 0
    FAILED = 1  # the reason is the last line
    WRONG_USAGE = 2  # click's own code for arguments and options that it does not know
    DIFFERENCE = 3  # what was looked at is not as it should be: a fault, a difference
    WRONG_SETTINGS = 78  # EX_CONFIG of sysexits.h


SIGNAL_BASE = 128
"""The code of a process that a signal ended at once is this and the signal's number, as a shell shows it."""
