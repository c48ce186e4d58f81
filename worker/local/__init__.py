"""A whole system on this machine: broker, demo, chaos, bench and load."""
