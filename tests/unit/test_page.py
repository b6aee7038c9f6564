"""The page: its ring, its figures, and that whatever it shows is escaped and quotes no record."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.bounded import join, thread
from tests.support.page import PageStage, busy_stage
from tests.support.troubles import at_work
from tests.unit.samples import opened
from worker.errors import BlockReason, Reason
from worker.ledger import Outcome, Partition
from worker.telemetry.page.figures import (
    STEP_SECONDS,
    STEPS,
    Figures,
    Flow,
    History,
    Sample,
    flow_of,
    quantile,
    sample,
)
from worker.telemetry.page.summary import RUNBOOK
from worker.telemetry.page.tables import PARTITIONS_SHOWN
from worker.telemetry.state import Block, DeadLettered, State

EVIL = "<script>alert(1)</script>\"'&\x00\ud800\x1b\u202e"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;\"'&amp;" + 4 * "\ufffd"


@pytest.fixture
def stage() -> PageStage:
    return PageStage()


INFINITY = float("inf")
NONE = "\u2013"


def tables(html: str) -> list[list[list[str]]]:
    """The rows of each table's body, cell by cell."""
    bodies = re.findall(r"<tbody>(.*?)</tbody>", html, re.DOTALL)
    return [[["".join(cell.itertext()) for cell in row] for row in ET.fromstring(f"<t>{body}</t>")] for body in bodies]


def section(html: str, name: str, tag: str = "") -> str:
    """A section's text, its lines joined with spaces."""
    found = re.search(rf'<section {tag}class="{name}">(.*?)</section>', html, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


# -- the ring


def at(seconds: float, put: float = 0.0, latency: dict[float, float] | None = None) -> Sample:
    return Sample(seconds, {("put",): put}, latency or {}, {})


def test_the_ring_makes_rates_of_two_samples_by_the_time_between_them() -> None:
    history = History()
    for one in (at(0.0, 0), at(5.0, 50), at(15.0, 50), at(16.0, 57)):
        history.add(one)
    assert [(step.at, step.rates["put",]) for step in history.steps] == [(5.0, 10.0), (15.0, 0.0), (16.0, 7.0)]


def test_the_ring_holds_so_many_steps_and_no_more() -> None:
    history = History()
    for step in range(3 * STEPS):
        history.add(at(step * STEP_SECONDS, step))
    newest = (3 * STEPS - 1) * STEP_SECONDS
    assert [history.steps[place].at for place in (0, -1)] == [newest - (STEPS - 1) * STEP_SECONDS, newest]
    assert len(history.steps) == STEPS


@pytest.mark.parametrize(
    ("samples", "now", "expected"),
    [
        pytest.param([], 100.0, None, id="none yet"),
        pytest.param([100.0], 100.5, None, id="too young to make a rate"),
        pytest.param([100.0], 101.0, 100.0, id="the only one"),
        pytest.param([40.0, 45.0, 50.0], 100.0, 40.0, id="a minute ago"),
        pytest.param([30.0, 40.0, 45.0], 102.0, 40.0, id="the newest that is a minute old"),
        pytest.param([80.0, 85.0], 100.0, 80.0, id="the oldest where none is so old"),
    ],
)
def test_the_last_minute_begins_with_the_sample_of_a_minute_ago(
    samples: list[float], now: float, expected: float | None
) -> None:
    history = History()
    for moment in samples:
        history.add(at(moment))
    found = history.recent(now)
    assert (found.at if found else None) == expected


def test_a_sample_is_taken_each_five_seconds_however_often_it_is_asked_for(
    stage: PageStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = []
    collect = stage.metrics.registry.collect

    def count() -> Iterator[Any]:
        collected.append(stage.clock())
        return iter(collect())

    monkeypatch.setattr(stage.metrics.registry, "collect", count)
    for _ in range(100):
        stage.page.tick()
        stage.clock.pass_by(0.5)
    assert collected == [1000.0 + STEP_SECONDS * step for step in range(10)]


# -- figures


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (0.9, 2.6), (1.0, 3.0)])
def test_a_quantile_is_interpolated_and_ends_at_the_highest_bound(share: float, expected: float) -> None:
    older = at(0.0, latency={1.0: 100.0, 3.0: 100.0, INFINITY: 100.0})
    newer = at(5.0, latency={1.0: 200.0, 3.0: 300.0, INFINITY: 300.0})
    assert quantile(share, older, newer) == pytest.approx(expected)


def test_a_quantile_beyond_the_highest_bound_is_that_bound() -> None:
    newer = at(5.0, latency={1.0: 10.0, 3.0: 20.0, INFINITY: 1000.0})
    assert quantile(0.5, at(0.0), newer) == 3.0


