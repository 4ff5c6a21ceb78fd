"""The parts of ``benchmarks/dq.py``: cases, the peer's side and our side; each side runs in its own environment."""
