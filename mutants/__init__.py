"""Mutation testing of the numerical modules: `python -m mutants`."""
