"""Entries of a broker's access control, which the broker applies by the time these functions return.

Kafka answers the request when the controller has the change. The broker asks its own copy, which has it a moment later.
"""

from typing import Any

from kafka.admin import ACL

from tests.support.worker import wait_for


def add_acls(admin: Any, *entries: ACL) -> None:
    """Add entries."""
    admin.create_acls(entries)
    wait_for(lambda: all(_is_known(admin, one) for one in entries), "the broker applies the new entries")


def remove_acls(admin: Any, *entries: ACL) -> None:
    """Remove entries."""
    admin.delete_acls(entries)
    wait_for(lambda: not any(_is_known(admin, one) for one in entries), "the broker has dropped the entries")


def _is_known(admin: Any, entry: ACL) -> bool:
    found, _ = admin.describe_acls(entry)  # an entry is the filter that matches it alone
    return entry in found
