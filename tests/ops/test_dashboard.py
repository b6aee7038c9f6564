"""The dashboard is what its code makes, and each panel says what it shows, in what unit, and of which workers."""

import itertools
import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from ops.grafana import dashboard
from ops.grafana.panels import RUNBOOK
from tests.ops.promql import DASHBOARD, ROOT, Query, filled, panels, queries, rules, selectors
from tests.unit.samples import FakeClock
from worker.errors import BlockReason
from worker.ledger import Ledger
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import State, Status

GRAFANA = ROOT / "ops/grafana"
RUNBOOK_FILE = ROOT / "ops/runbook.md"
PANELS = panels()
QUERIES = queries()
WINDOW = {"__rate_interval": "1m"}
BY_PARTITION = {
    "oss_vectors_consumer_lag_records",
    "oss_vectors_end_offset",
    "oss_vectors_watermark_offset",
    "oss_vectors_committed_offset",
    "oss_vectors_log_start_offset",
    "oss_vectors_oldest_unsettled_age_seconds",
}


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def titles(chosen: list[dict[str, Any]]) -> list[str]:
    return [panel["title"] for panel in chosen]


# -- the file


def test_the_committed_dashboard_is_what_the_code_makes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.build()


def test_grafanas_own_models_read_the_dashboard_whole() -> None:
    plugins.register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder))
    # The models know but one placement, the menu, and always write it.
    for one in (*read["links"], *read["annotations"]["list"]):
        one["placement"] = ""
    assert read == DASHBOARD


# -- the panels


def test_no_id_and_no_title_is_there_twice() -> None:
    every = [*PANELS, *(panel for panel in DASHBOARD["panels"] if panel["type"] == "row")]
    assert [number for number, count in Counter(panel["id"] for panel in every).items() if count > 1] == []
    assert [title for title, count in Counter(titles(every)).items() if count > 1] == []


def grids() -> dict[str, list[dict[str, Any]]]:
    """The panels that are seen together: those without a row and the rows, and those of each row."""
    top = DASHBOARD["panels"]
    return {"top": top} | {row["title"]: row["panels"] for row in top if row["type"] == "row"}


