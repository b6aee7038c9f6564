"""The dashboard of the worker: one screen that answers whether it is well, and rows for what is not.

`python -m ops.grafana.dashboard` writes it anew to `dashboards/oss-vectors-worker.json`, which is committed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import yaml
from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from ops.grafana.panels import (
    BLUE,
    DASHED,
    GREEN,
    GREY,
    IN_SIGHT,
    ORANGE,
    RED,
    RUNBOOK,
    UNFILLED,
    UNSTACKED,
    WORKERS,
    YELLOW,
    annotation,
    bars,
    color_override,
    graph,
    heat,
    increase,
    listing,
    now,
    number,
    of,
    of_index,
    of_partition,
    of_topic,
    quantile,
    query,
    rate,
    runbook,
    several,
    since,
    stacked,
    states,
    thresholds,
    variable,
)
from worker.telemetry.state import State

FILE: Final = Path(__file__).parent / "dashboards/oss-vectors-worker.json"
COPY: Final = Path(__file__).parents[1] / "kubernetes/components/dashboard" / FILE.name
"""For Kubernetes: a kustomization reads no file outside its folder."""
RULES: Final = Path(__file__).parents[1] / "prometheus/rules"
Panel: TypeAlias = heatmap.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel

STATE_COLORS: Final = {
    State.STARTING: YELLOW,
    State.RUNNING: GREEN,
    State.BLOCKED: RED,
    State.DRAINING: BLUE,
    State.STOPPED: GREY,
    State.FAILED: RED,
}
A_YEAR_S: Final = 31_536_000
FINAL: Final = 'outcome!="returned"'
QUANTILES: Final = (0.5, 0.95, 0.99)

INFO = "oss_vectors_worker_info"
LAG = of_partition("oss_vectors_consumer_lag_records")
LATENCY = of_topic("oss_vectors_record_latency_seconds_bucket")
SETTLED_NOW = f"sum(rate({of_topic('oss_vectors_records_settled_total', FINAL)}[5m]))"


def build() -> str:
    """The dashboard as JSON, as it stands in `FILE`."""
    whole = (
        dashboard.Dashboard("OSS vectors worker")
        .uid("oss-vectors-worker")
        .description("Records from Kafka topics into indexes of an OSS vector bucket: one consumer group at a time.")
        .tags(["kafka", "oss-vectors-worker", "vectors"])
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .variables([*_variables()])
        .annotations([*_annotations()])
        .links([_runbook_link(), _cluster_link()])
    )
    ids = iter(range(1, 1000))
    for panel in _overview():
        whole.with_panel(panel.id(next(ids)))
    bottom = max(panel.grid_pos.y + panel.grid_pos.h for panel in whole.build().panels or () if panel.grid_pos)
    for number_of_row, (title, panels) in enumerate(_details().items()):
        row = dashboard.Row(title).collapsed(True).id(next(ids))
        row.grid_pos(models.GridPos(x=0, y=bottom + number_of_row, w=24, h=1))
        for panel in panels:
            row.with_panel(panel.id(next(ids)))
        whole.with_row(row)
    return json.dumps(whole.build(), cls=JSONEncoder, indent=2) + "\n"


def compact(text: str) -> str:
    """Return the dashboard without spaces: `kubectl apply` keeps a copy of a ConfigMap in an annotation of at most 256 KiB."""
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) + "\n"


def _variables() -> Sequence[dashboard.DatasourceVariable | dashboard.QueryVariable | dashboard.TextBoxVariable]:
    return (
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the workers.")
        .type("prometheus"),
        variable("job", "Job", "The scrape job of the workers.", f"label_values({INFO}, job)"),
        variable("group", "Group", "The consumer group.", f'label_values({INFO}{{job="$job"}}, group_id)'),
        several(
            "instance",
            "Instance",
            "Workers of this group.",
            f'label_values({INFO}{{job="$job",group_id="$group"}}, instance)',
        ),
        several(
            "topic",
            "Topic",
            "Topics that these workers read.",
            f"label_values(oss_vectors_records_consumed_total{{{WORKERS}}}, topic)",
        ),
        several(
            "index",
            "Index",
            "Indexes that these workers write to.",
            f"label_values(oss_vectors_in_flight_limit{{{WORKERS}}}, index)",
        ),
        dashboard.TextBoxVariable("kafka_dashboard")
        .label("Kafka dashboard")
        .description("The address of the Kafka cluster's own dashboard, which the link Kafka cluster opens.")
        .default_value("/dashboards?tag=kafka"),
    )


def _annotations() -> Sequence[dashboard.AnnotationQuery]:
    not_running = of("oss_vectors_state", 'state!="running"')
    return (
        annotation("State changes", f"max by (instance, state) ({not_running}) > 0", YELLOW, "{{instance}} {{state}}"),
        annotation(
            "Blocked topics",
            f"max by (topic, reason) ({of_topic('oss_vectors_blocked')}) > 0",
            RED,
            "{{topic}} blocked: {{reason}}",
        ),
        annotation(
            "Starts",
            f"1000 * max by (instance) ({of('process_start_time_seconds')})",
            BLUE,
            "{{instance}} started",
            at_value=True,
        ),
    )


def _cluster_link() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Kafka cluster").type(models.DashboardLinkType.LINK).icon("external link")
    link.tooltip("The cluster's own dashboard; its address is the variable kafka_dashboard").placement(IN_SIGHT)
    return link.url("$kafka_dashboard").target_blank(True)


def _runbook_link() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Runbook").type(models.DashboardLinkType.LINK).icon("doc")
    link.tooltip("What each alert and each blocked reason means, and what to do").placement(IN_SIGHT)
    return link.url(RUNBOOK).target_blank(True)


# -- the first screen


def _overview() -> Sequence[Panel]:
    return (
        _alerts(),
        _workers(),
        _blocked(),
        _accepted(),
        _partitions_owned(),
        _budget(),
        _lag(),
        _time_to_drain(),
        _latency_now(),
        _settled_now(),
        _dead_letters_now(),
        _state_over_time(),
        _lag_over_time(),
        _latency_over_time(),
        _outcomes(),
        _dead_letters(),
        _codes(),
        _in_flight(),
        _buffer(),
        _pauses(),
        _rebalances(),
    )


def _alerts() -> Panel:
    panel = number(
        "Active alerts",
        "Alerts of this job that fire now.",
        "none",
        now(
            'sum by (alertname) (ALERTS{job="$job",alertstate="firing",alertname!="OssVectorsWatchdog"})',
            "{{alertname}}",
        ),
    )
    panel.text_mode(common_models.BigValueTextMode.NAME).no_value("none")
    for name in alert_names():
        what_to_do = {"title": "What to do", "url": f"{RUNBOOK}#{name.lower()}", "targetBlank": True}
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="links", value=[what_to_do])])
    return panel.span(8).thresholds(thresholds((1, RED)))


def alert_names() -> list[str]:
    """Return the names of all alerts but the watchdog. A link needs its section's anchor, and no variable makes a name lower case."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES.glob("*.yml")]
    rules = [rule for content in files for group in content["groups"] for rule in group["rules"]]
    return sorted({rule["alert"] for rule in rules if "alert" in rule} - {"OssVectorsWatchdog"})


