"""Small exposures for the tests of Resample: coordinates of every kind, and models as pipelines hand them over."""

from types import SimpleNamespace

import numpy as np
from astropy.wcs import WCS, Sip

from tasks.science.resample import Resample

CENTRE = (213.7, 54.1)
SCALE = 0.2
SHAPE = (44, 52)
VARIANCES = ("var_rnoise", "var_flat", "var_poisson")


def tan_wcs(shape=SHAPE, *, scale=SCALE, angle_deg=0.0, shift=(0.0, 0.0), centre=CENTRE, kind="TAN"):
    """Tangent projection centred on the middle of an image; a shift is in pixels."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{kind}", f"DEC--{kind}"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2 + shift[0], (shape[0] + 1) / 2 + shift[1]]
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    wcs.wcs.cd = np.array([[-cosine, sine], [sine, cosine]]) * scale / 3600
    wcs.array_shape = shape
    wcs.wcs.set()
    return wcs


def sip_wcs(shape=SHAPE, **changes):
    """The same with some pixels of distortion at the corners."""
    wcs = tan_wcs(shape, kind="TAN-SIP", **changes)
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[2, 0], a[1, 1], a[3, 0] = 4e-4, -2e-4, 3e-6
    b[0, 2], b[2, 0], b[0, 3] = 3e-4, 2e-4, -2e-6
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def tpv_wcs(shape=SHAPE, **changes):
    """The same as a polynomial of the tangent plane."""
    header = tan_wcs(shape, **changes).to_header()
    for axis in (1, 2):
        header[f"CTYPE{axis}"] = ("RA---TPV", "DEC--TPV")[axis - 1]
        header.update({f"PV{axis}_1": 1.0, f"PV{axis}_4": 2.0, f"PV{axis}_5": -1.0, f"PV{axis}_7": 300.0})
    wcs = WCS(header)
    wcs.array_shape = shape
    return wcs


class FrameWCS:
    """What gwcs offers, around a FITS WCS: the bounding box turns coordinates outside it into NaN, both ways."""

    def __init__(self, wcs, *, bounding_box="image", axes_type=("SPATIAL", "SPATIAL"), naxes=None):
        self.wcs = wcs
        self.array_shape = wcs.array_shape
        ny, nx = wcs.array_shape or (0, 0)
        self.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5)) if bounding_box == "image" else bounding_box
        self.output_frame = SimpleNamespace(axes_type=axes_type, naxes=naxes or len(axes_type))
        self.pixels_asked_for = 0

    @property
    def pixel_shape(self):
        return None if self.array_shape is None else self.array_shape[::-1]

    def __call__(self, x, y):
        return self.pixel_to_world_values(x, y)

    def pixel_to_world_values(self, x, y):
        self.pixels_asked_for += np.size(x)
        world = self.wcs.all_pix2world(x, y, 0)
        outside = self._outside(x, y)
        sky = [np.where(outside, np.nan, values) for values in world]
        # a spectrum: the wavelength grows along x
        spectral = [1.0 + 0.01 * np.asarray(x)] if "SPECTRAL" in self.output_frame.axes_type else []
        return tuple(sky + spectral)

    def world_to_pixel_values(self, lon, lat, *_spectral):
        x, y = self.wcs.all_world2pix(lon, lat, 0)
        outside = self._outside(x, y)
        return np.where(outside, np.nan, x), np.where(outside, np.nan, y)

    def _outside(self, x, y):
        if self.bounding_box is None:
            return np.zeros(np.shape(x), bool)
        (x_min, x_max), (y_min, y_max) = self.bounding_box
        return ~((x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max))


def make_model(wcs=None, data=2.0, *, shape=SHAPE, **changes):
    """A model with all that every setting needs; a float as an array stands for a constant image."""
    shape = np.shape(data) if np.ndim(data) == 2 else shape
    model = {
        "data": data,
        "dq": np.zeros(shape, np.uint32),
        "err": 1.0,
        "var_rnoise": 0.1,
        "var_flat": 0.2,
        "var_poisson": 0.3,
        "filename": "exposure.fits",
        "group_id": "visit_1",
        "wcs": tan_wcs(shape) if wcs is None else wcs,
        "exposure_time": 100.0,
        "measurement_time": 90.0,
        "start_time": 60_000.0,
        "end_time": 60_000.1,
        "duration": 110.0,
        "pixelarea_steradians": (SCALE / 206264.80624709636) ** 2,
        "level": None,
        "subtracted": False,
    } | changes
    for name in ("data", "err", "var_sky", *VARIANCES):
        if isinstance(model.get(name), float):
            model[name] = np.full(shape, model[name], np.float32)
    return model


def noisy_model(wcs, seed=0, *, shape=SHAPE, **changes):
    """A model whose planes all differ from pixel to pixel, with some bad pixels."""
    rng = np.random.default_rng(seed)
    planes = {name: rng.uniform(0.5, 2.0, shape).astype(np.float32) for name in ("err", *VARIANCES)}
    dq = (rng.uniform(size=shape) < 0.03).astype(np.uint32)
    return make_model(wcs, rng.normal(3.0, 1.0, shape).astype(np.float32), dq=dq, **planes) | changes


def output_grid(ratio=1.0, margin=0, **changes):
    """An output that an exposure fits on, with a margin in input pixels; a ratio is that of pixel sizes."""
    shape = tuple(round((side + margin) / ratio) for side in SHAPE)
    return {"wcs": tan_wcs(shape, scale=SCALE * ratio, **changes), "pixel_scale": SCALE * ratio}


def stack(*models, ratio=1.0, margin=0, grid=None, **settings):
    """The finalized output of some models."""
    resample = Resample(output_grid(ratio, margin) if grid is None else grid, **settings)
    for model in models:
        resample.add_model(model)
    resample.finalize()
    return resample.output_model


def inner(plane, margin=4):
    """The plane without its edge, where drops are whole."""
    return plane[..., margin:-margin, margin:-margin]
