"""What the worker shows of itself: metrics, state, log, health and the page."""