def _accepted() -> Panel:
    requests = of_index("oss_vectors_requests_total", 'operation=~"PutVectors|DeleteVectors"')
    good = of_index("oss_vectors_requests_total", 'operation=~"PutVectors|DeleteVectors"', 'code=~"2.."')
    panel = number(
        "Requests accepted",
        "The share of the requests of the last 5 minutes that the service accepted, and the time since it last accepted one. "
        "The time also grows when there is nothing to write.",
        "percentunit",
        now(f"(sum(rate({good}[5m])) or vector(0)) / (sum(rate({requests}[5m])) > 0)", "accepted"),
        now(f"min({since(of_index('oss_vectors_last_accepted_timestamp_seconds'))})", "since the last"),
    )
    panel.override_by_name("since the last", [models.DynamicConfigValue(id_val="unit", value="dtdurations")])
    panel.links([runbook("ossvectorsnothingaccepted")]).no_value("no requests")
    return panel.span(4).thresholds(thresholds((0.5, ORANGE), (0.95, GREEN), base=RED))


def _partitions_owned() -> Panel:
    panel = number(
        "Partitions without a worker",
        "Partitions that no worker reads, and of how many. It counts all topics of the group, whichever are chosen: also one that "
        "no worker has a route for any more.",
        "none",
        now(f"sum(max by (topic) ({of('oss_vectors_unassigned_partitions')}))", "without"),
        now(f"sum(max by (topic) ({of('oss_vectors_topic_partitions')}))", "of"),
    )
    panel.override_by_name("of", color_override(GREY)).links([runbook("ossvectorsunassignedpartitions")])
    return panel.span(4).no_value("not known").thresholds(thresholds((1, RED)))


def _budget() -> Panel:
    late = 'job_topic:oss_vectors_late_records:ratio_rate30d{job="$job",topic=~"$topic"}'
    panel = number(
        "Error budget left",
        "Of the 1 % of the records that may be late in 30 days: what is left, of the worst topic. "
        "What is settled while a backlog is worked off is not counted.",
        "percentunit",
        now(f"1 - max({late}) / 0.01", "left"),
    )
    panel.links([runbook("ossvectorslatencybudgetburnslow")]).no_value("no records")
    return panel.span(8).thresholds(thresholds((0, ORANGE), (0.25, YELLOW), (0.5, GREEN), base=RED))


