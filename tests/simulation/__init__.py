"""A simulator: the real lanes, committers and routers against a simulated log, simulated time and every kind of fault.

All randomness comes from one seed. `make simulate SEED=7` runs that seed again, `make simulate SEEDS=5000` many.
"""
