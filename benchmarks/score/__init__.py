"""Benchmarks of score-matching objectives."""
