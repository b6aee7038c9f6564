"""The group of commands: each is imported when it is asked for, and every failure ends in one place."""

import importlib
import logging
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Final

import click

from worker.commands.exit_codes import ExitCode
from worker.errors import FatalError, SettingsError
from worker.words import clean

_REASON_CHARACTERS: Final = 2000


class Commands(MutableMapping[str, click.Command]):
    """The commands of a package by their names. A command's module is imported when the command is looked up."""

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._modules = {name: f"{package}.{name}" for name in names}
        self._others: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name in self._others:
            return self._others[name]
        command: click.Command = importlib.import_module(self._modules[name]).command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._others[name] = command

    def __delitem__(self, name: str) -> None:
        del self._others[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._modules
        yield from self._others

    def __len__(self) -> int:
        return len(self._modules) + len(self._others)


class Group(click.Group):
    """A group that shows its commands in the order of the table, and turns the worker's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were given."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for. An error of the worker ends the process with its exit code."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            _print_mistakes(error.mistakes)
            sys.exit(ExitCode.WRONG_SETTINGS)
        except FatalError as error:
            logging.shutdown()  # so that the reason is the last line
            click.echo(f"error: {clean(str(error), _REASON_CHARACTERS)}", err=True)
            sys.exit(ExitCode.FAILED)


def _print_mistakes(mistakes: Sequence[str]) -> None:
    click.echo(f"{len(mistakes)} wrong setting{'s' if len(mistakes) > 1 else ''}:", err=True)
    for mistake in mistakes:
        click.echo(f"  {mistake}", err=True)
