"""Reports: pages that stand alone, escape what they are told, and say the same for the same numbers."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from filled_tables import filled

from tasks.archive import keys
from tasks.archive.catalogs import write_catalog
from tasks.archive.documents import write_document
from tasks.archive.html import render_report
from tasks.archive.tables import write_table
from tasks.products.columns import CATALOG, PSF_RESIDUALS, SURVEY_CATALOG, TRUTH_GALAXIES
from tasks.products.identity import (
    CcdId,
    CcdProducts,
    ExposureId,
    ExposureProducts,
    ProductRef,
    SetAside,
    TileId,
    TileProducts,
)
from tasks.products.report import ReportContent, ReportFigure, ReportTable, set_aside_table
from tasks.products.shear import ShearEstimate, SurveyShear, TileShear, TruthComparison
from tasks.products.wcs_index import TileExposures
from tasks.report import ReportConfig, write_exposure_report_task, write_report_task, write_tile_report_task
from tasks.science.report_content import residual_numbers, shear_table, summary_table
from tasks.session import Outcome, session

CONFIG = ReportConfig()
TILE = TileId("101.200")
LOST = SetAside(subject="2113737-2", stage="stars", reason="CCD 2 has 7 <usable> stars & needs 20.")


class Page(HTMLParser):
    """Text, and the tags that a page must not have or must close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parse(text):
    page = Page(text)
    assert page.open == []
    return page


def test_a_page_escapes_everything_that_it_is_told():
    evil = '<script>alert("x")</script>&'
    content = ReportContent(
        title=evil,
        headline=((evil, evil),),
        notes=(evil,),
        tables=(ReportTable(title=evil, columns=(evil,), rows=((evil,),), note=evil),),
        figures=(ReportFigure(evil, b"png", evil),),
    )
    page = parse(render_report(content))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.words.count(evil) == 11


def test_a_page_loads_nothing_from_anywhere():
    content = ReportContent("Report", figures=(ReportFigure("One", b"\x89PNG"),))
    page = parse(render_report(content))
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64,iVBORw=="
    assert image["alt"] == "One"
    assert not re.search(r"https?:|//", render_report(content))
    [policy] = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_numbers_are_aligned_and_truth_values_are_words():
    table = ReportTable(title="T", columns=("name", "n"), rows=(("a", 3), ("b", 0.123456)), note="")
    text = render_report(ReportContent("R", tables=(table, table.model_copy(update={"rows": (("c", True),)}))))
    assert '<th class="n">n</th>' in text
    assert '<td class="n">0.1235</td>' in text
    assert "<td>yes</td>" in text


def test_an_empty_table_says_so():
    text = render_report(ReportContent("R", tables=(set_aside_table([]),)))
    assert "Nothing was set aside." in text
    assert "<table>" not in text


def test_what_was_set_aside_is_listed_in_order():
    table = set_aside_table(
        [SetAside(subject="b", stage="x", reason="2"), SetAside(subject="a", stage="y", reason="1")]
    )
    assert table.rows == (("a", "y", "1"), ("b", "x", "2"))


def test_summaries_with_different_names_share_one_table():
    table = summary_table("CCDs", [("0", {"n_sources": 3}), ("1", {"n_stars": 2})], first="CCD")
    assert table.columns == ("CCD", "n sources", "n stars")
    assert table.rows == (("0", 3, ""), ("1", "", 2))


@pytest.fixture
def residuals():
    rng = np.random.default_rng(1)
    columns = {name: rng.normal(0.01, 1e-3, 50) for name in ("g1_star", "g2_star", "g1_psf", "g2_psf")}
    columns |= {"t_star": np.full(50, 0.21), "t_psf": np.full(50, 0.20), "flags_star": [4, *[0] * 49]}
    return filled(PSF_RESIDUALS, 50, ra_win=rng.uniform(150, 150.1, 50), dec_win=rng.uniform(0, 0.1, 50), **columns)


def test_residual_numbers_leave_flagged_stars_out(residuals):
    residuals["t_psf"][0] = np.nan
    numbers = residual_numbers(residuals)
    assert (numbers["reserved stars"], numbers["measured"]) == (50, 49)
    assert numbers["mean dT/T"] == pytest.approx(0.01 / 0.21)
    assert residual_numbers(residuals[:1]) == {"reserved stars": 1, "measured": 0}


def estimate(g1=0.02, kind=ShearEstimate, **columns):
    response = ((0.8, 0.0), (0.0, 0.7)), ((-0.1, 0.0), (0.0, 0.0))
    return kind(
        g1=g1, g1_error=0.004, g2=-0.01, g2_error=0.005, shear_response=response[0], selection_response=response[1],
        n_objects=100, n_selected=80, n_groups=80, **columns,
    )  # fmt: skip


