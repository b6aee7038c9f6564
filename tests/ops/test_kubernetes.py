"""The Kubernetes files are what Kubernetes takes, and agree with the worker, with each other and with the rule files."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

import kubernetes_validate
import pytest
import yaml

from ops.grafana import dashboard as grafana
from tests.support.programs import program
from worker.app import loop, watchdog, wiring
from worker.oss.credentials.providers import credentials_provider
from worker.settings import load, tables
from worker.settings.tables import Settings
from worker.telemetry import health

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "ops/kubernetes"
RULES: Final = ROOT / "ops/prometheus/rules"
README: Final = (KUBERNETES / "README.md").read_text(encoding="utf-8")
VERSIONS: Final = ("1.27", "1.37")  # of Kubernetes: the oldest that README.md names, and the newest with schemas
OPERATORS_OWN: Final = {
    *("ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"),
    *("ExternalSecret", "KafkaTopic", "KafkaUser"),
}
TOGETHER: Final = ("keda", "prometheus-rule", "service-monitor")
INSTEAD: Final = ("cpu-autoscaler", "dashboard", "external-secrets", "pod-monitor")
"""The components that are for other clusters than those in TOGETHER are."""
MIB: Final = 1024 * 1024
PEAK_MIB: Final = 400  # resident, as measured with default settings under a flood of 1,536-dimension records
FETCHED_AHEAD_MIB: Final = 32  # by the Kafka client, from each broker
HEARTBEAT_SECONDS: Final = 3.0  # a third of the session, at most this: how soon a member learns of a rebalance
INSTANCE: Final = "app.kubernetes.io/instance"
MOUNTED: Final = "/etc/oss-vectors-worker"
CREDENTIALS: Final = '{"access_key_id": "id", "access_key_secret": "secret"}'

Resource = dict[str, Any]


class Built(NamedTuple):
    """What one kustomization makes."""

    resources: list[Resource]

    def all(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource["kind"] == kind]

    def one(self, kind: str) -> Resource:
        (resource,) = self.all(kind)
        return resource

    @property
    def template(self) -> Resource:
        template: Resource = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def pod(self) -> Resource:
        pod: Resource = self.template["spec"]
        return pod

    @property
    def container(self) -> Resource:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def pod_labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def toml(self) -> str:
        text: str = self.one("ConfigMap")["data"]["worker.toml"]
        return text


def build(folder: Path) -> Built:
    """Build a kustomization as `kubectl apply -k` does."""
    made = subprocess.run(
        [program("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (made.returncode, made.stderr) == (0, "")
    return Built(list(yaml.safe_load_all(made.stdout)))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """What each kustomization makes, and the base with components of two kinds of cluster."""
    whole = with_components(tmp_path_factory.mktemp("whole"), TOGETHER)
    instead = with_components(tmp_path_factory.mktemp("instead"), INSTEAD)
    folders = {"base": KUBERNETES / "base", "whole": whole, "instead": instead, "strimzi": KUBERNETES / "strimzi"}
    folders |= {folder.name: folder for folder in (KUBERNETES / "overlays").iterdir()}
    return {name: build(folder) for name, folder in folders.items()}


def with_components(folder: Path, names: tuple[str, ...]) -> Path:
    """Write a kustomization of the base with these components to `folder`."""
    there = os.path.relpath(KUBERNETES.resolve(), folder.resolve())
    kustomization = {"resources": [f"{there}/base"], "components": [f"{there}/components/{name}" for name in names]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["base", "whole", "example"])
def built(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Built:
    """Each of them in turn."""
    return builds[request.param]


@pytest.fixture(scope="module", params=["whole", "example"])
def extended(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Built:
    """Those with every component."""
    return builds[request.param]


def secrets_of(built: Built) -> dict[str, str]:
    """The folder that each Secret is mounted at, by the Secret's name."""
    folders = {mount["name"]: mount["mountPath"] for mount in built.container["volumeMounts"]}
    volumes = built.pod["volumes"]
    return {volume["secret"]["secretName"]: folders[volume["name"]] for volume in volumes if "secret" in volume}


