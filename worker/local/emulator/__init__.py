"""The OSS vector service on this machine: an emulator for tests, demos and load.

It answers the operations that a writer and its reader need (vectors, indexes, buckets), enforces the service's
documented limits, verifies signatures, and fails on demand. It shares no code with the rest of `worker`, so a mistake
in the worker's own checks cannot hide here.

    service.py    one request, step by step: signature, faults, the operation itself, the answer
    operations.py what a request asks for: host, operation, body; descriptions.py how the answers describe things
    rules.py      request bodies and the service's limits
    errors.py     how a request is refused; answers.py the answers that are no successes
    filters.py    the metadata filter language of QueryVectors
    signature.py  OSS signature version 4
    store.py      buckets, indexes, vectors, exact search; disk.py keeps them over restarts
    faults.py     fault rules and adjustable limits; control.py the control path and the journal of requests
    server.py     the process: socket, signals, connection resets

How a client reaches it. The service has one host name for each bucket, `{bucket}-{accountId}.{endpoint}`, and so has
the emulator: with the endpoint `http://localhost:9000` the official SDK calls `http://demo-1234.localhost:9000`.
systemd-resolved, nss-myhostname, macOS and browsers resolve every name under `.localhost` to this machine. Where
nothing does (glibc alone, as in slim containers), add the name to the hosts file: `127.0.0.1 demo-1234.localhost`.

Credentials: the access key id `test` with the secret `test`, unless the environment sets OSS_EMULATOR_ACCESS_KEY_ID and
OSS_EMULATOR_ACCESS_KEY_SECRET. Any account id and any region are accepted. The control path is described in control.py.
It listens on 127.0.0.1, or on the address in OSS_EMULATOR_HOST.
"""

from worker.local.emulator.server import run

__all__ = ["run"]
