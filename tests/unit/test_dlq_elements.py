"""Dead letters of records of messages with several: listed, shown, and replayed one by one."""

from typing import Any

import pytest

from tests.unit.samples import NEEDED
from tests.unit.test_dlq import GUARDS, HOUR, NOW, SOURCE, Bench, refused
from worker.settings.load import load
from worker.settings.tables import Settings
from worker.tools.dlq.decide import letter_at, verdict
from worker.tools.dlq.letters import Place, Selection
from worker.tools.dlq.listing import Counts, shown
from worker.tools.dlq.plan import Guards


def settings(**records: str) -> Settings:
    chosen = {f"OSS_VECTORS_RECORDS__{name.upper()}": value for name, value in records.items()}
    return load(None, NEEDED | {"OSS_VECTORS_DEAD_LETTER__TOPIC": "dlq", **chosen}).settings


SPLIT = settings(many="split")
BY_PATH = settings(many="split", fields='{"records": "rows"}')
THREE = b'[{"key":"a","n": 1},{"key":"b","n": 2}, {"key":"a","n": 3}]'


@pytest.fixture
def bench() -> Bench:
    return Bench(settings=SPLIT)


def sent(bench: Bench) -> list[bytes]:
    return [it.value for it in bench.topics.logs[SOURCE] if it.timestamp == NOW + HOUR]


def test_only_the_record_is_sent(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", THREE), element=1)
    assert (bench.replay(), sent(bench)) == ((1, {}), [b'{"key":"b","n": 2}'])
    assert bench.replay() == (0, {"replayed_before": 1})


def test_by_a_path_it_is_sent_as_the_only_one_of_its_list() -> None:
    bench = Bench(settings=BY_PATH)
    bench.fail(bench.publish(b"k", b'{"rows":%s,"more":1}' % THREE), element=1)
    assert (bench.replay(), sent(bench)) == ((1, {}), [b'{"rows":[{"key":"b","n": 2}]}'])


def test_each_record_of_a_message_is_replayed_by_itself(bench: Bench) -> None:
    message = bench.publish(b"k", THREE)
    for element in (1, 2):
        bench.fail(message, element=element)
    assert (bench.replay()[0], sent(bench)) == (2, [b'{"key":"b","n": 2}', b'{"key":"a","n": 3}'])
    assert bench.replay() == (0, {"replayed_before": 2})


def test_a_later_record_of_the_key_in_the_same_message_is_a_newer_version(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", THREE), element=0)
    assert (bench.replay(), sent(bench)) == ((0, {"stale": 1}), [])


def test_a_record_of_the_key_within_a_later_message_is_a_newer_version(bench: Bench) -> None:
    message = bench.publish(b"k", THREE)
    bench.fail(message, element=1)
    bench.publish(b"other", b'[{"key":"x"},{"key":"b"}]')
    bench.fail(message, element=2)
    assert (bench.replay(), sent(bench)) == ((1, {"stale": 1}), [b'{"key":"a","n": 3}'])


def test_of_two_bad_versions_in_a_message_the_later_is_replayed(bench: Bench) -> None:
    message = bench.publish(b"k", THREE)
    bench.fail(message, element=2)
    bench.fail(message, element=0)
    assert (bench.replay(), sent(bench)) == ((1, {"stale": 1}), [b'{"key":"a","n": 3}'])


def test_where_all_versions_are_sent_those_of_a_message_go_in_its_order(bench: Bench) -> None:
    message = bench.publish(b"k", THREE)
    bench.fail(message, element=2)
    bench.fail(message, element=0)
    assert bench.replay(Guards(3, even_if_stale=True))[0] == 2
    assert sent(bench) == [b'{"key":"a","n": 1}', b'{"key":"a","n": 3}']


@pytest.mark.parametrize("is_reference", [False, True])
@pytest.mark.parametrize("chosen", [settings(), BY_PATH], ids=["reject", "another path"])
def test_a_record_that_the_settings_do_not_cut_out_is_refused(is_reference: bool, chosen: Settings) -> None:
    bench = Bench(settings=chosen)
    bench.fail(bench.publish(b"k", THREE), element=1, is_reference=is_reference)
    assert (bench.replay(Guards(3, even_if_stale=True)), sent(bench)) == ((0, {"not_cut": 1}), [])


def test_a_value_that_was_left_out_is_cut_once_it_is_read_again(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", THREE), element=1, is_reference=True)
    assert (bench.replay(), sent(bench)) == ((1, {}), [b'{"key":"b","n": 2}'])


def test_a_dead_letter_for_many_records_is_replayed_as_its_message_and_only_on_demand(bench: Bench) -> None:
    bench.fail(bench.publish(None, THREE), element=1, elements=2)
    assert bench.replay() == (0, {"key_unknown": 1})
    assert (bench.replay(Guards(3, even_if_stale=True)), sent(bench)) == ((1, {}), [THREE])


def test_the_command_of_edit_gets_the_record_alone(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", THREE), element=1)
    assert (bench.replay(edit="sed s/2/22/"), sent(bench)) == ((1, {}), [b'{"key":"b","n": 22}'])


def test_edit_may_not_change_the_key_of_a_record(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", THREE), element=1)
    assert bench.replay(edit="sed s/b/c/") == (0, {"edit_failed": 1})


def test_edit_keeps_the_key_of_a_record_in_a_list() -> None:
    bench = Bench(settings=BY_PATH)
    bench.fail(bench.publish(b"k", b'{"rows":%s}' % THREE), element=1)
    assert (bench.replay(edit="sed s/2/22/"), sent(bench)) == ((1, {}), [b'{"rows":[{"key":"b","n": 22}]}'])


def test_dead_letters_are_selected_by_the_key_of_their_record(bench: Bench) -> None:
    message = bench.publish(b"k", THREE)
    places = [bench.fail(message, element=element) for element in (1, 2)]
    decision = bench.decide(Selection(keys=("b",)))
    assert (list(decision.plan.replay), refused(decision)) == ([places[0]], {})


def shown_at(bench: Bench, place: Place) -> list[str]:
    topics: Any = bench.topics
    letter = letter_at(bench.settings, topics, place)
    assert letter is not None
    known = verdict(bench.settings, topics, topics, letter, GUARDS)
    own = THREE[20:38] if letter.element == 1 else None
    return list(shown(letter, known.newer_at, str(known.cause), own))


def test_a_dead_letter_is_shown_with_the_place_of_its_record_and_the_record(bench: Bench) -> None:
    lines = shown_at(bench, bench.fail(bench.publish(b"k", THREE), element=1))
    assert "element       1, of a message with several records" in lines
    assert lines[lines.index("record") + 1] == '  {"key": "b", "n": 2}'
    assert "newer version no" in lines


def test_a_dead_letter_for_many_says_how_many(bench: Bench) -> None:
    lines = shown_at(bench, bench.fail(bench.publish(b"k", THREE), element=1, elements=2))
    assert "element       1 and 1 more behind it, of a message with several records" in lines
    assert "record" not in lines


def test_the_list_counts_dead_letters_of_records_of_messages(bench: Bench) -> None:
    counts, topics = Counts(), bench.topics
    for element in (None, 1):
        place = bench.fail(bench.publish(b"k", THREE), element=element)
        letter = letter_at(SPLIT, topics, place)  # type: ignore[arg-type]  # it has what is used of a scanner
        assert letter is not None
        counts.add(letter)
    assert (counts.as_json("dlq")["elements"], counts.as_json("dlq")["total"]) == (1, 2)
    assert list(counts.lines("dlq"))[:2] == ["dlq: 2 dead letters", "1 of them are of records of messages with several"]
