"""Exports of other tools and benchmarks, read into one table of history."""
