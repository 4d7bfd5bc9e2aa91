"""Benchmarks of differential equations."""
