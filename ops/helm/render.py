"""Render the chart with each file of ops/helm/values into ops/helm/rendered: `python -m ops.helm.render`.

It needs `helm` on the PATH. The tests need none: each rendered file begins with a digest of the chart and of its values.
"""

import hashlib
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
CHART: Final = HERE / "oss-vectors-worker"
RENDERED: Final = HERE / "rendered"
VALUES: Final = sorted((HERE / "values").glob("*.yaml"))


def digest(values: Path) -> str:
    """Return the digest of the chart and one file of values, without the rules and the dashboard that it includes."""
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *sorted((CHART / "templates").iterdir()), values]
    return hashlib.sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in files)).hexdigest()


def shortened(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a resource without the rules or the dashboard, which have files and tests of their own."""
    if resource["kind"] == "PrometheusRule":
        return resource | {"spec": {"groups": "the rules" if resource["spec"]["groups"] else "none"}}
    if "oss-vectors-worker.json" in resource.get("data", {}):
        return resource | {"data": {"oss-vectors-worker.json": "the dashboard"}}
    return resource


def main() -> None:
    """Write all files. CalledProcessError if helm refuses the chart."""
    for values in VALUES:
        command = ["helm", "template", "worker", str(CHART), "--namespace", "vectors", "--kube-version", "1.33.0"]
        done = subprocess.run([*command, "--values", str(values)], stdout=subprocess.PIPE, check=True, timeout=60)  # noqa: S603 - a command of ours; no shell reads it
        resources = [shortened(one) for one in yaml.safe_load_all(done.stdout) if one]
        text = yaml.safe_dump_all(resources, sort_keys=True, width=120)
        (RENDERED / values.name).write_text(f"# digest: {digest(values)}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
