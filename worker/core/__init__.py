"""The decision: events in, effects out. It is pure and deterministic, and it is the only place that changes money."""