def test_without_records_there_is_no_quantile() -> None:
    same = {1.0: 100.0, INFINITY: 100.0}
    assert quantile(0.5, at(0.0, latency=same), at(5.0, latency=same)) is None
    assert quantile(0.5, at(0.0), at(5.0)) is None


def test_a_sample_has_the_latency_of_all_topics_and_counts_what_failed() -> None:
    stage = PageStage(["vectors", "images"])
    for topic, latency in (("vectors", 0.02), ("images", 200.0)):
        stage.settle(opened(stage.ledger, topic), 3, Outcome.PUT, latency)
    stage.metrics.requests.labels("docs", "PutVectors", "429").inc(2)
    stage.metrics.commits.labels("failed").inc()
    taken = sample(Figures(stage.metrics.registry), 7.0)
    assert (taken.at, taken.settled["put",]) == (7.0, 6.0)
    assert [taken.latency[bound] for bound in (0.01, 0.05, 60.0, 300.0, INFINITY)] == [0.0, 3.0, 3.0, 6.0, 6.0]
    counted = {key: count for key, count in taken.counts.items() if count}
    assert counted == {("requests", "docs", "PutVectors", "429"): 2.0, ("commits", "failed"): 1.0}


def test_the_figures_of_the_last_minute_are_shown(stage: PageStage) -> None:
    assignment = opened(stage.ledger)
    stage.page.tick()
    for _ in range(24):
        stage.step()
        stage.settle(assignment, 100, Outcome.PUT, 0.2)
    shown = section(stage.html(), "throughput")
    # 13 times 100 records, since the sample of 61 seconds ago
    assert [words in shown for words in ("put 21.3", "superseded")] == [True, False]  # no zeros in the legend


# -- flow


def ends_at(seconds: float, end: float, lag: float) -> Sample:
    return Sample(seconds, {}, {}, {}, {("vectors", "0"): end}, {("vectors", "0"): lag})


def asked_each_15_s(seconds: int, *, published: int, settled: int, lag: int = 1000) -> list[Sample]:
    """Samples each 5 s of a partition whose end is asked for each 15 s, so that its lag is a saw."""
    found = []
    for now in range(0, seconds + 1, 5):
        end = 50_000 + published * (now - now % 15)
        found.append(ends_at(now, end, end - (50_000 - lag + settled * now)))
    return found


@pytest.mark.parametrize(("published", "settled"), [(100, 100), (100, 40), (40, 100), (0, 5)])
def test_the_flow_is_right_at_every_moment_although_ends_are_asked_for_at_intervals(
    published: int, settled: int
) -> None:
    for seconds in range(60, 135, 5):
        flow = flow_of(asked_each_15_s(seconds, published=published, settled=settled))
        assert (flow.published, flow.trend) == (published, published - settled)


def test_a_producer_that_stopped_publishes_nothing() -> None:
    samples = asked_each_15_s(60, published=100, settled=100)
    last = samples[-1]
    samples += [ends_at(last.at + 5 * step, last.ends["vectors", "0"], 0) for step in range(1, 8)]
    assert flow_of(samples).published == 0.0


def test_partitions_that_come_and_go_are_no_flow() -> None:
    older, newer = ends_at(0.0, 100, 10), ends_at(60.0, 220, 10)
    gone = older._replace(ends={**older.ends, ("vectors", "1"): 9e9}, lags={**older.lags, ("vectors", "1"): 9e9})
    assert flow_of([gone, newer]) == Flow(2.0, 0.0)
    assert flow_of([older]) == Flow(None, None)
    assert flow_of([at(0.0), at(60.0)]) == Flow(None, None)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ({"lag": 0}, "caught up"),
        ({"lag": 1_000}, "keeps up"),
        ({"lag": 90_000, "published": 100, "settled": 500}, "caught up in 14 min at this rate"),
        ({"lag": 90_000, "published": 500, "settled": 100}, "grows by 80.0 a second"),
        ({"lag": 90_000, "published": 400, "settled": 400}, "steady, does not shrink"),
        ({"lag": 90_000, "published": 0, "settled": 0}, "steady, does not shrink"),
        ({"lag": 90_000, "steps": 1}, "trend not known yet"),
    ],
)
def test_the_lag_comes_with_its_trend_and_the_time_to_catch_up(work: dict[str, int], expected: str) -> None:
    stage, _ = at_work(**work)
    text = section(stage.html().replace("\u00a0", " "), "now", tag='aria-label="Now" ')
    assert f"{expected}; 2 of 4 partitions" in text


