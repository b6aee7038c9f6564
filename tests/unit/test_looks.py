"""What the dead letter of a record that cannot be read says: what is there, and what to do about it."""

import base64
import gzip
import json
import pickle
import struct
import zlib
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from tests.unit import hostile_records
from worker.errors import Reason, RecordError
from worker.records import looks as module
from worker.records.decode import Decoder, Delete
from worker.records.foreign import Foreign
from worker.records.formats.shape import shape_of
from worker.records.looks import Looks
from worker.records.members import JSON, Fields
from worker.records.target import Target

pack = msgspec.msgpack.encode
TARGET = Target("docs", 8, "cosine", frozenset({"body"}))
NUMBERS: Final = [0.25, -0.5, 0.125, 0.75, -0.25, 0.5, 1.5, -1.0]
OTHERS: Final = [0.5, 0.25, 0.125, 0.0625, 0.5, 0.25, 0.125, 0.0625]
FLOAT32: Final = struct.pack("<8f", *NUMBERS)
RECORD: Final = {"key": "doc-1", "data": {"float32": NUMBERS}}
BODY: Final = json.dumps(RECORD).encode()

COMPRESS: Final = "publish the record itself, and let the producer compress whole batches (compression.type)"
SHAPE: Final = 'a record is a map: {"key": ..., "data": {"float32": [...]}}'
ONE: Final = "or publish one record in a message"
SPLIT: Final = 'set records.many = "split"'
WITH_NUMBER: Final = 'records.fields.key = "id", records.key_values = "stringify"'
CONNECT: Final = 'it looks like a record of Kafka Connect: set records.envelope = "connect"'
DEBEZIUM: Final = 'it looks like a change of Debezium: set records.envelope = "debezium"'
NESTED: Final = (
    '; records.metadata_values = "stringify" does not take maps either: publish its members as names of their own (a_b), '
    "or the map as one string of JSON"
)
LARGEST: Final = (
    "; keys that no query filters by can be declared when an index is made (nonFilterableMetadataKeys), not later"
)


def of(value: object) -> bytes:
    return json.dumps(value).encode()


def with_vector(vector: object) -> bytes:
    return of({"key": "doc-1", "data": {"float32": vector}})


def with_metadata(metadata: object) -> bytes:
    return of({**RECORD, "metadata": metadata})


def canal(kind: str) -> bytes:
    row = {"id": "1", "embedding": str(NUMBERS)}
    return of(
        {"data": [row], "database": "d", "isDdl": False, "old": None, "pkNames": ["id"], "table": "t", "type": kind}
    )


def maxwell(kind: str, row: object) -> bytes:
    return of({"database": "d", "table": "t", "type": kind, "ts": 1, "xid": 2, "data": row})


AS_STRING: Final = (
    "bytes that were packed as a string, as MessagePack did before it had a type of bytes: pack them as bin "
    "(use_bin_type=True in Python, WriteExt in Go's codec)"
)
DECIMALS: Final = [0.1, -0.2, 0.3, 0.4, -0.6, 0.7, 0.8, 0.9]
BARE_POINT: Final = (
    "has numbers without a digit on both sides of the point (1. or .1): publish a list, or write 1.0 and 0.1"
)
SPARSE: Final = "is a sparse vector, as pgvector prints a sparsevec: publish all of its numbers"
MODEL: Final = "most likely of another model, or of another value of its option dimensions"
CANAL: Final = (
    "not read, because the mark of deletion is beside the rows: split into its rows, each DELETE would be written; use"
)
MAXWELL: Final = (
    'it looks like a change of Maxwell: set records.fields.vector = "{}", records.fields.key = "data.id", '
    'records.key_values = "stringify", records.fields.delete = "type"'
)
MONGODB: Final = (
    "it looks like a change of MongoDB's connector: set records.fields.vector = {}, "
    'records.fields.key = \'documentKey._id."$oid"\', records.fields.delete = "operationType"'
)
GOLDENGATE: Final = (
    'it looks like a change of GoldenGate: set records.fields.vector = "after.v", records.fields.delete = "op_type"; '
    "a delete has no after, so the Kafka key has to be the primary key"
)


