"""What worker processes have in common, imported once by the process that they are forked from.

That process reads no messages while it imports, which takes long on a busy machine, and would not notice that its
flow was killed.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence

MODULES = ("tasks.stage", "astropy.io.fits", "astropy.wcs", "photutils.segmentation", "numba", "scipy.fft", "galsim")
CHECK_S = 0.5


def load(modules: Sequence[str], parent: int) -> None:
    """Import modules, and end this process if its parent is gone meanwhile.

    Parameters
    ----------
    modules
        Their names.
    parent
        Process id of the parent.
    """
    loaded = threading.Event()

    def watch() -> None:
        while not loaded.wait(CHECK_S):
            if os.getppid() != parent:
                os._exit(1)

    watcher = threading.Thread(target=watch, name="end-with-the-flow", daemon=True)
    watcher.start()
    try:
        for name in modules:
            importlib.import_module(name)
    finally:
        loaded.set()
        # what is forked from here must find no other thread
        watcher.join()