SHEAR = SurveyShear(
    survey=estimate(),
    tiles=(estimate(0.03, TileShear, tile="101.200"),),
    selected_by_cut={"flags": 90, "all": 80},
    truth=TruthComparison(g1=0.019, g2=-0.009, recovered=estimate(0.0195), n_true=60, n_matched=50),
)


def test_the_shear_table_has_tiles_survey_and_truth():
    table = shear_table(SHEAR)
    assert [row[0] for row in table.rows] == ["all", "101.200", "true galaxies, by pairs", "input"]
    assert table.rows[0][1:4] == ("+0.02000 ± 0.00400", "-0.01000 ± 0.00500", pytest.approx(0.7))
    assert table.rows[3][1] == "+0.01900"


@pytest.fixture
def survey(store, raw_store, residuals):
    """Everything that the reports of a small survey read, in a store."""
    rng = np.random.default_rng(2)
    sky = {"ra_win": rng.uniform(149.98, 150.02, 100), "dec_win": rng.uniform(-0.02, 0.02, 100)}
    columns = {"mag_auto": rng.uniform(20, 25, 100), "shape_flags": [1] * 20 + [0] * 80, **sky}
    listed = TileExposures(tile=TILE, ra=150.0, dec=0.0, size_px=800, pixel_scale_arcsec=0.2, ccds=())
    tile_catalog = write_catalog(store, filled(CATALOG, 100, tile_id=["101.200"] * 100, **columns), listed)
    catalog = write_table(
        store, "survey/catalog.fits", filled(SURVEY_CATALOG, 100, tile_id=["101.200"] * 100, **columns), SURVEY_CATALOG,
        subject="survey",
    )  # fmt: skip
    ref = write_table(
        store, "exposures/2113737/ccd-01/psf_residuals.fits", residuals, PSF_RESIDUALS, subject="2113737-1"
    )
    other = ProductRef(key="x", sha256="0" * 64, size=1, summary={"n_sources": 17})
    ccd = CcdProducts(
        ccd=CcdId(exposure="2113737", ccd=1), residuals=ref,
        **dict.fromkeys(("image", "dq", "mask", "sources", "stars", "psf"), other),
    )  # fmt: skip
    truth = filled(
        TRUTH_GALAXIES, 120, mag=rng.uniform(20, 25, 120),
        ra=[*sky["ra_win"], *[160.0] * 20], dec=[*sky["dec_win"], *[0.0] * 20],
    )  # fmt: skip
    return {
        "exposures": [ExposureProducts(exposure=ExposureId("2113737"), headers=other, ccds=(ccd,), set_aside=(LOST,))],
        "tiles": [TileProducts(tile=TILE, catalog=tile_catalog, products={"coadd": other})],
        "catalog": catalog,
        "shear": write_document(store, "survey/shear.json", SHEAR, subject="survey"),
        "truth": write_table(raw_store, "truth/galaxies.fits", truth, TRUTH_GALAXIES, subject="survey"),
    }


def write(survey, store, raw_store, **changes):
    arguments = {"title": "Demo", "set_aside": [LOST], "config": CONFIG, "store": store, "raw": raw_store}
    ref = write_report_task.fn(**(survey | arguments | changes))
    return ref, store.read_bytes(ref.key).decode()


def test_the_report_of_a_survey_says_it_all(survey, store, raw_store):
    ref, text = write(survey, store, raw_store)
    page = parse(text)
    assert ref.key == "survey/report.html"
    for word in ("Demo", "+0.0200 ± 0.0040", "2113737", "101.200", LOST.reason, "Completeness", "Mean shear per tile"):
        assert word in page.words, word
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 5
    assert "Share of the 100 true galaxies on the tiles" in text


def test_a_report_of_real_data_has_no_completeness(survey, store, raw_store):
    _, text = write(survey, store, raw_store, truth=None)
    assert "Completeness" not in text


def test_the_same_survey_gives_the_same_page(survey, store, raw_store):
    first, _ = write(survey, store, raw_store)
    with store.local_copy(keys.record("report", "survey")) as record:
        record.unlink()
    with session() as current:
        again, _ = write(survey, store, raw_store)
    other, _ = write(survey, store, raw_store, title="Other")
    assert current.count(Outcome.RUN) == 1
    assert again.sha256 == first.sha256
    assert other.sha256 != first.sha256


def test_exposures_and_tiles_have_reports_of_their_own(survey, store):
    exposure = write_exposure_report_task.fn(survey["exposures"][0], CONFIG, store)
    page = parse(store.read_bytes(exposure.key).decode())
    assert exposure.key == "exposures/2113737/report.html"
    assert {"2113737-1", "17", LOST.reason, "PSF residuals at reserved stars"} <= set(page.words)
    tile = write_tile_report_task.fn(survey["tiles"][0], CONFIG, store)
    page = parse(store.read_bytes(tile.key).decode())
    assert tile.key == "tiles/101.200/report.html"
    assert {"Tile 101.200", "coadd", "Magnitudes"} <= set(page.words)
