"""Benchmarks of samplers."""
