"""Looking keys up in an index: asked again while the service is away, and given up in words."""

from typing import Any

import msgspec
import pytest

from worker.errors import BlockReason, FatalError, RetryReason, TargetError, Transient
from worker.oss.lookup import RETRY_AFTER_MAX_SECONDS, IndexLookup
from worker.settings.tables import Oss


class Service:
    """Answers GetVectors in this order; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def get(self, _body: bytes) -> bytes:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else msgspec.json.encode(answer)


FOUND = {"vectors": [{"key": "a", "data": {"float32": [1.0, -0.0]}, "metadata": {"t": "x"}}]}


def throttled(retry_after: float | None = None) -> Transient:
    """Return the error of a 429."""
    return Transient("429", kind=RetryReason.THROTTLED, status=429, retry_after=retry_after)


def looked_up(service: Service) -> tuple[Any, list[float]]:
    """Look a key up; return what was found, and what was waited."""
    waited: list[float] = []
    oss = Oss(region="cn-hangzhou", bucket="b", account_id="1", credentials="anonymous")
    lookup = IndexLookup(oss, {}, "docs", wait=waited.append)
    lookup.close()
    lookup._sink = service  # type: ignore[assignment]  # answers without a connection
    return lookup.get(["a"]), waited


def test_a_throttled_question_waits_as_long_as_the_service_says() -> None:
    found, waited = looked_up(Service(throttled(7.0), throttled(), FOUND))
    assert (found["a"].vector, found["a"].metadata, waited) == ([1.0, -0.0], {"t": "x"}, [7.0, 1.0])


def test_an_outage_of_two_minutes_is_waited_out_and_a_longer_one_ends_in_words() -> None:
    service = Service(throttled())
    with pytest.raises(FatalError, match="the service was asked 10 times and did not answer: 429"):
        looked_up(service)
    found, waited = looked_up(Service(*[throttled()] * 9, FOUND))
    assert (list(found), sum(waited) > 120, max(waited)) == (["a"], True, 30.0)


def test_a_pause_of_a_day_is_not_waited_for() -> None:
    assert looked_up(Service(throttled(86_400.0), FOUND))[1] == [RETRY_AFTER_MAX_SECONDS]


def test_what_is_refused_ends_at_once_and_names_the_index() -> None:
    service = Service(TargetError("AccessDenied", block=BlockReason.CREDENTIALS, status=403))
    with pytest.raises(FatalError, match="the service refuses to read index docs: 403: AccessDenied"):
        looked_up(service)
    assert service.asked == 1


@pytest.mark.parametrize("answer", [{}, {"vectors": []}, {"vectors": None}])
def test_an_answer_without_vectors_says_that_the_index_has_none_of_them(answer: dict[str, object]) -> None:
    assert looked_up(Service(answer)) == ({}, [])


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"vectors": [{"key": 1}]}', b'{"vectors": [{"key": "\\ud83d"}]}'])
def test_an_answer_that_is_no_list_of_vectors_ends_in_words(answer: bytes) -> None:
    with pytest.raises(FatalError, match="answered GetVectors with what is no list of vectors"):
        looked_up(Service(answer))