def _workers() -> Panel:
    panel = number(
        "Workers by state",
        "How many workers are in each state; down: Prometheus cannot scrape them, or never could, whichever are chosen. "
        "Blocked means that no partition of the worker can move.",
        "none",
        now(f"sum by (state) ({of('oss_vectors_state')}) > 0", "{{state}}"),
        now('count(up{job="$job"} == 0)', "down"),
    )
    panel.span(4).text_mode(common_models.BigValueTextMode.VALUE_AND_NAME).no_value("none is scraped")
    panel.thresholds(thresholds(base=GREY)).links([runbook("ossvectorsworkerdown")])
    for name, color in {**{state.value: color for state, color in STATE_COLORS.items()}, "down": RED}.items():
        panel.override_by_name(name, color_override(color))
    return panel


def _blocked() -> Panel:
    panel = number(
        "Blocked",
        "Topics that cannot move, with the reason, and on how many workers. Click one for what to do.",
        "none",
        now(f"sum by (topic, reason) ({of_topic('oss_vectors_blocked')}) > 0", "{{topic}}: {{reason}}"),
    )
    link = dashboard.DashboardLink("What to do").type(models.DashboardLinkType.LINK).target_blank(True)
    panel.data_links([link.url(f"{RUNBOOK}#blocked-${{__field.labels.reason}}")])
    panel.text_mode(common_models.BigValueTextMode.NAME).no_value("nothing")
    return panel.span(4).thresholds(thresholds((1, RED)))


def _lag() -> Panel:
    panel = number(
        "Lag",
        "Records published and not yet settled, over all partitions. Transactions' markers count until they are passed.",
        "short",
        now(f"sum({LAG})", "records"),
    )
    panel.links([runbook("ossvectorslaggrowing")]).no_value("no partition")
    return panel.span(3).thresholds(thresholds((100_000, YELLOW), (1_000_000, ORANGE)))


def _time_to_drain() -> Panel:
    panel = number(
        "Time to drain",
        "How long the current lag takes at the rate of the last 5 minutes. What is published until then is not counted, "
        "so it falls while the workers keep up, and grows while they do not.",
        "dtdurations",
        now(f"(clamp_max(sum({LAG}) / {SETTLED_NOW}, {A_YEAR_S}) and sum({LAG}) > 0) or 0 * sum({LAG})", "time"),
    )
    no_progress = models.ValueMappingResult(text="no progress", color=RED)
    panel.mappings(
        [
            models.ValueMap(options={"0": models.ValueMappingResult(text="drained")}),
            models.RangeMap(options=models.DashboardRangeMapOptions(from_val=A_YEAR_S, to=None, result=no_progress)),
        ]
    )
    panel.links([runbook("ossvectorscatchupslow")]).no_value("no partition")
    return panel.span(3).thresholds(thresholds((300, YELLOW), (1800, ORANGE), (14_400, RED)))


def _latency_now() -> Panel:
    panel = number(
        "Record latency, p99",
        "99 of 100 records that were settled in the last 5 minutes were settled within this time of their publication.",
        "s",
        now(quantile(0.99, LATENCY, window="5m"), "p99"),
    )
    nothing = models.DashboardSpecialValueMapOptions(
        match=models.SpecialValueMatch.NULL_AND_NAN,
        result=models.ValueMappingResult(text="no records", color=GREY),
    )
    panel.mappings([models.SpecialValueMap(options=nothing)]).links([runbook("ossvectorslatencybudgetburnfast")])
    return panel.span(3).thresholds(thresholds((10, YELLOW), (60, ORANGE), (300, RED)))


def _settled_now() -> Panel:
    panel = number(
        "Records settled",
        "Records that got their final outcome, a second, over the last 5 minutes.",
        "recps",
        now(SETTLED_NOW, "records"),
    )
    return panel.span(3).no_value("none").thresholds(thresholds(base=BLUE))


def _dead_letters_now() -> Panel:
    panel = number(
        "Dead letters in an hour",
        "Records that went to the dead-letter topic in the last hour, and their share of all that was settled.",
        "short",
        now(f"sum(increase({of_topic('oss_vectors_dead_letters_total')}[1h]))", "records"),
        now(
            f"sum(increase({of_topic('oss_vectors_dead_letters_total')}[1h]))"
            f" / (sum(increase({of_topic('oss_vectors_records_settled_total', FINAL)}[1h])) > 0)",
            "share",
        ),
    )
    as_share = {
        "unit": "percentunit",
        "decimals": 2,
        "thresholds": thresholds((0.001, YELLOW), (0.01, ORANGE), (0.1, RED)).build(),
    }
    panel.override_by_name(
        "share", [models.DynamicConfigValue(id_val=name, value=value) for name, value in as_share.items()]
    )
    panel.links([runbook("ossvectorsdeadletterratiohigh")]).decimals(0).no_value("none")
    return panel.span(4).thresholds(thresholds((1, YELLOW)))


def _state_over_time() -> Panel:
    places = list(enumerate(State, start=1))
    each = [(place, of("oss_vectors_state", f'state="{state.value}"')) for place, state in places]
    numbered = " or ".join(f"{place} * {selector}" for place, selector in each)
    panel = states(
        "State by worker",
        "The state of each worker over time. A gap: it was not scraped.",
        query(f"sum by (instance) ({numbered})", "{{instance}}"),
    )
    named = {
        str(value): models.ValueMappingResult(text=state.value, color=STATE_COLORS[state], index=value)
        for value, state in places
    }
    return panel.mappings([models.ValueMap(options=named)])


