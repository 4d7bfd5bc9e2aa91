"""Benchmarks of whole experiments."""