def test_published_is_beside_settled() -> None:
    stage, _ = at_work(published=900, settled=300, lag=40_000)
    html = stage.html()
    assert "Published a second 180 to these" in section(html, "now", tag='aria-label="Now" ').replace("\u00a0", " ")
    assert ("published 180" in section(html, "throughput"), 'class="published"' in html) == (True, True)


def test_the_chart_of_the_lag_has_the_lag_of_each_moment() -> None:
    stage, _ = at_work(published=900, settled=300, lag=40_000)
    html = stage.html()
    assert section(html, "lag-chart").startswith("Lag, records 100,000 50,000 0")
    drawn = re.search(r'<path d="M([^"]*)" class="lag"', html)
    assert drawn is not None
    heights = [float(place.split()[1].removesuffix("h0")) for place in drawn[1].split("L")]
    assert (len(heights) > 50, heights[0] > 58, heights[-1] < 27) == (True, True, True)


def test_a_spike_does_not_flatten_a_chart_and_is_told() -> None:
    stage, assignments = at_work(published=200, settled=200)
    for assignment in assignments:
        stage.settle(assignment, 25_000, Outcome.PUT, 0.4)
    stage.step()
    shown = section(stage.html(), "throughput")
    assert (shown.startswith("Records a second 100 50 0"), "A short spike is cut off: at most 10,000." in shown) == (
        True,
        True,
    )


def test_a_rise_that_lasts_is_no_spike() -> None:
    stage, assignments = at_work(steps=30, published=200, settled=200)
    for _ in range(10):
        for assignment in assignments:
            stage.settle(assignment, 2_500, Outcome.PUT, 0.4)
        stage.step()
    shown = section(stage.html(), "throughput")
    assert (shown.startswith("Records a second 1,000"), "spike" in shown) == (True, False)


def test_a_watermark_past_an_end_that_is_old_is_not_shown_beyond_the_end(stage: PageStage) -> None:
    assignment = opened(stage.ledger)
    stage.settle(assignment, 100, Outcome.PUT, 0.1)
    stage.metrics.ends.update({assignment.partition: 60})
    (row,) = tables(stage.html())[0]
    assert row[3:6] == ["100", NONE, "100"]


# -- what is shown


@pytest.mark.parametrize("state", State)
def test_the_state_is_told_in_a_word_in_heading_and_title(stage: PageStage, state: State) -> None:
    stage.status.enter(state, "because")
    html = stage.html()
    assert (f"<h1>{state.value}</h1>" in html, f"<title>{state.value} · docs-writer-1</title>" in html) == (True, True)


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING, State.STOPPED])
def test_the_reason_is_that_of_readyz_where_no_notice_says_it(stage: PageStage, state: State) -> None:
    stage.status.enter(state, "because of that")
    assert '<p class="reason">because of that</p>' in stage.html()


def test_a_main_loop_that_does_not_turn_is_told(stage: PageStage) -> None:
    stage.status.enter(State.RUNNING, "running")
    assert "has not turned" not in stage.html()
    stage.clock.pass_by(34.0)
    html = stage.page.html().decode()
    told = "The main loop has not turned for 34\u00a0s."
    assert (told in html, '<header class="warn">' in html, "<h1>running</h1>" in html) == (True, True, True)


def test_partitions_come_with_most_lag_first_and_those_that_are_not_known_last(stage: PageStage) -> None:
    for number, end in ((0, 5), (1, 700), (2, 30)):
        assignment = opened(stage.ledger, partition=number)
        stage.metrics.ends.update(stage.metrics.ends.read() | {assignment.partition: end})
    stage.ledger.assign(Partition("vectors", 3))
    stage.paused.add(Partition("vectors", 1))
    stage.status.block(Block("vectors", BlockReason.RECORD_STUCK, 2), "vectors/2 offset 0")
    rows = tables(stage.html())[0]
    assert rows == [
        ["vectors/1", "paused", "700", "0", NONE, "700", NONE],
        ["vectors/2", "yes (record_stuck)", "30", "0", NONE, "30", NONE],
        ["vectors/0", "yes", "5", "0", NONE, "5", NONE],
        ["vectors/3", "not yet", NONE, NONE, NONE, NONE, NONE],
    ]


def test_of_many_partitions_those_with_most_lag_are_shown_and_the_page_stays_small() -> None:
    stage = busy_stage(partitions=100)
    html = stage.html()
    rows = tables(html)[0]
    lags = [int(row[2].replace(",", "")) for row in rows]
    assert lags == [37 * place for place in range(99, 99 - PARTITIONS_SHOWN, -1)]
    assert f"and {100 - PARTITIONS_SHOWN} more partitions, with less lag" in html
    assert len(html.encode()) < 60_000