def _lag_over_time() -> Panel:
    panel = graph(
        "Lag by topic",
        "Records published and not yet settled. Watch its direction: constant or falling is good.",
        "short",
        query(f"sum by (topic) ({LAG})", "{{topic}}"),
    )
    return panel.links([runbook("ossvectorslaggrowing")])


def _latency_over_time() -> Panel:
    panel = graph(
        "Record latency",
        "From a record's publication to its final outcome, over all records settled in the interval. "
        "A gap: none was settled.",
        "s",
        *(query(quantile(share, LATENCY), f"p{share * 100:g}") for share in QUANTILES),
    )
    return panel.links([runbook("ossvectorslatencybudgetburnfast")])


def _outcomes() -> Panel:
    panel = stacked(
        "Records by outcome",
        "Records settled a second. Returned: given back with a partition before they were settled; they come again. "
        "Dashed: records consumed, and messages, which may have several records.",
        "recps",
        query(rate(of_topic("oss_vectors_records_settled_total"), "outcome"), "{{outcome}}"),
        query(rate(of_topic("oss_vectors_records_consumed_total")), "consumed"),
        query(rate(of_topic("oss_vectors_messages_consumed_total")), "messages"),
    )
    for name in ("consumed", "messages"):
        panel.override_by_name(name, color_override(GREY, DASHED, UNFILLED, UNSTACKED))
    return panel.override_by_name("put", color_override(GREEN)).override_by_name("dead_lettered", color_override(RED))


def _dead_letters() -> Panel:
    panel = bars(
        "Dead letters by reason",
        "Records that can never be written and whose dead letters the broker has acknowledged. 0 is good.",
        "short",
        query(increase(of_topic("oss_vectors_dead_letters_total"), "reason"), "{{reason}}"),
    )
    return panel.links([runbook("ossvectorsdeadletterratiohigh")]).axis_soft_max(1)


def _codes() -> Panel:
    panel = stacked(
        "Requests by code",
        "Answers of the vector service a second, by HTTP status; error: no answer came; not_believed: a 2xx that is not the "
        "service's success, such as a maintenance page.",
        "reqps",
        query(rate(of_index("oss_vectors_requests_total"), "code"), "{{code}}"),
    )
    panel.override_by_regexp("/^2/", color_override(GREEN)).override_by_regexp("/^4/", color_override(ORANGE))
    panel.override_by_regexp("/^(5|error|not_believed)/", color_override(RED))
    panel.override_by_name("429", color_override(YELLOW))
    return panel.links([runbook("ossvectorsthrottled"), runbook("ossvectorsretrying").title("What to do: retries")])


def _in_flight() -> Panel:
    panel = graph(
        "Requests in flight and limit",
        "Requests in flight, of all workers, and their limit (dashed). The limit falls when the service throttles.",
        "none",
        query(f"sum by (index) ({of_index('oss_vectors_requests_in_flight')})", "{{index}}"),
        query(f"sum by (index) ({of_index('oss_vectors_in_flight_limit')})", "{{index}}, limit"),
    )
    return panel.span(6).override_by_regexp("/, limit$/", [DASHED, UNFILLED])


def _buffer() -> Panel:
    panel = graph(
        "Buffer and limit",
        "Bytes of records that are not settled, and of the bodies of requests, by worker. At the limit (dashed) partitions are paused.",
        "bytes",
        query(f"max by (instance) ({of('oss_vectors_buffer_bytes')})", "{{instance}}"),
        query(f"min({of('oss_vectors_buffer_limit_bytes')})", "limit of a worker"),
    )
    panel.override_by_name("limit of a worker", color_override(RED, DASHED, UNFILLED))
    return panel.span(6).links([runbook("ossvectorsbufferfull")])


def _pauses() -> Panel:
    panel = graph(
        "Paused partitions",
        "Partitions that are not fetched now: the buffer is full, one runs too far ahead, or it is blocked.",
        "none",
        query(f"max by (instance) ({of('oss_vectors_paused_partitions')})", "{{instance}}"),
    )
    return panel.span(6).decimals(0).axis_soft_max(1)


def _rebalances() -> Panel:
    panel = bars(
        "Rebalances",
        "Events that moved partitions, over all workers. Lost: the group removed the worker, which could not commit.",
        "short",
        query(increase(of("oss_vectors_rebalances_total"), "event"), "{{event}}"),
    )
    panel.override_by_name("lost", color_override(RED)).links([runbook("ossvectorsrebalancestorm")])
    return panel.span(6).axis_soft_max(1)


# -- the rows below


def _details() -> dict[str, Sequence[Panel]]:
    return {
        "Partitions": _partitions(),
        "Records": _records(),
        "Batches": _batches(),
        "Requests": _requests(),
        "Kafka": (*_topics(), *_group()),
        "Kafka client": _kafka_client(),
        "Process": _process(),
    }


