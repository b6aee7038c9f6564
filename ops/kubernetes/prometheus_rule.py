"""Make the PrometheusRule of the component prometheus-rule from the rule files in ops/prometheus/rules.

The Prometheus operator takes the groups of rule files as they stand; only the frame around them is another.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus/rules"
OUTPUT = HERE / "components/prometheus-rule/prometheusrule.yaml"
ALL_JOBS = ".*oss-vectors-worker.*"
"""What the rules select: the jobs of all workers of a Prometheus."""
HEADER = "# Made from ops/prometheus/rules by ops/kubernetes/prometheus_rule.py; change the rules there.\n"


class RuleFileError(Exception):
    """A rule file is not what Prometheus takes, or there is none."""


def groups(folder: Path) -> list[dict[str, Any]]:
    """Return the groups of all rule files in `folder`, by the files' names, each file's in its order."""
    files = sorted(path for path in folder.glob("*") if path.suffix in (".yml", ".yaml"))
    if not files:
        raise RuleFileError(f"{folder}: no rule files (*.yml, *.yaml)")
    found = [group for path in files for group in _groups_of(path)]
    names = [group["name"] for group in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RuleFileError(f"{folder}: in one PrometheusRule each group needs a name of its own: {', '.join(twice)}")
    return found


def _groups_of(path: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or list(document) != ["groups"]:
        raise RuleFileError(f"{path}: a rule file has `groups` and nothing else")
    return list(document["groups"])


def for_jobs(found: Any, jobs: str) -> Any:
    """Return the groups with `jobs` in place of the pattern that selects the workers' jobs."""
    if isinstance(found, dict):
        return {key: for_jobs(value, jobs) for key, value in found.items()}
    if isinstance(found, list):
        return [for_jobs(value, jobs) for value in found]
    return found.replace(f'job=~"{ALL_JOBS}"', f'job=~"{jobs}"') if isinstance(found, str) else found


def prometheus_rule(folder: Path, jobs: str = ALL_JOBS) -> str:
    """Return the PrometheusRule as YAML, for the workers whose job matches `jobs`."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "oss-vectors-worker",
            "labels": {"app.kubernetes.io/name": "oss-vectors-worker"},
        },
        "spec": {"groups": for_jobs(groups(folder), jobs)},
    }
    return HEADER + yaml.safe_dump(resource, sort_keys=False, allow_unicode=True, width=120)


def main() -> int:
    """Write the file; with --check tell whether it is up to date, by the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=Path, default=RULES, help="the folder of the rule files")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file to write")
    parser.add_argument("--jobs", default=ALL_JOBS, help="the jobs that the rules are for, as a regular expression")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not up to date")
    arguments = parser.parse_args()
    try:
        made = prometheus_rule(arguments.rules, arguments.jobs)
    except RuleFileError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not arguments.check:
        arguments.output.write_text(made, encoding="utf-8")
        return 0
    if arguments.output.is_file() and arguments.output.read_text(encoding="utf-8") == made:
        return 0
    sys.stderr.write(f"error: {arguments.output} is not what the rule files say; run {Path(__file__).name}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
