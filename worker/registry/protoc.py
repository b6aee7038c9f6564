"""Compiles the text of a Protobuf schema by protoc, which grpcio-tools brings.

It runs as a process of its own, with limits, and whatever a text does to it, the worker goes on. It needs a folder for temporary
files. A text that protoc crashes on, or does not get through within its limits, is told from a protoc that cannot be run at
all: a schema of one line is compiled after it. If protoc was killed from outside, as where the memory is short, the text may be
good.
"""

import re
import signal
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from worker.errors import RegistryUnavailable
from worker.registry.client import SchemaText, UnusableForNow, UnusableSchema
from worker.registry.known_protos import KNOWN
from worker.words import clean

MAIN: Final = "value.schema.proto"
"""The name of the schema's own file, which no reference has."""
LIMIT_SECONDS: Final = 60.0
MOST_DEPTH: Final = 100
"""Of brackets in brackets. protoc reads them by recursion, and allows 32 messages in messages."""
_CPU_SECONDS: Final = 10  # an ordinary schema takes a tenth
_MEMORY_BYTES: Final = 512 << 20  # of its address space; an ordinary schema takes 30 MB
_FILE_BYTES: Final = 16 << 20  # of its descriptors, which the worker loads
_LOG_BYTES: Final = 1 << 16
_NAME: Final = re.compile(r"(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9_./+-]{1,200}\Z")
_OF_ITS_LOG: Final = re.compile(r"WARNING: All log messages|[WI]\d{4} ")
_SHOWN_CHARACTERS: Final = 300
_KILLS: Final = (signal.SIGKILL, signal.SIGTERM)  # that nothing in a schema makes
_ONE_LINE: Final = SchemaText("PROTOBUF", 'syntax = "proto3"; message M {}')
# Texts and comments are read as a whole, so that brackets in them are not counted; one without an end goes to the end.
_TOKENS: Final = re.compile(
    r""""(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|//[^\n]*|/\*.*?(?:\*/|\Z)|[{(\[<]|[})\]>]""", re.DOTALL
)
_OPENING: Final = frozenset("{([<")
_CLOSING: Final = frozenset("})]>")

# The limits are set inside of the new process: between fork and exec no Python may run beside threads.
_CHILD: Final = f"""\
import resource, runpy
# Beyond the first limit of its time it gets SIGXCPU, and only beyond the second SIGKILL, which others send too.
for limit, most in (("CPU", {_CPU_SECONDS}), ("AS", {_MEMORY_BYTES}), ("FSIZE", {_FILE_BYTES}), ("CORE", 0)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most + (limit == "CPU")))
    except (AttributeError, OSError, ValueError):
        pass  # not on every system
runpy.run_module("grpc_tools.protoc", run_name="__main__", alter_sys=True)
"""


class _Died(Exception):
    """protoc ended with neither descriptors nor a word about the schema."""

    def __init__(self, problem: str, *, was_killed: bool = False) -> None:
        super().__init__(problem)
        self.was_killed = was_killed  # by something else than what the schema does to it


def compiled(schema: SchemaText) -> FileDescriptorSet:
    """Return a schema's descriptors, those of what it imports before its own, which is the last.

    Raises `UnusableSchema` where protoc refuses it, or does not get through it, `UnusableForNow` where protoc was killed, and
    `RegistryUnavailable` where it cannot be run: no record is at fault.
    """
    try:
        try:
            return _run(schema)
        except _Died as error:
            died = error
            _run(_ONE_LINE)
    except (OSError, _Died) as error:
        raise RegistryUnavailable(f"protoc cannot be run: {clean(str(error), _SHOWN_CHARACTERS)}") from None
    problem = f"protoc cannot compile it: {clean(str(died), _SHOWN_CHARACTERS)}"
    raise UnusableForNow(problem) if died.was_killed else UnusableSchema(problem)


def _run(schema: SchemaText) -> FileDescriptorSet:
    with tempfile.TemporaryDirectory(prefix="oss-vectors-") as folder, as_file(files(grpc_tools) / "_proto") as own:
        texts, made, log = Path(folder, "texts"), Path(folder, "descriptors"), Path(folder, "log")
        texts.mkdir()
        _write(schema, texts)
        # The texts' names come from the registry, so Python must not look for modules among them: -P, and another folder.
        command = [sys.executable, "-P", "-c", _CHILD, f"-I{texts}", f"-I{own}"]
        command += ["--include_imports", f"--descriptor_set_out={made}", MAIN]
        with log.open("wb") as out:
            try:
                ended = subprocess.run(  # noqa: S603 - a command of ours, no shell reads it
                    command, stdout=out, stderr=out, timeout=LIMIT_SECONDS, cwd=folder, check=False
                )
            except subprocess.TimeoutExpired:
                raise _Died(f"it takes longer than {LIMIT_SECONDS:g} s", was_killed=True) from None
        if ended.returncode == 0:
            found = FileDescriptorSet()
            try:
                found.ParseFromString(made.read_bytes())
            except DecodeError as error:
                raise UnusableSchema(f"its descriptors are refused: {clean(str(error), _SHOWN_CHARACTERS)}") from None
            return found
        raise _refusal(schema, ended.returncode, _said(log, texts))


def _write(schema: SchemaText, folder: Path) -> None:
    for name, text in {**KNOWN, **dict(schema.references), MAIN: schema.text}.items():
        if not _NAME.match(name):
            raise UnusableSchema(f"it refers to {clean(name, 200)!r}, which is no name of a file")
        if _depth(text) > MOST_DEPTH:
            raise UnusableSchema(f"the schema is nested more than {MOST_DEPTH} levels deep")
        place = folder / name
        if place.is_relative_to(folder / "google/protobuf"):
            continue  # protoc has them
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise UnusableSchema(f"it refers to {name} as a file, and to another as a folder") from None
        except UnicodeEncodeError:
            raise UnusableSchema("its text has half of a surrogate pair") from None


def _depth(text: str) -> int:
    """Return how deep brackets of any kind are nested."""
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        if token[0] in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in _CLOSING:
            depth -= 1
    return deepest


def _said(log: Path, texts: Path) -> str:
    with log.open("rb") as file:
        lines = file.read(_LOG_BYTES).decode(errors="replace").replace(f"{texts}/", "").splitlines()
    return " ".join(line for line in lines if not _OF_ITS_LOG.match(line))


def _refusal(schema: SchemaText, code: int, said: str) -> Exception:
    names = [MAIN, *(name for name, _ in schema.references)]
    if code < 0 or not any(name in said for name in names):
        how = f"signal {-code}" if code < 0 else str(code)
        return _Died(f"it ended with {how}: {said}" if said else f"it ended with {how}", was_killed=-code in _KILLS)
    return UnusableSchema(f"protoc refuses it: {clean(said, _SHOWN_CHARACTERS)}")