def _partitions() -> Sequence[Panel]:
    watermark = of_partition("oss_vectors_watermark_offset")
    committed = of_partition("oss_vectors_committed_offset")
    return (
        graph(
            "Lag by partition",
            "End offset less watermark. One that grows alone is stuck, or its keys are hotter than the others.",
            "short",
            query(f"topk(10, {LAG})", "{{topic}}/{{partition}}"),
        ).links([runbook("ossvectorspartitionlaggrowing")]),
        graph(
            "Oldest unsettled record",
            "How long ago the oldest record that is not settled was polled. It grows without end if a record is stuck.",
            "s",
            query(f"topk(10, {of_partition('oss_vectors_oldest_unsettled_age_seconds')})", "{{topic}}/{{partition}}"),
        ).links([runbook("ossvectorsrecordsstuck")]),
        graph(
            "Watermark's pace",
            "Offsets that the watermark passes in a second. 0 with a lag: nothing moves.",
            "recps",
            query(
                f"max by (topic, partition) (deriv({of_topic('oss_vectors_watermark_offset')}[$__rate_interval]))",
                "{{topic}}/{{partition}}",
            ),
        ),
        listing(
            "Offsets",
            "The position of each partition: the watermark, below which all is settled, the committed offset, and both ends of "
            "the log. A partition that appears here belongs to a worker.",
            {
                "End": (of_partition("oss_vectors_end_offset"), "locale"),
                "Watermark": (watermark, "locale"),
                "Committed": (committed, "locale"),
                "Log start": (of_partition("oss_vectors_log_start_offset"), "locale"),
                "Lag": (LAG, "locale"),
                "Oldest unsettled": (of_partition("oss_vectors_oldest_unsettled_age_seconds"), "s"),
                "In an open transaction": (of_partition("oss_vectors_open_transaction_offsets"), "locale"),
            },
        ),
        graph(
            "Settled, not yet committed",
            "Watermark less committed offset: what comes again if the worker is killed now.",
            "short",
            query(f"topk(10, clamp_min({watermark} - {committed}, 0))", "{{topic}}/{{partition}}"),
        ).links([runbook("ossvectorscommitsfailing")]),
        graph(
            "Lag of the whole group",
            "What the group has not committed of each topic, whoever owns the partitions. Asked for once a minute.",
            "short",
            query(f"max by (topic) ({of('oss_vectors_group_lag_records')})", "{{topic}}"),
        ).links([runbook("ossvectorslaggrowing")]),
        graph(
            "Until retention deletes what is not written",
            "Until the retention of a topic deletes its first record that is not settled, and until the oldest dead letter "
            "expires. A gap: nothing waits, or no limit is known.",
            "s",
            query(f"min by (topic) ({of_topic('oss_vectors_retention_left_seconds')}) < Inf", "{{topic}}"),
            query(f"min({of('oss_vectors_dead_letter_retention_left_seconds')}) < Inf", "dead letters"),
        ).links(
            [
                runbook("ossvectorsretentionnear"),
                runbook("ossvectorsdeadlettersexpiring").title("What to do: dead letters"),
            ]
        ),
    )


def _records() -> Sequence[Panel]:
    return (
        heat(
            "Record latency, spread",
            "How many records were settled within which time of their publication.",
            "s",
            LATENCY,
        ),
        graph(
            "Record latency by topic, p99",
            "99 of 100 records of the topic were settled within this time of their publication.",
            "s",
            query(quantile(0.99, LATENCY, "topic"), "{{topic}}"),
        ),
        stacked(
            "Records buffered",
            "Records polled and not yet settled.",
            "short",
            query(f"sum by (topic) ({of_topic('oss_vectors_records_buffered')})", "{{topic}}"),
        ),
        bars(
            "Dead letters by topic",
            "Records that can never be written, by the topic that they came from.",
            "short",
            query(increase(of_topic("oss_vectors_dead_letters_total"), "topic"), "{{topic}}"),
        ).axis_soft_max(1),
        bars(
            "Writes to the dead-letter topic",
            "Attempts to write a dead letter. Failed ones are retried, and the partition waits.",
            "short",
            query(increase(of("oss_vectors_dead_letter_writes_total"), "result"), "{{result}}"),
        )
        .override_by_name("failed", color_override(RED))
        .override_by_name("ok", color_override(GREY))
        .links([runbook("ossvectorsdeadlettersrefused")])
        .axis_soft_max(1),
        bars(
            "Foreign keys, skipped offsets, suspects",
            "Records whose Kafka key is not the vector's key, so that the order of its versions is not kept; "
            "offsets that were passed without being read; offsets that a log lost after they were read; and "
            "records that were written and are most likely wrong.",
            "short",
            query(increase(of_topic("oss_vectors_key_mismatch_total"), "topic"), "{{topic}}: key mismatch"),
            query(
                increase(of_topic("oss_vectors_skipped_offsets_total"), "topic", "reason"),
                "{{topic}}: skipped, {{reason}}",
            ),
            query(increase(of_topic("oss_vectors_truncated_offsets_total"), "topic"), "{{topic}}: log truncated"),
            query(
                increase(of_topic("oss_vectors_suspect_vectors_total"), "topic", "cause"),
                "{{topic}}: suspect, {{cause}}",
            ),
        )
        .links(
            [
                runbook("ossvectorskeymismatch"),
                runbook("ossvectorsoffsetsskipped").title("What to do: offsets"),
                runbook("ossvectorssuspectvectors").title("What to do: suspects"),
            ]
        )
        .axis_soft_max(1),
        bars(
            "Schemas asked for",
            "What the schema registry said, by result. A schema that is here is never asked for again. Unavailable: topics may be "
            "blocked (registry).",
            "short",
            query(increase(of("oss_vectors_schema_requests_total"), "result"), "{{result}}"),
        )
        .axis_soft_max(1)
        .links([runbook("ossvectorsblockedregistry")]),
    )