def keys_of_secrets() -> dict[str, set[str]]:
    """The keys that each Secret gets, as README.md makes it."""
    commands = re.findall(r"create secret generic (\S+)((?:\s+\\?\s*--from-file=\S+)+)", README)
    return {name: set(re.findall(r"--from-file=(?:([^=\s]+)=)?", files)) for name, files in commands}


def settings_of(built: Built, mounts: Path) -> Settings:
    """The settings in force in a pod, its Secrets filled and everything mounted below `mounts`."""
    for name, folder in secrets_of(built).items():
        there = mounts / Path(folder).relative_to(MOUNTED)
        there.mkdir()
        for key in keys_of_secrets()[name]:
            (there / key).write_text(CREDENTIALS if key.endswith(".json") else f"{key} of the test\n", encoding="utf-8")
    environ = {one["name"]: one.get("value", "the-pod-name") for one in built.container["env"]}
    file = mounts / Path(environ["OSS_VECTORS_CONFIG"]).relative_to(MOUNTED)
    file.parent.mkdir()
    file.write_text(built.toml.replace(f'"{MOUNTED}/', f'"{mounts}/'), encoding="utf-8")
    return load.load(file, environ, to_run=True).settings


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Settings:
    """The settings in force in a pod of `built`."""
    return settings_of(built, tmp_path)


def in_bytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * {"Ki": 1024, "Mi": MIB, "Gi": 1024 * MIB}[unit]


def chosen(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


# -- what Kubernetes takes


def validated_kinds(built: Built, version: str) -> list[str]:
    """Return the kinds of what is Kubernetes' own, each of which its strict schema accepts."""
    checked = [one for one in built.resources if one["kind"] not in OPERATORS_OWN]
    assert [kubernetes_validate.validate(one, version, strict=True) for one in checked] == [version] * len(checked)
    return [one["kind"] for one in checked]


def test_every_component_is_built_here_and_every_overlay_too(builds: dict[str, Built]) -> None:
    folders = {folder.name for folder in (KUBERNETES / "components").iterdir()}
    assert folders == {*TOGETHER, *INSTEAD, "static-membership"}
    assert builds.keys() == {"base", "whole", "instead", "strimzi", "example", "static-membership", "monitoring"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("instead", {"HorizontalPodAutoscaler", "Deployment"}),
        ("static-membership", {"StatefulSet"}),
        ("monitoring", {"ConfigMap"}),
        ("strimzi", set()),
    ],
)
def test_kubernetes_takes_what_the_other_kustomizations_make(
    builds: dict[str, Built], name: str, kinds: set[str], version: str
) -> None:
    assert kinds <= set(validated_kinds(builds[name], version))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_one_that_kubernetes_takes_without_an_unknown_field(built: Built, version: str) -> None:
    assert len(validated_kinds(built, version)) == 6


