"""The fault suite is a program, not an installed package: its tests import it from where it lies."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
