"""What keeps records from getting through, or soon will, worst first: each with the last words and since when."""

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from worker.errors import BlockReason, RetryReason
from worker.telemetry.page.figures import topics_behind
from worker.telemetry.page.view import View
from worker.telemetry.page.words import counted, percent, rate_of, rough, shortened, sized, utc
from worker.telemetry.service import SHOWN_AFTER_SECONDS
from worker.telemetry.state import Block, State

STILL_SECONDS: Final = 10.0  # without a turn of the main loop
DEAD_SECONDS: Final = 60.0  # without a turn of the main loop, after which the process is not healthy
_NOT_SETTLED_SECONDS: Final = 60.0
_NOT_COMMITTED_SECONDS: Final = 60.0
_BEHIND_SECONDS: Final = 60.0  # of settling: the lag from which its growth is no burst
_BEHIND_SHARE: Final = 0.1  # of what is published
_LATE_SECONDS: Final = 10.0  # the objective of 99 % of the records
_THROTTLED_SHARE: Final = 0.1  # of the requests; a few throttled answers are how a limit is found
_STRANGERS_NAMED: Final = 3
_OPEN_TRANSACTION_SECONDS: Final = 60.0  # the producers' default limit
# As the alerts.
_PASSED_SECONDS: Final = 30 * 60.0
_RETENTION_SECONDS: Final = 6 * 3600.0
_DEAD_LETTERS_SECONDS: Final = 24 * 3600.0
_CREDENTIALS_SECONDS: Final = 120.0
_CERTIFICATE_SECONDS: Final = 14 * 86_400.0
_MEMORY_SHARE: Final = 0.9


class Notice(NamedTuple):
    """`headline` is what the state then is, `section` that of the runbook, `since` of the monotonic clock, if it is known."""

    key: str
    headline: str
    text: str
    section: str = ""
    since: float | None = None


def notices_of(view: View) -> list[Notice]:
    """Return all notices, worst first."""
    if view.reading.state in (State.STOPPED, State.FAILED):
        return []
    return [notice for find in _ALL for notice in find(view)]


def _still(view: View) -> Iterator[Notice]:
    still = view.now - view.reading.last_turn
    if still >= STILL_SECONDS:
        headline = "not responding" if still >= DEAD_SECONDS else view.reading.state.value
        text = f"The main loop has not turned for {rough(still)}."
        yield Notice("still", headline, text, "ossvectorspollingstopped", view.reading.last_turn)


def _missing_topics(view: View) -> Iterator[Notice]:
    for topic, is_source in _missing(view):
        if is_source:
            text = f"The topic {topic} is not there, or is not shown to this user: no record of it is read."
            yield Notice(f"topic_missing {topic}", "topic missing", text, "ossvectorstopicmissing")


def _missing_dead_letter_topic(view: View) -> Iterator[Notice]:
    for topic, is_source in _missing(view):
        if not is_source:
            what = f"The dead-letter topic {topic} is not there, or is not shown to this user"
            text = f"{what}: the first bad record will block its topic."
            yield Notice("dead_letter_topic", "running, dead-letter topic missing", text, "ossvectorstopicmissing")


def _missing(view: View) -> list[tuple[str, bool]]:
    """Return the topics that are missing, and whether it is one that is read: it is the dead-letter topic else."""
    sources = view.figures.by("topic_assigned_partitions", "topic")
    found = view.figures.by("topic_missing", "topic")
    return [(topic, (topic,) in sources) for (topic,), is_missing in found.items() if is_missing]


def _not_accepted(view: View) -> Iterator[Notice]:
    lasting = [one for one in view.facts.not_accepted if view.now - one.since >= SHOWN_AFTER_SECONDS]
    indexes = view.figures.by("in_flight_limit", "index")
    is_all = len(lasting) >= len(indexes)
    for one in lasting:
        where = "" if len(indexes) <= 1 else f"Index {one.index}: "
        text = f"{where}no request accepted for {rough(view.now - one.since)}: {shortened(one.words)}"
        headline = "nothing is accepted" if is_all else f"running, but not for index {one.index}"
        yield Notice(
            f"not_accepted {one.index}", headline, text[:1].upper() + text[1:], "ossvectorsnothingaccepted", one.since
        )


