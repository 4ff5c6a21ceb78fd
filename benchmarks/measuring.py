"""What both sides of a comparison do alike; the standard library only, as each runs in an environment of its own."""

import ctypes
import gc
from pathlib import Path

PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""What makes the kernel forget the highest resident set so far (proc(5), clear_refs)."""


def remove_outputs(exposure: str) -> None:
    """Remove what an earlier call wrote: replacing a file costs time of the file system, and not of the step."""
    path = Path(exposure)
    for written in path.parent.glob(f"{path.stem}?*.fits"):
        written.unlink()


def peak_kib() -> int:
    """Return the highest resident set of this process, since it began or since `reset_peak`."""
    return _status("VmHWM")


def resident_kib() -> int:
    """Return the resident set of this process now."""
    return _status("VmRSS")


def release_memory() -> None:
    """Give memory that is free inside this process back to the system, so that using it again is seen as growth."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_peak() -> None:
    """Count the highest resident set from here on: what was needed to get here is not asked for."""
    (PROCESS / "clear_refs").write_text(RESET_PEAK, encoding="ascii")


def _status(name: str) -> int:
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