def _batches() -> Sequence[Panel]:
    return (
        graph(
            "Records in a batch",
            "How many records the sealed batches had. Small ones at full load cost speed.",
            "short",
            *_sizes("oss_vectors_batch_records"),
        ).span(6),
        graph(
            "Bytes of a batch",
            "How large the bodies of the sealed batches were.",
            "decbytes",
            *_sizes("oss_vectors_batch_bytes"),
        ).span(6),
        stacked(
            "Batches by what sealed them",
            "Count and bytes: the batch was full. Age: its first record had waited long enough. "
            "Drain: a partition was given back, or the worker stopped.",
            "cps",
            query(rate(of_index("oss_vectors_batches_total"), "reason"), "{{reason}}"),
        ).span(6),
        bars(
            "Batches split",
            "Refused batches that were split, until the bad record was alone.",
            "short",
            query(increase(of_index("oss_vectors_bisects_total"), "index"), "{{index}}"),
        )
        .span(6)
        .axis_soft_max(1),
    )


def _sizes(histogram: str) -> Sequence[prometheus.Dataquery]:
    mean = f"{rate(of_index(f'{histogram}_sum'))} / {rate(of_index(f'{histogram}_count'))}"
    buckets = of_index(f"{histogram}_bucket")
    return (
        query(mean, "mean"),
        *(query(quantile(share, buckets), f"p{share * 100:g}") for share in (0.5, 0.95)),
    )


def _requests() -> Sequence[Panel]:
    duration = of("oss_vectors_request_duration_seconds_bucket")
    return (
        graph(
            "Request duration",
            "One attempt, from sending to the answer, by operation.",
            "s",
            *(
                query(quantile(share, duration, "operation"), f"{{{{operation}}}} p{share * 100:g}")
                for share in QUANTILES
            ),
        ),
        heat("Request duration, spread", "How many attempts took how long, of all operations.", "s", duration),
        stacked(
            "Requests by operation and code",
            "Answers of the vector service a second, by operation and HTTP status.",
            "reqps",
            query(rate(of_index("oss_vectors_requests_total"), "operation", "code"), "{{operation}} {{code}}"),
        ),
        bars(
            "Retries by reason",
            "Requests that are retried, without end, until the service accepts them.",
            "short",
            query(increase(of("oss_vectors_retries_total"), "reason"), "{{reason}}"),
        )
        .links([runbook("ossvectorsretrying")])
        .axis_soft_max(1),
        bars(
            "Unknown outcomes",
            "Requests that were sent and got no answer: the service may have applied them, or may still apply them. They are retried.",
            "short",
            query(increase(of_index("oss_vectors_unknown_outcomes_total"), "index"), "{{index}}"),
        )
        .links([runbook("ossvectorsunknownoutcomes")])
        .axis_soft_max(1),
        stacked(
            "Bytes uploaded",
            "Bodies of PutVectors and DeleteVectors a second, each attempt.",
            "Bps",
            query(rate(of_index("oss_vectors_uploaded_bytes_total"), "index"), "{{index}}"),
        ),
        graph(
            "Rate limit in force",
            "Vectors a second that the workers together allow themselves; it falls when the service throttles. 0: none.",
            "recps",
            query(f"sum by (index) ({of_index('oss_vectors_rate_limit_vectors_per_second')})", "{{index}}"),
        ).links([runbook("ossvectorsthrottled")]),
        graph(
            "Requests that wait for the rate limit",
            "How many requests waited at a time, on average: for the rate limit, or for a gate that a Retry-After closed.",
            "short",
            query(rate(of_index("oss_vectors_rate_limit_wait_seconds_total"), "index"), "{{index}}"),
        ).links([runbook("ossvectorsthrottled")]),
        graph(
            "Since the service accepted a request",
            "Seconds since the last successful write, and since that to each index, of the worker that had the latest. They also "
            "grow when there is nothing to write.",
            "s",
            query(f"min by (index) ({since(of_index('oss_vectors_last_accepted_timestamp_seconds'))})", "{{index}}"),
            query(f"min({since(of('oss_vectors_last_put_timestamp_seconds'))})", "last write"),
        ).links([runbook("ossvectorsnothingaccepted")]),
    )


