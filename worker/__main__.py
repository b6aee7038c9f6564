"""`python -m worker` is `oss-vectors-worker`."""

from worker.cli import main

main()
