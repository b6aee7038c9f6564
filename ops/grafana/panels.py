"""What the dashboard is built from: selectors, panels and variables that all look and filter alike."""

from collections.abc import Sequence
from typing import Final

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
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

RUNBOOK: Final = "https://github.com/oss-vectors-worker/oss-vectors-worker/blob/main/ops/runbook.md"
DATASOURCE: Final = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WORKERS: Final = 'job="$job",instance=~"$instance"'
IN_SIGHT: Final = ""  # the SDK's own default puts links and annotations into a menu

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#8e8e8e"

# -- selectors


def of(metric: str, *matchers: str) -> str:
    """A metric of the chosen workers."""
    return f"{metric}{{{','.join((WORKERS, *matchers))}}}"


def of_topic(metric: str, *matchers: str) -> str:
    """Likewise, of the chosen topics."""
    return of(metric, 'topic=~"$topic"', *matchers)


def of_index(metric: str, *matchers: str) -> str:
    """Likewise, of the chosen indexes."""
    return of(metric, 'index=~"$index"', *matchers)


def of_partition(metric: str) -> str:
    """A gauge of a partition, once: while the partition moves, the old and the new owner may both tell it."""
    return f"max by (topic, partition) ({of_topic(metric)})"


def rate(selector: str, *by: str) -> str:
    """Steps a second of a counter, summed over the workers, by some labels."""
    return _summed(f"rate({selector}[$__rate_interval])", by)


def increase(selector: str, *by: str) -> str:
    """Steps of a counter from point to point of the graph, summed over the workers, by some labels."""
    return _summed(f"increase({selector}[$__rate_interval])", by)


def quantile(share: float, buckets: str, *by: str, window: str = "$__rate_interval") -> str:
    """A quantile of a histogram over all workers, by some labels."""
    return f"histogram_quantile({share:g}, sum by ({', '.join(('le', *by))}) (rate({buckets}[{window}])))"


def since(timestamp: str) -> str:
    """Seconds since the moment that a gauge tells; nothing where it tells 0, for never."""
    return f"time() - ({timestamp} > 0)"


def _summed(expression: str, by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


# -- queries


def query(expression: str, legend: str) -> prometheus.Dataquery:
    """A query over the time shown."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range()


def now(expression: str, legend: str) -> prometheus.Dataquery:
    """A query of the end of the time shown."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant()


def column(expression: str) -> prometheus.Dataquery:
    """A column of a table, as of the end of the time shown."""
    return prometheus.Dataquery().expr(expression).format(prometheus_models.PromQueryFormat.TABLE).instant()


def _lettered(queries: Sequence[prometheus.Dataquery]) -> list[prometheus.Dataquery]:
    return [one.ref_id(letter).datasource(DATASOURCE) for one, letter in zip(queries, "ABCDEFGH", strict=False)]


# -- panels


def thresholds(*steps: tuple[float, str], base: str = GREEN) -> dashboard.ThresholdsConfig:
    """Colours from a value on; `base` below the first."""
    found = [
        models.Threshold(value=None, color=base),
        *(models.Threshold(value=at, color=color) for at, color in steps),
    ]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def color_override(color: str, *more: models.DynamicConfigValue) -> list[models.DynamicConfigValue]:
    """The properties of a series that always has this colour."""
    return [models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color}), *more]


DASHED: Final = models.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]})
UNFILLED: Final = models.DynamicConfigValue(id_val="custom.fillOpacity", value=0)
UNSTACKED: Final = models.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none", "group": "A"})


def runbook(section: str) -> dashboard.DashboardLink:
    """A link to a section of the runbook, by its anchor."""
    link = dashboard.DashboardLink("What to do").type(models.DashboardLinkType.LINK)
    return link.url(f"{RUNBOOK}#{section}").target_blank(True)


def graph(title: str, description: str, unit: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    """Lines over time, from 0 on."""
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets([*_lettered(queries)])
        .unit(unit)
        .min(0)
        .span(8)
        .height(6)
        .line_width(1)
        .fill_opacity(8)
        .show_points(common_models.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .thresholds(thresholds())
        .legend(_legend())
        .tooltip(_tooltip())
    )


def stacked(title: str, description: str, unit: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    """Areas over time, one upon the other."""
    stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")
    return graph(title, description, unit, *queries).stacking(stacking).fill_opacity(30)


def bars(title: str, description: str, unit: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    """Bars over time, one upon the other: for what happens now and then."""
    return stacked(title, description, unit, *queries).draw_style(common_models.GraphDrawStyle.BARS).fill_opacity(80)


def number(title: str, description: str, unit: str, *queries: prometheus.Dataquery) -> stat.Panel:
    """The value of now, large, in the colour of its threshold."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets([*_lettered(queries)])
        .unit(unit)
        .height(3)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.BACKGROUND_SOLID)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def states(title: str, description: str, *queries: prometheus.Dataquery) -> statetimeline.Panel:
    """Bands over time, one for each series, in the colour of the value's name."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets([*_lettered(queries)])
        .unit("none")
        .span(8)
        .height(6)
        .show_value(common_models.VisibilityMode.NEVER)
        .fill_opacity(80)
        .line_width(0)
        .row_height(0.8)
        .merge_values(True)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .thresholds(thresholds(base=GREY))
        .legend(_legend())
        .tooltip(_tooltip())
    )


def heat(title: str, description: str, unit: str, buckets: str) -> heatmap.Panel:
    """How a histogram's observations spread over its buckets, over time."""
    spread = prometheus.Dataquery().expr(increase(buckets, "le")).format(prometheus_models.PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets([*_lettered([spread.legend_format("{{le}}").range()])])
        .unit("short")
        .span(8)
        .height(6)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .cell_gap(1)
        .color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    )


def listing(title: str, description: str, columns: dict[str, tuple[str, str]]) -> table.Panel:
    """A table whose rows are what the labels tell apart; `columns` has (expression, unit) for each name."""
    targets = _lettered([column(expression) for expression, _ in columns.values()])
    names = {f"Value #{letter}": name for letter, name in zip("ABCDEFGH", columns, strict=False)}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets([*targets])
        .unit("short")
        .thresholds(thresholds())
        .span(16)
        .height(6)
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": {}}
            )
        )
    )
    for name, (_, unit) in columns.items():
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return panel


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
    )


def _tooltip() -> common.VizTooltipOptions:
    return (
        common.VizTooltipOptions()
        .mode(common_models.TooltipDisplayMode.MULTI)
        .sort(common_models.SortOrder.DESCENDING)
        .hide_zeros(True)
    )


# -- variables and annotations


def variable(name: str, label: str, description: str, values: str) -> dashboard.QueryVariable:
    """A variable with one value out of what a query finds in the time shown."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DATASOURCE)
        .query(values)
        .definition(values)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def several(name: str, label: str, description: str, values: str) -> dashboard.QueryVariable:
    """A variable with several values, all at first.

    All is written out as the values found, never as `.*`: what the values were chosen by, such as the group, has no
    label of its own on the other metrics.
    """
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable(name, label, description, values).multi(True).include_all(True).current(everything)


def annotation(
    name: str, expression: str, color: str, title: str, *, at_value: bool = False
) -> dashboard.AnnotationQuery:
    """Marks the times at which an expression has a value; with `at_value` the value is the time, in ms."""
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expression)
        .title_format(title)
        .use_value_for_time(at_value)
        .placement(IN_SIGHT)
    )