# What is published, and what its message must say, written by hand.
SHAPES: Final[list[tuple[str, bytes, str]]] = [
    # The value is no map
    ("gzip", gzip.compress(BODY), f"it looks like gzip; expected a JSON or MessagePack map (records.format = \"auto\"); {COMPRESS}"),
    ("zstd", b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00a\x00\x00", f"it looks like zstd; expected a JSON or MessagePack map (records.format = \"auto\"); {COMPRESS}"),
    ("lz4", b"\x04\x22\x4d\x18\x64\x40\xa7", f"it looks like lz4; expected a JSON or MessagePack map (records.format = \"auto\"); {COMPRESS}"),
    ("zlib", zlib.compress(BODY), f"it looks like zlib: {COMPRESS}"),
    ("pickle", pickle.dumps(RECORD, 4), "it looks like a Python pickle; a pickle can run code, so it is not read; publish JSON or MessagePack"),
    ("np.save", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "it looks like an array as numpy's save writes it; expected a JSON or MessagePack map (records.format = \"auto\"); publish a record with array.tobytes() in MessagePack, or array.tolist() in JSON"),
    ("UTF-16 with a mark", BODY.decode().encode("utf-16"), "it looks like UTF-16; expected a JSON or MessagePack map (records.format = \"auto\"); encode the JSON as UTF-8"),
    ("UTF-16 without a mark", BODY.decode().encode("utf-16-le"), "it looks like UTF-16; encode the JSON as UTF-8"),
    ("UTF-32", BODY.decode().encode("utf-32"), "; encode the JSON as UTF-8"),
    ("JSON in a JSON string", of(BODY.decode()), "publish the inner text as it is; it was encoded as JSON twice"),
    ("JSON in base64 in a JSON string", of(base64.b64encode(BODY).decode()), "; publish the JSON itself"),
    ("JSON in base64", base64.b64encode(BODY), "it looks like JSON in base64: publish the JSON itself"),
    ("text in a JSON string", b'"doc-1"', f"; {SHAPE}"),
    ("a list of records", of([RECORD, RECORD]), f"; {SPLIT}, {ONE}"),
    ("a vector alone", of(NUMBERS), f"; {SHAPE}"),
    ("a list of vectors", of([NUMBERS, NUMBERS]), f"; publish one record for each; {SHAPE}"),
    ("JSON Lines", BODY + b"\n" + BODY + b"\n", f"a second map follows the first, as in JSON Lines: {SPLIT}, {ONE}"),
    ("numbers as text", b"0.25,-0.5,0.125", f"it looks like numbers as text: {SHAPE}"),
    ("float32 alone", FLOAT32, "it looks like the numbers of a vector alone (8 float32s): set records.fields.vector = \"$kafka.value\", or publish a MessagePack map with the bytes in data.float32, so that it can have a key"),
    ("float64 alone", struct.pack("<8d", *NUMBERS), "it looks like the numbers of a vector alone (8 float64s): set records.fields.vector = \"$kafka.value\" and records.vector_bytes = \"float64-le\", or publish"),
    ("float16 alone", struct.pack("<8e", *NUMBERS), "it looks like the numbers of a vector alone (8 float16s): set records.fields.vector = \"$kafka.value\" and records.vector_bytes = \"float16-le\", or publish"),
    ("JSON's null", b"null", f"it looks like a single JSON value: {SHAPE}; a tombstone has no value at all (null bytes)"),
    ("the text of a Python dict", str(RECORD).encode(), "it looks like the text of a Python dict: write it with json.dumps, not with str or repr"),
    ("the text of Python bytes", str(BODY).encode(), "it looks like the text of Python bytes: publish the bytes, not str() of them"),
    ("the text of a JavaScript object", b"[object Object]", "write it with JSON.stringify"),
    ("the text of a Java map", b"{key=doc-1, data={float32=[0.25]}}", "it looks like the text of a Java map: use a serializer that writes JSON"),
    ("a serialized Java object", b"\xac\xed\x00\x05sr\x00\x11java.util", "it looks like a serialized Java object; expected a JSON or MessagePack map (records.format = \"auto\"); use a serializer that writes JSON"),
    ("CBOR", b"\xa2\x63key\x65doc-1\x64data\xa1", "it looks like CBOR: publish JSON or MessagePack"),
    ("BSON", b"\x14\x00\x00\x00\x02key\x00\x06\x00\x00\x00doc-1\x00\x00", "it looks like BSON: publish JSON or MessagePack"),
    ("Protobuf", b"\x0a\x05doc-1\x12\x20" + FLOAT32, "it looks like Protobuf without a schema registry's prefix: use the registry's serializer, or publish JSON"),
    ("an Avro file", b"Obj\x01\x04\x14avro.codec", "; publish each record by itself, with a schema registry or as JSON"),
    ("a Parquet file", b"PAR1\x15\x04\x15", "; publish each row as a record; oss-vectors-worker produce does that from a Parquet or NumPy file"),
    ("XML", b"<record><key>doc-1</key></record>", "it looks like XML or HTML: publish JSON or MessagePack"),
    ("Apicurio's prefix", bytes(8) + b"\x07" + BODY, "it looks like Apicurio's prefix of 0x00 and 8 bytes (global id 7): have its serializer write ids of 4 bytes, as Confluent's does (Legacy4ByteIdHandler, or Default4ByteIdHandler)"),
    ("Glue's prefix", b"\x03\x00" + bytes(range(16)) + BODY, "it looks like the prefix of AWS Glue's schema registry (schema version 00010203-0405-0607-0809-0a0b0c0d0e0f): Glue's registry is not read; publish JSON or MessagePack without the prefix"),
    ("Glue's prefix, compressed", b"\x03\x05" + bytes(16) + zlib.compress(BODY), "(schema version 00000000-0000-0000-0000-000000000000, compressed by zlib)"),
    ("a pickle of protocol 0", pickle.dumps(RECORD, 0), "it looks like a Python pickle: a pickle can run code"),
    ("a pickle of protocol 1", pickle.dumps(RECORD, 1), "it looks like a Python pickle: a pickle can run code"),
    ("an array in a pickle of protocol 0", pickle.dumps(np.array(NUMBERS), 0), "it looks like a Python pickle: a pickle can run code"),
    ("safetensors", struct.pack("<Q", 60) + b'{"embedding":{"dtype":"F32"}}' + FLOAT32, "it looks like a file of safetensors: "),
    ("zlib, level 5", b"\x78\x5e" + zlib.compress(BODY)[2:], f"it looks like zlib: {COMPRESS}"),
    ("lz4 of Java", b"LZ4Block\x15" + bytes(9), f"it looks like lz4 of Java: {COMPRESS}"),
    ("snappy without a frame", b"\xce\x01\xf0\x3f" + BODY[:70] + b"\x05\x1c", f"JSON that was compressed without a header, by snappy or lz4: {COMPRESS}"),
    ("gzip in base64", base64.b64encode(gzip.compress(BODY)), f"it looks like gzip in base64: {COMPRESS}"),
    ("UTF-32 of the other order", BODY.decode().encode("utf-32-be"), "the value looks like UTF-32; expected JSON in UTF-8; encode the JSON as UTF-8"),
    ("UTF-16 that begins with a line break", ("\n" + BODY.decode()).encode("utf-16-le"), "it looks like UTF-16; encode the JSON as UTF-8"),
    ("JSON encoded three times", of(json.dumps(BODY.decode())), "publish the inner text as it is; it was encoded as JSON twice"),
    ("JSON in a JSON string after a space", b" " + of(BODY.decode()), "it looks like JSON within a JSON string: publish the inner text as it is"),
    ("indented JSON in base64", base64.b64encode(json.dumps(RECORD, indent=1).encode()), "it looks like JSON in base64: publish the JSON itself"),
    ("JSON in hexadecimal", BODY.hex().encode(), "it looks like JSON in hexadecimal: publish the JSON itself"),
    ("JSON with escaped quotes", BODY.replace(b'"', b'\\"'), "it looks like JSON whose quotes are escaped: publish the JSON itself"),
    ("names without quotes", b"{key: 'doc-1', data: {}}", "it looks like JSON whose names have no quotes, as in JavaScript"),
    ("JSON behind its length", struct.pack("<I", len(BODY)) + BODY, "it looks like JSON behind 4 bytes of something else: publish the JSON alone"),
    ("JSON before a NUL byte", BODY + b"\0", "NUL bytes follow the record: publish it without them"),
    ("a list of records after a mark", b"\xef\xbb\xbf" + of([RECORD]), f"it looks like a list of records: {SPLIT}, {ONE}"),
    ("a list of records after a space", b" \n" + of([RECORD]), f"it looks like a list of records: {SPLIT}, {ONE}"),
    ("a list of records behind a registry's prefix", b"\0\0\0\0\7" + of([RECORD]), f"(schema id 7) and the JSON behind it is a list; expected a map; it looks like a list of records: {SPLIT}, {ONE}"),
    ("a list of records in MessagePack", pack([RECORD, RECORD]), f"it looks like a list of records in MessagePack: {SPLIT}, {ONE}"),
    ("a vector alone in MessagePack", pack(NUMBERS), f"it looks like the numbers of a vector alone, in MessagePack: {SHAPE}"),
    ("a list of JSON strings", of([BODY.decode()]), "publish the inner texts as they are; they were encoded as JSON twice"),
    ("two records in MessagePack", pack(RECORD) + pack(RECORD), 'something follows the record: publish one in a message, or a list of them with records.many = "split"'),
    ("names that are bytes", pack({b"key": "doc-1", b"data": {"float32": NUMBERS}}), "its names are bytes: encode them as strings"),
    ("a JSON text sequence", b"\x1e" + BODY + b"\n", "it looks like a JSON text sequence (RFC 7464)"),
    ("Avro's single object", b"\xc3\x01" + bytes(range(8)) + b"\x06abc", "it looks like Avro's encoding of a single object (schema fingerprint 0706050403020100)"),
    ("the text of a Java object", b"[F@1b6d3586", "use a serializer that writes JSON"),
    ("white space", b" \n", "the value has nothing in it but white space; a record is a map"),
    # A map of another shape
    ("Kafka Connect", of({"schema": {"type": "struct"}, "payload": RECORD}), f"its fields are schema, payload; {CONNECT}"),
    ("Kafka Connect, other fields", of({"schema": {}, "payload": {"id": 5, "embedding": NUMBERS}}), f'{CONNECT} and records.fields.vector = "embedding", {WITH_NUMBER}'),
    ("Debezium", of({"before": None, "after": {"id": 5, "embedding": NUMBERS}, "op": "c"}), f'its fields are before, after, op; {DEBEZIUM} and records.fields.vector = "embedding", {WITH_NUMBER}'),
    ("Debezium in Kafka Connect", of({"schema": {}, "payload": {"before": None, "after": RECORD, "op": "u"}}), DEBEZIUM),
    ("Debezium, truncate", of({"before": None, "after": None, "op": "t"}), f"{DEBEZIUM}; it is a truncate of the table, which deletes no vectors: delete them by hand"),
    ("Debezium, unchanged TOAST", of({"before": None, "after": {"id": 5, "embedding": "__debezium_unavailable_value"}, "op": "u"}), f"{DEBEZIUM}; a column has Debezium's placeholder of an unchanged TOAST value, so the row is not whole: set REPLICA IDENTITY FULL for the table"),
    ("Debezium, unchanged TOAST of an array", json.dumps({"before": None, "after": {"id": 5, "embedding": [*b"__debezium_unavailable_value"]}, "op": "u"}, separators=(",", ":")).encode(), "; a column has Debezium's placeholder of an unchanged TOAST value, so the row is not whole: set REPLICA IDENTITY FULL for the table"),
    ("an unwrapped row, deleted", of({"id": 5, "embedding": None, "__deleted": "true"}), 'it looks like an unwrapped row of Debezium: set records.fields.delete = "__deleted"'),
    ("a CloudEvent", of({"specversion": "1.0", "id": "e", "source": "/x", "type": "t", "data": RECORD}), 'set records.envelope = "cloudevents"'),
    ("an answer of an embedding API", of({"object": "list", "data": [{"index": 0, "embedding": NUMBERS}], "model": "m"}), f'its fields are object, data, model; data is a list of records: {SPLIT}, records.fields.records = "data", records.fields.vector = "embedding", records.fields.key = "{{$kafka.key}}/{{index}}", records.key_values = "stringify"; {ONE}'),
    ("a PutVectors body", of({"indexName": "docs", "vectors": [RECORD]}), f'its fields are indexName, vectors; vectors is a list of records: {SPLIT}, records.fields.records = "vectors"; {ONE}'),
    ("an upsert of Pinecone", of({"vectors": [{"id": "a", "values": NUMBERS}]}), f'{SPLIT}, records.fields.records = "vectors", records.fields.vector = "values", records.fields.key = "id"; {ONE}'),
    ("an answer of DashScope", of({"output": {"embeddings": [{"text_index": 0, "embedding": NUMBERS}]}}), 'records.fields.records = "output.embeddings", records.fields.vector = "embedding"'),
    ("an answer of DashScope with sparse vectors", of({"output": {"embeddings": [{"sparse_embedding": [{"index": 7, "value": 0.8, "token": "w"}], "embedding": NUMBERS, "text_index": 0}]}}), 'records.fields.records = "output.embeddings", records.fields.vector = "embedding", records.fields.key = "{$kafka.key}/{text_index}"'),
    ("documents with boxes", of({"docs": [{"id": "a", "boxes": [{"at": [1, 2, 3, 4]}], "vec": NUMBERS}]}), 'docs is a list of records: set records.many = "split", records.fields.records = "docs", records.fields.vector = "vec", records.fields.key = "id"'),
    ("documents whose chunks have the vectors", of({"docs": [{"id": "a", "box": [1, 2, 3, 4], "chunks": [{"vec": NUMBERS}]}]}), "its fields are docs; there is no list of numbers in it"),
    ("an answer of Cohere by type", of({"id": "x", "texts": ["a"], "embeddings": {"int8": [[1] * 8], "float": [NUMBERS]}}), 'set records.fields.vector = "embeddings.float[0]", records.fields.key = "id"'),
    ("an answer of Cohere by type in MessagePack", pack({"id": "x", "embeddings": {"ubinary": [[1] * 8], "float": [NUMBERS]}}), 'set records.fields.vector = "embeddings.float[0]"'),
    ("records with vectors of two types", of({"items": [{"id": "a", "bits": [0, 1] * 4, "floats": NUMBERS}]}), 'records.fields.records = "items", records.fields.vector = "floats"'),
    ("a vector of whole numbers by its name", of({"id": "a", "embedding": [1] * 8, "scores": NUMBERS}), 'set records.fields.vector = "embedding"'),
    ("flat JSON", of({"id": "a", "embedding": NUMBERS, "title": "x"}), 'its fields are id, embedding, title; a list of 8 numbers is in embedding: set records.fields.vector = "embedding", records.fields.key = "id"'),
    ("flat JSON, a number as id", of({"id": 5, "embedding": NUMBERS}), f'set records.fields.vector = "embedding", {WITH_NUMBER}'),
    ("flat MessagePack, bytes", pack({"id": "a", "vec": FLOAT32}), 'float32 as bytes is in vec: set records.fields.vector = "vec", records.fields.key = "id"'),
    ("nested JSON", of({"doc": {"uuid": "a", "payload": {"vector": NUMBERS}}}), 'is in doc.payload.vector: set records.fields.vector = "doc.payload.vector", records.fields.key = "doc.uuid"'),
    ("a dot in a name", of({"doc.id": "a", "doc.vec": NUMBERS}), """is in "doc.vec": set records.fields.vector = '"doc.vec"', records.fields.key = '"doc.id"'"""),
    ("a vector as text under another name", of({"id": "a", "embedding": str(OTHERS)}), 'a vector as text is in embedding: set records.fields.vector = "embedding"'),
    ("base64 under another name", of({"id": "a", "embedding": base64.b64encode(FLOAT32).decode()}), "float32 in base64 is in embedding: set"),
    ("of two lists the one that fits", of({"tokens": list(range(20)), "x": NUMBERS}), 'set records.fields.vector = "x"'),
    ("vectors without keys", of({"embeddings": [NUMBERS, NUMBERS]}), "embeddings looks like a list of several vectors, which have no keys: publish one record for each"),
    ("one vector in a list", of({"embeddings": [NUMBERS]}), 'set records.fields.vector = "embeddings[0]"'),
    ("a batch of one", with_vector([NUMBERS]), 'number 0 of data.float32 is a list; allowed are numbers; its fields are key, data; a list of 8 numbers is in data.float32[0]: set records.fields.vector = "data.float32[0]"'),
    ("a typed array", with_vector({str(at): number for at, number in enumerate(NUMBERS)}), "data.float32 looks like a typed array as JSON.stringify writes it: publish Array.from(it)"),
    ("a Buffer", with_vector({"type": "Buffer", "data": list(FLOAT32)}), "data.float32 looks like a Buffer as JSON.stringify writes it: publish a list of numbers, or base64"),
    ("JSON in a field", of({"id": "a", "payload": BODY.decode()}), "its fields are id, payload; payload is a string that has JSON in it: publish it as a map, not as text"),
    ("no vector at all", of({"id": "a", "title": "x"}), "its fields are id, title; there is no list of numbers in it"),
    ("an empty map", b"{}", "it has no data; needed is data.float32; it has no fields; there is no list of numbers in it"),
    ("many fields", of({f"f{at}": "x" for at in range(20)}), "its fields are f0, f1, f2, f3, f4, f5, f6, f7 and 12 more;"),
    ("records without keys", of({"predictions": [{"embeddings": {"values": NUMBERS}}]}), f'predictions is a list of records without keys, and with the Kafka key as the key of each only the last one would remain: publish one record in a message, or give each a key and set {SPLIT.removeprefix("set ")}, records.fields.records = "predictions"'),
    ("the place of a record by another name", of({"output": {"embeddings": [{"text_index": 1, "embedding": NUMBERS}]}}), 'records.fields.key = "{$kafka.key}/{text_index}"'),
    ("a heartbeat of Debezium", of({"ts_ms": 1}), 'it looks like a heartbeat of Debezium: set records.envelope = "debezium"'),
    ("a schema change of Debezium", of({"source": {}, "ddl": "x", "tableChanges": []}), 'a change of a schema, of Debezium: set records.envelope = "debezium"'),
    ("a row that may be deleted later", of({"id": "a", "embedding": NUMBERS, "__deleted": "false"}), 'records.fields.key = "id", records.fields.delete = "__deleted"'),
    ("an id of MongoDB", of({"_id": {"$oid": "6f"}, "v": NUMBERS}), """records.fields.key = '_id."$oid"'"""),
    ("numbers of MongoDB", of({"_id": "a", "v": [{"$numberDouble": "0.5"}] * 8}), "v looks like numbers that are each in a map, as MongoDB and DynamoDB write them"),
    ("a sparse vector", of({"id": "a", "v": {"size": 8, "indices": [0, 3], "values": [0.5, 0.5]}}), "v looks like a sparse vector, by its indices and values"),
    ("an array of msgpack-numpy", pack({"key": "a", "data": {"float32": {b"nd": True, b"type": "<f4", b"data": FLOAT32}}}), "data.float32 looks like an array as msgpack-numpy packs it"),
    ("base64 in a list", with_vector([base64.b64encode(FLOAT32).decode()]), 'float32 in base64 is in data.float32[0]: set records.fields.vector = "data.float32[0]"'),
    ("several in base64 in a list", of({"embeddings": {"base64": 3 * [base64.b64encode(FLOAT32).decode()]}}), "embeddings.base64 looks like a list of several vectors"),
    ("base64 under a name of no vector", of({"id": "a", "data": base64.b64encode(FLOAT32).decode()}), "float32 in base64 is in data: set"),
    ("JSON in base64 in a field", of({"message": {"x": 1}, "body": base64.b64encode(BODY).decode()}), "body is a string that has JSON in base64 in it"),
    ("an array of PostgreSQL", of({"id": "a", "embedding": "{0.5,0.25}"}), "embedding is numbers in braces or parentheses"),
    # Changes of rows in other forms than Debezium's
    ("Canal", canal("INSERT"), f"it looks like a change of Canal, TiCDC or Flink, {CANAL}"),
    ("Canal, a delete", canal("DELETE"), f"it looks like a change of Canal, TiCDC or Flink, {CANAL}"),
    ("Canal, a change of a schema", of({"data": None, "isDdl": True, "sql": "ALTER TABLE t", "type": "ALTER"}), CANAL),
    ("canal-json of Flink", of({"data": [{"id": 1, "v": NUMBERS}], "type": "DELETE"}), CANAL),
    ("Maxwell", maxwell("insert", {"id": 1, "v": str(OTHERS)}), MAXWELL.format("data.v")),
    ("Maxwell, a delete", maxwell("delete", {"id": 1, "v": NUMBERS}), MAXWELL.format("data.v")),
    ("Maxwell, a delete without a vector", maxwell("delete", {"id": 1}), 'a change of Maxwell: set records.fields.vector = the path of the vector in data, records.fields.key = "data.id", records.key_values = "stringify", records.fields.delete = "type"'),
    ("maxwell-json of Flink", of({"data": {"id": 1, "v": NUMBERS}, "type": "INSERT"}), MAXWELL.format("data.v")),
    ("AWS DMS", of({"data": {"id": "1", "v": NUMBERS}, "metadata": {"record-type": "data", "operation": "load"}}), 'it looks like a change of AWS DMS: set records.fields.vector = "data.v", records.fields.key = "data.id", records.fields.delete = "metadata.operation", records.fields.metadata = ""'),
    ("MongoDB's connector", of({"_id": {"_data": "8"}, "operationType": "insert", "fullDocument": {"_id": {"$oid": "6f"}, "v": NUMBERS}, "ns": {}, "documentKey": {"_id": {"$oid": "6f"}}}), MONGODB.format('"fullDocument.v"')),
    ("MongoDB's connector, a delete", of({"_id": {"_data": "8"}, "operationType": "delete", "ns": {}, "documentKey": {"_id": {"$oid": "6f"}}}), MONGODB.format("the path of the vector in fullDocument")),
    ("GoldenGate", of({"table": "T", "op_type": "I", "op_ts": "x", "after": {"id": 1, "v": NUMBERS}}), GOLDENGATE),
    ("GoldenGate, an update", of({"table": "T", "op_type": "U", "before": {"id": 1, "v": OTHERS}, "after": {"id": 1, "v": NUMBERS}}), GOLDENGATE),
    ("GoldenGate, flat", of({"table": "T", "op_type": "D", "id": 1, "v": NUMBERS}), f'set records.fields.vector = "v", {WITH_NUMBER}, records.fields.delete = "op_type"'),
    ("bytes in a string of MessagePack", b"\x82\xa3key\xa1a\xa4data\x81\xa7float32\xda\x00\x20" + FLOAT32, f"; in data.float32; data.float32 looks like {AS_STRING}"),
    ("float64 in a string of MessagePack", b"\x82\xa3key\xa1a\xa4data\x81\xa7float32\xda\x00\x40" + struct.pack("<8d", *DECIMALS), f"data.float32 looks like {AS_STRING}"),
    ("bytes in a string of MessagePack under another name", b"\x82\xa2id\xa1a\xa3vec\xda\x00\x20" + FLOAT32, f"its fields are id, vec; vec looks like {AS_STRING}"),
    ("text in MessagePack that is not UTF-8", b"\x82\xa3key\xa1a\xa4data\x81\xa7float32\xda\x00\x21" + FLOAT32 + b"\xe9", "it may be Latin-1, Windows-1252 or GBK: encode the text as UTF-8"),
    # A fault in the right shape
    ("an integer as key", of({**RECORD, "key": 5}), 'key is a number; allowed is a string (records.key_values = "stringify" accepts integers too)'),
    ("numbers as strings", with_vector([str(number) for number in NUMBERS]), "data.float32 looks like a list of numbers that are strings: publish numbers"),
    ("NaN in text", with_vector("[NaN,0.5]"), "which is NaN; JSON has none, and vectors are of finite numbers"),
    ("null in text", with_vector("[null,0.5]"), "element 0 of the text in data.float32 is no number: it is a null"),
    ("numbers in parentheses", with_vector("(0.5, 0.25)"), "data.float32 is numbers in braces or parentheses: publish a list"),
    ("the text of a tensor", with_vector("tensor([0.5, 0.25])"), "data.float32 is the text of an array of a program: publish a list of numbers"),
    ("hexadecimal with its mark", with_vector("0x" + FLOAT32.hex()), "looks like hexadecimal: publish base64"),
    ("np.save in base64", with_vector(base64.b64encode(b"\x93NUMPY\x01\x00v\x00{}").decode()), "it holds what looks like an array as numpy's save writes it"),
    ("gzip in bytes", pack({"data": {"float32": gzip.compress(FLOAT32)}}), "it holds what looks like gzip"),
    ("text in base64", with_vector(base64.b64encode(b"[0.5, 0.25, 1]").decode()), "it holds numbers as text: publish the list itself"),
    ("float64 of the other byte order", with_vector(base64.b64encode(struct.pack(">8d", *OTHERS)).decode()), 'records.vector_bytes = "float64-be" reads them'),
    ("a number in a list in metadata", with_metadata({"a": [1]}), 'metadata \'a\' holds a number in its list; allowed is a map of strings to strings or lists of strings (limit of PutVectors) (records.metadata_values = "stringify" turns numbers and booleans into text)'),
    ("NaN", BODY.replace(b"-0.5", b"NaN"), "which is NaN; JSON has none, and vectors are of finite numbers"),
    ("Infinity", BODY.replace(b"-0.5", b"-Infinity"), "which is -Infinity; JSON has none, and vectors are of finite numbers"),
    ("null within", with_vector([None, *NUMBERS[1:]]), "number 0 of data.float32 is a null; allowed are numbers"),
    ("half of a surrogate pair", with_metadata({"t": "\ud83d"}), "the JSON holds half of a surrogate pair (\\ud800 to \\udfff by itself), which no encoding has a form for; in metadata 't'"),
    ("half of a surrogate pair in UTF-8", BODY[:-1] + b',"metadata":{"t":"\xed\xa0\xbd"}}', "it has half of a surrogate pair in UTF-8, as CESU-8 and Java's modified UTF-8 have: encode the text as UTF-8"),
    ("Latin-1", BODY[:-1] + b',"metadata":{"t":"caf\xe9"}}', "it may be Latin-1, Windows-1252 or GBK: encode the text as UTF-8"),
    ("hexadecimal", with_vector(FLOAT32.hex()), "looks like hexadecimal: publish base64"),
    ("a data URL", with_vector("data:application/octet-stream;base64," + base64.b64encode(FLOAT32).decode()), "data.float32 is a data URL: publish only what is behind its comma"),
    ("numbers without commas", with_vector("0.25 -0.5 0.125 0.75 -0.25 0.5 1.5 -1.0"), "numbers without commas between them: publish a list, or separate them by commas"),
    ("numbers that end with a point", with_vector("[1., 2., 3., 4., 5., 6., 7., 8.]"), f"data.float32 {BARE_POINT}"),
    ("numbers that begin with a point", with_vector("[.1,-.2,.3,.4,.5,.6,.7,.8]"), f"data.float32 {BARE_POINT}"),
    ("a later number that begins with a point", with_vector("0.25, -.5, 0.125"), f"data.float32 {BARE_POINT}"),
    ("bytea as PostgreSQL prints it", with_vector("\\x" + FLOAT32.hex()), "data.float32 looks like hexadecimal: publish base64"),
    ("a sparsevec of pgvector", with_vector("{1:0.5,3:-2e-1}/8"), f"data.float32 {SPARSE}"),
    ("a sparsevec of pgvector with one number", with_vector("{1:0.5}/8"), f"data.float32 {SPARSE}"),
    ("a sparsevec of pgvector under another name", of({"id": "a", "embedding": "{1:0.5,3:0.2}/8"}), f"embedding {SPARSE}"),
    ("base64 that was cut", with_vector(base64.b64encode(FLOAT32).decode()[:41]), "data.float32 is base64 that was cut: 41 characters are no whole bytes"),
    ("base85", with_vector(base64.b85encode(FLOAT32).decode()), "data.float32 has characters that base64 does not have"),
    ("float64 in base64", with_vector(base64.b64encode(struct.pack("<8d", *NUMBERS)).decode()), '(its 64 bytes would be as many float64 as the index has dimensions; records.vector_bytes = "float64-le" reads them)'),
    ("float16 in MessagePack", pack({"data": {"float32": struct.pack("<8e", *NUMBERS)}}), '(its 16 bytes would be as many float16 as the index has dimensions; records.vector_bytes = "float16-le" reads them)'),
    ("int8", pack({"data": {"float32": bytes(range(8))}}), "(its 8 bytes would be as many int8 as the index has dimensions; publish float32)"),
    ("bytes as numbers", with_vector(list(FLOAT32)), "has 32 numbers, the index docs has 8 dimensions (they may be the bytes of as many float32 as the index has dimensions; publish the numbers)"),
    ("two vectors in one list", with_vector(NUMBERS * 2), f"({MODEL}; or 2 vectors one after the other: publish one record for each)"),
    ("four times as many numbers that are no bytes", with_vector([*NUMBERS, *OTHERS] * 2), f"({MODEL}; or 4 vectors one after"),
    ("float32 of another model in base64", with_vector(base64.b64encode(struct.pack("<16f", *NUMBERS, *OTHERS)).decode()), f"has 16 numbers, the index docs has 8 dimensions ({MODEL})"),
    ("float32 of another model in base64, under another name", of({"id": "a", "embedding": base64.b64encode(struct.pack("<16f", *NUMBERS, *OTHERS)).decode()}), '16 float32 in base64 is in embedding: set records.fields.vector = "embedding"'),
    ("float64 in base64 under another name", of({"id": "a", "embedding": base64.b64encode(struct.pack(">8d", *NUMBERS)).decode()}), 'float64-be in base64 is in embedding: set records.fields.vector = "embedding", records.fields.key = "id", records.vector_bytes = "float64-be"'),
    ("float32 of a smaller model", pack({"data": {"float32": struct.pack("<4f", 0.1, 0.3, -0.7, 0.9)}}), f"has 4 numbers, the index docs has 8 dimensions ({MODEL})"),
    ("float32 of another model alone", struct.pack("<16f", *NUMBERS, *OTHERS), f"it looks like the numbers of a vector alone (16 float32s, and the index has 8 dimensions): they are {MODEL}"),
    ("float32 of the other byte order alone", struct.pack(">8f", *NUMBERS), '(8 float32s): set records.fields.vector = "$kafka.value" and records.vector_bytes = "float32-be"'),
    ("float32 of the other byte order", pack({"data": {"float32": struct.pack(">8I", 0x3F80807F, *[0x3F800001] * 7)}}), 'read as big-endian float32 all of its numbers would be ordinary: set records.vector_bytes = "float32-be"'),
    ("a map in metadata", with_metadata({"a": {"b": 1}}), f"metadata 'a' is a map; allowed is a map of strings to strings or lists of strings (limit of PutVectors){NESTED}"),
    ("metadata as text", with_metadata('{"a":"b"}'), "metadata is a string; allowed is a map of strings to strings or lists of strings (limit of PutVectors); publish it as a map, not as the text of one"),
    ("filterable metadata too large", with_metadata({"small": "x", "text": "x" * 2048, "summary": "x" * 50, "url": "x" * 9, "body": "x" * 9000}), f"; the largest are 'text', 'summary', 'url'{LARGEST}"),
    ("too many filterable keys", with_metadata({f"k{at:02}": "x" * at for at in range(11)}), f"metadata has 11 filterable keys; allowed are 10 (limit of PutVectors); the largest are 'k10', 'k09', 'k08'{LARGEST}"),
]  # fmt: skip


def refusal(value: bytes, kafka_key: bytes | None = b"k", **settings: Any) -> RecordError:
    with pytest.raises(RecordError) as raised:
        Decoder(TARGET, max_fragment_bytes=1 << 20, **settings).decode(kafka_key, value, ())
    return raised.value


@pytest.mark.parametrize(("value", "expected"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_the_message_says_what_is_there_and_what_is_wanted(value: bytes, expected: str) -> None:
    message = refusal(value).message
    assert expected in message
    assert len(message) < 1000


def test_the_table_has_many_shapes_each_once() -> None:
    assert len({value for _, value, _ in SHAPES}) == len(SHAPES) >= 40


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (of({"id": "a", "data": {"float32": NUMBERS}}), 'its fields are id, data; set records.fields.key = "id"'),
        (of({"id": 5, "data": {"float32": NUMBERS}}), f"its fields are id, data; set {WITH_NUMBER}"),
        (of({"data": {"float32": NUMBERS}}), 'one of "key" and the Kafka key is needed; its fields are data'),
    ],
)
def test_without_a_key_the_message_names_what_may_be_one(value: bytes, expected: str) -> None:
    error = refusal(value, None)
    assert (error.reason, error.message.endswith(expected)) == (Reason.KEY, True), error.message


@pytest.mark.parametrize(
    ("envelope", "value"),
    [
        ("connect", {"schema": {}, "payload": {"id": "a", "embedding": NUMBERS}}),
        ("debezium", {"before": None, "after": {"id": "a", "embedding": NUMBERS}, "op": "c"}),
        ("cloudevents", {"specversion": "1.0", "data": {"id": "a", "embedding": NUMBERS}}),
    ],
)
def test_of_a_record_in_its_envelope_the_record_is_described(envelope: Any, value: Any) -> None:
    shape = shape_of("", "vec", "metadata", "")
    message = refusal(of(value), envelope=envelope, shape=shape).message
    assert message.endswith(
        'its fields are id, embedding; a list of 8 numbers is in embedding: set records.fields.vector = "embedding", '
        'records.fields.key = "id"'
    )


@pytest.mark.parametrize(
    ("envelope", "value"),
    [
        ("connect", {"schema": {}, "payload": {"id": "a", "embedding": NUMBERS, "__deleted": "true"}}),
        ("cloudevents", {"specversion": "1.0", "data": {"id": "a", "embedding": NUMBERS, "__deleted": "true"}}),
        ("none", {"id": "a", "embedding": NUMBERS, "__deleted": "true"}),
    ],
)
def test_the_mark_of_a_deleted_row_is_advised_in_every_envelope(envelope: Any, value: Any) -> None:
    message = refusal(of(value), envelope=envelope).message
    assert message.endswith('records.fields.key = "id", records.fields.delete = "__deleted"')


def test_lines_that_are_no_records_are_not_advised_to_be_split_again() -> None:
    message = refusal(json.dumps(RECORD, indent=1).encode() * 2, many="split").message
    assert message.endswith('records.many = "split" reads one whole record on each line, or a list')


AVRO: Final = b"\x0adoc-1\x10" + FLOAT32
HEADER: Final = ("__value_schema_id", b"\0\0\0\0\7")


def refusal_of(value: bytes, *headers: tuple[str, bytes | None], **settings: Any) -> str:
    with pytest.raises(RecordError) as raised:
        Decoder(TARGET, max_fragment_bytes=1 << 20, **settings).decode(b"k", value, headers)
    return raised.value.message


def test_a_value_whose_schema_is_in_a_header_needs_the_registry_and_no_other_producer() -> None:
    message = refusal_of(AVRO, ("other", b"x"), HEADER)
    assert message.endswith("; the header __value_schema_id names schema id 7: set registry.url")
    message = refusal_of(AVRO, HEADER, many="split")
    assert message.endswith(
        'names schema id 7: a topic with records.many = "split" is read without the registry, whatever registry.url says'
    )
    for value, header in (
        (of({"key": "a"}), HEADER),
        (b'{"key": "a"', HEADER),
        (AVRO, (HEADER[0], None)),
        (AVRO, (HEADER[0], b"x")),
    ):
        assert "registry.url" not in refusal_of(value, header)


class NoSchemas:
    def reader(self, schema: Any) -> Any:
        raise NotImplementedError(schema)


def test_where_a_registry_is_set_no_header_is_told_to_need_one() -> None:
    assert "registry.url" not in refusal_of(AVRO, HEADER, schemas=NoSchemas(), envelope="cloudevents")


def test_a_prefix_in_a_topic_that_is_split_says_why_the_registry_is_not_asked() -> None:
    message = refusal_of(b"\0\0\0\0\7" + AVRO, many="split")
    assert message.endswith(
        '; a topic with records.many = "split" is read without the registry, whatever registry.url says'
    )
    assert "records.many" not in refusal_of(b"\0\0\0\0\7" + AVRO)


def test_a_map_beside_stringify_gets_the_same_advice() -> None:
    message = refusal(with_metadata({"a": {"b": 1}}), metadata_values="stringify").message
    assert message == f"metadata 'a' holds a map; allowed are strings, numbers, booleans, and lists of them{NESTED}"


@pytest.mark.parametrize("first", [0x00, 0x0A, 0x20, 0x22, 0x3C, 0x5B, 0x7B, 0x83, 0x9F, 0xC4, 0xDE, 0xFF])
def test_a_vector_alone_gets_its_setting_whatever_its_first_byte_is(first: int) -> None:
    value = bytes((first, 0x99)) + FLOAT32[2:]
    assert 'set records.fields.vector = "$kafka.value"' in refusal(value).message


@pytest.mark.parametrize(
    "value", [b"[0.25,0.5,1.25,0.5,0.25,0.5,1,2]", b"<key>doc-1</key><v>0.25,-0.5</v>", b'"' + b"x" * 31]
)
def test_text_that_is_as_long_as_a_vector_is_no_vector(value: bytes) -> None:
    assert len(value) == len(FLOAT32)
    assert "$kafka.value" not in refusal(value).message


def test_what_the_settings_already_say_is_not_advised() -> None:
    error = RecordError(Reason.MALFORMED, "")
    change = of({"before": None, "after": {"id": 5, "embedding": NUMBERS}, "op": "c"})
    assert Looks(TARGET, envelope="debezium", vector_path="embedding").hint(error, change, None) == ""
    assert Looks(TARGET, envelope="debezium").hint(error, change, None) == (
        f'its fields are id, embedding; a list of 8 numbers is in embedding: set records.fields.vector = "embedding", {WITH_NUMBER}'
    )
    body = of({"vectors": [{"key": "a", "values": NUMBERS}]})
    assert "records.many" not in Looks(TARGET, is_many=True).hint(error, body, None)
    flat = of({"embedding": NUMBERS, "id": "a"})
    assert Looks(TARGET, vector_path="embedding").hint(error, flat, None) == ""
    swapped = struct.pack("<8I", *range(1, 9))
    not_finite = RecordError(Reason.NOT_FINITE, "")
    assert Looks(TARGET, vector_bytes="float32-be").hint(not_finite, b"", swapped) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (maxwell("insert", {"id": 1, "v": NUMBERS[:3]}), "data.v has 3 numbers, the index docs has 8 dimensions"),
        (maxwell("insert", {"id": 1, "v": None}), "data.v is a null"),
    ],
)
def test_a_change_that_the_settings_read_is_judged_by_them(value: bytes, expected: str) -> None:
    shape = shape_of("data.id", "data.v", "", "type")
    message = refusal(value, shape=shape, key_values="stringify").message
    assert expected in message
    assert "Maxwell" not in message


