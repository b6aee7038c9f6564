"""The fixtures of tests that run the worker as a process of its own."""

from tests.support.worker import new_stage, start_worker

__all__ = ["new_stage", "start_worker"]
