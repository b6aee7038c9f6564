"""The benchmark: what this worker costs, beside a naive one and beside the floor of its components.

`python -m tests.bench` prints a table of ratios, each of medians of interleaved rounds in one run, with the spread;
`--json FILE` also writes them, `--profile FILE` draws the worker's flame graph, `--smoke` is small and fails only on errors
and on ratios of bytes: those of time depend on what else the machine does. Figures of different runs are not comparable,
ratios are.

    data.py     records of every size and encoding, as Kafka record batches
    sink.py     an HTTP sink, a process of its own, that is never the bottleneck
    chains.py   the naive chain, the component floor, and this worker's parts, on the same batches
    shapes.py   other shapes, envelopes and forms of records, decoded beside the service's own
    kafka.py    whole processes on a real Kafka: this worker, and the naive script (naive.py)
"""
