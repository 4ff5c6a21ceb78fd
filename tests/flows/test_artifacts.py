import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

import flows.artifacts
from blocks.store import DataStore
from flows.arrival import ArrivalReport, show_arrivals
from flows.artifacts import MAX_FIGURE_BYTES, Progress, progress, show_exposure, show_tile
from flows.markdown import artifact_key, plain
from tasks.archive.html import write_report
from tasks.archive.html_figures import read_figures
from tasks.errors import BadFileError
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
from tasks.products.report import ReportContent, ReportFigure

pytestmark = pytest.mark.usefixtures("prefect_server")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = (
    "CCD 7 <img src=x onerror=alert(1)> has [a link](javascript:1) | a | cell, `code`, *and* http://evil.example\n# boo"
)


def in_a_flow(work: Callable[[], object]) -> dict[str, Artifact]:
    """Do some work in a flow run and return the artifacts that it leaves, by key."""

    @flow(name="shows")
    def shows() -> str:
        work()
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    run = shows()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return {str(item.key): item for item in found}


def ref(key: str, **summary: Any) -> ProductRef:
    return ProductRef(key=key, sha256="0" * 64, size=1, summary=summary)


def ccd_products(number: int) -> CcdProducts:
    folder = f"exposures/2113737/ccd-{number:02d}"
    return CcdProducts(
        ccd=CcdId(exposure="2113737", ccd=number),
        image=ref(f"{folder}/image.fits"),
        dq=ref(f"{folder}/dq.fits"),
        mask=ref(f"{folder}/mask.fits", masked=0.05),
        sources=ref(f"{folder}/sources.fits", n_sources=79),
        stars=ref(f"{folder}/stars.fits", n_stars=35, n_reserved=7),
        psf=ref(f"{folder}/psf.psf", fwhm_px=3.87),
        residuals=ref(f"{folder}/psf_residuals.fits", de_rms=0.0043, dtt_mean=float("nan")),
    )


def exposure(*set_aside: SetAside) -> ExposureProducts:
    return ExposureProducts(
        exposure=ExposureId("2113737"),
        headers=ref("exposures/2113737/headers.sqlite"),
        ccds=(ccd_products(0), ccd_products(3)),
        set_aside=set_aside,
    )


def report(store: DataStore, *figures: ReportFigure) -> ProductRef:
    return write_report(store, "exposures/2113737/report.html", ReportContent("A", figures=figures), subject="2113737")


def test_an_exposure_shows_its_ccds_with_their_numbers_and_keys() -> None:
    shown = in_a_flow(lambda: show_exposure(exposure()))

    assert set(shown) == {"exposure-2113737-ccds"}
    table = shown["exposure-2113737-ccds"]
    assert table.type == "table"
    assert table.description == "exposure 2113737: good CCDs: 2, set aside: 0."
    assert json.loads(str(table.data))[1] == {
        "CCD": "2113737-3",
        "sources": 79,
        "stars": 35,
        "reserved": 7,
        "FWHM [px]": 3.87,
        "rms δe": 0.0043,
        "mean δT/T": None,
        "masked": 0.05,
        "products": r"exposures/2113737/ccd-03",
    }


def test_what_was_set_aside_is_shown_with_its_sentence_and_never_as_markup(store: DataStore) -> None:
    lost = SetAside(subject="2113737-7", stage="split", reason=NASTY)
    shown = in_a_flow(lambda: show_exposure(exposure(lost), None, store))

    [row] = json.loads(str(shown["exposure-2113737-set-aside"].data))
    assert (row["what"], row["stage"]) == ("2113737-7", "split")
    assert row["why"] == plain(NASTY)
    assert "good CCDs: 2, set aside: 1. Products are in" in str(shown["exposure-2113737-ccds"].description)


def test_the_figures_of_the_report_are_shown_as_they_are_in_its_page(store: DataStore) -> None:
    page = report(store, ReportFigure("Whiskers & more", PNG, "Note <1>"), ReportFigure("Second", PNG))
    shown = in_a_flow(lambda: show_exposure(exposure(), page, store))["exposure-2113737-figures"]

    assert read_figures(store, page) == (ReportFigure("Whiskers & more", PNG, "Note <1>"), ReportFigure("Second", PNG))
    text = str(shown.data)
    assert text.count(f"(data:image/png;base64,{base64.b64encode(PNG).decode()})") == 2
    assert r"### Whiskers \& more" in text
    assert r"Note \<1\>" in text
    assert "exposures/2113737/report.html" in str(shown.description)


def test_a_figure_that_is_too_large_for_the_database_stays_in_the_report(store: DataStore) -> None:
    page = report(store, ReportFigure("Huge", PNG + bytes(MAX_FIGURE_BYTES)))
    shown = in_a_flow(lambda: show_exposure(exposure(), page, store))["exposure-2113737-figures"]

    assert "This figure has 150 kB; it is in the report." in str(shown.data)
    assert len(str(shown.data)) < 200


