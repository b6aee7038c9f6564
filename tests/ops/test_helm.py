"""The Helm chart makes what the kustomizations make. Its rendered form is committed, so no test needs `helm`."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ops.helm.render import CHART, RENDERED, VALUES, digest, shortened
from tests.ops.test_kubernetes import KUBERNETES, Built, build, with_components

COMPONENTS: Final = {
    "base": (),
    "whole": ("keda", "prometheus-rule", "service-monitor"),
    "instead": ("cpu-autoscaler", "dashboard", "pod-monitor"),
}


def rendered(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text(encoding="utf-8")))


def made_by_kustomize(name: str, folder: Path) -> Built:
    return build(with_components(folder, COMPONENTS[name]) if name in COMPONENTS else KUBERNETES / "overlays" / name)


def comparable(resources: list[dict[str, Any]]) -> dict[str, str]:
    """The resources by kind and name, without what differs by the tool: its name, the namespace, the settings' hash."""
    found = {}
    for one in resources:
        one["metadata"].pop("namespace", None)
        text = yaml.safe_dump(shortened(one), width=10**6)
        text = re.sub(r"( *)app.kubernetes.io/(managed-by|component|part-of): .*\n", "", text)
        text = re.sub(r"(name: oss-vectors-worker(?:-articles)?)-[a-z0-9]{10}\n", r"\1-HASH\n", text)
        name = re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"])
        found[f"{one['kind']} {name}"] = text
    return found


@pytest.mark.parametrize("values", VALUES, ids=lambda path: str(path.stem))
def test_the_rendered_chart_is_of_this_chart(values: Path) -> None:
    first = (RENDERED / values.name).read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"# digest: {digest(values)}", "run python -m ops.helm.render, with helm on the PATH"


@pytest.mark.parametrize("values", VALUES, ids=lambda path: str(path.stem))
def test_the_chart_makes_what_kustomize_makes(values: Path, tmp_path: Path) -> None:
    chart = comparable(rendered(values.stem))
    kustomize = comparable(made_by_kustomize(values.stem, tmp_path).resources)
    assert chart.keys() == kustomize.keys()
    assert {kind: text for kind, text in chart.items() if text != kustomize[kind]} == {}


def test_the_chart_includes_the_rules_and_the_dashboard_that_are_made() -> None:
    files = {path.name: path.resolve() for path in (CHART / "files").iterdir()}
    assert files == {
        "prometheusrule.yaml": (KUBERNETES / "components/prometheus-rule/prometheusrule.yaml").resolve(),
        "dashboard.json": (KUBERNETES.parent / "grafana/dashboards/oss-vectors-worker.json").resolve(),
    }
