"""What the page says in each trouble: its heading, its colour, the last words, since when, and where the runbook helps."""

import math
import re
import time
from html.parser import HTMLParser

import pytest

from tests.support.markdown import ROOT, headings, slug
from tests.support.page import PageStage
from tests.support.troubles import TROUBLES, UNAVAILABLE, at_work, healthy, html_of, idle, page_in
from tests.unit.samples import opened
from worker.errors import BlockReason
from worker.ledger import Outcome
from worker.telemetry.kafka_facts import GroupFacts, GroupMember, Retention, TopicFacts
from worker.telemetry.page.facts import Share
from worker.telemetry.page.summary import RUNBOOK
from worker.telemetry.state import Block, State

_VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})


class _Checked(HTMLParser):
    """Reads a page, and notes what is not valid of it."""

    def __init__(self) -> None:
        super().__init__()
        self.mistakes: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.mistakes.append(f"<{tag}> has an attribute twice")
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if "p" in self._open and tag in ("p", "div", "ul", "table", "section", "dl"):
            self.mistakes.append(f"<{tag}> in a <p>")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.mistakes.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.texts.append(data)

    def text(self) -> str:
        """What a person reads, without the script."""
        assert (self._open, len(self.ids) - len(set(self.ids))) == ([], 0)
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())


def read(html: str) -> _Checked:
    checked = _Checked()
    checked.feed(html)
    checked.close()
    return checked


@pytest.mark.parametrize("name", TROUBLES)
def test_in_a_trouble_the_page_says_what_gets_through_why_not_and_since_when(name: str) -> None:
    _, headline, tone, words = TROUBLES[name]
    html = page_in(name)
    found = read(html)
    assert f"<h1>{headline}</h1>" in html
    assert f'<header class="{tone}">' in html
    text = found.text()
    assert [each for each in words if each not in text] == [], text
    assert (found.mistakes, "secret-content" in html, len(html.encode()) < 60_000) == ([], False, True)


@pytest.mark.parametrize("name", TROUBLES)
def test_what_is_wrong_comes_before_all_figures(name: str) -> None:
    html = page_in(name)
    places = [html.find(each) for each in ('class="notices"', 'class="blocked"', 'class="now"')]
    assert places[2] > max(places[:2])
    if "<h1>blocked" in html:
        assert places[0] == -1 or places[0] > places[1]


@pytest.mark.parametrize(("state", "is_first"), [(State.BLOCKED, True), (State.RUNNING, False)])
def test_what_is_blocked_comes_first_where_nothing_moves(state: State, is_first: bool) -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("leaderless_partitions", 1, topic="vectors")
    stage.status.block(Block("vectors", BlockReason.TARGET), "no such index")
    stage.status.enter(state, "because")
    html = html_of(stage)
    assert (html.index('class="blocked"') < html.index('class="notices"')) is is_first


def test_a_worker_that_finds_no_broker_names_the_section_of_the_runbook_beside_its_state() -> None:
    header, _, _ = page_in("first start").partition("</header>")
    assert f'<a href="{RUNBOOK}#ossvectorspollingstopped"' in header


def test_a_healthy_worker_is_green_and_has_no_notice() -> None:
    html = html_of(healthy())
    assert ("<h1>running</h1>" in html, '<header class="good">' in html) == (True, True)
    assert ('class="notices"' in html, 'class="blocked"' in html) == (False, False)
    assert "caught up; 2 of 4 partitions" in read(html).text()


def test_of_what_is_not_known_or_may_not_be_asked_for_the_page_is_silent() -> None:
    stage = PageStage()
    opened(stage.ledger)
    stage.status.enter(State.RUNNING, "running")
    stage.step()
    text = read(stage.html()).text()
    assert [words in text for words in ("Group's lag", "The group", "not read", "runbook")] == [False] * 4
    assert "1 partition" in text


def test_each_section_of_the_runbook_that_a_page_links_to_is_there() -> None:
    runbook = {slug(heading) for heading in headings((ROOT / "ops" / "runbook.md").read_text())}
    stage = PageStage()
    for reason in BlockReason:
        stage.status.block(Block("vectors", reason), "x")
    linked = set(re.findall(rf'href="{re.escape(RUNBOOK)}#([^"]*)"', stage.html()))
    assert (len(linked), linked - runbook) == (len(BlockReason), set())