@pytest.mark.parametrize(
    ("value", "shape", "key"),
    [
        (maxwell("delete", {"id": 1, "v": NUMBERS}), ("data.id", "data.v", "", "type"), "1"),
        (of({"data": {"id": 1}, "metadata": {"operation": "delete"}}), ("data.id", "data.v", "", "metadata.operation"), "1"),
        (of({"operationType": "delete", "documentKey": {"_id": {"$oid": "6f"}}}), ('documentKey._id."$oid"', "fullDocument.v", "", "operationType"), "6f"),
        (of({"op_type": "D", "before": {"id": 1}}), ("", "after.v", "", "op_type"), "k"),
    ],
    ids=["Maxwell", "AWS DMS", "MongoDB", "GoldenGate"],
)  # fmt: skip
def test_under_the_settings_that_are_advised_a_delete_deletes(value: bytes, shape: Any, key: str) -> None:
    decoder = Decoder(TARGET, max_fragment_bytes=1 << 20, shape=shape_of(*shape), key_values="stringify")
    assert decoder.decode(b"k", value, ()) == Delete(key)


SECRET: Final = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo-secret"


@pytest.mark.parametrize(
    "value",
    [
        of({"id": SECRET, "embedding": NUMBERS, "text": SECRET}),
        of({"schema": {}, "payload": {"id": SECRET, "text": SECRET}}),
        with_vector(SECRET + "!"),
        with_metadata({"a": {"b": SECRET}}),
        with_metadata({"a": SECRET * 60}),
        of(SECRET),
        of([SECRET]),
        SECRET.encode(),
    ],
)
def test_no_message_quotes_what_is_in_a_record(value: bytes) -> None:
    message = refusal(value).message
    assert SECRET not in message
    assert str(NUMBERS[2]) not in message


