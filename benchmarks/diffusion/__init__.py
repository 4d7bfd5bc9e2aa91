"""Benchmarks of diffusion samplers."""
