"""Data-quality initialisation: the static flags of a detector, laid over the flags that an image came with.

This is the arithmetic of the stage ``dq_init``. It needs neither Prefect nor a store, so that a notebook or a
single-file command loads in a fraction of the time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import ReferenceMismatchError, ShapeMismatchError
from tasks.products.detector import DetectorImage, DQReference, as_flag_plane
from tasks.products.dq import DQFlag
from tasks.products.windows import Window
from tasks.science.dq_flags import TranslatedFlags, clear_flags, translate_flags
from tasks.science.stripes import assemble_stripes
from tasks.science.subarrays import describe_window, view_window


def cut_reference(image: DetectorImage, reference: DQReference) -> NDArray[np.uint32]:
    """Return the flags of a reference at the pixels of an image, numbered as the file does.

    An image that does not say which part of the detector it covers must have the shape of the reference.

    Returns
    -------
    NDArray
        Shape ``image.flags_shape``; may share memory with the reference.

    Raises
    ------
    ReferenceMismatchError
        If the image covers a part of the detector that the reference does not hold.
    """
    covered = reference.window or Window.full(reference.dq.shape)
    if image.window is None and image.shape != covered.shape:
        raise ReferenceMismatchError(
            f"{image.subject} has shape {image.shape} and no SUBSTRT1 and SUBSTRT2, but reference {reference.name} "
            f"covers {describe_window(covered)} of the detector; give the image these keywords or another reference."
        )
    wanted, name = image.window or covered, f"reference {reference.name}"
    # a reference of the same window as an image in stripes is one that was made in its stripes
    if image.stripes is not None and (image.n_superstripes or wanted != covered):
        return assemble_stripes(reference.dq, covered, wanted, image.stripes, name=name, subject=image.subject)
    return view_window(reference.dq, covered, wanted, name=name, subject=image.subject)


def lay_flags(
    image: DetectorImage,
    reference: DQReference | None,
    *,
    ignored_flags: Sequence[str] = (),
    user_dq: ArrayLike | None = None,
) -> DetectorImage:
    """Give an image its DQ arrays and the static flags of its detector; see `tasks.dq_init.initialize_dq`."""
    if reference is None:
        unused = () if user_dq is None else ("no reference applies, so the user's flags were not used either",)
        groups = image.groupdq if image.groupdq is None else image.groupdq.copy()
        if groups is None and image.has_group_flags:
            groups = np.zeros(image.data.shape, np.uint8)
        return replace(image, pixeldq=image.flags.copy(), groupdq=groups, warnings=_joined(image, unused))
    translated = translate_flags(cut_reference(image, reference), reference.definitions)
    static = clear_flags(translated.dq, ignored_flags) if ignored_flags else translated.dq
    if user_dq is not None:
        static |= _checked_user_flags(user_dq, image, static.shape)
    return replace(
        image,
        groupdq=_group_flags(image, static),
        # of the pixels at last: where the image came without flags, they are the array of the static ones
        pixeldq=static if image.pixeldq is None else np.bitwise_or(image.pixeldq, static, out=static),
        warnings=_joined(image, _sentences(translated, reference)),
    )


def _checked_user_flags(user_dq: ArrayLike, image: DetectorImage, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    flags = as_flag_plane(user_dq, "The user's flags")
    if flags.shape != shape:
        raise ShapeMismatchError(
            f"The user's flags have shape {flags.shape}, but {image.subject} needs {shape}; cut them to the pixels of "
            "the image."
        )
    return flags


def _group_flags(image: DetectorImage, static: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
    """Return the flags of the groups, with DO_NOT_USE wherever the static flags have it."""
    if not image.has_group_flags:
        return None
    unusable = static.astype(np.uint8)  # the lowest byte, which has the flag
    unusable &= np.uint8(DQFlag.DO_NOT_USE)
    nints, ngroups, ny, nx = image.data.shape
    # integration i of superstripes is stripe i modulo their number; otherwise there is one stripe, the whole image
    stripes = unusable.reshape(-1, 1, ny, nx)
    flags = np.empty((nints, ngroups, ny, nx), np.uint8)
    sets = flags.reshape(-1, len(stripes), ngroups, ny, nx)
    if image.groupdq is None:
        sets[:] = stripes
    else:
        np.bitwise_or(image.groupdq.reshape(sets.shape), stripes, out=sets)
    return flags


def _sentences(translated: TranslatedFlags, reference: DQReference) -> tuple[str, ...]:
    told = [f"{reference.name} defines {name}, which is no standard flag: ignored" for name in translated.unknown_names]
    if translated.undefined_bits:
        told.append(f"{reference.name} has bits without a definition ({translated.undefined_bits:#x}): ignored")
    return tuple(told)


def _joined(image: DetectorImage, told: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*image.warnings, *told)))
