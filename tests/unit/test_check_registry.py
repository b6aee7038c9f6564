"""`check` and the schema registry: one finding, right or wrong, and none where the settings name no registry."""

import sys
from pathlib import Path

import pytest

from tests.support.app import settings
from tests.support.registry import basic, stand_in
from worker.errors import FatalError
from worker.settings.load import Loaded
from worker.settings.tables import Registry
from worker.tools.check.command import sections
from worker.tools.check.registry import registry
from worker.tools.check.report import Status


def test_a_registry_that_answers_is_right_and_one_that_denies_is_a_fault() -> None:
    with stand_in() as server:
        (open_to_all,) = registry(Registry(url=server.url))
        server.wanted_login = basic("user", "right")
        (right,) = registry(Registry(url=server.url, username="user", password="right"))
        (wrong,) = registry(Registry(url=server.url, username="user", password="wrong"))
    (away,) = registry(Registry(url=server.url))
    assert [each.status for each in (open_to_all, right, wrong, away)] == [Status.OK, Status.OK, *[Status.FAULT] * 2]
    assert "wants no login" in str(open_to_all)
    assert "401" in str(wrong)
    assert "connecting" in str(away)


def test_the_section_is_there_only_if_the_settings_name_a_registry() -> None:
    assert "registry" not in sections(Loaded(settings(), {}), {})
    assert "registry" in sections(Loaded(settings(registry=Registry(url="http://127.0.0.1:1")), {}), {})


def test_without_the_extra_the_finding_is_the_pip_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in [name for name in sys.modules if name.startswith(("worker.registry.book", "worker.registry.avro"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(FatalError, match=r'registry.url needs the extra "registry": pip install'):
        list(registry(Registry(url="http://127.0.0.1:1")))
