"""The README's steps by hand, typed as they are but for the ports; and its installation, but for the download."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.bounded import run_group, running
from tests.support.markdown import ROOT
from tests.support.worker import Scrape, free_port, wait_for

README = (ROOT / "README.md").read_text(encoding="utf-8")
WAIT = """for port in {0} {1}; do until (echo > /dev/tcp/127.0.0.1/$port) 2> /dev/null; do sleep 0.2; done; done"""


def test_the_steps_by_hand_lead_to_records_that_are_written(tmp_path: Path) -> None:
    (steps,) = (block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "local broker &" in block)
    kafka, service, http = (free_port() for _ in range(3))
    ports = {"9092": str(kafka), "9000": str(service)}
    script = re.sub(
        "|".join(ports), lambda found: ports[found[0]], steps
    )  # at once: a port may contain the other number
    script = script.replace("local broker", f"local broker --port {kafka}")
    script = script.replace("local emulator", f"local emulator --port {service}")
    script = script.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
    script, waits = re.subn(r"^sleep 15 .*$", WAIT.format(kafka, service), script, flags=re.MULTILINE)
    assert waits == 1
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSS_")}
    environment |= {"OSS_VECTORS_HTTP__HOST": "127.0.0.1", "OSS_VECTORS_HTTP__PORT": str(http)}
    log = tmp_path / "log"
    with (
        log.open("w") as out,
        running(
            ["bash", "-euo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True,
        ) as shell,
    ):  # fmt: skip
        try:
            wait_for(lambda: _written(http) > 50, "records are written", timeout=120, told=log.read_text)
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(30)
            wait_for(lambda: not _group_lives(shell.pid), "all have ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


def test_the_wheel_that_the_installation_builds_starts(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built with it; ops/requirements-build.txt installs it")
    (steps,) = (block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "pip wheel" in block)
    environment, dist = tmp_path / "environment", tmp_path / "dist"
    script = steps.replace("/opt/oss-vectors-worker", str(environment)).replace("dist", str(dist))
    # The packages are those of this environment, instead of being downloaded again.
    site = f"{environment}/lib/python{sysconfig.get_python_version()}/site-packages"
    borrowed = f"echo '{sysconfig.get_path('purelib')}' > {site}/borrowed.pth"
    script, installs = re.subn(r"^.* install -r .*$", borrowed, script, flags=re.MULTILINE)
    script, runs = re.subn(r" run --config worker\.toml$", " config --example", script, flags=re.MULTILINE)
    # The borrowed packages may have this project among them already, which pip would take for the one to install.
    script, wheels = re.subn(r" install --no-deps ", " install --ignore-installed --no-deps ", script)
    assert (installs, runs, wheels) == (1, 1, 1)
    done = run_group(["bash", "-euo", "pipefail", "-c", script], timeout=200, cwd=ROOT)
    assert (done.returncode, "[[routes]]" in done.stdout) == (0, True), done.stdout
    assert len(list(dist.glob("oss_vectors_worker-*.whl"))) == 1


def _written(port: int) -> float:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return Scrape(answer.read().decode()).total("records_settled_total", outcome="put")
    except OSError:
        return 0.0


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
