"""What recipes/benchmark.py measures, and how."""
