"""PSF model of a CCD on its pixels, with a polynomial in the position: evaluation, and what evaluation needs."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tasks.products.psf import PsfModel
from tasks.science.moments import adaptive_moments

Floats = NDArray[np.float64]

SHIFT_PADDING = 12
LANCZOS_ORDER = 5
CHUNK = 512


def polynomial_terms(x: Floats, y: Floats, degree: int) -> Floats:
    """Return 1, x, x^2, ..., y, xy, ..., the terms of PSFEx in its order, shape (n, n_terms)."""
    return np.stack([x**j * y**i for i in range(degree + 1) for j in range(degree + 1 - i)], axis=-1)


def shift_images(images: Floats, dx: Floats, dy: Floats) -> Floats:
    """Move images by fractions of a pixel.

    The shift is a phase in Fourier space: exact for what is sampled well, and white noise stays white.

    Parameters
    ----------
    images
        Shape (n, ny, nx); taken as zero outside. Not changed.
    dx, dy
        Motion of the content towards larger x and y in pixels, shape (n,).

    Returns
    -------
    ndarray
        Shape (n, ny, nx).
    """
    ny, nx = images.shape[1:]
    my, mx = _odd_fast_size(ny + SHIFT_PADDING), _odd_fast_size(nx + SHIFT_PADDING)
    spectrum = scipy.fft.rfft2(images, s=(my, mx))
    phase_x = np.exp(-2j * np.pi * np.fft.rfftfreq(mx) * dx[:, None])
    phase_y = np.exp(-2j * np.pi * np.fft.fftfreq(my) * dy[:, None])
    spectrum *= phase_y[:, :, None] * phase_x[:, None, :]
    return np.asarray(scipy.fft.irfft2(spectrum, s=(my, mx))[:, :ny, :nx])


def _odd_fast_size(size: int) -> int:
    # an even size has a frequency whose phase is not defined
    while True:
        rest = size
        for prime in (3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def evaluate_psf(model: PsfModel, x: Floats, y: Floats, *, size: int = 51) -> NDArray[np.float32]:
    """Return the PSF at positions of a CCD.

    The images are brought to the pixels of the CCD, centred (the centroid of the adaptive moments lies on the central
    pixel), not negative, and of sum 1.

    Parameters
    ----------
    model
        The model; not changed.
    x, y
        Positions on the CCD, pixels from 0, shape (n,).
    size
        Side of the images in pixels, odd.

    Returns
    -------
    ndarray of float32
        Shape (n, size, size); all zero where the model has no flux.

    Raises
    ------
    ValueError
        If the size is even or not positive.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a PSF image needs a central pixel, so its size must be odd and positive, not {size}")
    x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
    terms = polynomial_terms((x - model.x0) / model.x_scale, (y - model.y0) / model.y_scale, model.degree)
    coefficients = resample_to_pixels(model, size)
    images = np.empty((len(x), size, size), np.float32)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        # einsum, unlike a product of matrices, sums in the same order whatever the number of threads
        images[part] = normalise(np.einsum("nk,kij->nij", terms[part], coefficients))
    return images


def resample_to_pixels(model: PsfModel, size: int) -> Floats:
    """Return the coefficients on the pixels of the CCD, shape (n_terms, size, size), by Lanczos interpolation.

    A model whose pixels are those of the CCD is only cut or padded with zeros.
    """
    coefficients = model.coefficients.astype(np.float64)
    ny, nx = coefficients.shape[1:]
    rows, cols = (_lanczos_weights(n, size, model.sampling) for n in (ny, nx))
    path = ["einsum_path", (0, 1), (0, 1)]
    return np.asarray(np.einsum("ia,kab,jb->kij", rows, coefficients, cols, optimize=path))


def _lanczos_weights(n_in: int, n_out: int, sampling: float) -> Floats:
    """Return the weight of every pixel of the model for every pixel of the CCD along one axis."""
    place = (np.arange(n_out) - n_out // 2) / sampling + n_in // 2
    weights = _lanczos(place[:, None] - np.arange(n_in)[None, :])
    # the kernel keeps a constant only nearly; the samples beyond the model's edge count, they are zero
    around = np.arange(-LANCZOS_ORDER, LANCZOS_ORDER + 1)
    return np.asarray(weights / _lanczos((place - np.rint(place))[:, None] - around).sum(axis=1, keepdims=True))


def _lanczos(distance: Floats) -> Floats:
    inside = np.abs(distance) < LANCZOS_ORDER
    return np.asarray(np.sinc(distance) * np.sinc(distance / LANCZOS_ORDER) * inside)


def normalise(images: Floats) -> Floats:
    """Centre images on their central pixel, cut negative values and give them sum 1; zero where there is no flux."""
    center = images.shape[-1] // 2
    moments = adaptive_moments(images, guess_sigma=2.0)
    good = moments.flag == 0
    dx, dy = np.where(good, center - moments.x, 0.0), np.where(good, center - moments.y, 0.0)
    result = np.maximum(shift_images(images, dx, dy), 0.0)
    total = result.sum(axis=(1, 2))
    usable = np.isfinite(total) & (total > 0.0)
    result = np.where(usable[:, None, None], result, 0.0) / np.where(usable, total, 1.0)[:, None, None]
    return np.asarray(result)


def full_width(image: Floats, *, zoom: int = 5) -> float:
    """Return the full width at half maximum of a well-sampled image, in its pixels: of the circle of equal area."""
    n = image.shape[0] if image.shape[0] % 2 else image.shape[0] - 1
    spectrum = scipy.fft.fftshift(scipy.fft.fft2(image[:n, :n]))
    fine = np.abs(scipy.fft.ifft2(scipy.fft.ifftshift(np.pad(spectrum, (zoom - 1) * n // 2))))
    area = float(np.count_nonzero(fine > 0.5 * fine.max())) / zoom**2
    return 2.0 * float(np.sqrt(area / np.pi))