def _coordinator(view: View) -> Iterator[Notice]:
    away = view.figures.value("coordinator_unavailable_seconds")
    if away > 0:
        text = f"This worker has not reached the group's coordinator for {rough(away)}: it commits nothing and gets no partition."
        yield Notice(
            "coordinator", "coordinator not reached", text, "ossvectorscoordinatorunavailable", view.now - away
        )


def _leaderless(view: View) -> Iterator[Notice]:
    for (topic,), count in view.figures.by("leaderless_partitions", "topic").items():
        if count:
            what = counted(count, "partition", "partitions")
            text = f"{what} of {topic} have no leader." if count > 1 else f"{what} of {topic} has no leader."
            headline = f"running, {what} without a leader"
            yield Notice(f"leaderless {topic}", headline, text, "ossvectorsleaderlesspartitions")


def _unassigned(view: View) -> Iterator[Notice]:
    of = view.figures.by("topic_partitions", "topic")
    for (topic,), count in view.figures.by("unassigned_partitions", "topic").items():
        if count:
            total = of.get((topic,))
            part = f"{count:.0f} of {total:.0f}" if total else f"{count:.0f}"
            text = f"No worker reads {part} partitions of {topic}: {_why_not_read(view)}."
            headline = f"running, {counted(count, 'partition', 'partitions')} not read"
            yield Notice(f"unassigned {topic}", headline, text, "ossvectorsunassignedpartitions")


def _why_not_read(view: View) -> str:
    """Return which programs own partitions and are no workers."""
    strangers = [member for member in view.facts.members if member.owned and not member.is_worker]
    if not strangers:
        return "no member of the group owns them, or its worker has no route for them"
    named = [f"{one.client_id} at {one.host} owns {one.owned:,}" for one in strangers[:_STRANGERS_NAMED]]
    more = len(strangers) - len(named)
    return f"another program is in the group, {', '.join(named)}" + (f", and {more:,} more" if more else "")


def _not_settled(view: View) -> Iterator[Notice]:
    if view.reading.state is not State.RUNNING:
        return
    still = view.now - view.watch.still_since
    is_known = bool(view.messages or view.facts.not_accepted)
    if view.lag and not is_known and still >= _NOT_SETTLED_SECONDS:
        text = f"Records wait, and none was settled for {rough(still)}."
        yield Notice("not_settled", "nothing is settled", text, "ossvectorsrecordsstuck", view.watch.still_since)
        return
    known = _topics_with_a_cause(view)
    for topic, since in sorted(view.watch.still_topics.items()):
        if topic not in known and view.now - since >= _NOT_SETTLED_SECONDS:
            text = f"Records of {topic} wait, and none of them was settled for {rough(view.now - since)}."
            headline = f"running, nothing of {topic} is settled"
            yield Notice(f"not_settled {topic}", headline, text, "ossvectorsrecordsstuck", since)


def _topics_with_a_cause(view: View) -> set[str]:
    """Return the topics that are blocked, also in a part, and those with an index that accepts nothing."""
    failing = {one.index for one in view.facts.not_accepted}
    routes = (labels for labels, _ in view.figures.rows("route_info"))
    of_indexes = {labels["topic"] for labels in routes if labels["index"] in failing}
    return of_indexes | {block.topic for block in view.messages}


