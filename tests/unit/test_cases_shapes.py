"""What people really publish, and what becomes of it: the cases of `tests/cases/shapes.jsonl`."""

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.app import settings
from worker.app.decoders import decoder_of
from worker.errors import RecordError
from worker.records.decode import Decoded, Ignore, Put
from worker.records.target import Target
from worker.settings import tables

PATH: Final = Path(__file__).parents[1] / "cases" / "shapes.jsonl"
CASES: Final[list[dict[str, Any]]] = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]

OUTCOME_NOT_YET: Final[dict[str, str]] = {}
MESSAGE_NOT_YET: Final[dict[str, str]] = {}


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


def is_read_now(case: dict[str, Any]) -> bool:
    """Return whether its settings are about one record in one message, of no envelope."""
    return not {"many", "envelope"} & case["with_settings"]["records"].keys()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in CASES if "with_settings" in case and is_read_now(case)]
)
def test_settings_read_it_as_it_was_meant(case: dict[str, Any]) -> None:
    found, then = decoded(case, case["with_settings"]["records"]), case["then"]
    assert not isinstance(found, Ignore)
    assert then["outcome"] == ("put" if isinstance(found, Put) else "deleted")
    assert found.key == then["key"] if "key" in then else found.key
    if isinstance(found, Put) and "metadata" in then:
        assert json.loads(found.fragment)["metadata"] == then["metadata"]


def marked(not_yet: dict[str, str], wanted: str) -> list[Any]:
    """Return the cases that have this column; those that are not satisfied yet must fail, or their mark is to go."""
    return [
        pytest.param(
            case,
            id=case["name"],
            marks=[pytest.mark.xfail(strict=True, reason=not_yet[case["name"]])] if case["name"] in not_yet else [],
        )
        for case in CASES
        if wanted in case
    ]


@pytest.mark.parametrize("case", marked(OUTCOME_NOT_YET, "default"))
def test_a_message_that_people_publish_ends_as_it_should(case: dict[str, Any]) -> None:
    outcome, message = outcome_of(case)
    assert outcome == case["default"], message


@pytest.mark.parametrize("case", marked(MESSAGE_NOT_YET, "message_names"))
def test_its_dead_letter_names_what_is_wrong(case: dict[str, Any]) -> None:
    _, message = outcome_of(case)
    assert [word for word in case["message_names"] if word.lower() not in message.lower()] == []


def test_every_mark_is_of_a_case_that_is_there() -> None:
    names = {case["name"] for case in CASES}
    assert (OUTCOME_NOT_YET.keys() | MESSAGE_NOT_YET.keys()) - names == set()