def test_a_misspelt_field_would_be_found(builds: dict[str, Built]) -> None:
    deployment = builds["base"].one("Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "minReadySecond": 30}}
    with pytest.raises(kubernetes_validate.ValidationError, match="minReadySecond"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_everything_that_is_referred_to_is_there_or_made_by_the_readme(built: Built) -> None:
    volumes = built.pod["volumes"]
    maps = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    assert maps == [built.one("ConfigMap")["metadata"]["name"]]
    assert built.pod["serviceAccountName"] == built.one("ServiceAccount")["metadata"]["name"]
    assert set(secrets_of(built)) == set(keys_of_secrets())
    assert built.all("Secret") == []
    mounts = built.container["volumeMounts"]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
    assert [mount for mount in mounts if "subPath" in mount] == []


def test_the_image_is_given_by_kustomize_with_the_version_of_the_project(builds: dict[str, Built]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert builds["base"].container["image"] == f"oss-vectors-worker:{version}"
    assert builds["example"].container["image"] == f"registry.example.com/oss-vectors-worker:{version}"


# -- what the worker takes


def test_the_worker_takes_its_settings_with_the_secrets_as_they_are_mounted(
    built: Built, settings: Settings, tmp_path: Path
) -> None:
    assert built.container["args"] == ["run"]
    assert settings.kafka.client_id == "the-pod-name"
    assert (settings.kafka.sasl_plain_username, settings.kafka.sasl_plain_password) == (
        "username of the test",
        "password of the test",
    )
    credentials = credentials_provider(settings.oss, {}).get_credentials()
    assert (credentials.access_key_id, credentials.access_key_secret) == ("id", "secret")
    # Nothing points beside what is mounted.
    assert set(re.findall(rf'"({MOUNTED}/[^"]*/)', built.toml)) == {f"{one}/" for one in secrets_of(built).values()}


def test_credentials_are_read_again_when_their_secret_changes(built: Built, tmp_path: Path) -> None:
    settings = settings_of(built, tmp_path)
    file = Path(settings.oss.credentials_file)
    # A Secret's folder as the kubelet keeps it: the files are links through ..data, and a change moves that link.
    for version in ("first", "second"):
        folder = file.parent / f"..{version}"
        folder.mkdir()
        (folder / file.name).write_text(CREDENTIALS.replace('"id"', f'"{version}"'), encoding="utf-8")
        os.utime(folder / file.name, (1, 1))  # found also where both are of one instant
    file.unlink()
    (file.parent / "..data").symlink_to("..first")
    file.symlink_to(f"..data/{file.name}")
    provider = credentials_provider(settings.oss, {})
    before = provider.get_credentials()
    (file.parent / "..new").symlink_to("..second")
    (file.parent / "..new").rename(file.parent / "..data")
    after = provider.get_credentials()
    assert (before.access_key_id, after.access_key_id) == ("first", "second")


def test_no_secret_stands_in_the_settings(built: Built) -> None:
    document = tomllib.loads(built.toml)
    wrong = [name for name in tables.SECRETS if name.partition(".")[2] in document.get(name.partition(".")[0], {})]
    assert wrong == []


def test_another_setting_rolls_the_pods(builds: dict[str, Built], tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES / "base", tmp_path / "base")
    file = tmp_path / "base/worker.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("25.0", "24.0"), encoding="utf-8")
    assert build(tmp_path / "base").template != builds["base"].template


# -- the end of a pod, and what may bring it about


def test_a_pod_is_given_longer_than_the_drain(built: Built, settings: Settings) -> None:
    room = built.pod["terminationGracePeriodSeconds"] - settings.shutdown.drain_seconds - loop.STOP_SECONDS
    assert room >= 10
    assert "lifecycle" not in built.container  # a preStop hook would take its time from the same period


def test_liveness_comes_after_the_watchdog_and_never_before_the_drain_is_over(built: Built, settings: Settings) -> None:
    probe = built.container["livenessProbe"]
    first_failure_to_last = (probe["failureThreshold"] - 1) * probe["periodSeconds"]
    still = max(wiring.MAIN_LOOP_STILL_SECONDS, 2 * settings.kafka.revoke_seconds + health.STILL_SECONDS)
    # It looks every LOOK_SECONDS: one look to see the last turn, and one that may be missed.
    ends_after = still + 2 * watchdog.Watchdog.LOOK_SECONDS
    assert health.STILL_SECONDS + first_failure_to_last > ends_after
    assert first_failure_to_last > built.pod["terminationGracePeriodSeconds"]


def test_liveness_and_startup_ask_what_is_healthy_in_every_state_and_readiness_alone_what_is_not(built: Built) -> None:
    probes = {name: built.container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }
    startup = built.container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 2 * health.STILL_SECONDS
    assert [built.container[name]["timeoutSeconds"] for name in probes] == [5, 5, 5]


def test_a_rebalance_is_over_before_the_next_worker_goes(built: Built, settings: Settings) -> None:
    spec = built.one("Deployment")["spec"]
    assert spec["minReadySeconds"] >= settings.kafka.revoke_seconds + 2 * HEARTBEAT_SECONDS
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_a_roll_is_marked_as_failed_later_than_a_slow_pod_gets_ready(built: Built) -> None:
    spec = built.one("Deployment")["spec"]
    startup = built.container["startupProbe"]
    slow_start = startup["failureThreshold"] * startup["periodSeconds"]
    slow_node = 300  # a new node, and the image on it
    pod_ends = built.pod["terminationGracePeriodSeconds"]
    assert spec["progressDeadlineSeconds"] > slow_node + slow_start + spec["minReadySeconds"] + pod_ends


def test_a_surplus_worker_of_a_roll_has_no_place_with_static_membership(settings: Settings) -> None:
    assert settings.kafka.group_instance_id == ""


def test_a_node_drains_one_worker_at_a_time_and_a_blocked_one_does_not_hold_it_up(built: Built) -> None:
    spec = built.one("PodDisruptionBudget")["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


# -- resources


def test_memory_holds_the_measured_peak_and_what_may_come_on_top(built: Built, settings: Settings) -> None:
    resources = built.container["resources"]
    requested, limit = (in_bytes(resources[name]["memory"]) for name in ("requests", "limits"))
    beyond_default = settings.buffer.max_bytes - tables.Buffer().max_bytes
    peak = PEAK_MIB * MIB + beyond_default
    assert requested >= peak
    # Two more brokers than were measured with, and a compressed batch that is unpacked to as much as the buffer
    assert limit >= peak + 2 * FETCHED_AHEAD_MIB * MIB + settings.buffer.max_bytes
    assert in_bytes(next(one for one in built.pod["volumes"] if one["name"] == "tmp")["emptyDir"]["sizeLimit"]) < limit


def test_a_worker_asks_for_less_than_a_core_and_is_never_throttled(built: Built) -> None:
    resources = built.container["resources"]
    assert re.fullmatch(r"[1-5]\d\dm", resources["requests"]["cpu"])
    assert "cpu" not in resources["limits"]


# -- who it may be


def test_the_pod_is_confined(built: Built) -> None:
    user, group = re.findall(r"(?m)^USER (\d+):(\d+)$", (ROOT / "ops/Dockerfile").read_text(encoding="utf-8"))[0]
    assert built.pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(group),
        "fsGroup": int(group),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert built.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert built.pod["automountServiceAccountToken"] is False
    assert built.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert built.pod["enableServiceLinks"] is False
    writable = [mount["mountPath"] for mount in built.container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    assert {one["name"]: "emptyDir" in one for one in built.pod["volumes"]}["tmp"] is True


def test_secrets_are_readable_by_the_group_of_the_pod_and_nobody_else(built: Built) -> None:
    modes = [volume["secret"]["defaultMode"] for volume in built.pod["volumes"] if "secret" in volume]
    assert modes == [0o440] * 2


# -- labels and ports


def test_every_selector_finds_the_pods(built: Built) -> None:
    labels = built.pod_labels
    selectors = {
        "Deployment": built.one("Deployment")["spec"]["selector"]["matchLabels"],
        "Service": built.one("Service")["spec"]["selector"],
        "PodDisruptionBudget": built.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": built.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    }
    spread = [one["labelSelector"]["matchLabels"] for one in built.pod["topologySpreadConstraints"]]
    assert {name: chosen(selector, labels) for name, selector in selectors.items()} == dict.fromkeys(selectors, True)
    assert [chosen(selector, labels) for selector in spread] == [True, True]
    # A selector of more than what never changes would end with the next release.
    assert set().union(*selectors.values(), *spread) <= {"app.kubernetes.io/name", INSTANCE}


def test_resources_are_labelled_as_is_the_custom(built: Built) -> None:
    names = [one["metadata"]["labels"]["app.kubernetes.io/name"] for one in [*built.resources, built.template]]
    assert names == ["oss-vectors-worker"] * (len(built.resources) + 1)


def test_a_second_worker_in_the_namespace_is_kept_apart(builds: dict[str, Built]) -> None:
    example = builds["example"]
    selectors = [
        example.one("Deployment")["spec"]["selector"]["matchLabels"],
        example.one("Service")["spec"]["selector"],
        example.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        example.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        example.one("ServiceMonitor")["spec"]["selector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in example.pod["topologySpreadConstraints"]),
    ]
    assert [selector.get(INSTANCE) for selector in selectors] == ["articles"] * len(selectors)


def test_the_port_is_the_same_everywhere(built: Built, settings: Settings) -> None:
    (port,) = built.container["ports"]
    (served,) = built.one("Service")["spec"]["ports"]
    (allowed,) = built.one("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert (port["name"], port["containerPort"]) == ("http", settings.http.port)
    assert (served["name"], served["targetPort"], served["port"]) == ("http", "http", settings.http.port)
    assert allowed["port"] == "http"


def test_the_service_shows_a_blocked_worker_too(built: Built) -> None:
    spec = built.one("Service")["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)


def test_the_network_is_open_to_what_the_settings_name_and_to_metrics_alone(built: Built, settings: Settings) -> None:
    spec = built.one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["from"] for rule in spec["ingress"]] == [
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    ]
    dns, *rest = spec["egress"]
    in_cluster = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: peer["podSelector"]
        for peer in dns["to"]
        if "podSelector" in peer
    }
    # No overlay's selector labels in it
    assert in_cluster == {
        "kube-system": {
            "matchExpressions": [
                {"key": "k8s-app", "operator": "In", "values": ["kube-dns", "coredns", "node-local-dns"]}
            ]
        },
        "openshift-dns": {
            "matchExpressions": [
                {"key": "dns.operator.openshift.io/daemonset-dns", "operator": "In", "values": ["default"]}
            ]
        },
    }
    assert [peer["ipBlock"] for peer in dns["to"] if "ipBlock" in peer] == [{"cidr": "169.254.20.10/32"}]
    assert {(one["protocol"], one["port"]) for one in dns["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)
    }
    open_ports = {
        number
        for rule in rest
        for one in rule["ports"]
        for number in range(one["port"], one.get("endPort", one["port"]) + 1)
    }
    assert open_ports == {*range(9092, 9100), *range(9194, 9199), 443}
    brokers = {int(server.rpartition(":")[2]) for server in settings.kafka.bootstrap_servers}
    assert brokers <= open_ports


# -- ServiceMonitor and PrometheusRule


def test_the_service_monitor_finds_the_service_and_its_port(extended: Built) -> None:
    monitor, service = extended.one("ServiceMonitor"), extended.one("Service")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert chosen(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    assert monitor["metadata"].get("namespace") == service["metadata"].get("namespace")


def test_the_rules_find_the_job_that_the_service_monitor_makes(extended: Built) -> None:
    (endpoint,) = extended.one("ServiceMonitor")["spec"]["endpoints"]
    job = relabelled(endpoint["relabelings"], discovered("service", extended.one("Service")["metadata"]["labels"]))[
        "job"
    ]
    assert job.startswith("vectors/")
    wanted = set(re.findall(r'\bjob=~"([^"]*)"', yaml.safe_dump(extended.one("PrometheusRule"), width=10**6)))
    assert wanted != set()
    assert [pattern for pattern in wanted if not re.fullmatch(pattern, job)] == []


def rule_groups(folder: Path) -> list[Any]:
    return [
        group
        for path in sorted(folder.glob("*.y*ml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]


def generate(*arguments: str) -> tuple[int, str]:
    script = str(KUBERNETES / "prometheus_rule.py")
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def test_the_prometheus_rule_is_what_the_rule_files_say(extended: Built) -> None:
    assert extended.one("PrometheusRule")["spec"]["groups"] == rule_groups(RULES)


def test_the_dashboard_of_the_component_is_what_its_script_makes() -> None:
    assert grafana.COPY.read_text(encoding="utf-8") == grafana.compact(grafana.build())


def test_the_prometheus_rule_is_what_its_script_makes() -> None:
    assert generate("--check") == (0, "")


def test_the_script_takes_whatever_rule_files_there_are(tmp_path: Path) -> None:
    rules, output = tmp_path / "rules", tmp_path / "made.yaml"
    rules.mkdir()
    alert = {"alert": "A", "expr": 'up{job="x"} == 0\n  or\nvector(1)', "annotations": {"s": "{{ $value }} ä"}}
    (rules / "b.yml").write_text(yaml.safe_dump({"groups": [{"name": "last", "rules": [alert]}]}), encoding="utf-8")
    (rules / "a.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "first", "interval": "30s", "rules": [{"record": "r", "expr": "1"}]}]}),
        encoding="utf-8",
    )
    (rules / "notes.md").write_text("none", encoding="utf-8")
    arguments = ("--rules", str(rules), "--output", str(output))
    assert generate(*arguments, "--check")[0] == 1
    assert generate(*arguments) == (0, "")
    assert generate(*arguments, "--check") == (0, "")
    made = yaml.safe_load(output.read_text(encoding="utf-8"))
    assert made["spec"]["groups"] == rule_groups(rules)
    assert [group["name"] for group in made["spec"]["groups"]] == ["first", "last"]
    (rules / "c.yml").write_text(yaml.safe_dump({"groups": [{"name": "last", "rules": []}]}), encoding="utf-8")
    status, told = generate(*arguments)
    assert (status, told.rstrip().endswith("a name of its own: last")) == (1, True)


def test_the_rules_can_be_those_of_one_team(tmp_path: Path) -> None:
    output = tmp_path / "made.yaml"
    assert generate("--jobs", "team-a/oss-vectors-worker.*", "--output", str(output)) == (0, "")
    text = output.read_text(encoding="utf-8")
    wanted = set(re.findall(r'\bjob=~"([^"]*)"', yaml.safe_dump(yaml.safe_load(text), width=10**6)))
    assert wanted == {"team-a/oss-vectors-worker.*"}
    names = [group["name"] for group in yaml.safe_load(text)["spec"]["groups"]]
    assert names == [group["name"] for group in rule_groups(RULES)]


def test_a_cluster_has_rules_and_dashboard_once_where_prometheus_and_grafana_look(builds: dict[str, Built]) -> None:
    monitoring = builds["monitoring"]
    assert {one["kind"] for one in monitoring.resources} == {"PrometheusRule", "ConfigMap"}
    assert monitoring.one("PrometheusRule")["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert {one["metadata"]["namespace"] for one in monitoring.resources} == {"monitoring"}
    dashboard = monitoring.one("ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["name"] == "oss-vectors-worker-dashboard"
    # kubectl keeps a copy in an annotation, which has a limit.
    assert len(json.dumps(dashboard)) < 256 * 1024
    file = grafana.FILE
    assert json.loads(dashboard["data"][file.name]) == json.loads(file.read_text(encoding="utf-8"))


def test_the_pod_monitor_finds_the_pods_and_makes_the_job_that_the_rules_look_for(builds: dict[str, Built]) -> None:
    built = builds["instead"]
    spec = built.one("PodMonitor")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert chosen(spec["selector"]["matchLabels"], built.pod_labels)
    assert (endpoint["port"], endpoint["path"]) == (built.container["ports"][0]["name"], "/metrics")
    labels = discovered("pod", built.pod_labels)
    assert relabelled(endpoint["relabelings"], labels)["job"] == "vectors/oss-vectors-worker"
    labels["__meta_kubernetes_pod_label_app_kubernetes_io_instance"] = "articles"
    assert relabelled(endpoint["relabelings"], labels)["job"] == "vectors/oss-vectors-worker-articles"


def discovered(kind: str, labels: dict[str, str]) -> dict[str, str]:
    """Return a target in the namespace `vectors` as Prometheus finds it, with the labels of its Service or its pod."""
    found = {f"__meta_kubernetes_{kind}_label_{re.sub('[./-]', '_', key)}": value for key, value in labels.items()}
    return {"__meta_kubernetes_namespace": "vectors", "__meta_kubernetes_service_name": "any", **found}


def relabelled(steps: list[Resource], labels: dict[str, str]) -> dict[str, str]:
    """Return the labels after relabelling, as Prometheus does it with the action `replace`."""
    found = dict(labels)
    for step in steps:
        joined = step.get("separator", ";").join(found.get(name, "") for name in step["sourceLabels"])
        match = re.fullmatch(step.get("regex", "(.*)"), joined)
        if match:
            found[step["targetLabel"]] = match.expand(re.sub(r"\$(\d)", r"\\\1", step.get("replacement", "$1")))
    return found


# -- clusters without KEDA, with Strimzi, with a vault, and static membership


def test_the_cpu_autoscaler_scales_this_deployment_within_the_partitions(builds: dict[str, Built]) -> None:
    built = builds["instead"]
    deployment, spec = built.one("Deployment"), built.one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    scaled = builds["whole"].one("ScaledObject")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (scaled["minReplicaCount"], scaled["maxReplicaCount"])
    assert spec["behavior"] == scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (metric,) = spec["metrics"]
    target = int(metric["resource"]["target"]["averageValue"].removesuffix("m"))
    assert int(built.container["resources"]["requests"]["cpu"].removesuffix("m")) < target < 1000


def test_a_static_member_has_its_pods_name_and_the_same_pod_otherwise(builds: dict[str, Built]) -> None:
    built, deployment = builds["static-membership"], builds["base"].one("Deployment")
    stateful = built.one("StatefulSet")
    assert built.all("Deployment") == []
    assert stateful["spec"]["serviceName"] == built.one("Service")["metadata"]["name"]
    assert (stateful["spec"]["podManagementPolicy"], "progressDeadlineSeconds" in stateful["spec"]) == (
        "Parallel",
        False,
    )
    pod, usual = stateful["spec"]["template"]["spec"], deployment["spec"]["template"]["spec"]
    (container,), (other,) = pod["containers"], usual["containers"]
    added = [one for one in container["env"] if one not in other["env"]]
    assert added == [
        {"name": "OSS_VECTORS_KAFKA__GROUP_INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    environ = compose["services"]["worker"]["environment"] | {added[0]["name"]: "oss-vectors-worker-0"}
    assert load.load(None, environ).settings.kafka.group_instance_id == "oss-vectors-worker-0"
    assert {key: value for key, value in container.items() if key not in {"env", "image"}} == {
        key: value for key, value in other.items() if key not in {"env", "image"}
    }
    assert [one["matchLabelKeys"] for one in pod["topologySpreadConstraints"]] == [["controller-revision-hash"]] * 2


def test_external_secrets_make_what_the_pods_mount(builds: dict[str, Built]) -> None:
    built = builds["instead"]
    made = {}
    for one in built.all("ExternalSecret"):
        keys = {entry["secretKey"] for entry in one["spec"]["data"]}
        template = one["spec"]["target"].get("template", {}).get("data")
        made[one["spec"]["target"]["name"]] = keys if template is None else set(template)
        if template is not None:
            assert set(re.findall(r"\.(\w+) ", " ".join(template.values()))) == keys
    assert made == {name: keys_of_secrets()[name] for name in secrets_of(built)}


def test_strimzi_makes_the_topics_and_grants_what_the_worker_needs(builds: dict[str, Built], tmp_path: Path) -> None:
    settings, strimzi = settings_of(builds["base"], tmp_path), builds["strimzi"]
    topics = {one["metadata"]["name"]: one["spec"] for one in strimzi.all("KafkaTopic")}
    (route,) = settings.topics
    assert topics.keys() == {route, settings.dead_letter.topic}
    assert topics[route]["partitions"] == builds["whole"].one("ScaledObject")["spec"]["maxReplicaCount"]
    dead, source = topics[settings.dead_letter.topic]["config"], topics[route]["config"]
    assert dead["retention.ms"] > source["retention.ms"]
    assert dead["max.message.bytes"] > source["max.message.bytes"]
    user = strimzi.one("KafkaUser")
    granted = {
        (one["resource"]["type"], one["resource"]["name"]): set(one["operations"])
        for one in user["spec"]["authorization"]["acls"]
    }
    assert granted == {
        ("topic", route): {"Read", "Describe", "DescribeConfigs"},
        ("group", settings.kafka.group_id): {"Read", "Describe"},
        ("topic", settings.dead_letter.topic): {"Write", "Describe", "DescribeConfigs"},
    }
    assert user["spec"]["authentication"]["type"].upper() == settings.kafka.sasl_mechanism


# -- KEDA


SASL: Final = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}


def test_the_scaled_object_looks_at_what_the_worker_reads(extended: Built, tmp_path: Path) -> None:
    settings = settings_of(extended, tmp_path)
    kafka = settings.kafka
    triggers = extended.one("ScaledObject")["spec"]["triggers"]
    expected = {
        "bootstrapServers": ",".join(kafka.bootstrap_servers),
        "consumerGroup": kafka.group_id,
        "offsetResetPolicy": kafka.auto_offset_reset,
        "tls": "enable" if kafka.security_protocol.endswith("SSL") else "disable",
        "sasl": SASL[kafka.sasl_mechanism],
    }
    assert [trigger["metadata"]["topic"] for trigger in triggers] == list(settings.topics)
    assert [{name: one["metadata"][name] for name in expected} for one in triggers] == [expected] * len(triggers)
    minute = int(settings.delivery.vectors_per_second * 60)
    assert [int(one["metadata"]["lagThreshold"]) for one in triggers] == [minute] * len(triggers)
    # Brokers from 4.0 on take no client older than 2.1, and the worker is tried from 2.8 on.
    assert [one["metadata"]["version"] for one in triggers] == ["2.8.0"] * len(triggers)
    assert [value for one in triggers for value in one["metadata"].values() if not isinstance(value, str)] == []
    # Its schema has no names here, and KEDA ignores a name that it does not know.
    known = {*expected, "topic", "lagThreshold", "version", "excludePersistentLag", "limitToPartitionsWithLag"}
    assert [set(one["metadata"]) for one in triggers] == [known] * len(triggers)


def test_the_scaled_object_scales_this_deployment_and_nothing_sets_it_back(extended: Built) -> None:
    deployment, scaled = extended.one("Deployment"), extended.one("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["fallback"]["replicas"] == scaled["spec"]["maxReplicaCount"]
    assert 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]


def test_at_most_one_worker_for_each_partition_of_the_topic_in_the_compose_file(builds: dict[str, Built]) -> None:
    # The base's topic is the one of the compose file, which says how many partitions it has.
    (partitions,) = re.findall(
        r"for topic in vectors:(\d+) ", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    )
    assert builds["whole"].one("ScaledObject")["spec"]["maxReplicaCount"] == int(partitions)


def test_keda_logs_in_with_the_secret_of_the_worker(extended: Built) -> None:
    authentication = extended.one("TriggerAuthentication")
    (trigger,) = extended.one("ScaledObject")["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    referred = {one["parameter"]: (one["name"], one["key"]) for one in authentication["spec"]["secretTargetRef"]}
    assert set(referred) == {"username", "password"}
    named = tomllib.loads(extended.toml)["kafka"]
    for parameter, (secret, key) in referred.items():
        assert named[f"sasl_plain_{parameter}_file"] == f"{secrets_of(extended)[secret]}/{key}"
        assert key in keys_of_secrets()[secret]


# -- README.md


def test_the_readme_names_files_that_are_there() -> None:
    named = set(re.findall(r"ops/[\w./-]+\w", README))
    assert named != set()
    assert [path for path in sorted(named) if not (ROOT / path).exists() and "overlays/mine" not in path] == []


def test_the_readme_has_the_numbers_that_go_together(builds: dict[str, Built]) -> None:
    base = builds["base"]
    shown = dict(re.findall(r"(?m)^\| `([\w.]+)` \| ([^|]+?) \|", README))
    liveness = base.container["livenessProbe"]
    assert shown == {
        "terminationGracePeriodSeconds": str(base.pod["terminationGracePeriodSeconds"]),
        "livenessProbe.failureThreshold": str(liveness["failureThreshold"]),
        "minReadySeconds": str(base.one("Deployment")["spec"]["minReadySeconds"]),
        "requests.memory": base.container["resources"]["requests"]["memory"],
        "limits.memory": base.container["resources"]["limits"]["memory"],
        "requests.cpu": base.container["resources"]["requests"]["cpu"],
        "maxReplicaCount": str(builds["whole"].one("ScaledObject")["spec"]["maxReplicaCount"]),
        "lagThreshold": builds["whole"].one("ScaledObject")["spec"]["triggers"][0]["metadata"]["lagThreshold"],
    }