def _transactions(view: View) -> Iterator[Notice]:
    """Say that a transaction hangs: the lag counts nothing behind it, so it may be 0."""
    since: dict[str, list[float]] = {}
    for (topic, _), at in view.watch.open_since.items():
        if view.now - at >= _OPEN_TRANSACTION_SECONDS:
            since.setdefault(topic, []).append(at)
    for topic, found in since.items():
        where = f"{counted(len(found), 'partition', 'partitions')} of {topic}"
        text = (
            f"A producer's transaction is open in {where}: what comes after its first record is not read until it ends."
        )
        headline = "running, a transaction stays open"
        yield Notice(f"transaction {topic}", headline, text, "ossvectorstransactionopen", min(found))


def _commits(view: View) -> Iterator[Notice]:
    again = "is written again after a restart or a rebalance"
    refused = {
        topic: count for (topic,), count in view.figures.by("refused_commit_partitions", "topic").items() if count
    }
    for topic, count in refused.items():
        what = counted(count, "partition", "partitions")
        text = f"The broker refuses to commit {what} of {topic}: what was written since the last commit {again}."
        yield Notice(f"refused {topic}", "running, commits refused", text, "ossvectorscommitsfailing")
    last = view.figures.value("last_commit_timestamp_seconds")
    still = view.wall - last if last else view.uptime
    is_known = bool(refused) or view.figures.value("coordinator_unavailable_seconds") > 0
    if still >= _NOT_COMMITTED_SECONDS and not is_known and view.in_last_minute(("commits", "failed")):
        text = f"Commits fail, and none was accepted for {rough(still)}: what was written since then {again}."
        yield Notice("commits", "running, commits fail", text, "ossvectorscommitsfailing", view.now - still)


def _passed(view: View) -> Iterator[Notice]:
    for key, (count, at) in sorted(view.watch.passed.items()):
        if view.now - at >= _PASSED_SECONDS:
            continue
        name, topic, *reason = key
        what = f"{counted(count, 'offset', 'offsets')} of {topic}"
        if name == "skipped_offsets":
            text = f"Since the start {what} were skipped without being read ({', '.join(reason)})."
            yield Notice(" ".join(key), "running, offsets skipped", text, "ossvectorsoffsetsskipped", at)
        else:
            text = f"Since the start Kafka has lost {what} that had been read."
            yield Notice(" ".join(key), "running, the log was cut", text, "ossvectorslogtruncated", at)


def _retention(view: View) -> Iterator[Notice]:
    # The other topics settle within a minute what waits, also those that keep their records for an hour.
    behind = topics_behind(view.recent, view.current, _BEHIND_SECONDS)
    for topic, left in _least(view, "retention_left_seconds", "topic"):
        if left < _RETENTION_SECONDS and topic in behind:
            text = f"Kafka deletes the oldest record of {topic} that is not settled in {rough(max(0.0, left))}."
            yield Notice(f"retention {topic}", "running, records about to expire", text, "ossvectorsretentionnear")


def _dead_letter_share(view: View) -> Iterator[Notice]:
    for share in view.facts.shares:
        is_blocked = Block(share.topic, BlockReason.DEAD_LETTER_LIMIT) in view.messages
        if share.is_near and not is_blocked:
            text = (
                f"Of the last {share.records:,} records of {share.topic}, {share.bad:,} are dead letters "
                f"({percent(share.ratio)}); above {percent(share.limit_ratio)} the topic is blocked."
            )
            headline = "running, near the dead-letter limit"
            yield Notice(f"share {share.topic}", headline, text, "ossvectorsdeadletterlimitnear")


def _throttled(view: View) -> Iterator[Notice]:
    """Say that the service throttles where that is why records wait."""
    throttled = view.in_last_minute(("retries", RetryReason.THROTTLED.value)) or 0.0
    requests = sum(view.in_last_minute(key) or 0.0 for key in view.current.counts if key[0] == "requests")
    if throttled > _THROTTLED_SHARE * requests and any(True for find in (_falls_behind, _late) for _ in find(view)):
        text = f"In the last minute the service throttled {throttled:,.0f} of {requests:,.0f} requests (429, or 503 for a limit)."
        yield Notice("throttled", "running, throttled by the service", text, "ossvectorsthrottled")


