"""When a request may leave: retry delays, adaptive rates and limits, and the gate that an index closes."""
