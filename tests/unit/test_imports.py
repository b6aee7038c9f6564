"""The structure: imports run downwards, the core knows no client, and nothing happens at import."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import worker

ROOT = Path(worker.__file__).parent

LAYERS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"tools"},
    {"app", "documentation"},
    {"deadletters"},
    {"consumer", "delivery", "registry"},
    {"oss"},
    {"telemetry"},
    {"ports", "settings"},
    {"extras", "ledger", "lease", "records"},
    {"assignment", "errors"},
    {"words"},
    {"redaction"},
]
"""Packages and single modules, from the top down. Each imports from the layers below its own, and from itself."""

CORE = ["assignment", "ledger", "lease", "ports", "records", "delivery.batch", "delivery.pace"]
CLIENTS = {"kafka", "requests", "urllib3", "http", "socket", "prometheus_client", "alibabacloud_oss_v2"}


@cache
def modules() -> Mapping[str, Path]:
    """Return the worker's own modules by their names below `worker`, without the local stack."""
    paths = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")))
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in paths}
    return {name: path for name, path in names.items() if name != "__init__" and room_of(name) != "local"}


def room_of(module: str) -> str:
    """Return the package, or the single module, that a module is in."""
    return module.partition(".")[0]


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the full name of everything that a file imports, wherever it stands in it."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_of_worker(path: Path) -> set[str]:
    """Return the worker's own modules that a file imports, without the package itself (`worker.__version__`)."""
    found = {name.removeprefix("worker.") for name in imported(path) if name.startswith("worker.")} - {"__version__"}
    known = modules()
    return {name if name in known or room_of(name) == "local" else name.rpartition(".")[0] for name in found}


def layer_of(module: str) -> int:
    """Return the layer of a module's room."""
    return next(place for place, layer in enumerate(LAYERS) if room_of(module) in layer)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_from_its_own_room_and_from_the_layers_below(module: str) -> None:
    others = {other for other in imported_of_worker(modules()[module]) if room_of(other) != "local"}
    upward = {o for o in others if room_of(o) != room_of(module) and layer_of(o) <= layer_of(module)}
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported_of_worker(path) - {name} for name, path in modules().items()}
    assert list(TopologicalSorter(graph).static_order())


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room for layer in LAYERS for room in layer} == {room_of(module) for module in modules()}


@pytest.mark.parametrize("module", [name for name in modules() if layer_of(name) > 3 or room_of(name) == "app"])
def test_what_runs_in_production_imports_nothing_of_the_local_stack(module: str) -> None:
    assert {room_of(other) for other in imported_of_worker(modules()[module])} & {"local"} == set()


@pytest.mark.parametrize("module", [name for name in modules() if name in CORE or room_of(name) in CORE])
def test_the_core_knows_neither_kafka_nor_http_nor_metrics(module: str) -> None:
    loaded = f"import sys, worker.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    code = f"import sys, numpy, msgspec, orjson, worker; before = set(sys.modules); {loaded}"
    # What numpy, msgspec and the package itself bring along is theirs; what the module adds to it is counted.
    code = code.replace("for name in sys.modules", "for name in set(sys.modules) - before")
    added = set(run_python(code).split())
    direct = {name.partition(".")[0] for name in imported(modules()[module])}
    assert (added & CLIENTS, direct & CLIENTS) == (set(), set())


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(ROOT.glob("local/emulator/**/*.py"))]
)
def test_the_emulator_shares_nothing_with_the_worker(path: Path) -> None:
    assert {room_of(other) for other in imported_of_worker(path)} - {"local"} == set()


def test_names_that_leave_the_process_do_not_follow_the_files() -> None:
    """Loggers are named by text, so that a file may move without a change for who filters the log by them."""
    own = [name for name, path in modules().items() if "getLogger(__name__)" in path.read_text(encoding="utf-8")]
    assert own == []


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


@pytest.mark.parametrize("path", [pytest.param(path, id=name) for name, path in modules().items()])
def test_a_suppression_has_its_reason_beside_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"# (?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])$", text, re.MULTILINE) == []