def _falls_behind(view: View) -> Iterator[Notice]:
    lag, settled, (published, trend) = view.lag, view.settled, view.flow
    if lag is None or settled is None or published is None or trend is None or view.reading.state is not State.RUNNING:
        return
    if lag > _BEHIND_SECONDS * max(settled, 1.0) and trend > _BEHIND_SHARE * published:
        done = max(0.0, published - trend)  # of the same minutes, which the rate of the last one is not
        text = (
            f"The lag grows by {rate_of(trend)} a second: {rate_of(published)} are published, {rate_of(done)} settled."
        )
        yield Notice("behind", "running, falls behind", text, "ossvectorslaggrowing")


def _late(view: View) -> Iterator[Notice]:
    p50, (published, trend) = view.latency(0.5), view.flow
    if p50 is None or p50 <= _LATE_SECONDS or view.reading.state is not State.RUNNING:
        return
    most = max(published or 0.0, view.settled or 0.0)
    shrinks = trend is None or trend <= -_BEHIND_SHARE * most
    if view.lag and not shrinks:  # a backlog that is worked off is late too, and goes
        objective = f"the objective is {_LATE_SECONDS:.0f} s"
        text = f"Half of the records of the last minute took {rough(p50)} or more; {objective}."
        yield Notice("late", "running, records are late", text, "ossvectorslatencybudgetburnfast")


def _memory(view: View) -> Iterator[Notice]:
    used, most = view.figures.value("memory_used_bytes"), view.figures.value("memory_limit_bytes")
    if most and used > _MEMORY_SHARE * most:
        text = f"Memory is at {sized(used)} of {sized(most)}: at the limit the process is killed."
        yield Notice("memory", "running, memory nearly full", text, "ossvectorsmemorynearlimit")


def _expiry(view: View) -> Iterator[Notice]:
    for _, left in _least(view, "dead_letter_retention_left_seconds"):
        if left < _DEAD_LETTERS_SECONDS:
            text = f"Kafka deletes the oldest dead letter in {rough(max(0.0, left))}; it is the only copy."
            yield Notice("dead_letters", "running, dead letters about to expire", text, "ossvectorsdeadlettersexpiring")
    for _, end in _least(view, "credentials_expiry_timestamp_seconds"):
        if end - view.wall < _CREDENTIALS_SECONDS:
            verb = "end" if end > view.wall else "ended"
            text = f"The credentials {verb} at {utc(end)} UTC."
            yield Notice("credentials", "running, credentials expire", text, "ossvectorscredentialsexpiring")
    for use, end in _least(view, "certificate_expiry_timestamp_seconds", "use"):
        if end - view.wall < _CERTIFICATE_SECONDS:
            text = f"The certificate {use} ends at {utc(end)} UTC."
            yield Notice(f"certificate {use}", "running, a certificate expires", text, "ossvectorscertificateexpiring")


def _least(view: View, name: str, label: str = "") -> list[tuple[str, float]]:
    """Return the least finite value of a metric for each value of the label; nothing where the metric is absent or 0."""
    found: dict[str, float] = {}
    for labels, value in view.figures.rows(name):
        key = labels.get(label, "")
        if math.isfinite(value) and (value or not name.endswith("timestamp_seconds")):
            found[key] = min(value, found.get(key, math.inf))
    return sorted(found.items())


_ALL: Final[tuple[Callable[[View], Iterator[Notice]], ...]] = (
    _still,
    _missing_topics,
    _not_accepted,
    _coordinator,
    _not_settled,
    _transactions,
    _commits,
    _passed,
    _unassigned,
    _leaderless,
    _missing_dead_letter_topic,
    _retention,
    _dead_letter_share,
    _throttled,
    _falls_behind,
    _late,
    _memory,
    _expiry,
)
