"""The table of the troubles: its first signs, what compares two runs, and its form."""

from dataclasses import asdict

from tests.troubles.catalogue import TROUBLES
from tests.troubles.table import HEAD, table
from tests.troubles.watch import Seen

OUTAGE = Seen("outage", "ServiceDown", alerts={"LagGrowing": 40.0, "ServiceDown": 301.0}, page="a|b <c>")
BEFORE = {"trouble_seconds": 600.0, "troubles": [asdict(Seen("outage", "ServiceDown", alerts={"LagGrowing": 900.0}))]}


def cells(text: str) -> list[str]:
    row = text.splitlines()[2].replace("\\|", "!")
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_first_sign_is_the_first_alert_that_names_the_trouble() -> None:
    row = cells(table([OUTAGE], 840.0, BEFORE))
    assert len(row) == len(HEAD)
    assert row[:4] == ["outage", "none in 600", "301", "LagGrowing 40 (another), ServiceDown 301"]
    assert row[8] == "a!b &lt;c>"


def test_a_trouble_that_needs_nobody_has_no_sign() -> None:
    silent, noisy = Seen("one bad record", ""), Seen("one bad record", "", alerts={"RecordsStuck": 3.0})
    assert cells(table([silent], 840.0))[2] == "none, as it should be"
    assert cells(table([noisy], 840.0))[2] == "one that should not be"


def test_the_totals_count_signs_within_five_minutes_and_recoveries_that_page() -> None:
    paged = Seen("frozen", "WorkerDown", alerts={"WorkerDown": 299.0}, recovery_pages=["LatencyBudgetBurnFast"])
    text = table([OUTAGE, paged], 840.0)
    assert "2 of 2 troubles had a sign, 1 within five minutes. Recoveries that paged: 1 of 2." in text


def test_each_trouble_has_a_name_of_its_own() -> None:
    names = [trouble.name for trouble in TROUBLES]
    assert (len(set(names)), len(names) >= 30) == (len(names), True)
