"""The Kubernetes files are what Kubernetes takes, and agree with the worker, with each other and with the rule files."""

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
VERSIONS: Final = ("1.33", "1.37")  # of Kubernetes: the oldest and the newest that the schemas at hand are of
OPERATORS_OWN: Final = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}
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
    kubectl = shutil.which("kubectl", path=Path(sys.executable).parent) or program("kubectl")
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert (made.returncode, made.stderr) == (0, "")
    return Built(list(yaml.safe_load_all(made.stdout)))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """The base, the base with every component, and the example."""
    whole = tmp_path_factory.mktemp("whole")
    there = os.path.relpath(KUBERNETES.resolve(), whole.resolve())
    components = [f"{there}/components/{folder.name}" for folder in sorted((KUBERNETES / "components").iterdir())]
    kustomization = {"resources": [f"{there}/base"], "components": components}
    (whole / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    folders = {"base": KUBERNETES / "base", "whole": whole, "example": KUBERNETES / "overlays/example"}
    return {name: build(folder) for name, folder in folders.items()}


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


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_one_that_kubernetes_takes_without_an_unknown_field(built: Built, version: str) -> None:
    checked = [one for one in built.resources if one["kind"] not in OPERATORS_OWN]
    assert [kubernetes_validate.validate(one, version, strict=True) for one in checked] == [version] * len(checked)
    assert len(checked) == 6


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
    # No overlay's selector labels in it
    assert dns["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]},
        }
    ]
    assert {(one["protocol"], one["port"]) for one in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    open_ports = {
        number
        for rule in rest
        for one in rule["ports"]
        for number in range(one["port"], one.get("endPort", one["port"]) + 1)
    }
    brokers = {int(server.rpartition(":")[2]) for server in settings.kafka.bootstrap_servers}
    assert open_ports == {9092, 9093, 9094, 443}
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
    (relabeling,) = endpoint["relabelings"]
    assert relabeling == {
        "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_service_name"],
        "separator": "/",
        "targetLabel": "job",
    }
    job = f"vectors/{extended.one('Service')['metadata']['name']}"
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


def test_the_scaled_object_scales_this_deployment_and_nothing_sets_it_back(extended: Built) -> None:
    deployment, scaled = extended.one("Deployment"), extended.one("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
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