def _topics() -> Sequence[Panel]:
    return (
        stacked(
            "Assigned partitions",
            "Partitions that each worker owns. Together they should be all of the topics' partitions.",
            "none",
            query(f"max by (instance) ({of('oss_vectors_assigned_partitions')})", "{{instance}}"),
        ).decimals(0),
        graph(
            "Partitions of each topic",
            "Partitions that workers own, that no worker reads, and that the topic has (dashed).",
            "none",
            query(f"sum by (topic) ({of_topic('oss_vectors_topic_assigned_partitions')})", "{{topic}}"),
            query(f"max by (topic) ({of('oss_vectors_unassigned_partitions')})", "{{topic}}, not read"),
            query(f"max by (topic) ({of('oss_vectors_topic_partitions')})", "{{topic}}, all"),
        )
        .decimals(0)
        .override_by_regexp("/, all$/", [DASHED, UNFILLED])
        .override_by_regexp("/, not read$/", color_override(RED))
        .links([runbook("ossvectorsunassignedpartitions")]),
        graph(
            "Missing topics, partitions without a leader",
            "1 for a topic that is not there, the dead-letter topic too; and partitions that no broker leads, or whose commits "
            "alone are refused. 0 is good.",
            "none",
            query(f"max by (topic) ({of('oss_vectors_topic_missing')})", "{{topic}}: missing"),
            query(f"max by (topic) ({of('oss_vectors_leaderless_partitions')})", "{{topic}}: without a leader"),
            query(f"sum by (topic) ({of('oss_vectors_refused_commit_partitions')})", "{{topic}}: commits refused"),
        )
        .decimals(0)
        .axis_soft_max(1)
        .links(
            [
                runbook("ossvectorstopicmissing"),
                runbook("ossvectorsleaderlesspartitions").title("What to do: leaders"),
                runbook("ossvectorscommitsfailing").title("What to do: commits"),
            ]
        ),
    )


def _group() -> Sequence[Panel]:
    return (
        bars(
            "Rebalances by worker",
            "Events that moved partitions to or from each worker.",
            "short",
            query(increase(of("oss_vectors_rebalances_total"), "instance", "event"), "{{instance}}: {{event}}"),
        )
        .links([runbook("ossvectorsrebalancestorm"), runbook("ossvectorspartitionslost").title("What to do: lost")])
        .axis_soft_max(1),
        stacked(
            "Commits",
            "Commits of offsets a second. Failed ones are retried.",
            "cps",
            query(rate(of("oss_vectors_commits_total"), "result"), "{{result}}"),
        )
        .override_by_name("failed", color_override(RED))
        .links([runbook("ossvectorscommitsfailing")]),
        bars(
            "Errors of the Kafka client",
            "By kind. A few during the restart of a broker are normal.",
            "short",
            query(increase(of("oss_vectors_kafka_errors_total"), "kind"), "{{kind}}"),
        ).axis_soft_max(1),
        graph(
            "Since the last poll",
            "Seconds since each worker last polled. Near kafka.max_poll_interval_ms the group removes it.",
            "s",
            query(since(f"max by (instance) ({of('oss_vectors_last_poll_timestamp_seconds')})"), "{{instance}}"),
        ).links([runbook("ossvectorspollingstopped")]),
        graph(
            "Since the last commit",
            "Seconds since each worker last committed, and since a committed offset moved (dashed). The second also grows when "
            "there is nothing to read.",
            "s",
            query(since(f"max by (instance) ({of('oss_vectors_last_commit_timestamp_seconds')})"), "{{instance}}"),
            query(
                since(f"max by (instance) ({of('oss_vectors_committed_offset_moved_timestamp_seconds')})"),
                "{{instance}}, moved",
            ),
        )
        .override_by_regexp("/, moved$/", [DASHED, UNFILLED])
        .links([runbook("ossvectorscommitsfailing")]),
        graph(
            "Members of the group",
            "Members that the group has, and workers that are scraped (dashed). More members than workers: one is not scraped, "
            "or other software is in the group.",
            "none",
            query(f"max({of('oss_vectors_group_members')})", "members"),
            query(f"count({of(INFO)})", "workers scraped"),
        )
        .decimals(0)
        .override_by_name("workers scraped", [DASHED, UNFILLED])
        .links([runbook("ossvectorsworkernotscraped")]),
        graph(
            "Without a coordinator",
            "For how long each worker has not reached the broker that coordinates the group: it can commit nothing. 0 is good.",
            "s",
            query(f"max by (instance) ({of('oss_vectors_coordinator_unavailable_seconds')})", "{{instance}}"),
        ).links([runbook("ossvectorscoordinatorunavailable")]),
    )