def test_each_section_of_a_notice_is_that_of_an_alert() -> None:
    alerts = {name.lower() for name in re.findall(r"alert: (\w+)", _rules())}
    linked = {
        section
        for trouble in TROUBLES
        for section in re.findall(rf'href="{re.escape(RUNBOOK)}#(?!blocked-)([^"]*)"', page_in(trouble))
    }
    assert (linked - alerts, len(linked) >= 8) == (set(), True)


def _rules() -> str:
    return "".join(path.read_text() for path in (ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))


def test_what_the_survey_found_is_what_the_page_says() -> None:
    stage = PageStage()
    assignment = opened(stage.ledger)
    stage.status.enter(State.RUNNING, "running; the dead-letter topic is missing")
    facts = stage.metrics.kafka_facts
    facts.topics = {"vectors": TopicFacts(False, 4, 1), "vectors.dlq": TopicFacts(True)}
    facts.group = GroupFacts([GroupMember("writer", "10.0.0.1", True, 1)], {"vectors": 3}, {"vectors": 777})
    facts.retention = Retention({"vectors": time.time() + 5_430}, math.inf)
    stage.metrics.coordinator_unavailable.set(1_230)
    stage.metrics.ends.update({assignment.partition: 5})
    stage.members = list(facts.members())
    text = read(stage.html()).text()
    for words in (
        "This worker has not reached the group's coordinator for 20 min",
        "No worker reads 3 of 4 partitions of vectors: no member of the group owns them",
        "1 partition of vectors has no leader.",
        "The dead-letter topic vectors.dlq is not there",
        "the oldest record of vectors that is not settled in 1 h 30 min",
        "1 of 4 partitions",
        "Group's lag 777 all partitions; no other member",
        "writer 10.0.0.1 worker 1",
    ):
        assert words in text, text
    assert "running; " not in text


def test_a_commit_that_failed_is_no_notice_while_others_are_accepted_or_the_coordinator_is_why() -> None:
    stage = TROUBLES["commits fail"].make()
    stage.gauges.set("coordinator_unavailable_seconds", 300)
    assert "Commits fail" not in read(html_of(stage)).text()
    stage.gauges.set("coordinator_unavailable_seconds", 0)
    assert "Commits fail" in read(html_of(stage)).text()
    stage.metrics.last_commit.set(stage.wall())
    assert "Commits fail" not in read(html_of(stage)).text()


def test_offsets_that_were_skipped_are_a_notice_for_as_long_as_their_alert() -> None:
    stage = TROUBLES["offsets skipped"].make()
    idle(stage, 1150)
    assert "1,200 offsets of vectors" in read(html_of(stage)).text()
    idle(stage, 60)
    assert "offsets of vectors" not in read(html_of(stage)).text()
    stage.metrics.skipped_offsets.labels("vectors", "retention").inc(7)
    idle(stage, 10)
    assert "1,207 offsets of vectors" in read(html_of(stage)).text()


def test_programs_that_are_no_workers_come_first_and_many_members_keep_the_page_small() -> None:
    stage, _ = at_work(steps=3)
    workers = [GroupMember("writer", f"10.0.{number // 250}.{number % 250}", True, 1) for number in range(995)]
    stage.members = [*workers, *(GroupMember(f"stranger-{number}", "10.1.1.1", False, 1) for number in range(5))]
    stage.gauges.set("unassigned_partitions", 5, topic="vectors")
    html = html_of(stage)
    text = read(html).text()
    assert "stranger-2 at 10.1.1.1 owns 1, and 2 more." in text
    assert "partitions stranger-0 10.1.1.1 another program 1" in text
    assert ("and 980 more members" in text, len(html.encode()) < 60_000) == (True, True)


# -- each notice, at its limit


def test_a_request_that_fails_for_a_moment_is_no_notice() -> None:
    stage, _ = at_work()
    stage.status.service.failed("docs", UNAVAILABLE)
    stage.clock.pass_by(7.0)
    assert "<h1>running</h1>" in html_of(stage)
    stage.clock.pass_by(1.0)
    stage.status.turned(stage.clock())
    assert "No request accepted for 12 s: 503" in read(html_of(stage)).text()