def test_dead_letters_come_by_reason_with_their_places(stage: PageStage) -> None:
    for offset in range(5):
        stage.metrics.dead_letters.labels("vectors", "dimension").inc()
        stage.status.dead_lettered(DeadLettered("vectors", 4, offset, Reason.DIMENSION, 1_800_000_000.0 + offset))
    stage.metrics.dead_letters.labels("vectors", "refused").inc()
    stage.status.dead_lettered(DeadLettered("vectors", 0, 77, Reason.REFUSED, 1_800_000_000.0))
    rows = tables(stage.html())[-1]
    assert rows == [
        ["dimension", "vectors/4", "4", "2027-01-15 08:00:04", "5"],
        ["dimension", "vectors/4", "3", "2027-01-15 08:00:03", ""],
        ["dimension", "vectors/4", "2", "2027-01-15 08:00:02", ""],
        ["refused", "vectors/0", "77", "2027-01-15 08:00:00", "1"],
    ]


def test_what_may_quote_a_record_is_not_shown(stage: PageStage) -> None:
    stage.status.block(Block("vectors", BlockReason.RECORD_STUCK, 1), "vectors/1 offset 7", quote="number 3 is 1e99")
    stage.status.enter(State.BLOCKED, "vectors/1: record_stuck: vectors/1 offset 7: number 3 is 1e99")
    html = stage.html()
    assert ("vectors/1 offset 7" in html, "1e99" in html) == (True, False)
    stage.status.enter(State.FAILED, "UnicodeDecodeError(b'number 3 is 1e99')")
    assert "1e99" not in stage.html()


def test_whatever_is_shown_is_escaped() -> None:
    stage = PageStage([EVIL], [EVIL])
    stage.metrics.worker_info.clear()
    stage.metrics.worker_info.labels(EVIL, EVIL, EVIL, EVIL).set(1)
    stage.status.enter(State.STARTING, EVIL)
    stage.status.block(Block(EVIL, BlockReason.TARGET), EVIL)
    stage.metrics.requests.labels(EVIL, EVIL, EVIL).inc()
    stage.metrics.dead_letters.labels(EVIL, "key").inc()
    stage.status.dead_lettered(DeadLettered(EVIL, 0, 0, Reason.KEY, 0.0))
    opened(stage.ledger, EVIL)
    stage.page._settings = EVIL
    html = stage.html()
    assert (html.count("<script>"), html.count(ESCAPED)) == (1, 14)


def test_it_is_made_once_a_second_however_many_ask(stage: PageStage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = stage.page._make

    def count(now: float) -> bytes:
        made.append(now)
        return make(now)

    monkeypatch.setattr(stage.page, "_make", count)
    join(*[thread(stage.page.html) for _ in range(20)])
    stage.clock.pass_by(0.9)
    stage.page.html()
    assert made == [1000.0]
    stage.clock.pass_by(0.1)
    stage.page.html()
    assert made == [1000.0, 1001.0]


def test_it_names_nothing_elsewhere(stage: PageStage) -> None:
    stage.status.block(Block("vectors", BlockReason.TARGET), "no such index")
    html = stage.html()
    links = re.findall(r'<a href="([^"]*)"', html)
    assert links == [f"{RUNBOOK}#blocked-target"]  # followed by a person; nothing is loaded
    loaded = re.findall(r"""(?:src|href|action)=["']?([^"' >]*)|url\(|@import|https?://""", html.replace(links[0], ""))
    assert loaded == ["data:,", ""]


def test_several_indexes_have_a_table_with_the_blocked_ones_first() -> None:
    stage = PageStage(indexes=("docs1", "docs2"))
    for index in ("docs1", "docs2"):
        stage.metrics.in_flight_limit.labels(index).set(8)
        stage.metrics.rate_limit.labels(index).set(2500)
    stage.html()
    stage.step()
    stage.metrics.requests.labels("docs1", "PutVectors", "200").inc(3)
    stage.metrics.requests.labels("docs2", "PutVectors", "403").inc(2)
    stage.metrics.requests.labels("docs2", "GetVectorIndex", "200").inc(7)
    stage.status.block(Block("vectors", BlockReason.CREDENTIALS, of_index="docs2"), "index docs2: denied")
    stage.ledger.open(stage.ledger.assign(Partition("vectors", 0)), 0, 0)
    html = stage.html()
    assert [
        ["docs2", "credentials", "0", "2", "0 of 8", "2,500"],
        ["docs1", "no", "3", "0", "0 of 8", "2,500"],
    ] in tables(html)
    assert "yes (docs2: credentials)" in html


def test_one_index_has_no_table(stage: PageStage) -> None:
    assert 'class="indexes"' not in stage.html()
