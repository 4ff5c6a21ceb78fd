"""The peer's side of the comparison: ``DQInitStep`` of the public ``jwst`` package, in its own environment, offline.

Usage: ``peer.py results LIST``, ``peer.py prepare EXPOSURE PREPARED``, or ``peer.py memory|file EXPOSURE REFERENCE
CALLS``. The reference is given by override. The step asks CRDS for two more things: its default settings, which the
package can switch off and the caller does, and the name of the context for the header, which is answered here. Neither
touches a flag.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import stpipe.crds_client
from astropy.io import fits
from jwst.dq_init import DQInitStep
from measuring import peak_kib, remove_outputs
from stdatamodels.jwst import datamodels

FLAGS = ("pixeldq", "groupdq", "dq")


def main() -> None:
    """Do what the command line asks for and print one line of JSON."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    stpipe.crds_client.get_context_used = lambda *_: "N/A"
    kind, *arguments = sys.argv[1:]
    if kind == "results":
        results(arguments[0])
    elif kind == "prepare":
        prepare(*arguments)
    else:
        measure(kind, *arguments)


def results(listed: str) -> None:
    """Run the step on every case of a list and keep its flags."""
    statuses = []
    for case in json.loads(Path(listed).read_text(encoding="utf-8")):
        with open_exposure(case["exposure"]) as exposure:
            model = DQInitStep.call(exposure, override_mask=case["override"], user_supplied_dq=case["user"] or None)
            arrays = {name: getattr(model, name, None) for name in FLAGS}
            np.savez(case["peer"], **{name: array for name, array in arrays.items() if array is not None})
            statuses.append(model.meta.cal_step.dq_init)
    print(json.dumps(statuses))


def open_exposure(path: str) -> datamodels.JwstDataModel:
    """Open an exposure as the model that the step would open it as."""
    header = fits.getheader(path)
    if header["EXP_TYPE"].startswith("FGS_"):
        return datamodels.GuiderRawModel(path)
    return datamodels.SuperstripeRampModel(path) if header.get("SSTR_NST") else datamodels.RampModel(path)


def prepare(exposure: str, prepared: str) -> None:
    """Write an exposure again as the peer does, with the extension ASDF that it needs to open a path."""
    open_exposure(exposure).save(prepared)
    print(json.dumps(prepared))


def measure(kind: str, exposure: str, reference: str, calls: str) -> None:
    """Time calls on one exposure: on a ramp in memory, or from file to file; the reference is read every time."""
    model = None
    if kind == "memory":
        model = datamodels.RampModel(exposure)
        model.data  # noqa: B018 (loads the ramp)
    seconds = []
    for _ in range(int(calls)):
        remove_outputs(exposure)
        start = time.perf_counter()
        if model is not None:
            result = DQInitStep.call(model, override_mask=reference)
        else:
            result = DQInitStep.call(
                exposure, override_mask=reference, output_dir=str(Path(exposure).parent), save_results=True
            )
        seconds.append(time.perf_counter() - start)
        del result
    print(json.dumps({"seconds": seconds, "peak_kib": peak_kib()}))


if __name__ == "__main__":
    main()
