"""`records.many` and `records.fields.records`: how they are set, for all topics and for one, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.samples import NEEDED
from worker.errors import SettingsError
from worker.settings.load import load
from worker.settings.show import in_force


def routed(*routes: dict[str, Any]) -> dict[str, str]:
    return {"OSS_VECTORS_ROUTES": json.dumps([{"topic": "a", "index": "docs", **route} for route in routes])}


def test_messages_are_one_record_by_default() -> None:
    records = load(None, NEEDED).settings.records
    assert (records.many, records.fields.records) == ("reject", "")


def test_they_are_set_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[records]\nmany = "split"\n[records.fields]\nrecords = "payload.items"\n')
    loaded = load(file, NEEDED)
    assert (loaded.settings.records.many, loaded.settings.records.fields.records) == ("split", "payload.items")
    shown = in_force(loaded).partition(f"[records.fields]  # from {file}\n")[2].partition("\n\n")[0]
    assert 'records = "payload.items"' in shown.split("\n")


def test_they_are_set_in_the_environment() -> None:
    environment = {"OSS_VECTORS_RECORDS__MANY": "split", "OSS_VECTORS_RECORDS__FIELDS": '{"records": "rows"}'}
    records = load(None, NEEDED | environment).settings.records
    assert (records.many, records.fields.records) == ("split", "rows")


def test_a_route_overrides_them_for_its_topic() -> None:
    own = {"many": "split", "fields": {"records": "rows"}}
    settings = load(None, NEEDED | routed({"topic": "b", "records": own}, {})).settings
    assert [settings.records_of(topic).many for topic in ("a", "b")] == ["reject", "split"]
    assert settings.records_of("b").fields.records == "rows"
    assert settings.records_of("b").format == settings.records.format


@pytest.mark.parametrize(
    ("records", "mistake"),
    [
        ({"many": "both"}, "routes[0].records.many"),
        ({"many": "split", "fields": {"records": "a..b"}}, 'routes[0].records.fields.records = "a..b" is not a path'),
        (
            {"many": "split", "fields": {"records": "$kafka.key"}},
            'routes[0].records.fields.records = "$kafka.key": allowed is a field of the value',
        ),
        ({"fields": {"records": "rows"}}, 'routes[0].records.fields.records needs routes[0].records.many = "split"'),
        ({"fields": {"rows": "rows"}}, "routes[0].records.fields.rows"),
    ],
)
def test_what_cannot_be_is_a_mistake(records: dict[str, Any], mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, NEEDED | routed({"records": records}))
    assert mistake in str(caught.value)


def test_a_path_without_split_is_a_mistake_of_the_table_too() -> None:
    with pytest.raises(SettingsError, match=r'records\.fields\.records needs records\.many = "split"'):
        load(None, NEEDED | {"OSS_VECTORS_RECORDS__FIELDS": '{"records": "rows"}'})
