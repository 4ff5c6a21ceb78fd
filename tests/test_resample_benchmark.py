"""What the comparison of Resample with its peer counts as the same, as fast and as small, and what its inputs are."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest

from tasks.science.drizzling import DrizzleImage, Drizzler
from tasks.science.pixel_map import PixelMap

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def suite(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"resample_suite.{name}")


@pytest.fixture
def result(suite):
    """A case in which every promise was kept."""
    measures, comparing = suite("measures"), suite("comparing")

    def measured(seconds, mib):
        return measures.Measured(seconds, seconds, mib, mib + 200, {})

    return measures.Result(
        suite("cases").CASES[0],
        {
            measures.PEER: measured(28.0, 800.0),
            measures.PEER_TUNED: measured(18.0, 600.0),
            measures.OURS_1: measured(4.0, 400.0),
            measures.OURS_2: measured(2.5, 400.0),
        },
        {name: comparing.PlaneDifference() for name in ("data", "wht", "con", "err", "var_rnoise")},
        [],
        same_bytes=True,
    )


def test_differences_are_found_where_they_are(suite):
    compare = suite("comparing").compare_planes
    weight = np.full((2, 3), 4.0, np.float32)
    weight[0, 0] = 1e-4
    theirs = np.array([[1, 2, 4], [8, np.nan, 16]], np.float32)
    ours = theirs.copy()
    ours[0, 0] = 2
    ours[0, 2] = 5
    ours[1, 2] = np.nan
    found = compare("wht", ours, theirs, weight)
    assert (found.n_nan_differing, found.max_relative, found.worst) == (1, 0.25, (0, 2))
    assert (found.max_relative_anywhere, found.max_absolute) == (1.0, 1.0)
    assert compare("wht", ours, np.where(theirs == 1, np.float32(0), theirs), weight).max_relative_anywhere == np.inf
    # a plane of zeros has no size to be relative to, and infinity is no NaN
    assert compare("err", ours, np.where(np.isfinite(theirs), np.float32(0), theirs), weight).max_relative == np.inf
    infinite, unknown = (np.where(ours == 5, value, ours) for value in (np.inf, np.nan))
    assert compare("err", infinite, unknown, weight).n_nan_differing == 1


def test_bits_count_one_by_one(suite):
    compare = suite("comparing").compare_planes
    theirs = np.array([[[1, -(2**31)]], [[0, 3]]], np.int32)
    assert compare("con", theirs.copy(), theirs, theirs[0]).n_differing == 0
    ours = theirs.copy()
    ours[1, 0, 1] = 2
    found = compare("con", ours, theirs, theirs[0])
    assert (found.n_differing, found.worst) == (1, (1, 0, 1))
    assert (
        compare("con", theirs.astype(np.int64), theirs, theirs[0]).problem
        == "int64 (2, 1, 2), the peer's int32 (2, 1, 2)"
    )


def test_a_plane_of_one_side_only_and_other_bytes_are_found(suite, tmp_path):
    comparing = suite("comparing")
    for side in ("ours", "theirs"):
        (tmp_path / side).mkdir()
        np.save(tmp_path / side / "wht.npy", np.ones((2, 2), np.float32))
    assert comparing.same_bytes(tmp_path / "ours", tmp_path / "theirs")
    np.save(tmp_path / "theirs" / "con.npy", np.ones((1, 2, 2), np.int32))
    found = comparing.compare_results(tmp_path / "ours", tmp_path / "theirs")["con"]
    assert (found.problem, found.n_differing, found.max_absolute) == ("only the peer has it", 4, np.inf)
    assert not comparing.same_bytes(tmp_path / "ours", tmp_path / "theirs")
    assert comparing.differing_numbers({"pointings": 4, "level": None}, {"pointings": 8, "level": None}) == [
        "pointings is 4, the peer's 8"
    ]


def test_a_case_that_kept_its_promises_breaks_none(suite, result):
    assert suite("promises").broken_promises([result]) == []


@pytest.mark.parametrize(
    ("plane", "values", "sentence"),
    [
        ("con", {"n_differing": 2, "worst": (0, 3, 4)}, "con differs in 2 pixels; the worst is at (0, 3, 4)"),
        ("err", {"n_nan_differing": 1}, "err is NaN in one of the two only, in 1 pixels"),
        (
            "wht",
            {"max_relative": 3e-5, "worst": (1, 2)},
            "wht, relative: 3e-05 off, above 2e-05; the worst is at (1, 2)",
        ),
        ("var_rnoise", {"median_relative": np.nan}, "var_rnoise, relative in the median: nan off, above 1e-07"),
        ("data", {"max_absolute": 1e-4}, "data: 0.0001 off, above 3e-05"),
        ("data", {"problem": "only ours has it"}, "data: only ours has it"),
    ],
)
def test_every_number_has_its_promise(suite, result, plane, values, sentence):
    changed = result.differences | {plane: dataclasses.replace(result.differences[plane], **values)}
    broken = suite("promises").broken_promises([dataclasses.replace(result, differences=changed)])
    assert broken == [f"sip08: {sentence}"]


def test_stars_have_to_be_in_place_where_drops_are_whole_pixels(suite, result):
    off = dataclasses.replace(result, stars=suite("photometry").StarFigures(400, 1.0, 0.0, (0.1, -2.5), 1.0))
    assert suite("promises").broken_promises([off]) == []
    whole = next(case for case in suite("cases").CASES if case.name == "sip10")
    broken = suite("promises").broken_promises([dataclasses.replace(off, case=whole)])
    assert broken == ["sip10: places of stars in mas: 2.5 off, above 2"]


def test_of_a_kernel_in_a_table_a_pixel_in_a_thousand_may_be_off(suite, result):
    lanczos = next(case for case in suite("cases").CASES if case.name == "lanczos3")
    off = {"wht": suite("comparing").PlaneDifference(max_relative=1e-3, most_relative=1e-6, median_relative=2e-7)}
    broken = suite("promises").broken_promises
    assert broken([dataclasses.replace(result, case=lanczos, differences=result.differences | off)]) == []
    assert len(broken([dataclasses.replace(result, differences=result.differences | off)])) == 2


def test_time_memory_and_threads_have_their_promises(suite, result):
    promises, measures = suite("promises"), suite("measures")
    slow = dataclasses.replace(result.measured[measures.OURS_1], wall_s=4.5, above_baseline_mib=410.0)
    other = dataclasses.replace(result, measured=result.measured | {measures.OURS_1: slow}, same_bytes=False)
    bytes_differ = "sip08: two threads do not give the bytes of one"
    assert promises.broken_promises([other]) == [
        bytes_differ,
        "sip08: speed on one thread: 6.22 times the peer's, below 7",
        "sip08: speed beside the tuned peer: 4 times the peer's, below 4.5",
        "sip08: memory on one thread: 0.512 of the peer's, above 0.5",
    ]
    assert promises.broken_promises([other], timed=False) == [bytes_differ]
    as_gaussian = dataclasses.replace(other, case=dataclasses.replace(other.case, promise="oracle"))
    assert promises.broken_promises([as_gaussian]) == [bytes_differ]


def test_times_are_the_least_and_memory_the_median(suite):
    runs = [
        {"wall_s": s, "cpu_s": s, "above_baseline_kib": kib, "peak_kib": 2 * kib, "numbers": {}}
        for s, kib in ((3.0, 1024), (2.0, 9216), (4.0, 2048))
    ]
    best = suite("measures").best(runs)
    assert (best.wall_s, best.above_baseline_mib, best.peak_mib) == (2.0, 2.0, 4.0)


def test_the_summary_is_of_the_worst_headline_case(suite, result):
    slower = dataclasses.replace(result.measured["1 thread"], wall_s=7.0)
    headline = dataclasses.replace(result, measured=result.measured | {"1 thread": slower})
    minor_case = next(case for case in suite("cases").CASES if case.name == "point")
    minor = dataclasses.replace(headline, case=minor_case, same_bytes=False)
    figures = suite("promises").summary([result, headline, dataclasses.replace(minor, measured={})])
    assert (figures["speedup_1"], figures["speedup_2"], figures["memory_ratio_1"]) == (4.0, 11.2, 0.5)
    assert (figures["context_identical"], figures["threads_identical"]) == (True, False)
    missing = headline.differences | {"con": suite("comparing").incomparable("only the peer has it", 4)}
    figures = suite("promises").summary([result, dataclasses.replace(headline, differences=missing)])
    assert (figures["context_identical"], figures["nan_identical"]) == (False, False)
    bare = {name: plane for name, plane in headline.differences.items() if name in ("data", "wht")}
    alone = dataclasses.replace(minor, differences=bare, measured=headline.measured)
    assert suite("promises").summary([alone])["max_rel_variance"] == 0


def test_the_tables_have_a_cell_for_every_column_and_hide_no_pixel(suite, result):
    tables, stars = suite("tables"), suite("photometry").StarFigures(400, 0.999, 0.004, (0.5, -0.25), 1.5)
    swarp = suite("swarp").SwarpResult(stars, {1: 9.0, 2: 8.0})
    lanczos = next(case for case in suite("cases").CASES if case.is_tabulated)
    off = {"wht": suite("comparing").PlaneDifference(max_relative=2e-3, most_relative=1e-6, max_relative_anywhere=0.1)}
    tabulated = dataclasses.replace(result, case=lanczos, differences=result.differences | off, stars=stars)
    beside = dataclasses.replace(result, case=suite("cases").CASES[-1])
    for table in (
        tables.number_table([result, tabulated]),
        tables.time_table([result]),
        tables.memory_table([result]),
        tables.star_table([result, tabulated], swarp),
        tables.swarp_table([result, beside], swarp),
        tables.swarp_table([beside], None),
    ):
        assert len({line.count("|") for line in table}) == 1
    assert "| 1.0e-06 (2.0e-03) | 0.0e+00 | 1.0e-01 |" in list(tables.number_table([tabulated]))[-1]
    assert len(list(tables.star_table([result, tabulated], swarp))) == 4
    assert len(list(tables.swarp_table([result, beside], swarp))) == 4


def test_json_knows_no_infinity(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    finite = importlib.import_module("resample").finite
    found = {"a": (1.5, np.inf), "b": {"c": np.nan, "d": True, "e": "text", "f": None}}
    assert finite(found) == {"a": [1.5, None], "b": {"c": None, "d": True, "e": "text", "f": None}}


def test_both_distortions_shift_the_corners_by_about_five_pixels(suite):
    sky = suite("sky")
    pointing = sky.pointings(8, sky.FULL_SIZE)[0]
    plain = sky.wcs_of(sky.exposure_header(sky.FULL_SIZE, pointing, "TAN"))
    x, y = np.array([[0, 0, 2047, 2047], [0, 2047, 0, 2047]])
    for distortion in ("SIP", "TPV"):
        distorted = sky.wcs_of(sky.exposure_header(sky.FULL_SIZE, pointing, distortion))
        u, v = plain.world_to_pixel_values(*distorted.pixel_to_world_values(x, y))
        assert 4.5 < np.hypot(u - x, v - y).max() < 7


def test_stars_are_drawn_and_found_where_they_are(suite):
    sky, inputs, photometry = suite("sky"), suite("inputs"), suite("photometry")
    stars, grid = inputs.make_stars(384), sky.output_header(384, 1.0)
    image = inputs.draw_stars(grid, grid, stars)
    found = photometry.measure_coadd(image, stars)
    assert found.n_stars == len(stars.x) > 8
    assert (found.flux_ratio, found.flux_scatter) == (pytest.approx(1, abs=2e-4), pytest.approx(0, abs=2e-4))
    assert found.offset_mas == pytest.approx((0, 0), abs=1e-3)
    image[round(stars.y[0]), round(stars.x[0])] = np.nan
    shifted = photometry.measure_coadd(image, dataclasses.replace(stars, x=stars.x - 0.1))
    assert shifted.n_stars == found.n_stars - 1
    assert shifted.offset_mas == pytest.approx((0.1 * photometry.MAS, 0), abs=1e-3)


@pytest.mark.parametrize(
    ("pixfrac", "offset", "moved"),
    [(0.8, 0.1, -0.1), (0.8, 0.3, -0.05), (0.8, 0.5, 0.0), (0.5, 0.2, -0.2), (1.0, 0.3, 0.0)],
)
def test_drops_smaller_than_pixels_move_a_star_by_what_their_geometry_says(pixfrac, offset, moved):
    """Of drops at 0.3 and -0.7, 0.8 wide, shares of 0.6 and 0.2 lie in the pixel at 0: it shows the sky at 0.05."""
    y, x = np.mgrid[:41, :41].astype(float)
    star = np.exp(-((x - 20) ** 2 + (y - 20) ** 2) / (2 * 1.7**2)).astype(np.float32)
    drizzler = Drizzler((41, 42), pixfrac=pixfrac, context=False)
    pixel_map = PixelMap.from_positions(np.stack([x + offset, y], axis=-1))
    drizzler.add(DrizzleImage(star, np.ones_like(star), pixel_map))
    columns = np.arange(42)
    assert (drizzler.data * columns).sum() / drizzler.data.sum() == pytest.approx(20 + offset + moved, abs=1e-4)


def test_our_side_resamples_what_was_written(suite, tmp_path):
    inputs, measures, driving, ours = suite("inputs"), suite("measures"), suite("driving"), suite("ours")
    inputs.write_inputs(tmp_path / "inputs", "SIP", 96, 3)
    dq = np.load(tmp_path / "inputs" / "0" / "dq.npy")
    assert 0.008 < np.count_nonzero(dq) / dq.size < 0.016
    job = measures.describe(tmp_path / "inputs", 96, 1.0)
    settings = suite("cases").CASES[0].all_settings
    for n_threads in (1, 2):
        told = driving.resample_all(
            ours.make, ours.as_it_is, settings | {"n_threads": n_threads}, job, keep=str(tmp_path / f"{n_threads}")
        )
    assert (told["numbers"]["pointings"], told["numbers"]["exposure_time"]) == (2, 180.0)
    assert told["peak_kib"] >= told["baseline_kib"] > 0
    differences = suite("comparing").compare_results(tmp_path / "2", tmp_path / "1")
    assert set(differences) == {"data", "wht", "con", "err", "var_rnoise", "var_poisson", "var_flat"}
    assert suite("comparing").same_bytes(tmp_path / "1", tmp_path / "2")
    data = np.load(tmp_path / "1" / "data.npy")
    # bad pixels hold 20 and more
    assert np.nanmedian(data) == pytest.approx(0, abs=0.05)
    assert np.nanmax(data) < 20
