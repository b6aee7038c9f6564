"""The structure: imports run downwards, the core knows no client, and nothing happens at import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker

ROOT = Path(worker.__file__).parent

LAYERS = [
    {"__main__"},
    {"cli"},
    {"documentation", "wiring"},
    {"loop"},
    {"deadletter"},
    {"dead_letter_headers", "dead_letter_limit", "dead_letter_source"},
    {"delivery"},
    {"ends", "oss", "source"},
    {"client_figures", "connections", "credentials", "joins", "leaders", "offset_policy", "topics"},
    {"client_network", "heartbeats", "offset_requests", "wire"},
    {"answers", "client_internals"},
    {"health"},
    {"metrics", "page"},
    {"http_server", "kafka_client", "log", "schema", "state"},
    {"batch", "config", "record"},
    {"syntax"},
    {
        "errors",
        "files",
        "floats",
        "lease",
        "offsets",
        "pace",
        "program",
        "repeats",
        "runtime",
        "setting_text",
        "stop",
        "unpack",
    },
    {"words"},
    {"redaction"},
]
"""From the top down. A module imports from the layers below its own, and of its own layer nothing."""

BELOW_COMMANDS = {module for layer in LAYERS[3:] for module in layer}
CORE = ["record", "syntax", "floats", "batch", "lease", "offsets", "pace"]
CLIENTS = {"kafka", "requests", "urllib3", "http", "socket", "prometheus_client", "alibabacloud_oss_v2"}


def modules() -> dict[str, Path]:
    """Return the worker's own modules, by name; the packages in it come under their own tests."""
    return {path.stem: path for path in sorted(ROOT.glob("*.py")) if path.stem != "__init__"}


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever it stands in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_of_worker(path: Path) -> set[str]:
    """Return the worker's own modules that a file imports, without the package itself (`worker.__version__`)."""
    parts = (name.split(".") for name in imported(path))
    return {part[1] for part in parts if part[0] == "worker" and len(part) > 1 and part[1] != "__version__"}


def layer_of(module: str) -> int:
    """Return a module's layer; a command that has none stands with the composition root."""
    return next((place for place, layer in enumerate(LAYERS) if module in layer), 2)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_from_the_layers_below_its_own(module: str) -> None:
    others = imported_of_worker(modules()[module]) - {"local"}
    upward = {other for other in others if layer_of(other) <= layer_of(module)}
    if layer_of(module) == 2:  # one command may use another, which imports no command in turn
        upward = {other for other in upward if layer_of(other) < 2}
    assert upward == set()


def test_every_module_of_the_order_exists() -> None:
    assert {module for layer in LAYERS for module in layer} - {"documentation"} - modules().keys() == set()


@pytest.mark.parametrize("module", sorted(BELOW_COMMANDS))
def test_what_runs_in_production_imports_nothing_of_the_local_stack(module: str) -> None:
    assert "local" not in imported_of_worker(modules()[module])


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_neither_kafka_nor_http_nor_metrics(module: str) -> None:
    loaded = f"import sys, worker.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    code = f"import sys, numpy, msgspec, orjson, worker; before = set(sys.modules); {loaded}"
    # What numpy, msgspec and the package itself bring along is theirs; what the module adds to it is counted.
    code = code.replace("for name in sys.modules", "for name in set(sys.modules) - before")
    added = set(run_python(code).split())
    assert (added & CLIENTS, {name.partition(".")[0] for name in imported(modules()[module])} & CLIENTS) == (
        set(),
        set(),
    )


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(ROOT.glob("local/emulator/**/*.py"))]
)
def test_the_emulator_shares_nothing_with_the_worker(path: Path) -> None:
    assert imported_of_worker(path) - {"local"} == set()


def test_nothing_reads_the_environment_at_import() -> None:
    code = f"""
import importlib, os, sys
names = {sorted(modules().keys() - {"__main__"})!r}
for name in names:  # once with everything, so that what others read of the environment is read before
    importlib.import_module(f"worker.{{name}}")
for name in [name for name in sys.modules if name.partition(".")[0] == "worker"]:
    del sys.modules[name]
read = []
def note(key):
    frame = sys._getframe(2)
    while frame.f_code.co_filename in (os.__file__, "<frozen os>", "<frozen _collections_abc>"):
        frame = frame.f_back
    if frame.f_code.co_filename.startswith({str(ROOT)!r}):
        read.append((key, frame.f_code.co_filename))
class Trap(type(os.environ)):
    def __getitem__(self, key):
        note(key)
        return super().__getitem__(key)
    def __iter__(self):
        note("all of it")
        return super().__iter__()
os.environ.__class__ = Trap
for name in names:
    importlib.import_module(f"worker.{{name}}")
print(read)
"""
    assert run_python(code).strip() == "[]"


def run_python(code: str) -> str:
    """Run code in a process of its own, where nothing was imported yet; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
