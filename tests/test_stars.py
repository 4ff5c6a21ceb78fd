"""The stars stage: the locus among galaxies, and the stars that are reserved."""

import numpy as np
import pytest
from astropy.table import Table
from filled_tables import filled
from pydantic import ValidationError
from star_field import CCD, process

from tasks.archive.tables import read_table
from tasks.errors import ConfigError, TooFewStarsError
from tasks.products.columns import SOURCES, STARS
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId
from tasks.science.stellar_locus import reserve_stars, select_locus
from tasks.stars import StarsConfig, select_stars


def make_sources(n_stars: int = 60, n_galaxies: int = 150) -> Table:
    """Stars of FWHM 3.7 +- 0.03 first, then galaxies of all sizes."""
    rng = np.random.default_rng(4)
    n = n_stars + n_galaxies
    return filled(
        SOURCES,
        n,
        number=np.arange(1, n + 1),
        x_win=rng.uniform(0, 1000, n),
        y_win=rng.uniform(0, 1000, n),
        mag_auto=np.concatenate([rng.uniform(18.1, 20.9, n_stars), rng.uniform(19.5, 24, n_galaxies)]),
        fwhm=np.concatenate([rng.normal(3.7, 0.03, n_stars), rng.uniform(4.0, 9.0, n_galaxies)]),
        snr_win=np.full(n, 100.0),
    )


def test_stars_are_found_among_galaxies() -> None:
    stars, fwhm = select_stars(make_sources(), CCD, StarsConfig())

    assert stars["number"].tolist() == list(range(1, 61))
    assert fwhm == pytest.approx(3.7, abs=0.03)
    assert tuple(stars.colnames) == STARS.names


@pytest.mark.parametrize(
    ("column", "value"),
    [("flags", 4), ("mag_auto", 17.5), ("mag_auto", 22.5), ("mag_auto", np.nan), ("snr_win", 15.0), ("fwhm", 4.0),
     ("fwhm", np.nan), ("imaflags", int(MaskFlag.HALO)), ("imaflags", int(MaskFlag.SATURATED | MaskFlag.EXTERNAL))],
)  # fmt: skip
def test_what_is_not_a_good_star_is_left_out(column: str, value: float) -> None:
    sources = make_sources()
    sources[column][7] = value
    stars, _ = select_stars(sources, CCD, StarsConfig())

    assert len(stars) == 59
    assert 8 not in stars["number"]


def test_a_single_bad_pixel_does_not_rule_a_star_out() -> None:
    sources = make_sources()
    sources["imaflags"][7] = int(MaskFlag.EXTERNAL | MaskFlag.WEIGHT)

    assert len(select_stars(sources, CCD, StarsConfig())[0]) == 60
    assert len(select_stars(sources, CCD, StarsConfig(selection="mag_auto < 22 and imaflags == 0"))[0]) == 59


def test_the_width_of_the_locus_is_a_setting() -> None:
    wide, _ = select_stars(make_sources(), CCD, StarsConfig(locus_half_width_px=1.0))
    narrow, _ = select_stars(make_sources(), CCD, StarsConfig(locus_half_width_px=0.01))

    assert len(narrow) < 60 < len(wide)


def test_a_fifth_of_the_stars_is_reserved() -> None:
    stars, _ = select_stars(make_sources(), CCD, StarsConfig())

    assert np.count_nonzero(stars["reserved"]) == 12
    assert not select_stars(make_sources(), CCD, StarsConfig(reserved_fraction=0.0))[0]["reserved"].any()


def test_the_order_of_the_table_does_not_change_who_is_reserved() -> None:
    sources = make_sources()
    stars, _ = select_stars(sources, CCD, StarsConfig())
    turned, _ = select_stars(sources[::-1], CCD, StarsConfig())

    assert set(stars["number"][stars["reserved"]]) == set(turned["number"][turned["reserved"]])


@pytest.mark.parametrize(("ccd", "seed"), [(CcdId(exposure="2113737", ccd=11), 0), (CCD, 1)])
def test_another_ccd_or_seed_reserves_others(ccd: CcdId, seed: int) -> None:
    x, y = np.random.default_rng(1).uniform(0, 1000, (2, 60))
    first = reserve_stars(x, y, fraction=0.2, ccd=CCD, seed=0)

    assert first.sum() == 12
    assert (first != reserve_stars(x, y, fraction=0.2, ccd=ccd, seed=seed)).any()
    np.testing.assert_array_equal(first, reserve_stars(x, y, fraction=0.2, ccd=CCD, seed=0))


def test_the_choice_is_fixed_for_ever() -> None:
    """A change here would change every shape catalogue."""
    x, y = np.arange(10.0), np.zeros(10)

    assert np.flatnonzero(reserve_stars(x, y, fraction=0.3, ccd=CCD, seed=0)).tolist() == [4, 5, 9]


def test_no_star_at_all_is_an_error() -> None:
    with pytest.raises(
        TooFewStarsError,
        match=r"CCD 10 of exposure 2113737 has 0 stars among 150 sources; star selection needs 1\. Check",
    ):
        select_stars(make_sources(0, 150)[:150], CCD, StarsConfig(selection="mag_auto < 10"))


def test_an_empty_table_is_the_same_error() -> None:
    with pytest.raises(TooFewStarsError, match="has 0 stars among 0 sources"):
        select_stars(make_sources()[:0], CCD, StarsConfig())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"selection": "mag_aut < 22"}, r"position 1: there is no column 'mag_aut'; did you mean 'mag_auto'\?"),
        ({"preselection": "mag_auto <"}, "it ends too early"),
        ({"selection": "flux_aper > 3"}, "there is no column 'flux_aper'"),
        ({"reserved_fraction": 1.0}, "less than 1"),
        ({"excluded_mask": ("HALOS",)}, "Input should be 'WEIGHT'"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        StarsConfig(**settings)  # type: ignore[arg-type]


def test_a_condition_without_columns_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no column; it would take all sources or none"):
        select_locus(make_sources(), preselection="1 < 2", selection="mag_auto < 22", half_width_px=0.2)


def test_the_stage_finds_the_stars_of_an_image(store) -> None:
    products = process(store)
    stars = read_table(store, products.stars, STARS)

    assert products.stars.key == "exposures/2113737/ccd-10/stars.fits"
    assert products.stars.subject == "2113737-10"
    # 49 stars, of which one is in a halo
    assert 44 <= len(stars) <= 48
    assert products.stars.summary["n_stars"] == len(stars)
    assert products.stars.summary["n_reserved"] == np.count_nonzero(stars["reserved"]) == round(0.2 * len(stars))
    assert products.stars.summary["fwhm_px"] == pytest.approx(3.85, abs=0.15)
