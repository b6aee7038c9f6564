"""What the service did lately: since when it has accepted nothing, in words that quote no record."""

import pytest

from tests.support.fakes import FakeClock
from worker.errors import RetryReason, SinkError, Transient
from worker.ports import LimitCause, Pace
from worker.telemetry.service import INDEXES_NAMED, NotAccepted, Service, words_of


def unavailable(message: str = "busy") -> Transient:
    return Transient(message, kind=RetryReason.SERVER, status=503, code="ServiceUnavailable")


def test_what_failed_first_says_since_when_and_what_failed_last_says_why() -> None:
    clock = FakeClock(100.0)
    service = Service(clock)
    service.failed("docs", Transient("no route", kind=RetryReason.NETWORK))
    clock.advance(840.0)
    service.failed("docs", unavailable())
    [found] = service.not_accepted()
    assert found == NotAccepted("docs", 100.0, 2, "503 ServiceUnavailable")
    assert found.sentence(clock()) == "no request accepted for 14 min: 503 ServiceUnavailable"


def test_an_accepted_request_ends_it_and_the_next_failure_begins_again() -> None:
    clock = FakeClock(100.0)
    service = Service(clock)
    service.failed("docs", unavailable())
    service.works("docs")
    assert service.not_accepted() == []
    clock.advance(50.0)
    service.failed("docs", unavailable())
    assert service.not_accepted() == [NotAccepted("docs", 150.0, 1, "503 ServiceUnavailable")]


def test_indexes_are_kept_apart_the_one_that_failed_for_the_longest_first() -> None:
    clock = FakeClock(100.0)
    service = Service(clock)
    for index in ("b", "a", "c"):
        service.failed(index, unavailable())
        clock.advance(1.0)
    service.works("a")
    assert [one.index for one in service.not_accepted()] == ["b", "c"]


def test_the_sentence_waits_until_it_has_lasted_for_a_while() -> None:
    clock = FakeClock(100.0)
    service = Service(clock)
    assert service.sentences() == []
    service.failed("docs", unavailable())
    clock.advance(9.0)
    service.failed("other", unavailable())
    assert service.sentences() == []
    clock.advance(51.0)
    service.works("other")
    assert service.sentences() == ["index docs: no request accepted for 1 min 0 s: 503 ServiceUnavailable"]


def test_of_many_indexes_those_that_failed_for_the_longest_are_named_and_the_others_counted() -> None:
    clock = FakeClock(100.0)
    service = Service(clock)
    for number in range(INDEXES_NAMED + 2):
        service.failed(f"docs{number}", unavailable())
        clock.advance(1.0)
    clock.advance(60.0)
    *named, rest = service.sentences()
    assert [sentence.split(":")[0] for sentence in named] == [f"index docs{one}" for one in range(INDEXES_NAMED)]
    assert rest == "and the same of 2 other indexes"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SinkError("vector of a secret record", status=400, code="InvalidArgument"), "400 InvalidArgument"),
        (SinkError("page of a proxy", status=502), "502 Bad Gateway"),
        (SinkError("what?", status=599), "599"),
        (
            SinkError("page of a portal", status=200),
            "200, but the answer does not show that the service has done it",
        ),
        (SinkError("https://x, connecting: refused"), "https://x, connecting: refused"),
    ],
    ids=str,
)
def test_the_words_are_status_and_code_or_why_no_answer_came(error: SinkError, words: str) -> None:
    assert words_of(error) == words


def test_the_pace_is_read_when_it_is_asked_for() -> None:
    service = Service(FakeClock())
    paces = [
        Pace(10.0, LimitCause.STARTING, 2, LimitCause.STARTING),
        Pace(20.0, LimitCause.GROWING, 3, LimitCause.SLOW),
    ]
    service.watch_pace("docs", lambda: paces[0])
    assert service.paces() == {"docs": paces[0]}
    paces.pop(0)
    assert service.paces()["docs"].rate_cause is LimitCause.GROWING
