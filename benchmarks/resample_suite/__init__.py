"""The parts of ``benchmarks/resample.py``: inputs, the two sides, the comparison; each side has its own environment."""
