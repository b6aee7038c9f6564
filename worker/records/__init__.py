"""From a Kafka message to a validated vector and its finished JSON fragment.

    message (key, value, headers)
      → format     formats/        what the message says: a `Record`, or an error
      → checks     keys, vector,   what the index and the service allow, each rule once for all formats
                   metadata
      → outcome    decode.py       `Put`, `Delete` or `Ignore`

`Decoder` (decode.py) is made once for each route, and its format is chosen then. No record chooses it again.

How to add a format
-------------------

1. Write `formats/NAME.py` with a class that has `read(key, value, headers)`. It returns a `Record` (`formats/contract.py`, which
   is the whole contract) or raises `RecordError` with one of the fixed reasons.
2. Add its line to `FORMATS` in `formats/table.py`, and its name to `Format` in `choices.py`, from where the setting has it.
3. Write `tests/unit/test_NAME.py`, and add its records to `test_record_rules.py`, which compares every format with a slow reader.

A format reads; it does not judge. Dimension, range, zero, size and the limits of metadata are checked after it, for all alike.
What costs much to read (a long list of numbers, metadata) may be returned unread: it is read only once what comes before it
was found good, so that the order of the checks, and with it the reason of a dead letter, is the same in every format.

Where the other kinds of formats are
------------------------------------

- An envelope wraps the reader of the route. Those of Kafka Connect and Debezium are in the encoding of their message and are opened
  there (`envelopes.py`). A CloudEvent is opened before the format is chosen, for its data may be in any (`cloud_events.py`).
- Another shape (`records.fields`) is read by `mapped.py`, whose typed decoder is made of the paths, once for each route. The
  service's own shape stays with `at_once.py`, which is faster; tests hold that both read the same record.
- A value that is a vector and nothing else is not parsed: `vector_alone.py` takes the other parts from around it.
- A schema registry is `by_schema.py`: it makes MessagePack of Avro and Protobuf, which the reader of MessagePack then reads. So
  whatever that one learns (paths, templates) holds for them too.
- Several records in one message: `several.py` cuts it before the format, which then reads each of them as a message.
- An index that a header or a field of the record chooses is chosen before the decoder, of which there is one for each index:
  `routing_value.py` reads that field alone. The checks that depend on the index are separate objects for that reason.
"""