@pytest.mark.parametrize(
    ("name", "labels", "silent", "told", "words"),
    [
        ("dead_letter_retention_left_seconds", {}, 86_401.0, 86_399.0, "the oldest dead letter in 1 d"),
        ("leaderless_partitions", {"topic": "vectors"}, 0.0, 1.0, "1 partition of vectors has no leader."),
        ("leaderless_partitions", {"topic": "vectors"}, 0.0, 3.0, "3 partitions of vectors have no leader."),
    ],
)
def test_a_figure_beyond_its_limit_is_a_notice(
    name: str, labels: dict[str, str], silent: float, told: float, words: str
) -> None:
    for value, expected in ((silent, False), (told, True)):
        stage, _ = at_work(steps=3)
        stage.gauges.set(name, value, **labels)
        assert (words in read(html_of(stage)).text()) is expected


@pytest.mark.parametrize(
    ("left", "lag", "expected"), [(21_599.0, 10_000, True), (21_601.0, 10_000, False), (21_599.0, 4_000, False)]
)
def test_records_behind_a_minute_of_work_that_expire_within_six_hours_are_a_notice(
    left: float, lag: int, expected: bool
) -> None:
    stage, _ = at_work(lag=lag)
    stage.gauges.set("retention_left_seconds", left, topic="vectors")
    assert ("is not settled in 6 h" in read(html_of(stage)).text()) is expected


def beside_a_busy_topic(*, settled: int = 0, seconds: float = 300.0) -> PageStage:
    """A worker that settles 200 records a second of `vectors`; of `images`, 3,000 wait, and so many are settled in each step."""
    stage = PageStage(("vectors", "images"))
    busy, quiet, still = opened(stage.ledger), opened(stage.ledger, "images"), opened(stage.ledger, "images", 1)
    stage.status.enter(State.RUNNING, "running")
    for _ in range(round(seconds / 5)):
        stage.settle(busy, 1000, Outcome.PUT, 0.4)
        if settled:
            stage.settle(quiet, settled, Outcome.PUT, 0.4)
        stage.metrics.ends.update(
            {busy.partition: busy.position, quiet.partition: quiet.position, still.partition: 3000}
        )
        stage.step()
    return stage


@pytest.mark.parametrize("settled", [0, 500])
def test_records_that_expire_are_a_notice_whatever_is_settled_of_other_partitions(settled: int) -> None:
    stage = beside_a_busy_topic(settled=settled)
    stage.gauges.set("retention_left_seconds", 1_200.0, topic="images")
    stage.gauges.set("retention_left_seconds", 1_100.0, topic="vectors")
    text = read(html_of(stage)).text()
    assert "Kafka deletes the oldest record of images that is not settled in 20 min" in text
    assert "the oldest record of vectors" not in text


def test_a_record_that_is_on_its_way_does_not_expire() -> None:
    stage, assignments = at_work(published=0, settled=0)
    stage.gauges.set("retention_left_seconds", 1_200.0, topic="vectors")
    stage.metrics.ends.update({each.partition: each.position + 1 for each in assignments})
    assert "is not settled in" not in read(html_of(stage)).text()
    idle(stage, 65)
    assert "is not settled in 20 min" in read(html_of(stage)).text()


@pytest.mark.parametrize(("seconds", "settled", "expected"), [(75.0, 0, True), (50.0, 0, False), (75.0, 1, False)])
def test_a_topic_of_which_nothing_is_settled_is_a_notice_beside_a_busy_one(
    seconds: float, settled: int, expected: bool
) -> None:
    stage = beside_a_busy_topic(settled=settled, seconds=seconds)
    html = html_of(stage)
    assert ("<h1>running, nothing of images is settled</h1>" in html) is expected
    assert ("Records of images wait, and none of them was settled for 1 min" in read(html).text()) is expected


@pytest.mark.parametrize(("index", "expected"), [("docs", True), ("pictures", False)])
def test_a_topic_whose_index_accepts_nothing_has_no_second_notice(index: str, expected: bool) -> None:
    stage = beside_a_busy_topic()
    stage.metrics.route_info.clear()
    stage.metrics.route_info.labels("vectors", "docs").set(1)
    stage.metrics.route_info.labels("images", "pictures").set(1)
    stage.status.service.failed(index, UNAVAILABLE)
    assert ("Records of images wait" in read(html_of(stage)).text()) is expected
    stage.status.block(Block("images", BlockReason.PARTITION_UNREADABLE, 1), "no leader")
    stage.clock.pass_by(1.0)
    assert "Records of images wait" not in read(html_of(stage)).text()


