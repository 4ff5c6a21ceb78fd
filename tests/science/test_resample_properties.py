"""What must hold whatever the input: flux, places of stars, noise, context bits, and the same bytes from any thread."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tasks.science.geometry import pixel_to_sky
from tasks.science.resample import Resample
from tasks.science.sphere import tangent_plane

CENTRE, SCALE = (53.1, -27.8), 0.187


def make_wcs(kind="TAN", shape=(100, 110), *, angle_deg=7.0, shift=(0.0, 0.0), scale=SCALE):
    """Coordinates of an input; the distortion of SIP and TPV is some pixels at the corners."""
    ny, nx = shape
    header, angle, step = fits.Header(), np.radians(angle_deg), scale / 3600
    suffix = {"TAN": "TAN", "SIP": "TAN-SIP", "TPV": "TPV"}[kind]
    header["CTYPE1"], header["CTYPE2"] = f"RA---{suffix}", f"DEC--{suffix}"
    header["CRVAL1"], header["CRVAL2"] = CENTRE
    header["CRPIX1"], header["CRPIX2"] = (nx + 1) / 2 + shift[0], (ny + 1) / 2 + shift[1]
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    if kind == "SIP":
        header["A_ORDER"], header["B_ORDER"] = 3, 3
        header["A_2_0"], header["A_1_1"], header["A_3_0"] = 4e-4, -2e-4, 3e-6
        header["B_0_2"], header["B_1_1"], header["B_0_3"] = -3e-4, 3e-4, -2e-6
    if kind == "TPV":
        for axis, sign in ((1, 1), (2, -1)):
            header[f"PV{axis}_1"], header[f"PV{axis}_4"] = 1.0, sign * 4.0
            header[f"PV{axis}_5"], header[f"PV{axis}_7"] = 2.0, 900.0
    return WCS(header)


def make_model(data, wcs, *, variance=1.0, **keys):
    """The dictionary that Resample takes, of one exposure."""
    data = np.asarray(data, np.float32)
    noise = np.broadcast_to(np.asarray(variance, np.float32), data.shape).copy()
    model = {
        "data": data, "dq": np.zeros(data.shape, np.uint32), "wcs": wcs, "filename": "a.fits", "group_id": 1,
        "var_rnoise": noise, "var_flat": noise / 4, "var_poisson": noise / 2, "err": np.sqrt(noise),
        "exposure_time": 10.0, "measurement_time": 9.0, "start_time": 1.0, "end_time": 2.0, "duration": 11.0,
        "pixelarea_steradians": (SCALE / 206264.8) ** 2, "level": None, "subtracted": True,
    }  # fmt: skip
    return model | keys


def resample(models, size, *, ratio=1.0, angle_deg=0.0, **settings):
    wcs = make_wcs("TAN", (size, size), angle_deg=angle_deg, scale=SCALE * ratio)
    wcs.array_shape = (size, size)
    out = Resample({"wcs": wcs, "pixel_scale": SCALE * ratio}, n_input_models=len(models), **settings)
    for model in models:
        out.add_model(model)
    out.finalize()
    return out.output_model


@pytest.mark.parametrize(("kernel", "pixfrac"), [("square", 1.0), ("square", 0.6), ("turbo", 0.8), ("point", 1.0)])
@pytest.mark.parametrize("kind", ["SIP", "TPV"])
def test_flux_is_conserved_to_a_millionth(kind, kernel, pixfrac):
    rng = np.random.default_rng(1)
    data, variance = rng.uniform(0, 1000, (100, 110)), rng.uniform(0.5, 2, (100, 110))
    model = make_model(data, make_wcs(kind), variance=variance)
    out = resample([model], 150, kernel=kernel, pixfrac=pixfrac)
    weight = 1 / model["var_rnoise"].astype(float)
    flux = np.sum(out["data"].astype(float) * out["wht"])
    assert flux == pytest.approx(np.sum(model["data"] * weight), rel=1e-6)
    assert np.sum(out["wht"], dtype=float) == pytest.approx(weight.sum(), rel=1e-6)


def star_sky(rng):
    grid = np.linspace(-4.5, 4.5, 3)
    u, v = np.stack(np.meshgrid(grid, grid)).reshape(2, -1) + rng.uniform(-0.6, 0.6, (2, 9))
    return CENTRE[0] + u / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] + v / 3600


def draw_stars(wcs, shape, ra, dec, *, sigma_arcsec=0.32):
    """Surface brightness of round Gaussians, at pixel centres."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    sky = pixel_to_sky(wcs, x, y)
    offsets = [tangent_plane(*sky, one_ra, one_dec) for one_ra, one_dec in zip(ra, dec, strict=True)]
    return sum(np.exp(-0.5 * (u**2 + v**2) / sigma_arcsec**2) for u, v in offsets)


