"""Envelopes, and changes of rows in other forms than Debezium's, by the names of their fields. Only for messages.

    Debezium, Kafka Connect, CloudEvents    records.envelope reads them
    Maxwell, AWS DMS, MongoDB's connector   records.fields reads them, with a mark of deletion
    GoldenGate                              likewise, by the Kafka key: its deletes have their row elsewhere
    Canal, TiCDC, Flink's canal-json        not read: the rows are in a list, and the mark of deletion is beside it

Which settings read a change depends on where it has its row, its key and its mark of deletion. Advice without the mark would
make vectors of deleted rows.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from worker.records.formats.envelopes import without_row
from worker.records.formats.toast import has_unchanged
from worker.records.formats.values import Kind, Raw
from worker.records.members import NOTHING, Encoding, members_of, text_of

DELETED: Final[Mapping[str, str]] = {
    "__deleted": "an unwrapped row of Debezium",
    "__op": "an unwrapped row of Debezium",
    "op_type": "a row of GoldenGate",
}
"""Fields of a row that say that it is deleted, as `records.fields.delete` reads them, and whose rows have them."""

CANAL_DELETES: Final = "DELETE"
"""The `type` of a change of Canal whose rows are deleted."""

_OF_CANAL: Final = frozenset(("isDdl", "mysqlType", "sqlType", "pkNames"))
_TYPES: Final = frozenset(("insert", "update", "delete"))  # in lower case
_CANAL: Final = (
    "not read, because the mark of deletion is beside the rows: split into its rows, each DELETE would be written; use "
    'Debezium, or its form, which TiCDC and Flink write too (records.envelope = "debezium")'
)


class Envelope(NamedTuple):
    """An envelope: what it is called, its setting, the record in it if there is one, and what else is to be said."""

    name: str
    setting: str
    row: Raw | None
    note: str = ""


class Change(NamedTuple):
    """A change in a form that no envelope is for. Where `row` is "", no settings read it, and `note` says why.

    `row` is the field that has the row; `keys` the field that has its key, "" for the row; `delete` the path of the mark of
    deletion; `more` are further settings.
    """

    name: str
    row: str = ""
    keys: str = ""
    delete: str = ""
    more: str = ""
    note: str = ""


def envelope_of(encoding: Encoding, members: Mapping[str, Raw]) -> Envelope | None:
    """Return the envelope that a value is, None if it is none."""
    if "schema" in members and "payload" in members:
        payload = members["payload"]
        inner = envelope_of(encoding, members_of(encoding, payload) or {})
        return inner or Envelope("a record of Kafka Connect", "connect", payload)
    if "op" in members and ("after" in members or "before" in members or "message" in members):
        return Envelope("a change of Debezium", "debezium", members.get("after"), _debezium_note(encoding, members))
    if "specversion" in members and ("data" in members or "data_base64" in members):
        return Envelope("a CloudEvent", "cloudevents", members.get("data"))
    said = without_row(members, encoding.kind, lambda raw: text_of(encoding, raw))
    return Envelope(said, "debezium", None) if said else None


def change_of(encoding: Encoding, members: Mapping[str, Raw]) -> Change | None:
    """Return the change of a row that a value is in another form, None if it is none."""
    kind = encoding.kind(members.get("data", NOTHING))
    is_typed = text_of(encoding, members.get("type", NOTHING)).lower() in _TYPES
    is_of_flink = is_typed and members.keys() - {"old"} == {"data", "type"}
    if "data" in members and (not _OF_CANAL.isdisjoint(members) or (is_of_flink and kind is Kind.LIST)):
        return Change("a change of Canal, TiCDC or Flink", note=_CANAL)
    if kind is Kind.MAP and is_typed and (is_of_flink or {"database", "table"} <= members.keys()):
        return Change("a change of Maxwell", "data", delete="type")
    if "data" in members and "operation" in (members_of(encoding, members.get("metadata", NOTHING)) or {}):
        return Change("a change of AWS DMS", "data", delete="metadata.operation", more='records.fields.metadata = ""')
    if "operationType" in members and ("documentKey" in members or "ns" in members):
        return Change("a change of MongoDB's connector", "fullDocument", "documentKey", "operationType")
    if "op_type" in members and ("after" in members or "before" in members):
        return Change(
            "a change of GoldenGate", "after", "$kafka.key", "op_type",
            note="a delete has no after, so the Kafka key has to be the primary key",
        )  # fmt: skip
    return None


def _debezium_note(encoding: Encoding, members: Mapping[str, Raw]) -> str:
    if encoding.kind(members["op"]) is Kind.STRING and text_of(encoding, members["op"]) == "t":
        return "it is a truncate of the table, which deletes no vectors: delete them by hand"
    row = members.get("after")
    if row is not None and has_unchanged(bytes(row)):
        return (
            "a column has Debezium's placeholder of an unchanged TOAST value, so the row is not whole: "
            "set REPLICA IDENTITY FULL for the table"
        )
    return ""