def _kafka_client() -> Sequence[Panel]:
    fetch = of("oss_vectors_kafka_client_fetch_duration_seconds_bucket")
    rebalance = of("oss_vectors_kafka_client_rebalance_duration_seconds_bucket")
    return (
        graph(
            "Fetch duration",
            "From a fetch to its answer. A broker with nothing new waits for fetch_max_wait_ms, so without new records it is that.",
            "s",
            *(query(quantile(share, fetch), f"p{share * 100:g}") for share in QUANTILES),
        ),
        stacked(
            "Bytes fetched",
            "Batches of records fetched a second, as they came, so compressed.",
            "Bps",
            query(rate(of_topic("oss_vectors_kafka_client_fetched_bytes_total"), "topic"), "{{topic}}"),
        ),
        heat(
            "Rebalance duration, spread",
            "How many rebalances took how long, from asking to join to the assignment.",
            "s",
            rebalance,
        ),
        bars(
            "Failed joins and connections, what they hold back",
            "Joins and syncs that were refused or not answered, and connections to brokers that could not be made or "
            "broke. All are tried again. Held back: requests and dead letters that waited, since the group had answered "
            "no heartbeat for most of kafka.session_timeout_ms.",
            "short",
            query(increase(of("oss_vectors_kafka_client_failed_rebalances_total"), "instance"), "{{instance}}: joins"),
            query(
                increase(of("oss_vectors_kafka_client_connection_errors_total"), "instance"),
                "{{instance}}: connections",
            ),
            query(increase(of("oss_vectors_lease_waits_total"), "instance"), "{{instance}}: held back"),
        )
        .links([runbook("ossvectorsrebalancestorm")])
        .axis_soft_max(1),
        graph(
            "Since the last heartbeat",
            "Seconds since the group last accepted a heartbeat of each worker. There are none during a join; near "
            "kafka.session_timeout_ms the group removes it.",
            "s",
            query(
                since(f"max by (instance) ({of('oss_vectors_kafka_client_last_heartbeat_timestamp_seconds')})"),
                "{{instance}}",
            ),
        ).links([runbook("ossvectorspartitionslost")]),
        graph(
            "Connections to brokers",
            "Open connections of each worker's consumer. 0: no broker can be reached.",
            "none",
            query(f"max by (instance) ({of('oss_vectors_kafka_client_connections')})", "{{instance}}"),
        ).decimals(0),
    )


def _process() -> Sequence[Panel]:
    return (
        graph(
            "CPU",
            "Cores in use by each worker. A worker that stays at 1 is at its limit: add another.",
            "short",
            query(rate(of("process_cpu_seconds_total"), "instance"), "{{instance}}"),
        ),
        graph(
            "Memory",
            "Resident memory of each worker: its buffer, up to buffer.max_bytes, and the process itself.",
            "bytes",
            query(f"max by (instance) ({of('process_resident_memory_bytes')})", "{{instance}}"),
        ),
        graph(
            "Memory of the container",
            "What counts against the limit of each worker's container, and the limit (dashed). At the limit the worker is killed.",
            "bytes",
            query(f"max by (instance) ({of('oss_vectors_memory_used_bytes')})", "{{instance}}"),
            query(f"min({of('oss_vectors_memory_limit_bytes')})", "limit"),
        ).override_by_name("limit", color_override(RED, DASHED, UNFILLED)),
        graph(
            "Until credentials and certificates end",
            "Where the end is known. Credentials that are renewed get a new end each time.",
            "s",
            query(f"min({of('oss_vectors_credentials_expiry_timestamp_seconds')}) - time()", "credentials"),
            query(f"min by (use) ({of('oss_vectors_certificate_expiry_timestamp_seconds')}) - time()", "{{use}}"),
        ),
        graph(
            "Garbage collections",
            "Runs of Python's garbage collector a second, by generation, over all workers.",
            "cps",
            query(rate(of("python_gc_collections_total"), "generation"), "generation {{generation}}"),
        ),
        graph(
            "Open files",
            "File descriptors in use by each worker; dashed: the least of their limits.",
            "none",
            query(f"max by (instance) ({of('process_open_fds')})", "{{instance}}"),
            query(f"min({of('process_max_fds')})", "limit"),
        )
        .scale_distribution(common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10))
        .override_by_name("limit", color_override(RED, DASHED, UNFILLED)),
        listing(
            "Workers",
            "Which version runs where, under which name in Kafka, and since when.",
            {
                "Version": (f"max by (instance, version, group_id, client_id) ({of(INFO)})", "none"),
                "Up for": (f"time() - max by (instance) ({of('process_start_time_seconds')})", "dtdurations"),
            },
        ),
        listing(
            "Routes",
            "Which indexes the records of each topic go to, and how many workers have this route. They should be all workers.",
            {"Workers": (f"count by (topic, index) ({of_topic('oss_vectors_route_info')})", "none")},
        ).span(8),
    )


if __name__ == "__main__":
    FILE.write_text(build(), encoding="utf-8")
    COPY.write_text(compact(build()), encoding="utf-8")
