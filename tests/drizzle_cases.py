"""Images, and maps of their pixels, for the tests of the drizzle engine."""

import warnings

import numpy as np
from drizzle.resample import Drizzle

from tasks.science.drizzling import DrizzleImage
from tasks.science.pixel_map import PixelMap

SHAPE = (60, 70)
OUT_SHAPE = (110, 120)
N_VARIANCES = 3
PLANES = ("data", "weight", "context", "averaged_variances", "propagated_variances", "error", "dq", "exposure_time")
EVERYTHING = {"variances": N_VARIANCES, "propagated": True, "error": True, "dq": True, "exposure_time": True}


def mapping(angle_deg=3.0, scale=1.0, distortion=1.0, offset=(24.3, 27.8), flip=False):
    """To an output of OUT_SHAPE from an image of SHAPE: turned, scaled and distorted about its middle."""
    turn = np.deg2rad(angle_deg)

    def to_output(x, y):
        u, v = x - 34.5, y - 29.5
        dx = distortion * (2e-4 * u**2 - 1e-4 * u * v + 1e-6 * v**3)
        dy = distortion * (-1e-4 * v**2 + 2e-4 * u * v)
        u, v = scale * (u + dx) * (-1 if flip else 1), scale * (v + dy)
        return (
            offset[0] + 34.5 + np.cos(turn) * u - np.sin(turn) * v,
            offset[1] + 29.5 + np.sin(turn) * u + np.cos(turn) * v,
        )

    return to_output


def positions(to_output, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return np.stack(to_output(x, y), axis=-1)


def exposure(seed=0, shape=SHAPE, bad=0.05):
    """Data with noise and a star, weights with holes, three variances, and flags at 1 % of the pixels."""
    rng = np.random.default_rng(seed)
    data = rng.normal(1.0, 0.5, shape).astype(np.float32)
    data[shape[0] // 2, shape[1] // 3] += 300
    variances = tuple((v * rng.uniform(0.5, 2.0, shape)).astype(np.float32) for v in (0.1, 0.2, 0.3))
    weight = np.where(rng.random(shape) < bad, 0, 1 / variances[0]).astype(np.float32)
    dq = np.where(rng.random(shape) < 0.01, 1 << rng.integers(0, 32, shape), 0).astype(np.uint32)
    return data, weight, variances, dq


def listed_image(to_output, seed=0, **changes):
    """An exposure whose map lists the exact positions, so that the `drizzle` package sees the same ones."""
    data, weight, variances, dq = exposure(seed)
    fields = {"data": data, "weight": weight, "variances": variances, "dq": dq, "scale_ratio": 1.0} | changes
    return DrizzleImage(pixel_map=PixelMap.from_positions(positions(to_output)), **fields)


def full_image(seed=0, angle=3.0, **changes):
    return listed_image(mapping(angle), seed, error=np.sqrt(exposure(seed)[2][1]), exposure_time=60.0, **changes)


def planes(out):
    return {name: getattr(out, name) for name in PLANES}


def assert_equal_planes(one, other):
    for name, plane in planes(one).items():
        np.testing.assert_array_equal(plane, planes(other)[name], err_msg=name)


def drizzled(images, kernel="square", pixfrac=1.0, out_shape=OUT_SHAPE, plane=None, fillval="0", with_variances=False):
    """The images drizzled by the `drizzle` package: their data, or another plane of theirs."""
    out = Drizzle(kernel=kernel, out_shape=out_shape, fillval=fillval)
    for image in images:
        data = image.data if plane is None else plane(image)
        with warnings.catch_warnings():
            # it warns of every kernel that does not conserve flux
            warnings.simplefilter("ignore")
            out.add_image(
                data,
                exptime=1.0,
                pixmap=image.pixel_map.dense(),
                weight_map=image.weight,
                pixfrac=pixfrac,
                pixel_scale_ratio=image.scale_ratio,
                dq=image.dq,
                data2=list(image.variances) if with_variances else None,
            )
    return out
