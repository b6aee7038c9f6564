"""What `check` says of the settings and of the memory, without any network."""

import json
from pathlib import Path

import pytest

from tests.unit.samples import NEEDED
from worker.settings.load import Loaded, load
from worker.telemetry.container import Memory
from worker.tools.check.memory import memory, needed_bytes
from worker.tools.check.report import Finding, Status
from worker.tools.check.routes import routes

MB = 1024 * 1024


def loaded(**given: str) -> Loaded:
    """Return settings of three names and these, as `table__name`."""
    return load(None, NEEDED | {f"OSS_VECTORS_{name.upper()}": value for name, value in given.items()})


def problems(found: list[Finding]) -> list[tuple[str, str, Status]]:
    """Return what is not as it should be; each of it must have advice."""
    wrong = [one for one in found if one.status is not Status.OK]
    assert all(one.advice for one in wrong)
    return [(one.check, one.subject, one.status) for one in wrong]


def test_sound_settings_have_no_problem_and_say_where_they_are_from(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[kafka]\ngroup_id = "group"\n', encoding="ascii")
    found = list(routes(load(file, NEEDED)))
    assert problems(found) == []
    assert found[0].result == f"routes of vectors; the file {file} and 4 environment variables"


def test_topics_that_share_an_index_are_a_warning() -> None:
    found = list(routes(loaded(routes="a:docs,b:docs,c:other")))
    assert problems(found) == [("settings.routes", "docs", Status.WARNING)]
    assert "a, b share this index" in found[1].result


@pytest.mark.parametrize(
    ("limits", "is_told"),
    [
        ({}, False),
        ({"dead_letter__limit_window": "50"}, True),
        ({"dead_letter__limit_window": "51"}, False),
        ({"dead_letter__limit_min": "1000"}, True),
        ({"dead_letter__limit_min": "999"}, False),
    ],
    ids=str,
)
def test_a_limit_that_no_topic_can_reach_is_a_warning(limits: dict[str, str], is_told: bool) -> None:
    told = [("settings.dead_letter", "dead_letter.limit_min", Status.WARNING)] if is_told else []
    assert problems(list(routes(loaded(**limits)))) == told


def test_an_empty_dead_letter_topic_is_a_warning() -> None:
    assert problems(list(routes(loaded(dead_letter__topic="")))) == [
        ("settings.dead_letter", "dead_letter.topic", Status.WARNING)
    ]


def test_beginning_at_the_end_is_a_warning() -> None:
    assert problems(list(routes(loaded(kafka__auto_offset_reset="latest")))) == [
        ("settings.reset", "kafka.auto_offset_reset", Status.WARNING)
    ]


@pytest.mark.parametrize(
    ("key", "envelope", "words"),
    [
        ("{$kafka.key}/{index}", "none", "makes another key of it"),
        ("{tenant}/{id}", "none", "may make another key"),
        ("doc-{id}", "cloudevents", "may make another key"),
        ("$header.id", "none", "may make another key"),
        ("{$header.tenant}/{id}", "connect", "may make another key"),
        ("$attribute.subject", "cloudevents", "may make another key"),
        ("{tenant}/{id}", "connect", ""),
        ("{tenant}/{id}", "debezium", ""),
        ("", "none", ""),
        ("id", "none", ""),
        ("$kafka.key", "none", ""),
    ],
)
def test_tombstones_that_cannot_name_the_key_of_a_vector_are_a_warning(key: str, envelope: str, words: str) -> None:
    for tombstones in ("delete", "ignore"):
        records = {"tombstones": tombstones, "envelope": envelope, "fields": {"key": key}}
        route = {"topic": "a", "index": "docs", "records": records}
        found = [one for one in routes(loaded(routes=json.dumps([route]))) if one.check == "settings.tombstones"]
        expected = [("settings.tombstones", "a", Status.WARNING)] if words and tombstones == "delete" else []
        assert problems(found) == expected
        assert all(words in one.result for one in found)


# -- memory


@pytest.mark.parametrize(("share", "expected"), [(2.0, Status.OK), (1.05, Status.WARNING), (0.9, Status.FAULT)])
def test_the_limit_of_the_container_is_compared(share: float, expected: Status) -> None:
    settings = loaded().settings
    limit = int(needed_bytes(settings) * share)
    [found] = memory(settings, lambda: Memory(limit, used=None))
    assert (found.check, found.status, bool(found.advice)) == ("memory", expected, expected is not Status.OK)
    assert f"the limit is {limit // MB} MiB" in found.result


def test_no_limit_is_no_fault() -> None:
    [found] = memory(loaded().settings, lambda: None)
    assert found.status is Status.OK
    assert "no limit is set" in found.result


def test_buffer_fetch_and_requests_count() -> None:
    base = needed_bytes(loaded().settings)
    assert needed_bytes(loaded(buffer__max_bytes=str(1024 * MB)).settings) > base + 700 * MB
    assert needed_bytes(loaded(delivery__max_in_flight="16").settings) == base + 64 * MB
    client = '{"fetch_max_bytes": 116777216, "max_partition_fetch_bytes": 5242880}'
    assert needed_bytes(loaded(kafka__client=client).settings) == base + 2 * (116777216 - 16 * MB) + MB


def test_each_broker_and_topic_counts_as_the_runbook_says() -> None:
    one = needed_bytes(loaded(kafka__bootstrap_servers="a:1").settings)
    assert one == (150 + 256 + 64 + 32 + 4) * MB
    assert needed_bytes(loaded(kafka__bootstrap_servers="a:1,b:1,c:1").settings) == one + 64 * MB
    routes = '[{"topic": "a", "index": "docs"}, {"topic": "b", "index": "docs"}]'
    assert needed_bytes(loaded(kafka__bootstrap_servers="a:1", routes=routes).settings) == one + 4 * MB


def test_bodies_of_many_indexes_are_bounded_by_the_buffer_whose_records_they_hold() -> None:
    one = needed_bytes(loaded().settings)
    routes = json.dumps([{"topic": "a", "index": [f"docs{number}" for number in range(64)], "index_by": "key"}])
    assert needed_bytes(loaded(routes=routes).settings) == one + (2 * 256 - 64) * MB


def test_a_limit_without_room_for_a_batch_that_is_unpacked_is_a_warning() -> None:
    settings = loaded().settings
    limit = needed_bytes(settings) + 255 * MB
    [found] = memory(settings, lambda: Memory(limit, used=None))
    assert (found.status, "256 MiB more" in found.result) == (Status.WARNING, True)


def test_a_topic_with_several_indexes_says_how_they_are_chosen() -> None:
    found = list(routes(loaded(routes='[{"topic": "a", "index": ["d1", "d2"], "index_by": "key"}]')))
    assert problems(found) == []
    assert found[1].result == "2 indexes, chosen by key: d1, d2"
