"""The table of the troubles: its first signs, what compares two runs, and its form."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from tests.troubles.catalogue import TROUBLES
from tests.troubles.monitoring import Message
from tests.troubles.table import HEAD, table
from tests.troubles.watch import Seen, Watched, note_message

if TYPE_CHECKING:
    from tests.troubles.case import Case
    from tests.troubles.catalogue import Trouble

OUTAGE = Seen(
    "outage", "ServiceDown", alerts={"LagGrowing": 40.0, "ServiceDown": 301.0}, page="a|b <c>", page_seconds=30.0
)
EARLIER = Seen("outage", "", alerts={"LagGrowing": 500.0}, readyz_seconds=12.0)
BEFORE = {"trouble_seconds": 600.0, "troubles": [asdict(EARLIER)]}


def cells(text: str) -> list[str]:
    row = text.splitlines()[2].replace("\\|", "!")
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_first_sign_is_the_first_alert_that_names_the_trouble() -> None:
    row = cells(table([OUTAGE], 840.0, BEFORE))
    assert len(row) == len(HEAD)
    assert row[:6] == ["outage", "none in 600", "301", "12", "30", "LagGrowing 40 (another), ServiceDown 301"]
    assert row[10] == "a!b &lt;c>"


def test_a_trouble_that_needs_nobody_has_no_sign() -> None:
    silent, noisy = Seen("one bad record", ""), Seen("one bad record", "", alerts={"RecordsStuck": 3.0})
    assert cells(table([silent], 840.0))[2] == "none, as it should be"
    assert cells(table([noisy], 840.0))[2] == "one that should not be"


def test_the_totals_count_signs_within_five_minutes_and_recoveries_that_page() -> None:
    paged = Seen("frozen", "WorkerDown", alerts={"WorkerDown": 299.0}, recovery_pages=["LatencyBudgetBurnFast"])
    text = table([OUTAGE, paged], 840.0)
    for told in (
        "Now: an alert that names it: 2 of 2, within five minutes: 1 of 2",
        "a sign of any kind within five minutes: 2 of 2",
        "recoveries that paged: 1 of 2",
    ):
        assert told in text


def test_a_trouble_that_was_not_brought_about_says_so() -> None:
    assert cells(table([Seen("frozen", "WorkerDown", failure="begin: OSError: no")], 840.0))[2].startswith(
        "not brought"
    )


def watched(begun: float, fixed: float = 0.0) -> Watched:
    return Watched(cast("Case", None), cast("Trouble", None), Seen("outage", "ServiceDown"), begun, fixed)


def message(at: float, receiver: str, began: str) -> tuple[Message, dict[str, Any]]:
    alert = {"labels": {"alertname": "OssVectorsServiceDown"}, "status": "firing", "startsAt": began}
    return Message(at, receiver, [alert]), alert


def test_a_message_in_the_trouble_is_a_page_or_goes_to_the_chat() -> None:
    one = watched(begun=1000.0)
    for receiver in ("pager", "chat"):
        note_message(one, *message(1100.0, receiver, "1970-01-01T00:18:00.123456789Z"))
    assert (one.seen.pages, one.seen.chats) == ({"ServiceDown": 100.0}, {"ServiceDown": 100.0})


def test_only_what_began_after_the_fix_is_a_page_of_the_recovery() -> None:
    one = watched(begun=1000.0, fixed=1200.0)
    note_message(one, *message(1205.0, "pager", "1970-01-01T00:19:59Z"))
    assert one.seen.recovery_pages == []
    note_message(one, *message(1205.0, "pager", "1970-01-01T00:20:01Z"))
    assert one.seen.recovery_pages == ["ServiceDown"]


def test_a_sign_counts_once_it_has_held() -> None:
    one = watched(begun=1000.0)
    signs = [
        one.holds("page", is_wrong, at) for is_wrong, at in ((True, 1010), (False, 1020), (True, 1030), (True, 1045))
    ]
    assert signs == [None, None, None, 30.0]


def test_each_trouble_has_a_name_of_its_own() -> None:
    names = [trouble.name for trouble in TROUBLES]
    assert (len(set(names)), len(names) >= 30) == (len(names), True)
