"""Structured logs on stderr: JSON for machines, text for a terminal.

A line is a message and fields, `log.info("group joined", extra={"partitions": 3})`.
"""

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from worker.config import Log

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(settings: Log) -> None:
    """Send the log of this process to stderr, as `[log]` says; the client's is folded."""
    text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # kafka-python logs an error for every attempt while a broker is away; we tell of it once, in our own words.
    kafka = logging.getLogger("kafka")
    kafka.setLevel(logging.DEBUG if settings.level == "debug" else logging.WARNING)
    handler.addFilter(Fold(interval=30.0, prefix="kafka"))
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("alibabacloud_oss_v2").setLevel(logging.ERROR)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, then the fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = "".join(f" {name}={value}" for name, value in fields(record).items())
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}{extra}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Fold(logging.Filter):
    """Lets a message of the same place through once in `interval` seconds, and says how many were left out.

    Network errors lose their stack traces.
    """

    def __init__(self, interval: float, prefix: str = "") -> None:
        super().__init__()
        self._interval = interval
        self._prefix = prefix
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether the record is shown."""
        if not record.name.startswith(self._prefix) or record.levelno < logging.WARNING:
            return True
        place = (record.pathname, record.lineno)
        shown_at, left_out = self._seen.get(place, (float("-inf"), 0))
        if record.created - shown_at < self._interval:
            self._seen[place] = (shown_at, left_out + 1)
            return False
        self._seen[place] = (record.created, 0)
        if left_out:
            record.left_out = left_out
        if record.exc_info and isinstance(record.exc_info[1], OSError):
            # Where in the client a connection broke says nothing; a stack trace would look like a fault of the program.
            record.error, record.exc_info = repr(record.exc_info[1]), None
        return True


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
