"""The commands, one file each. A file is named as its command, and holds it as `command`.

What a file imports at its top is loaded by `--help` and by shell completion too: click and modules that load no client.
All else is imported where the command runs.
"""
