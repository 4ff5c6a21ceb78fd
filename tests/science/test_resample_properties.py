"""What must hold whatever the input: flux, places of stars, noise, context bits, and the same bytes from any thread."""

import numpy as np
import pytest
from resample_stack import CENTRE, SCALE, VARIANCES, make_model, noisy_model, sip_wcs, stack, tan_wcs, tpv_wcs

from tasks.science.geometry import pixel_to_sky
from tasks.science.sphere import tangent_plane

SHAPE = (100, 110)


def square_grid(size, ratio=1.0):
    """A square output; a ratio is that of pixel sizes."""
    return {"wcs": tan_wcs((size, size), scale=SCALE * ratio), "pixel_scale": SCALE * ratio}


@pytest.mark.parametrize(
    ("kernel", "pixfrac", "weight_type"),
    [("square", 1.0, "ivm"), ("square", 0.6, "exptime"), ("turbo", 0.8, "ivm-sky"), ("point", 1.0, "ivm")],
)
@pytest.mark.parametrize("make", [sip_wcs, tpv_wcs])
def test_flux_is_conserved_to_a_millionth(make, kernel, pixfrac, weight_type):
    model = noisy_model(make(SHAPE, angle_deg=7.0), shape=SHAPE, var_sky=np.full(SHAPE, 0.5, np.float32))
    out = stack(model, grid=square_grid(150), kernel=kernel, pixfrac=pixfrac, weight_type=weight_type)
    weight = {"ivm": 1 / model["var_rnoise"].astype(float), "ivm-sky": 2.0, "exptime": model["measurement_time"]}
    weight = np.where(model["dq"] == 0, weight[weight_type], 0.0)
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
    ("make", "ratio", "pixfrac"), [(tan_wcs, 1.0, 1.0), (sip_wcs, 1.0, 1.0), (tpv_wcs, 1.0, 1.0), (sip_wcs, 0.6, 0.8)]
)
def test_stars_are_where_they_were_to_two_milliarcseconds(make, ratio, pixfrac):
    ra, dec = star_sky(np.random.default_rng(2))
    models = []
    for number, (angle, shift) in enumerate([(7.0, (0.0, 0.0)), (-3.0, (4.3, -2.6)), (95.0, (-3.7, 1.2))]):
        wcs = make(SHAPE, angle_deg=angle, shift=shift)
        models.append(make_model(wcs, draw_stars(wcs, SHAPE, ra, dec), group_id=number))
    size = round(110 / ratio)
    out = stack(*models, grid=square_grid(size, ratio), pixfrac=pixfrac)
    rows, columns = np.mgrid[:size, :size]
    for x, y in zip(*out["wcs"].all_world2pix(ra, dec, 0), strict=True):
        stamp = np.where(np.hypot(columns - x, rows - y) < 9 / ratio, out["data"], 0).astype(float)
        off = [(stamp * grid).sum() / stamp.sum() - at for grid, at in ((columns, x), (rows, y))]
        assert np.hypot(*off) * SCALE * ratio * 1000 < 2


def test_the_first_the_thirty_third_and_the_sixty_fifth_input_set_the_right_bits():
    left, right = (tan_wcs((8, 8), shift=(shift, 0)) for shift in (10, -10))
    models = [make_model(left if number in (0, 32, 64) else right, shape=(8, 8)) for number in range(65)]
    # two planes are announced, the third is added
    context = stack(*models, grid=square_grid(30), n_input_models=33, enable_var=False)["con"]
    assert context.dtype == np.int32
    assert context.shape == (3, 30, 30)
    # north up, east left: a reference pixel further right puts the image to the left
    assert context[:, 15, 5].tolist() == [1, 1, 1]
    assert context[:, 15, 25].view(np.uint32).tolist() == [2**32 - 2, 2**32 - 2, 0]
    assert not context[:, 0].any()


def test_any_number_of_threads_gives_the_same_bytes():
    rng = np.random.default_rng(4)
    models = []
    for number in range(3):
        wcs = sip_wcs((150, 160), angle_deg=5.0 * number, shift=rng.uniform(-8, 8, 2))
        models.append(noisy_model(wcs, number, shape=(150, 160), group_id=number))
    settings = {"pixfrac": 0.8, "compute_err": "driz_err", "propagate_dq": True, "good_bits": 1, "fillval": "NaN"}
    one, two, five = (stack(*models, grid=square_grid(200), n_threads=n, **settings) for n in (1, 2, 5))
    for name in ("data", "wht", "con", "dq", "err", *VARIANCES):
        assert one[name].tobytes() == two[name].tobytes() == five[name].tobytes(), name


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
    wcs = tan_wcs(shape, angle_deg=angle_deg)
    model = make_model(wcs, rng.normal(0, np.sqrt(VARIANCE), shape), var_rnoise=VARIANCE)
    size = round(200 / ratio)
    out = stack(model, grid=square_grid(size, ratio), pixfrac=pixfrac, kernel=kernel, variance_rule=rule)
    box = round(BOX_ARCSEC / SCALE / ratio)
    flux, variance = (
        (plane.astype(float) * ratio**power).reshape(size // box, box, size // box, box).sum(axis=(1, 3))
        for plane, power in ((out["data"], 2), (out["var_rnoise"], 4))
    )
    pixel = out["data"].std(), np.sqrt(out["var_rnoise"].mean())
    return flux.std(), np.sqrt(variance.mean()), *pixel


def test_the_snr_of_an_aperture_does_not_depend_on_the_pixel_scale():
    scatter, promised, pixel, promised_pixel = np.transpose([aperture_noise(ratio) for ratio in RATIOS])
    # a star's flux is the same on every grid, so its SNR goes as the inverse of these; an aperture has 100 input pixels
    np.testing.assert_allclose(promised, 10 * np.sqrt(VARIANCE), rtol=0.01)
    np.testing.assert_allclose(scatter, promised, rtol=0.03)
    np.testing.assert_allclose(scatter / scatter[0], 1, rtol=0.01)
    # they are not the variances of single pixels
    assert (promised_pixel > 1.15 * pixel).all()


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


def test_points_on_an_aligned_grid_share_no_noise_and_need_no_correction():
    for ratio in (1.0, 2.0):
        _, promised, _, _ = aperture_noise(ratio, rule="propagated", kernel="point", angle_deg=0.0)
        assert promised == pytest.approx(10 * np.sqrt(VARIANCE), rel=1e-5)
