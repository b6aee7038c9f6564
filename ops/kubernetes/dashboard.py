"""Make the dashboard of the component dashboard: a copy without spaces of the one in ops/grafana/dashboards.

A kustomization reads no file outside its folder, and a ConfigMap, with the copy of it that `kubectl apply` keeps in an
annotation of at most 256 KiB, has to stay small.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
NAME: Final = "oss-vectors-worker.json"
SOURCE: Final = HERE.parent / "grafana/dashboards" / NAME
OUTPUT: Final = HERE / "components/dashboard" / NAME


def dashboard() -> str:
    """Return the dashboard as JSON on one line."""
    document = json.loads(SOURCE.read_text(encoding="utf-8"))
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> int:
    """Write the file; with --check write nothing, and return 1 if the file is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not up to date")
    made = dashboard()
    if not parser.parse_args().check:
        OUTPUT.write_text(made, encoding="utf-8")
        return 0
    if OUTPUT.is_file() and OUTPUT.read_text(encoding="utf-8") == made:
        return 0
    sys.stderr.write(f"error: {OUTPUT} is not the dashboard; run python -m ops.kubernetes.dashboard\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