@pytest.mark.parametrize("grid", grids())
def test_panels_are_on_the_grid_and_none_covers_another(grid: str) -> None:
    places = [panel["gridPos"] for panel in grids()[grid]]
    cells = [
        (x, y)
        for place in places
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert [cell for cell, count in Counter(cells).items() if count > 1 or cell[0] >= 24] == []
    assert len(cells) > 0


def test_the_first_screen_fits_on_one() -> None:
    shown = [panel["gridPos"] for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    rows = [panel["collapsed"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    # A unit is 38 px with its gap; 1080 px less the browser's and Grafana's own bars are about 24.
    assert max(place["y"] + place["h"] for place in shown) <= 24
    assert (all(rows), len(rows)) == (True, 7)


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    assert titles([panel for panel in PANELS if not panel["description"].endswith(".")]) == []
    known = {value for value in vars(units).values() if isinstance(value, str)}
    assert titles([panel for panel in PANELS if panel["fieldConfig"]["defaults"].get("unit") not in known]) == []
    without = [panel for panel in PANELS if panel["type"] != "heatmap"]
    assert titles([panel for panel in without if not panel["fieldConfig"]["defaults"].get("thresholds")]) == []


def test_every_series_has_a_name_of_its_own() -> None:
    for panel in PANELS:
        legends = [target.get("legendFormat") for target in panel["targets"] if target.get("format") != "table"]
        assert (panel["title"], "" in legends, None in legends) == (panel["title"], False, False)
        assert (panel["title"], len(set(legends))) == (panel["title"], len(legends))
        references = [target["refId"] for target in panel["targets"]]
        assert (panel["title"], len(set(references))) == (panel["title"], len(references))


def test_the_labels_in_a_legend_are_those_that_the_query_leaves() -> None:
    for query in QUERIES:
        heads = re.findall(r"\b(?:sum|max|min|count) by \(([^)]*)\)", query.expression)
        left = {label.strip() for head in heads for label in head.split(",")}
        assert (query.name, set(re.findall(r"{{(\w+)}}", query.legend)) - left) == (query.name, set())


def test_everything_is_asked_of_the_chosen_data_source() -> None:
    asked = [panel["datasource"] for panel in PANELS]
    asked += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    asked += [one["datasource"] for one in DASHBOARD["annotations"]["list"]]
    asked += [one["datasource"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert [source for source in asked if source != {"type": "prometheus", "uid": "${datasource}"}] == []


def test_every_state_has_a_colour_wherever_states_are_shown() -> None:
    by_title = {panel["title"]: panel for panel in PANELS}
    named = [one["matcher"]["options"] for one in by_title["Workers by state"]["fieldConfig"]["overrides"]]
    mapped = by_title["State by worker"]["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert named == [*(state.value for state in State), "down"]
    assert [(one["text"], "color" in one) for one in mapped.values()] == [(state.value, True) for state in State]


# -- the queries


def test_every_variable_is_defined_and_used() -> None:
    defined = [one["name"] for one in DASHBOARD["templating"]["list"]]
    asked = [query.expression for query in QUERIES]
    asked += [one["query"] for one in DASHBOARD["templating"]["list"]]
    asked += [link["url"] for link in DASHBOARD["links"]]
    asked.append("${datasource}")
    used = set(re.findall(r"\$\{?(\w+)", " ".join(asked))) - {"__rate_interval"}
    assert used == set(defined)


def test_every_metric_of_the_worker_is_shown() -> None:
    metrics = Metrics(Ledger(["t"], FakeClock()), Status(0.0), ["t"], ["i"])
    families = [family for family in metrics.registry.collect() if family.name.startswith("oss_vectors_")]
    shown = {one.name for query in QUERIES for one in selectors(filled(query.expression, WINDOW))}
    endings = ("", "_total", "_bucket")
    assert [one.name for one in families if not {f"{one.name}{ending}" for ending in endings} & shown] == []
    assert len(families) > 30


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_a_query_is_right_for_several_workers_and_for_restarts(query: Query) -> None:
    found = selectors(filled(query.expression, WINDOW))
    # Two workers may show a partition while it moves from one to the other: then it counts once.
    of_partitions = [one for one in found if one.name in BY_PARTITION]
    assert [one for one in of_partitions if "max by (topic, partition)" not in one.within[:1]] == []
    # A counter starts anew with its process, so its value alone means nothing.
    counters = [one for one in found if one.name.endswith(("_total", "_bucket", "_sum", "_count"))]
    assert [one for one in counters if not one.ranged] == []
    # Nothing is shown of workers of another job or group.
    # What a worker does not export itself is of the whole job: a target that never answered is no chosen instance.
    of_job = [one for one in found if one.name in {"up", "ALERTS"} or one.name.startswith("job_")]
    assert query.expression.count('{job="$job",instance=~"$instance"') == len(found) - len(of_job)
    assert query.expression.count('{job="$job"') == len(found)


# -- the links


def anchors() -> set[str]:
    """The anchors of the runbook's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", RUNBOOK_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_what_links_to_the_runbook_links_to_a_section_of_it() -> None:
    links = [link["url"] for panel in PANELS for link in panel.get("links", ())]
    assert [link for link in links if not re.fullmatch(rf"{re.escape(RUNBOOK)}#ossvectors[a-z]+", link)] == []
    assert DASHBOARD["links"][0]["url"] == RUNBOOK
    reasons = {f"blocked-{reason.value}" for reason in BlockReason}
    assert {link.partition("#")[2] for link in links} | reasons <= anchors()


def test_every_alert_that_is_shown_links_to_its_section() -> None:
    (panel,) = [panel for panel in PANELS if panel["title"] == "Active alerts"]
    links = {
        override["matcher"]["options"]: link["url"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        for link in each["value"]
    }
    alerts = {rule.name for rule in rules() if rule.name.startswith("OssVectors")} - {"OssVectorsWatchdog"}
    assert links == {name: f"{RUNBOOK}#{name.lower()}" for name in alerts}
    assert {name.lower() for name in alerts} <= anchors()


# -- provisioning


def test_grafana_is_given_prometheus_with_its_scrape_interval() -> None:
    (source,) = read_yaml("ops/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["uid"], source["url"]) == ("prometheus", "prometheus", "http://prometheus:9090")
    scraped = read_yaml("ops/prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_grafana_is_given_a_folder_of_dashboards_that_it_cannot_change() -> None:
    (provider,) = read_yaml("ops/grafana/provisioning/dashboards/oss-vectors-worker.yml")["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert [path.name for path in (GRAFANA / "dashboards").iterdir()] == [dashboard.FILE.name]