def test_a_name_is_shown_cut_and_on_one_line() -> None:
    message = refusal(of({"a\nb\u202e" + "x" * 500: 1, "": 2})).message
    assert f'its fields are a b\ufffd{"x" * 35}…, "";' in message


@pytest.mark.parametrize("name", ["maps in maps, 64 in each", "lists of maps in maps, 64 in each"])
def test_a_vector_is_searched_for_in_a_bounded_number_of_maps(name: str) -> None:
    cut = 0

    def counted(body: Any) -> Any:
        nonlocal cut
        cut += 1
        return JSON.members(body)

    value = hostile_records.RECORDS[f"JSON {name}"]()
    foreign = Foreign(3, "data.float32", "none", is_many=False)
    assert "no list of numbers" in foreign.words(Fields(JSON._replace(members=counted), JSON.members(value)))
    assert 1000 <= cut < 5000  # of a hundred thousand


def test_a_vector_is_searched_for_in_a_bounded_number_of_bytes() -> None:
    cut = 0

    def counted(decode: Any) -> Any:
        def decode_counted(raw: Any) -> Any:
            nonlocal cut
            cut += len(memoryview(raw))
            return decode(raw)

        return decode_counted

    value = b'{"a":{"b":[' * 200 + b"[%s]" % (b"1.5," * 10_000 + b"1") + b"]}}" * 200
    encoding = JSON._replace(members=counted(JSON.members), elements=counted(JSON.elements))
    Foreign(3, "data.float32", "none", is_many=False).words(Fields(encoding, JSON.members(value)))
    assert len(value) < cut < 60 * len(value)


@pytest.mark.parametrize("name", hostile_records.RECORDS)
def test_no_hostile_record_makes_the_search_fail(name: str) -> None:
    value = hostile_records.RECORDS[name]()
    for reason in (Reason.MALFORMED, Reason.KEY):
        Looks(TARGET).hint(RecordError(reason, "neither the value nor"), value, None)


@pytest.mark.parametrize("length", range(25))
def test_no_short_value_makes_the_search_fail(length: int) -> None:
    random = np.random.default_rng(length)
    looks, error = Looks(TARGET), RecordError(Reason.MALFORMED, "not base64")
    for _ in range(200):
        looks.hint(error, random.bytes(length), None)
        looks.hint(error, BODY[: random.integers(len(BODY))] + random.bytes(length), None)


def test_a_fault_of_the_search_costs_its_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "fields_of", fail)
    assert refusal(b"{}").message == "the JSON is not a vector record: it has no data; needed is data.float32"
