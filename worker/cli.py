"""The command `oss-vectors-worker`.

A new command is a file in `worker/commands`, and its name in the table below.
"""

from typing import Final

import click

from worker.commands.group import Commands, Group

COMMANDS: Final = (
    "run",
    "config",
    "schema",
    "check",
    "produce",
    "dlq",
    "verify",
    "shard",
    "demo",
    "local",
)
"""Every command, in the order in which `--help` shows them."""


@click.group(
    cls=Group,
    commands=Commands("worker.commands", COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a fault or a difference was found, 78 wrong settings.",
)
@click.version_option(package_name="oss-vectors-worker")
def main() -> None:
    """Write vector records from Kafka topics to indexes of an Alibaba Cloud OSS vector bucket.

    \b
    oss-vectors-worker demo                             try it, with nothing but this machine
    oss-vectors-worker config --example > worker.toml   begin a settings file
    oss-vectors-worker run --config worker.toml         run with it

    \b
    Completion of commands and options, for bash (zsh_source for zsh, fish_source for fish):
    eval "$(_OSS_VECTORS_WORKER_COMPLETE=bash_source oss-vectors-worker)"
    """
