"""Our side of the timings, in a process that does nothing else: ``ours.py memory|file EXPOSURE REFERENCE CALLS``."""

import json
import sys
import time
from collections.abc import Callable

from measuring import peak_kib, remove_outputs


def main() -> None:
    """Time calls on one exposure: on a ramp in memory, or from file to file; the reference is read every time."""
    kind, exposure, reference, calls = sys.argv[1:]
    call = in_memory(exposure, reference) if kind == "memory" else from_file_to_file(exposure, reference)
    seconds = []
    for _ in range(int(calls)):
        remove_outputs(exposure)
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
        del result
    print(json.dumps({"seconds": seconds, "peak_kib": peak_kib()}))


def in_memory(exposure: str, reference: str) -> Callable[[], object]:
    """Load the ramp, and return the call that is timed."""
    from dataclasses import replace

    import numpy as np
    from astropy.io import fits

    from tasks.archive.detector_files import read_detector_file
    from tasks.archive.reference_bytes import read_dq_reference_file
    from tasks.science.static_flags import lay_flags

    image = read_detector_file(exposure).image
    image = replace(image, data=np.asarray(fits.getdata(exposure, "SCI", memmap=False)))
    return lambda: lay_flags(image, read_dq_reference_file(reference))


def from_file_to_file(exposure: str, reference: str) -> Callable[[], object]:
    """Return the call that is timed."""
    from flows.dq_file import initialize_dq_file

    return lambda: initialize_dq_file(exposure, f"{exposure}.ours.fits", override=reference)


if __name__ == "__main__":
    main()
