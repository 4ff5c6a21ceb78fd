"""Two small stages for the tests of the stage machinery; they live in a module because worker processes import them."""

import logging
import os
import signal
import time

from blocks.store import DataStore
from tasks.archive.fits_files import get_bytes, put_bytes
from tasks.errors import DataError
from tasks.products.config import StageConfig
from tasks.products.identity import CcdId, ProductRef
from tasks.stage import stage


class WriteConfig(StageConfig):
    """Settings of the first stage."""

    text: str = "a"
    fail_ccd: int = -1
    crash_ccd: int = -1
    kill_worker_of_ccd: int = -1
    lose_network: int = 0
    wait_s: float = 0.0


class CopyConfig(StageConfig):
    """Settings of the second stage."""

    times: int = 1


@stage(name="write")
def write_task(ccd: CcdId, config: WriteConfig, store: DataStore) -> ProductRef:
    logging.getLogger("shearline.write").info("writing %s", ccd)
    if ccd.ccd == config.fail_ccd:
        raise DataError(f"CCD {ccd} is bad.")
    if ccd.ccd == config.crash_ccd:
        raise ZeroDivisionError("a bug")
    if ccd.ccd == config.kill_worker_of_ccd:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.wait_s:
        store.put_bytes(f"started/{ccd}", str(os.getpid()).encode())
        time.sleep(config.wait_s)
    if config.lose_network:
        tries = len(store.list_keys("tries"))
        store.put_bytes(f"tries/{tries}", b"")
        if tries < config.lose_network:
            raise OSError("connection reset")
    return put_bytes(store, f"written/{ccd}", config.text.encode(), subject=ccd, summary={"pid": os.getpid()})


@stage(name="copy")
def copy_task(source: ProductRef, config: CopyConfig, store: DataStore) -> ProductRef:
    return put_bytes(store, f"copied/{source.subject}", get_bytes(store, source) * config.times, subject=source.subject)