# drops smaller than the pixels of the output beat with them: with few exposures places are then off by milliarcseconds,
# in the drizzle package as much as here (8 mas of one exposure with pixfrac 0.8, 2 of twelve)
@pytest.mark.parametrize(
    ("kind", "ratio", "pixfrac"), [("TAN", 1.0, 1.0), ("SIP", 1.0, 1.0), ("TPV", 1.0, 1.0), ("SIP", 0.6, 0.8)]
)
def test_stars_are_where_they_were_to_two_milliarcseconds(kind, ratio, pixfrac):
    ra, dec = star_sky(np.random.default_rng(2))
    models = []
    for number, (angle, shift) in enumerate([(7.0, (0.0, 0.0)), (-3.0, (4.3, -2.6)), (95.0, (-3.7, 1.2))]):
        wcs = make_wcs(kind, angle_deg=angle, shift=shift)
        models.append(make_model(draw_stars(wcs, (100, 110), ra, dec), wcs, group_id=number))
    size = round(110 / ratio)
    out = resample(models, size, ratio=ratio, pixfrac=pixfrac)
    rows, columns = np.mgrid[:size, :size]
    for x, y in zip(*out["wcs"].all_world2pix(ra, dec, 0), strict=True):
        stamp = np.where(np.hypot(columns - x, rows - y) < 9 / ratio, out["data"], 0).astype(float)
        off = [(stamp * grid).sum() / stamp.sum() - at for grid, at in ((columns, x), (rows, y))]
        assert np.hypot(*off) * SCALE * ratio * 1000 < 2


def test_the_first_the_thirty_third_and_the_sixty_fifth_input_set_the_right_bits():
    left, right = (make_wcs("TAN", (8, 8), angle_deg=0, shift=(shift, 0)) for shift in (10, -10))
    models = [
        make_model(np.ones((8, 8)), left if number in (0, 32, 64) else right, group_id=number) for number in range(65)
    ]
    context = resample(models, 30, ratio=1.0)["con"]
    assert context.dtype == np.int32
    assert context.shape == (3, 30, 30)
    # north up, east left: a reference pixel further right puts the image to the left
    assert context[:, 15, 5].tolist() == [1, 1, 1]
    assert context[:, 15, 25].view(np.uint32).tolist() == [2**32 - 2, 2**32 - 2, 0]
    assert not context[:, 0].any()


def test_two_threads_give_the_same_bytes_as_one():
    rng = np.random.default_rng(4)
    models = []
    for number in range(3):
        wcs = make_wcs("SIP", (150, 160), angle_deg=5.0 * number, shift=rng.uniform(-8, 8, 2))
        data, variance = rng.normal(size=(150, 160)), rng.uniform(0.5, 2, (150, 160))
        dq = np.where(rng.uniform(size=data.shape) < 0.02, 4, 0).astype(np.uint32)
        models.append(make_model(data, wcs, variance=variance, dq=dq, group_id=number))
    settings = {"pixfrac": 0.8, "compute_err": "from_var", "propagate_dq": True, "good_bits": 4, "fillval": "NaN"}
    one, two = (resample(models, 200, n_threads=n, **settings) for n in (1, 2))
    planes = ["data", "wht", "con", "dq", "var_rnoise", "var_flat", "var_poisson", "err"]
    assert {name: one[name].tobytes() == two[name].tobytes() for name in planes} == dict.fromkeys(planes, True)