def test_a_page_that_is_no_report_is_refused(store: DataStore) -> None:
    store.put_bytes("page.html", b'<img src="data:image/png;base64,####">')

    with pytest.raises(BadFileError, match=r"page\.html is not the page of a report"):
        read_figures(store, ref("page.html"))


def test_a_tile_shows_the_numbers_of_every_stage() -> None:
    products = TileProducts(
        tile=TileId("210.296"),
        catalog=ref("tiles/210.296/catalog.fits", n_sources=91, n_measured=73),
        products={"coadd": ref("tiles/210.296/coadd.fits", n_ccds=4)},
    )
    shown = in_a_flow(lambda: show_tile(products))["tile-210-296-products"]

    assert json.loads(str(shown.data)) == [
        {"stage": "coadd", "numbers": "n ccds 4", "product": "tiles/210.296/coadd.fits"},
        {"stage": "catalog", "numbers": "n sources 91, n measured 73", "product": "tiles/210.296/catalog.fits"},
    ]


def test_progress_ends_with_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with progress("exposure 2113737") as board:
            for done in range(1, 4):
                board.update(done, 10)

    shown = in_a_flow(work)["exposure-2113737-progress"]

    assert (shown.type, shown.data) == ("progress", 30.0)
    assert shown.description == "exposure 2113737: 3 of 10 done"


def test_progress_is_told_to_the_server_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    update = flows.artifacts.update_progress_artifact
    monkeypatch.setattr(
        flows.artifacts, "update_progress_artifact", lambda *args, **kw: (told.append(args[1]), update(*args, **kw))
    )

    def work() -> None:
        with progress("exposure 2113737") as board:
            for done in range(1, 401):
                board.update(done, 400)

    in_a_flow(work)

    # 400 updates without any work between them take less than the second before the first one that is told
    assert told == [100.0]


def test_nothing_is_shown_without_a_flow_run() -> None:
    with progress("exposure 2113737") as board:
        board.update(1, 2)
    Progress().update(2, 2)
    show_exposure(exposure())

    with get_client(sync_client=True) as client:
        latest = client.read_artifacts(limit=1)
    in_a_flow(lambda: None)
    with get_client(sync_client=True) as client:
        assert client.read_artifacts(limit=1) == latest


def test_a_server_that_is_gone_costs_a_line_in_the_log_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    @flow(name="goes-on")
    def goes_on() -> str:
        context = FlowRunContext.get()
        assert context is not None

        def refused(request: httpx.Request) -> httpx.Response:
            return httpx.Response(503, request=request)

        gone = httpx.Client(transport=httpx.MockTransport(refused), base_url=PREFECT_API_URL.value())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(context.client, "_client", gone)
            with progress("exposure 2113737") as board:
                board.update(1, 1)
            show_exposure(exposure())
            show_arrivals(ArrivalReport(done=1, seconds=1.0))
        return "done"

    assert goes_on() == "done"
    lines = [record.getMessage() for record in caplog.records if "does not show" in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == [
        "The Prefect UI does not show the progress of exposure 2113737",
        "The Prefect UI does not show the table of exposure 2113737 ccds",
        "The Prefect UI does not show the text of arrival",
    ]


def test_a_lost_report_costs_the_figures_only(store: DataStore, tmp_path: Path) -> None:
    lost = ref("exposures/2113737/report.html")

    assert set(in_a_flow(lambda: show_exposure(exposure(), lost, store))) == {"exposure-2113737-ccds"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CCD 2113737-10 has 7 stars.", "CCD 2113737-10 has 7 stars."),
        ("a|b", r"a\|b"),
        ("[x](y) ![z](w)", r"\[x\](y) \!\[z\](w)"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("n_stars *7* `8` ~9~", r"n\_stars \*7\* \`8\` \~9\~"),
        ("see https://evil.example or www.evil.example", r"see https:/\/evil.example or www\.evil.example"),
        ("two\nlines\x00and\u202emore", "two lines and more"),
        ("- no list", r"\- no list"),
        ("1. no list", r"1\. no list"),
        ("210.296", "210.296"),
        ("é" * 3000, "é" * 2000 + " …"),
    ],
)
def test_a_text_becomes_markdown_that_shows_the_text(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("exposure 2113737", "set aside"), "exposure-2113737-set-aside"),
        (("tile 210.296",), "tile-210-296"),
        (("Nacht_1+2",), "nacht-1-2"),
        (("../..",), "unnamed"),
        (("x" * 300,), "x" * 200),
    ],
)
def test_a_key_has_lower_case_letters_digits_and_dashes(words: tuple[str, ...], key: str) -> None:
    assert artifact_key(*words) == key
