"""The schema registry: asks it for schemas, and reads Avro and Protobuf by them into MessagePack.

    client.py      asks the registry, over HTTP: one schema with all that it refers to
    book.py        the schemas that are here, and what reads their bodies; for a command it asks at once
    avro.py        Avro by a schema that fastavro has parsed; avro_logical.py: dates, times and decimals in it
    protobuf.py    Protobuf by a schema that protoc has compiled (protoc.py); indexes.py says which of its messages a body is;
                   known_protos.py has files that schemas import without a reference
    bounds.py      what a schema may be, and what it may add to a body; descriptors.py so that no body of Protobuf costs more
    packed.py      lists of floats, read at once
    texts.py       dates, times and decimals as text

`worker.app.schemas` asks for them on a thread of its own, so that the main loop never waits for the registry.

Why these libraries: fastavro and protobuf (with grpcio-tools, which brings protoc) are what is most used, and are well kept.
The registry's API is three GET requests, so they are made with the HTTP client of the service, whose time, size, redirects
and cookies are bounded already. confluent-kafka's client would bring librdkafka, a second Kafka client, for that alone.
Registries also give compiled Protobuf (`format=serialized`), but not all as base64: Apicurio Registry 3.3 gives its bytes as
text, which destroys them. The text of a schema is what all of them give alike.
"""
