"""A camera's own flag images in the standard data-quality flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.products.dq import DQFlag
from tasks.products.instrument import FlagBit
from tasks.science.dq_flags import encode_flags


def translate_flag_image(
    flag: NDArray[np.generic], meanings: Sequence[FlagBit], *, codes: bool = False
) -> NDArray[np.uint32]:
    """Return a flag image in the standard flags.

    Bits, or codes, whose meaning is not listed become DO_NOT_USE: what is not understood is not used.

    Parameters
    ----------
    flag
        Bits or codes of the camera, any integer type, shape (ny, nx); not changed.
    meanings
        Value and standard name of each bit or code.
    codes
        Whether a pixel holds one code, and not the sum of bits.

    Returns
    -------
    ndarray
        Standard flags, shape (ny, nx), uint32.

    Raises
    ------
    ConfigError
        If a meaning is not in the standard table.
    """
    dq = np.zeros(flag.shape, np.uint32)
    where = np.nonzero(flag)  # few pixels are flagged: translate only these
    values = flag[where].astype(np.int64)
    standard = np.zeros(values.shape, np.uint32)
    understood = np.zeros(values.shape, np.int64)
    for meaning in meanings:
        carries = (values == meaning.value) if codes else (values & meaning.value) != 0
        standard[carries] |= np.uint32(encode_flags([meaning.name]))
        understood[carries] |= values[carries] & meaning.value
    standard[understood != values] |= np.uint32(DQFlag.DO_NOT_USE)
    dq[where] = standard
    return dq
