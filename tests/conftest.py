"""Fixtures that every level of tests may ask for."""

pytest_plugins = ["tests.support.broker", "tests.support.emulator", "tests.support.hypothesis_profiles"]
