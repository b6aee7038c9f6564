"""How far a command is: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

It is written to stderr, so that stdout holds the result alone.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TextIO

import click

LINE_SECONDS: Final = 10.0  # between two plain lines


class Progress:
    """Counts steps. `total` is None where it is not known; then there is no time left to show."""

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str = "records",
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self._label = label
        self._total = total
        self._unit = unit
        self._file = sys.stderr if file is None else file
        self._clock = clock
        self._began = self._told = clock()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._file.isatty() and os.environ.get("TERM") != "dumb":
            unknown = itertools.repeat(None)  # of no length: there is no share of it to show
            self._bar = click.progressbar(
                None if self._total is not None else unknown,
                length=self._total,
                label=self._label,
                file=self._file,
                show_pos=True,
                show_eta=self._total is not None,
                show_percent=self._total is not None,
                item_show_func=lambda _: f"{self.rate:,.0f} {self._unit}/s",
            )
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    @property
    def rate(self) -> float:
        """Steps a second since the beginning."""
        return self.done / max(1e-9, self._clock() - self._began)

    def step(self, count: int = 1) -> None:
        """Count steps."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count, "")
        elif (now := self._clock()) - self._told >= LINE_SECONDS:
            self._told = now
            click.echo(self._line(), file=self._file)

    def _line(self) -> str:
        if self._total is None:
            return f"{self._label}: {self.done} {self._unit}, {self.rate:,.0f}/s"
        left = max(0, self._total - self.done) / max(1e-9, self.rate)
        return f"{self._label}: {self.done} of {self._total} {self._unit}, {self.rate:,.0f}/s, {left:,.0f} s left"