@pytest.mark.parametrize(("seconds", "settled", "expected"), [(30.0, 400, True), (9.0, 400, False), (30.0, 600, False)])
def test_records_that_are_late_are_a_notice_unless_a_backlog_is_worked_off(
    seconds: float, settled: int, expected: bool
) -> None:
    stage, _ = at_work(steps=36, settled=settled, lag=20_000, seconds=seconds)
    assert ("<h1>running, records are late</h1>" in html_of(stage)) is expected


def test_a_backlog_that_is_gone_is_no_notice_of_late_records() -> None:
    stage, _ = at_work(steps=36, seconds=30.0)
    assert "<h1>running</h1>" in html_of(stage)


@pytest.mark.parametrize(("throttled", "expected"), [(2, "falls behind"), (3, "throttled by the service")])
def test_more_than_a_tenth_of_throttled_requests_is_why_a_worker_falls_behind(throttled: int, expected: str) -> None:
    stage, _ = at_work(published=900, settled=300, lag=40_000)  # 24 requests a minute
    stage.metrics.retries.labels("throttled").inc(throttled)
    assert f"<h1>running, {expected}</h1>" in html_of(stage)


def test_the_dead_letter_topic_is_none_of_the_partitions_to_read() -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("topic_partitions", 1, topic="vectors.dlq")
    text = read(html_of(stage)).text()
    assert ("2 of 4 partitions" in text, "vectors.dlq" in text) == (True, False)


@pytest.mark.parametrize(("left", "expected"), [(13 * 86_400.0, True), (15 * 86_400.0, False)])
def test_a_certificate_that_ends_within_two_weeks_is_a_notice(left: float, expected: bool) -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("certificate_expiry_timestamp_seconds", stage.wall() + left, use="kafka-client")
    assert ("The certificate kafka-client ends at" in html_of(stage)) is expected


@pytest.mark.parametrize(("left", "expected"), [(100.0, True), (600.0, False)])
def test_credentials_that_end_and_are_not_renewed_are_a_notice(left: float, expected: bool) -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("credentials_expiry_timestamp_seconds", stage.wall() + left)
    assert ("The credentials end at" in html_of(stage)) is expected


def test_credentials_that_have_ended_say_so() -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("credentials_expiry_timestamp_seconds", stage.wall() - 60.0)
    assert "The credentials ended at" in html_of(stage)


@pytest.mark.parametrize(("used", "expected"), [(89, False), (91, True)])
def test_memory_near_its_limit_is_a_notice(used: int, expected: bool) -> None:
    stage, _ = at_work(steps=3)
    stage.gauges.set("memory_limit_bytes", 100 * 2**20)
    stage.gauges.set("memory_used_bytes", used * 2**20)
    assert ("Memory is at" in html_of(stage)) is expected


@pytest.mark.parametrize(
    ("bad", "records", "expected"), [(49, 1000, False), (50, 1000, True), (24, 100, False), (25, 100, True)]
)
def test_half_of_the_share_and_of_the_least_number_is_near_the_limit(bad: int, records: int, expected: bool) -> None:
    assert Share("vectors", bad, records, limit_ratio=0.1, limit_min=50).is_near is expected


def test_one_index_of_two_that_fails_is_named() -> None:
    stage = PageStage(["vectors"], ["docs", "pictures"])
    stage.status.enter(State.RUNNING, "running")
    stage.status.service.failed("pictures", UNAVAILABLE)
    stage.clock.pass_by(60.0)
    html = stage.html()
    assert ("<h1>running, but not for index pictures</h1>" in html, "Index pictures: no request" in html) == (
        True,
        True,
    )


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED])
def test_a_worker_that_has_ended_has_no_notice(state: State) -> None:
    stage, _ = at_work(steps=3)
    stage.status.enter(state, "over")
    stage.clock.pass_by(600.0)
    assert 'class="notices"' not in html_of(stage)
