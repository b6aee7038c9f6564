"""Compiles the text of a Protobuf schema by protoc, which grpcio-tools brings.

It runs as a process of its own: a time limit ends it, and whatever a text does to it, the worker goes on. It needs a folder
for temporary files.
"""

import re
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from worker.errors import RegistryUnavailable
from worker.registry.client import SchemaText, UnusableSchema
from worker.words import clean

MAIN: Final = "value.schema.proto"
"""The name of the schema's own file, which no reference has."""
LIMIT_SECONDS: Final = 60.0
_NAME: Final = re.compile(r"(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9_./+-]{1,200}\Z")
_OF_ITS_LOG: Final = re.compile(r"WARNING: All log messages|[WI]\d{4} ")
_SHOWN_CHARACTERS: Final = 300

# What Confluent's serializers import without a reference: their own clients have these files.
_CONFLUENT: Final = {
    "confluent/meta.proto": """\
syntax = "proto3";
package confluent;
import "google/protobuf/descriptor.proto";
message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
extend google.protobuf.FileOptions { Meta file_meta = 1088; }
extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }
""",
    "confluent/type/decimal.proto": """\
syntax = "proto3";
package confluent.type;
message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }
""",
}


def compiled(schema: SchemaText) -> FileDescriptorSet:
    """Return a schema's descriptors, those of what it imports before its own, which is the last.

    Raises `UnusableSchema` where protoc refuses it, and `RegistryUnavailable` where protoc cannot be run: no record is at fault.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="oss-vectors-") as folder, as_file(files(grpc_tools) / "_proto") as own:
            return _run(schema, Path(folder), own)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryUnavailable(f"protoc cannot be run: {clean(str(error), _SHOWN_CHARACTERS)}") from None


def _run(schema: SchemaText, folder: Path, own: Path) -> FileDescriptorSet:
    for name, text in {**_CONFLUENT, **dict(schema.references), MAIN: schema.text}.items():
        if not _NAME.match(name):
            raise UnusableSchema(f"it refers to {clean(name, 200)!r}, which is no name of a file")
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
    made = folder / ".descriptors"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{own}"]
    command += ["--include_imports", f"--descriptor_set_out={made}", MAIN]
    ended = subprocess.run(  # noqa: S603 - a command of ours, no shell reads it
        command, capture_output=True, timeout=LIMIT_SECONDS, cwd=folder, check=False
    )
    if ended.returncode == 0:
        found = FileDescriptorSet()
        found.ParseFromString(made.read_bytes())
        return found
    lines = ended.stderr.decode(errors="replace").replace(f"{folder}/", "").splitlines()
    said = " ".join(line for line in lines if not _OF_ITS_LOG.match(line))
    if MAIN not in said and not any(name in said for name, _ in schema.references):
        raise OSError(f"it ended with {ended.returncode}: {said}")  # its own trouble, such as a package that is missing
    raise UnusableSchema(f"protoc refuses it: {clean(said, _SHOWN_CHARACTERS)}")