# --- noise -----------------------------------------------------------------------------------------------------------

BOX_ARCSEC = 10 * SCALE
"""Side of the square apertures: 20, 10 and 5 pixels of the outputs below."""
RATIOS = (0.5, 1.0, 2.0)
VARIANCE = 4.0


def aperture_noise(ratio, *, rule="averaged", pixfrac=1.0, kernel="square", angle_deg=10.0):
    """Noise of the flux in square apertures on white noise.

    Returns the scatter of the apertures, the noise that the variance plane promises if pixels were independent, and for
    single pixels the scatter and the noise promised. Fluxes are in units of surface brightness times input pixels.
    """
    rng = np.random.default_rng(7)
    shape = (300, 300)
    wcs = make_wcs("TAN", shape, angle_deg=angle_deg)
    model = make_model(rng.normal(0, np.sqrt(VARIANCE), shape), wcs, variance=VARIANCE)
    size = round(200 / ratio)
    out = resample([model], size, ratio=ratio, pixfrac=pixfrac, kernel=kernel, variance_rule=rule)
    box = round(BOX_ARCSEC / SCALE / ratio)
    flux, variance = (
        (plane.astype(float) * ratio**power).reshape(size // box, box, size // box, box).sum(axis=(1, 3))
        for plane, power in ((out["data"], 2), (out["var_rnoise"], 4))
    )
    pixel = out["data"].std(), np.sqrt(out["var_rnoise"].mean())
    return flux.std(), np.sqrt(variance.mean()), *pixel


def test_the_snr_of_an_aperture_does_not_depend_on_the_pixel_scale():
    scatter, promised = np.transpose([aperture_noise(ratio)[:2] for ratio in RATIOS])
    # a star's flux is the same on every grid, so its SNR goes as the inverse of these; an aperture has 100 input pixels
    np.testing.assert_allclose(promised, 10 * np.sqrt(VARIANCE), rtol=0.01)
    np.testing.assert_allclose(scatter, promised, rtol=0.03)
    np.testing.assert_allclose(scatter / scatter[0], 1, rtol=0.01)


def correlated(ratio, pixfrac):
    """Noise on large scales over that of one pixel (Casertano et al. 2000, AJ 120, 2747; Fruchter & Hook 2002)."""
    r = pixfrac / ratio
    return r / (1 - 1 / (3 * r)) if r >= 1 else 1 / (1 - r / 3)


def test_propagated_variances_are_those_of_single_pixels_and_need_the_covariance_for_an_aperture():
    results = np.array([aperture_noise(ratio, rule="propagated") for ratio in RATIOS])
    aperture, promised, pixel, promised_pixel = results.T
    np.testing.assert_allclose(promised_pixel, pixel, rtol=0.02)
    # without the correlation of neighbours, an aperture on pixels of half the size seems twice as good as it is
    assert aperture[0] / promised[0] > 2
    corrected = promised * [correlated(ratio, 1.0) for ratio in RATIOS]
    np.testing.assert_allclose(corrected, aperture, rtol=0.03)
    np.testing.assert_allclose(corrected / corrected[0], 1, rtol=0.01)


def test_averaged_variances_are_not_those_of_single_pixels():
    for ratio in RATIOS:
        _, _, pixel, promised = aperture_noise(ratio)
        assert promised > 1.15 * pixel


def test_points_on_an_aligned_grid_share_no_noise_and_need_no_correction():
    for ratio in (1.0, 2.0):
        _, promised, _, _ = aperture_noise(ratio, rule="propagated", kernel="point", angle_deg=0.0)
        assert promised == pytest.approx(10 * np.sqrt(VARIANCE), rel=1e-5)
