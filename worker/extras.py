"""The extras: packages that only some users need, and what to do where one is missing."""

import importlib
import shlex
from importlib.metadata import requires
from typing import Any

from worker.errors import FatalError

_DISTRIBUTION = "oss-vectors-worker"


def import_with_extra(module: str, extra: str, needs: str = "this command needs") -> Any:
    """Import a module of the worker. Raises `FatalError` with the pip command where a package of the extra is missing.

    `needs` says in the message what needs the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "worker":
            raise
        raise FatalError(f'{package} is not installed; {needs} the extra "{extra}": {pip_command(extra)}') from None


def pip_command(extra: str) -> str:
    """Return the command that installs the packages of an extra, by their own names, beside the worker as it is."""
    marker = f"extra == '{extra}'"
    found = [line.replace('"', "'").partition(";") for line in requires(_DISTRIBUTION) or ()]
    return f"pip install {shlex.join(name.strip() for name, _, condition in found if marker in condition)}"
