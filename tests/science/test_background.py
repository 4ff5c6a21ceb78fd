import numpy as np
import pytest

from tasks.errors import NoGoodPixelsError
from tasks.science.background import expand_mesh, measure_background, measure_variance_scale, mesh_edges


def sky_image(shape=(300, 400), noise=10.0, seed=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = 1000 + 0.05 * x - 0.03 * y
    return (sky + rng.normal(0, noise, shape)).astype(np.float32), sky


def test_a_tilted_sky_and_its_noise_are_recovered_to_the_edges():
    image, sky = sky_image()

    mesh = measure_background(image, np.zeros(image.shape, bool))

    difference = expand_mesh(mesh.level, image.shape, 64) - sky
    assert abs(difference.mean()) < 0.2
    assert np.abs(difference).max() < 2.0
    assert mesh.rms.mean() == pytest.approx(10, rel=0.01)


def test_stars_do_not_lift_the_sky():
    image, sky = sky_image()
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    for x0, y0 in rng.uniform(0, 300, (60, 2)):
        image += (2000 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 4)).astype(np.float32)

    mesh = measure_background(image, np.zeros(image.shape, bool))

    assert abs((expand_mesh(mesh.level, image.shape, 64) - sky).mean()) < 0.5


def test_masked_boxes_take_their_values_from_the_boxes_around_them():
    image, sky = sky_image()
    bad = np.zeros(image.shape, bool)
    bad[100:260, 130:300] = True
    image[bad] = np.nan

    mesh = measure_background(image, bad)

    assert np.isfinite(mesh.level).all()
    assert np.abs(expand_mesh(mesh.level, image.shape, 64) - sky).max() < 6


def test_a_few_good_pixels_are_enough():
    image = np.full((100, 100), np.nan, np.float32)
    image[50, 40:60] = np.linspace(4, 6, 20)

    mesh = measure_background(image, ~np.isfinite(image))

    assert mesh.level.mean() == pytest.approx(5, abs=0.3)


def test_an_image_without_good_pixels_is_refused():
    with pytest.raises(NoGoodPixelsError, match="All 100 pixels are bad or have no value"):
        measure_background(np.zeros((10, 10), np.float32), np.ones((10, 10), bool))


@pytest.mark.parametrize("shape", [(41, 51), (64, 64), (65, 200), (1000, 33)])
def test_boxes_cover_every_shape_without_narrow_rests(shape):
    for size in shape:
        edges = mesh_edges(size, 64)
        assert (edges[0], edges[-1]) == (0, size)
        assert np.diff(edges).max() - np.diff(edges).min() <= 1

    image, _ = sky_image(shape)
    mesh = measure_background(image, np.zeros(shape, bool))
    assert expand_mesh(mesh.level, shape, 64).shape == shape


def test_a_map_is_rebuilt_to_the_bit():
    image, _ = sky_image()
    mesh = measure_background(image, np.zeros(image.shape, bool))
    first = expand_mesh(mesh.level, image.shape, 64)

    again = expand_mesh(np.frombuffer(mesh.level.tobytes()).reshape(mesh.level.shape), image.shape, 64)

    assert first.tobytes() == again.tobytes()


def test_a_mesh_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"a mesh of \(2, 2\) boxes of 64 px does not belong to an image"):
        expand_mesh(np.zeros((2, 2)), (300, 400), 64)


def test_the_variance_scale_turns_weights_into_variances():
    image, sky = sky_image(noise=4.0)
    image = image - sky.astype(np.float32)
    weight = np.full(image.shape, 0.5, np.float32)
    weight[:, 10] = 0
    bad = weight == 0
    mesh = measure_background(image, bad)

    assert measure_variance_scale(mesh, weight, bad) == pytest.approx(0.5 * 16, rel=0.03)


def test_an_image_without_noise_is_refused():
    image, bad = np.full((100, 100), 5, np.float32), np.zeros((100, 100), bool)

    with pytest.raises(NoGoodPixelsError, match="no noise: the image is constant or wholly masked"):
        measure_variance_scale(measure_background(image, bad), np.ones((100, 100), np.float32), bad)
