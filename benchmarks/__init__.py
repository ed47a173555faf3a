"""Benchmarks quoted in the documentation. The pipeline does not import them."""
