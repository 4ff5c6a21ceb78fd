"""Mean shear from catalogues whose shapes answer to shear in a known way."""

import numpy as np
import pytest
from filled_tables import TYPES, filled, filled_shapes

from tasks.archive.documents import read_document
from tasks.archive.tables import write_table
from tasks.errors import DataError
from tasks.mean_shear import MeanShearConfig, measure_mean_shear, measure_mean_shear_task
from tasks.products.columns import SHAPES, SURVEY_CATALOG, TRUTH_GALAXIES, catalog_name
from tasks.products.shear import SurveyShear
from tasks.science.shear_sample import sky_patches

CONFIG = MeanShearConfig()
STEP = 0.01
G1, G2 = 0.02, -0.01
N = 4000
RESPONSE = 0.8
SHEARS = {"noshear": (0, 0), "1p": (STEP, 0), "1m": (-STEP, 0), "2p": (0, STEP), "2m": (0, -STEP)}


def survey(shapes, **columns):
    """A survey catalogue around a table of shapes; positions on a grid of 2 arcsec, two tiles."""
    n = len(shapes)
    row, col = np.divmod(np.arange(n), 64)
    columns = {
        "object_id": [str(i) for i in range(n)],
        "tile_id": np.where(np.arange(n) < n // 2, "101.200", "102.200"),
        "ra_win": 150.0 + col * 2 / 3600,
        "dec_win": row * 2 / 3600,
    } | columns
    columns |= {catalog_name(SHAPES, name): shapes[name] for name in SHAPES.names if name != "number"}
    return filled(SURVEY_CATALOG, n, **columns)


def pairs(rng, *, response=RESPONSE, noise=0.0):
    """Galaxies in pairs rotated by 90 degrees, sheared by (G1, G2): g = R (e + shear)."""
    e = rng.normal(0, 0.2, (N // 2, 2))
    e = np.stack([e, -e], axis=1).reshape(N, 2) + rng.normal(0, 1e-3 + noise, (N, 2))
    columns = {}
    for kind, (d1, d2) in SHEARS.items():
        columns[f"g1_{kind}"] = response * (e[:, 0] + G1 + d1)
        columns[f"g2_{kind}"] = response * (e[:, 1] + G2 + d2)
    return filled_shapes(np.arange(N), **columns)


def test_the_response_is_measured_and_divided_out():
    shear = measure_mean_shear(survey(pairs(np.random.default_rng(1))), None, CONFIG)
    found = shear.survey
    assert found.shear_response[0][0] == pytest.approx(RESPONSE, abs=1e-6)
    assert found.shear_response[0][1] == pytest.approx(0.0, abs=1e-6)
    assert found.g1 == pytest.approx(G1, abs=1e-4)
    assert found.g2 == pytest.approx(G2, abs=1e-4)
    assert (found.n_objects, found.n_selected, found.n_groups) == (N, N, N)


def test_every_tile_has_its_own_shear():
    shear = measure_mean_shear(survey(pairs(np.random.default_rng(1))), None, CONFIG)
    assert [tile.tile for tile in shear.tiles] == ["101.200", "102.200"]
    assert sum(tile.n_selected for tile in shear.tiles) == N
    for tile in shear.tiles:
        assert tile.g1 == pytest.approx(G1, abs=1e-4)


def test_cuts_leave_out_what_they_say():
    shapes = pairs(np.random.default_rng(1))
    shapes["flags"][:5] = 4
    shapes["s2n_noshear"][5:10] = 9.0
    shapes["t_noshear"][10:15] = 0.09
    shapes["n_epoch_used"][15:20] = 0
    mask = np.zeros(N, int)
    mask[20:25] = 2
    shear = measure_mean_shear(survey(shapes, mask=mask), None, CONFIG)
    assert shear.selected_by_cut == {
        "flags": N - 5, "mask": N - 5, "epochs": N - 5, "s2n": N - 5, "size": N - 5, "all": N - 25
    }  # fmt: skip
    kept = measure_mean_shear(survey(shapes, mask=mask), None, MeanShearConfig(exclude_masked=False))
    assert kept.survey.n_selected == N - 20


def test_a_selection_that_depends_on_shear_is_corrected():
    shapes = pairs(np.random.default_rng(2))
    # rounder galaxies have a higher signal to noise in every type
    for kind in TYPES:
        modulus = np.hypot(shapes[f"g1_{kind}"], shapes[f"g2_{kind}"])
        shapes[f"s2n_{kind}"] = 10.0 + 100.0 * (0.2 - np.asarray(modulus))
    found = measure_mean_shear(survey(shapes), None, MeanShearConfig(patch_arcsec=4.0)).survey
    assert 0.4 * N < found.n_selected < 0.8 * N
    selection = found.selection_response[0][0]
    uncorrected = found.g1 * (RESPONSE + selection) / RESPONSE
    assert selection < -0.2
    assert abs(found.g1 - G1) < 3 * found.g1_error
    # without the response of the selection, the answer is a third of the truth
    assert uncorrected < 0.5 * G1


def test_patches_of_sky_give_an_error_of_their_own():
    catalog = survey(pairs(np.random.default_rng(3), noise=0.2))
    by_object = measure_mean_shear(catalog, None, CONFIG).survey
    by_patch = measure_mean_shear(catalog, None, MeanShearConfig(patch_arcsec=10.0)).survey
    assert by_patch.g1 == pytest.approx(by_object.g1, rel=1e-12)
    assert 100 < by_patch.n_groups < 200
    # pairs lie side by side: patches keep them together, so that only the noise is left of their error
    assert by_patch.g1_error == pytest.approx(0.2 / np.sqrt(N), rel=0.2)
    assert by_object.g1_error == pytest.approx(np.hypot(0.2, 0.2) / np.sqrt(N), rel=0.1)


def test_patches_keep_their_width_at_high_declination():
    ra, dec = np.arange(0, 0.2, 1e-3), np.full(200, 60.0)
    labels = sky_patches(ra, dec, side_arcsec=36.0)
    assert len(np.unique(labels)) == pytest.approx(0.2 * 0.5 / 0.01, abs=2)


def truth_of(catalog, **columns):
    n = len(catalog)
    columns = {
        "ra": catalog["ra_win"], "dec": catalog["dec_win"] + 0.1 / 3600, "pair_id": np.arange(n) // 2,
        "g1": np.full(n, G1), "g2": np.full(n, G2),
    } | columns  # fmt: skip
    return filled(TRUTH_GALAXIES, n, **columns)


def test_pairs_cancel_the_shape_noise_of_the_comparison_with_the_truth():
    catalog = survey(pairs(np.random.default_rng(4)))
    shear = measure_mean_shear(catalog, truth_of(catalog), CONFIG)
    found = shear.truth.recovered
    assert (shear.truth.g1, shear.truth.g2) == pytest.approx((G1, G2))
    assert (shear.truth.n_true, shear.truth.n_matched, found.n_groups) == (N, N, N // 2)
    assert found.g1_error < 0.05 * shear.survey.g1_error
    assert abs(found.g1 - G1) < 4 * found.g1_error
    assert abs(found.g2 - G2) < 4 * found.g2_error


def test_objects_that_are_no_true_galaxy_are_left_out_of_the_comparison():
    catalog = survey(pairs(np.random.default_rng(4)))
    truth = truth_of(catalog)[: N // 2]
    catalog["g1_noshear"][N // 2 :] = 0.9
    shear = measure_mean_shear(catalog, truth, CONFIG)
    assert shear.truth.n_matched == N // 2
    assert shear.truth.recovered.g1 == pytest.approx(G1, abs=1e-3)
    assert shear.survey.g1 > 0.3


def test_too_few_objects_are_refused_with_the_number_that_each_cut_leaves():
    shapes = pairs(np.random.default_rng(1))
    shapes["flags"][7:] = 2
    with pytest.raises(DataError, match=r"Of 4000 objects 7 pass the cuts .*\(flags 7, mask 4000, .*\); it needs 10"):
        measure_mean_shear(survey(shapes), None, CONFIG)


def test_a_truth_that_nothing_matches_is_refused():
    catalog = survey(pairs(np.random.default_rng(1)))
    truth = truth_of(catalog, ra=np.full(N, 20.0))
    with pytest.raises(DataError, match="None of 0 objects that are true galaxies passes the cuts"):
        measure_mean_shear(catalog, truth, CONFIG)


def test_the_stage_stores_a_document(store, raw_store):
    catalog = survey(pairs(np.random.default_rng(4)))
    ref = write_table(store, "survey/catalog.fits", catalog, SURVEY_CATALOG, subject="survey")
    truth = write_table(raw_store, "truth/galaxies.fits", truth_of(catalog), TRUTH_GALAXIES, subject="survey")
    made = measure_mean_shear_task.fn(ref, truth, CONFIG, store, raw_store)
    assert made.key == "survey/shear.json"
    assert made.summary["n_selected"] == N
    assert read_document(store, made, SurveyShear) == measure_mean_shear(catalog, truth_of(catalog), CONFIG)
    without = measure_mean_shear_task.fn(ref, None, CONFIG, store, raw_store)
    assert read_document(store, without, SurveyShear).truth is None
