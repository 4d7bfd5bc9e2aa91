"""Benchmarks of `probjax.sequence`."""
