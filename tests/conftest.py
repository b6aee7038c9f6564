"""Fixtures that every level of tests may ask for, and the order of the files."""

from typing import Final

import pytest

pytest_plugins = ["tests.support.broker", "tests.support.emulator", "tests.support.hypothesis_profiles"]

_LEVELS: Final = {"chaos": 0, "integration": 1, "bench": 2, "ops": 3, "contract": 4, "unit": 5}
_LONG_FILES: Final = ("test_lease.py", "test_produce_verify.py", "test_fault_dead_letters.py", "test_delivery_model.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow files first: each file is run whole by one process, and a slow one at the end would leave the others idle."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int]:
    return item.path.name not in _LONG_FILES, _LEVELS.get(item.path.parent.name, len(_LEVELS))
