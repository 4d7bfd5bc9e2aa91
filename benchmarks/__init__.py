"""Speed, memory and accuracy beside the peers: `python -m benchmarks`."""
