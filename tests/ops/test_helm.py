"""The Helm chart makes what the kustomizations make. Its rendered form is committed, so no test needs `helm`."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ops.helm.render import CHART, RENDERED, VALUES, digest, shortened
from ops.kubernetes.prometheus_rule import ALL_JOBS
from tests.ops.test_kubernetes import KUBERNETES, Built, build, discovered, relabelled, with_components

COMPONENTS: Final = {
    "base": (),
    "whole": ("keda", "prometheus-rule", "service-monitor"),
    "instead": ("cpu-autoscaler", "dashboard", "external-secrets", "pod-monitor"),
    "strimzi": (),
}
COMPARED: Final = [path for path in VALUES if path.stem != "own-names"]
KEPT: Final = {"helm.sh/resource-policy": "keep"}


def rendered(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text(encoding="utf-8")))


def made_by_kustomize(name: str, folder: Path) -> list[dict[str, Any]]:
    if name not in COMPONENTS:
        return build(KUBERNETES / "overlays" / name).resources
    beside = build(KUBERNETES / "strimzi").resources if name == "strimzi" else []
    return build(with_components(folder, COMPONENTS[name])).resources + beside


def comparable(resources: list[dict[str, Any]]) -> dict[str, str]:
    """The resources by kind and name, without what differs by the tool.

    That is its name, the namespace, the hash of the settings, and what a release leaves behind.
    """
    found = {}
    for one in resources:
        one["metadata"].pop("namespace", None)
        if one["metadata"].get("annotations") == KEPT:
            del one["metadata"]["annotations"]
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


@pytest.mark.parametrize("values", COMPARED, ids=lambda path: str(path.stem))
def test_the_chart_makes_what_kustomize_makes(values: Path, tmp_path: Path) -> None:
    chart = comparable(rendered(values.stem))
    kustomize = comparable(made_by_kustomize(values.stem, tmp_path))
    assert chart.keys() == kustomize.keys()
    assert {kind: text for kind, text in chart.items() if text != kustomize[kind]} == {}


def test_the_chart_includes_the_rules_and_the_dashboard_that_are_made() -> None:
    files = {path.name: path.resolve() for path in (CHART / "files").iterdir()}
    assert files == {
        "prometheusrule.yaml": (KUBERNETES / "components/prometheus-rule/prometheusrule.yaml").resolve(),
        "dashboard.json": (KUBERNETES.parent / "grafana/dashboards/oss-vectors-worker.json").resolve(),
    }


@pytest.mark.parametrize(("name", "namespace"), [("strimzi", "kafka"), ("own-names", "streams")])
def test_topics_and_user_are_where_strimzi_looks_and_the_topics_outlive_the_release(name: str, namespace: str) -> None:
    places, kept = {}, {}
    for one in rendered(name):
        places[one["kind"]] = one["metadata"]["namespace"]
        kept[one["kind"]] = one["metadata"].get("annotations") == KEPT
    assert {kind for kind, place in places.items() if place == namespace} == {"KafkaTopic", "KafkaUser"}
    assert {place for place in places.values() if place != namespace} == {"vectors"}
    assert [kind for kind, stays in kept.items() if stays] == ["KafkaTopic"]


def test_external_secrets_of_other_names_make_what_the_pods_mount() -> None:
    built = Built(rendered("own-names"))
    made = {one["spec"]["target"]["name"]: one["spec"] for one in built.all("ExternalSecret")}
    assert made.keys() == {volume["secret"]["secretName"] for volume in built.pod["volumes"] if "secret" in volume}
    assert [spec["secretStoreRef"] for spec in made.values()] == [{"kind": "SecretStore", "name": "team"}] * 2
    read = {
        name: {one["secretKey"]: (one["remoteRef"]["key"], one["remoteRef"]["property"]) for one in spec["data"]}
        for name, spec in made.items()
    }
    assert read == {
        "articles-kafka": {"username": ("team/kafka", "user"), "password": ("team/kafka", "secret")},
        "articles-oss": {
            "id": ("team/oss", "id"),
            "secret": ("team/oss", "key"),
            "token": ("team/oss", "token"),
            "expiration": ("team/oss", "end"),
        },
    }
    # The operator's template, filled as the operator does it
    template = made["articles-oss"]["target"]["template"]["data"]["credentials.json"]
    filled = re.sub(r"\{\{ \.(\w+) \| toJson \}\}", lambda match: json.dumps(f"the {match[1]}"), template)
    assert json.loads(filled) == {
        "access_key_id": "the id",
        "access_key_secret": "the secret",
        "session_token": "the token",
        "expiration": "the expiration",
    }


def test_strimzi_grants_the_topics_by_their_names_in_kafka() -> None:
    built = Built(rendered("own-names"))
    topics = {one["metadata"]["name"]: one["spec"].get("topicName") for one in built.all("KafkaTopic")}
    assert topics == {"articles-v2": "Articles_v2", "prices": None, "articles-dlq": "articles_DLQ"}
    user = built.one("KafkaUser")
    assert user["metadata"]["name"] == "vector-writer"
    assert [(one["resource"]["name"], one["operations"]) for one in user["spec"]["authorization"]["acls"]] == [
        ("Articles_v2", ["Read", "Describe", "DescribeConfigs"]),
        ("prices", ["Read", "Describe", "DescribeConfigs"]),
        ("oss-vectors-worker-articles", ["Read", "Describe"]),
        ("articles_DLQ", ["Write", "Describe", "DescribeConfigs"]),
    ]
    labels = [one["metadata"]["labels"]["strimzi.io/cluster"] for one in [*built.all("KafkaTopic"), user]]
    assert labels == ["main"] * 4


def test_whatever_the_objects_are_called_the_rules_find_the_job() -> None:
    built = Built(rendered("own-names"))
    service = built.one("Service")["metadata"]
    assert "oss-vectors-worker" not in service["name"]
    (endpoint,) = built.one("ServiceMonitor")["spec"]["endpoints"]
    job = relabelled(endpoint["relabelings"], discovered("service", service["labels"]))["job"]
    assert job == "vectors/oss-vectors-worker-articles"
    assert re.fullmatch(ALL_JOBS, job)
