"""What people really publish, and what becomes of it: the cases of `tests/cases/shapes.jsonl`."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.app import TOPIC, settings
from tests.support.routed import RoutedApp
from worker.app.decoders import decoder_of
from worker.errors import RecordError
from worker.records.decode import Decoded, Ignore, Put
from worker.records.target import Target
from worker.settings import tables
from worker.settings.tables import Records, Route, with_changes

PATH: Final = Path(__file__).parents[1] / "cases" / "shapes.jsonl"
CASES: Final[list[dict[str, Any]]] = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def named(cases: Iterable[dict[str, Any]]) -> list[Any]:
    """Return cases as parameters with their names."""
    return [pytest.param(case, id=case["name"]) for case in cases]


def decoded(case: dict[str, Any], records: dict[str, Any]) -> Decoded:
    """Return what the case's message asks for under these settings of [records]. Raises `RecordError`."""
    route = tables.Route(topic="vectors", index="docs", records=records)
    decoder = decoder_of(Target("docs", 8, "cosine"), settings(routes=(route,)), "vectors")
    kafka_key = None if case["kafka_key"] is None else case["kafka_key"].encode()
    headers = [(name, base64.b64decode(header)) for name, header in case["headers"]]
    return decoder.decode(kafka_key, base64.b64decode(case["value_base64"]), headers)


def outcome_of(case: dict[str, Any]) -> tuple[str, str]:
    """Return what becomes of the case's message, in the words of the cases, and what its dead letter says."""
    try:
        assert isinstance(decoded(case, {}), Put)
    except RecordError as error:
        return f"dead-letter {error.reason.value}", error.message
    return "put", ""


def is_one_record(case: dict[str, Any]) -> bool:
    """Return whether its settings are about one record in one message."""
    return "many" not in case["with_settings"]["records"]


@pytest.mark.parametrize("case", named(case for case in CASES if "with_settings" in case and is_one_record(case)))
def test_settings_read_it_as_it_was_meant(case: dict[str, Any]) -> None:
    then = case["then"]
    if then["outcome"].startswith("dead-letter"):
        with pytest.raises(RecordError) as raised:
            decoded(case, case["with_settings"]["records"])
        assert f"dead-letter {raised.value.reason.value}" == then["outcome"]
        assert [word for word in case["message_names"] if word.lower() not in raised.value.message.lower()] == []
        return
    found = decoded(case, case["with_settings"]["records"])
    assert not isinstance(found, Ignore)
    assert then["outcome"] == ("put" if isinstance(found, Put) else "deleted")
    assert found.key == then["key"] if "key" in then else found.key
    if isinstance(found, Put) and "metadata" in then:
        assert json.loads(found.fragment)["metadata"] == then["metadata"]


class Split(RoutedApp):
    """A worker for a case about several records in a message, under the settings that the case names."""

    def __init__(self, case: dict[str, Any]) -> None:
        wanted = case["with_settings"]["records"]
        route = Route(topic=TOPIC, index="docs", dimension=8, distance_metric="cosine")
        super().__init__(route, records=with_changes(Records(), wanted))
        self.targets["docs"] = Target("docs", 8, "cosine")
        self.find()
        self.turn(3)
        kafka_key = None if case["kafka_key"] is None else case["kafka_key"].encode()
        self.append([{"key": kafka_key, "value": base64.b64decode(case["value_base64"])}])
        self.turn()
        self.intake.seal_all()
        self.deliver_to()


@pytest.mark.parametrize(
    "case",
    named(case for case in CASES if case.get("with_settings", {}).get("records", {}).get("many") == "split"),
)
def test_several_records_in_a_message_end_as_they_should(case: dict[str, Any]) -> None:
    app, then = Split(case), case["then"]
    assert sorted(app.sinks["docs"].vectors) == sorted(then["keys"])
    letters = [{"reason": one.reason.value, "element": one.element} for one in app.dead_letters.kept]
    assert letters == then.get("dead-letters", [])


@pytest.mark.parametrize("case", named(case for case in CASES if "default" in case))
def test_a_message_that_people_publish_ends_as_it_should(case: dict[str, Any]) -> None:
    outcome, message = outcome_of(case)
    assert outcome == case["default"], message


# The words of the others are those of the dead letter that their settings make.
@pytest.mark.parametrize(
    "case",
    named(
        case
        for case in CASES
        if "message_names" in case and not case.get("then", {}).get("outcome", "").startswith("dead-letter")
    ),
)
def test_its_dead_letter_names_what_is_wrong(case: dict[str, Any]) -> None:
    _, message = outcome_of(case)
    assert [word for word in case["message_names"] if word.lower() not in message.lower()] == []
