"""What an operator sees and does in the Prefect UI, in a real browser against a real server and worker."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, containing, quoted
from house import BROKEN_CCD, EXPOSURE, House
from selenium.webdriver.remote.webelement import WebElement

# a server, a worker and a browser: too long for every change
pytestmark = pytest.mark.faults

FIELD = (
    "//div[contains(@class,'schema-form-property') and ./div[@class='p-label__header']"
    "//span[@class='schema-form-property__label' and .={label}]]"
)


def field(*labels: str) -> str:
    """The field of a form below the labels of its groups."""
    return "//form" + "".join(FIELD.format(label=quoted(label)) for label in labels)


def control(browser: Browser, *labels: str) -> WebElement:
    return browser.see(f"({field(*labels)}//*[self::textarea or self::input])[1]")


def open_run_form(browser: Browser, house: House) -> None:
    browser.go(f"/deployments/deployment/{house.deployment('exposure/exposure')}/run")
    # the form comes first, the defaults of the deployment a moment later; they would take the place of what is typed
    browser.wait_for_value(control(browser, *THRESHOLD), "1.5")


THRESHOLD = ("config", "Detect (Optional)", "Threshold Sigma (Optional)")
SUBMIT = "//form//button[contains(., 'Submit')]"
# what the UI says when the server does not answer in time, which an operator answers by trying again
OOPS = containing("Something went wrong")
TRIES = 3
TOAST = "//*[contains(@class,'p-toast__message') and contains(.,{words})]"


@pytest.fixture(scope="module")
def run(browser: Browser, house: House) -> dict[str, Any]:
    """The run that an operator starts with the form."""
    for _ in range(TRIES):
        open_run_form(browser, house)
        browser.type(control(browser, "exposure"), EXPOSURE)
        browser.click(SUBMIT)
        if browser.comes_to("tab=Runs", unless=OOPS):
            break
    [created] = house.runs("exposure/exposure")
    return created


@pytest.fixture(scope="module")
def completed(run: dict[str, Any], house: House) -> dict[str, Any]:
    """The same run when it has ended."""

    def ended() -> dict[str, Any] | None:
        [now] = house.runs("exposure/exposure")
        return now if now["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    found: dict[str, Any] = house.wait_for("the run", ended)
    return found


@pytest.fixture
def run_page(browser: Browser, completed: dict[str, Any]) -> Iterator[Browser]:
    """The page of the run."""
    browser.go(f"/runs/flow-run/{completed['id']}")
    browser.see("//canvas")
    return browser


def test_every_field_of_the_run_form_is_described(browser: Browser, house: House) -> None:
    open_run_form(browser, house)
    labels = browser.all("//form//span[@class='schema-form-property__label']")
    bare = browser.all(
        "//form//div[@class='p-label__header'][.//span[@class='schema-form-property__label']]"
        "[not(.//*[contains(@class,'schema-form-property__description')])]"
    )

    assert len(labels) > 80
    assert [item.text for item in bare] == []
    browser.see_text("One exposure of the whole camera")
    browser.photograph("run-form")
    browser.scroll_to(browser.see(field("config", "Detect (Optional)")), "start")
    browser.see_text("Threshold in units of the pixel noise")
    browser.photograph("run-form-settings")


@pytest.mark.parametrize(
    ("labels", "value", "words", "picture"),
    [
        (THRESHOLD, "-1", "threshold_sigma", "run-form-refuses"),
        (("exposure",), "../../etc/passwd", "does not match", None),
    ],
    ids=["a negative threshold", "a path instead of a name"],
)
def test_the_form_refuses_a_bad_value_and_says_which(
    browser: Browser, house: House, labels: tuple[str, ...], value: str, words: str, picture: str | None
) -> None:
    before = len(house.runs("exposure/exposure"))
    open_run_form(browser, house)
    browser.type(control(browser, "exposure"), EXPOSURE)
    browser.type(control(browser, *labels), value)
    browser.click(SUBMIT)
    said = browser.see(TOAST.format(words=quoted("Validation failed")))

    assert words in said.text
    assert value in said.text
    assert browser.path.endswith("/run")
    assert len(house.runs("exposure/exposure")) == before
    if picture:
        browser.photograph(picture)


def test_the_form_creates_a_run_of_that_exposure(run: dict[str, Any]) -> None:
    assert run["parameters"]["exposure"] == EXPOSURE
    assert set(run["tags"]) == {"shearline", "exposure"}


def test_the_nightly_schedule_says_when_it_runs_next(browser: Browser, house: House) -> None:
    def scheduled() -> list[dict[str, Any]]:
        return [run for run in house.runs("nightly/nightly") if run["state_type"] == "SCHEDULED"]

    house.wait_for("the scheduler", scheduled, 30)
    browser.go(f"/deployments/deployment/{house.deployment('nightly/nightly')}")
    browser.click("//*[@id='upcoming']")
    first = min(scheduled(), key=lambda run: str(run["expected_start_time"]))
    browser.see_text(first["name"])
    browser.hover("//*[contains(@class,'deployment-schedule-card__content')]", "At 09:00 AM every day")
    browser.see_text("Pacific/Honolulu")

    assert len(browser.all("//*[contains(@class,'flow-run-list-item') or contains(@class,'state-list-item')]")) >= 3
    browser.photograph("nightly-schedule")


def test_the_run_is_green_although_a_ccd_is_red(run_page: Browser, completed: dict[str, Any], house: House) -> None:
    assert completed["state_type"] == "COMPLETED", (house.folder / "worker.log").read_text()[-3000:]
    assert completed["name"] == f"exposure {EXPOSURE}"
    run_page.see("//*[contains(@class,'state-badge') and contains(.,'Completed')]")
    canvas = run_page.see("//canvas")

    def shows(colour: str) -> bool:
        place = ("red", "green").index(colour)
        return any(
            count > 20 and pixel[place] > 130 and pixel[place] > 2 * max(*pixel[:place], *pixel[place + 1 :])
            for count, pixel in run_page.colours_of(canvas)
        )

    house.wait_for("the graph", lambda: shows("red") and shows("green"), 20)
    run_page.photograph("exposure-run")


def test_the_red_task_and_those_after_it_name_the_ccd(run_page: Browser) -> None:
    ccd = f"{EXPOSURE}-{BROKEN_CCD}"
    run_page.click("//*[@id='task-runs']")
    run_page.see_text("psf_validate")
    item = "//*[contains(@class,'state-list-item') and contains(.,{name}) and contains(.,{state})]"

    run_page.see(item.format(name=quoted(f"split {ccd}"), state=quoted("Failed")))
    for stage in ("dq_init", "mask", "detect", "stars", "psf_fit", "psf_validate"):
        run_page.see(item.format(name=quoted(f"{stage} {ccd}"), state=quoted("Not started")))
    run_page.photograph("exposure-tasks")


def test_the_artifacts_show_progress_tables_and_figures(run_page: Browser, house: House) -> None:
    run_page.click("//*[@id='artifacts']")
    for name in ("progress", "ccds", "set-aside", "figures"):
        run_page.see_text(f"exposure-{EXPOSURE}-{name}")
    run_page.see_text("2 of 2 done")
    run_page.photograph("exposure-artifacts")


def artifact(house: House, completed: dict[str, Any], name: str) -> str:
    [found] = house.post(
        "/artifacts/filter",
        artifacts={"key": {"any_": [f"exposure-{EXPOSURE}-{name}"]}, "flow_run_id": {"any_": [completed["id"]]}},
    )
    return f"/artifacts/artifact/{found['id']}"


def test_the_table_of_what_was_set_aside_has_the_sentence(
    browser: Browser, house: House, completed: dict[str, Any]
) -> None:
    browser.go(artifact(house, completed, "set-aside"))

    browser.see(f"//table//td[contains(., '{EXPOSURE}-{BROKEN_CCD}')]")
    browser.see("//table//td[contains(., 'the image is all NaN')]")
    browser.see_text("State Message")
    browser.photograph("artifact-set-aside")


def test_the_table_of_ccds_has_their_numbers(browser: Browser, house: House, completed: dict[str, Any]) -> None:
    browser.go(artifact(house, completed, "ccds"))

    cells = [item.text for item in browser.see("//table//tbody//tr").find_elements("xpath", "./td")]
    assert cells[0] == f"{EXPOSURE}-0"
    assert int(cells[1]) > 20
    assert cells[-1] == f"exposures/{EXPOSURE}/ccd-00"
    browser.see_text("State Message")
    browser.photograph("artifact-ccds")


def test_the_figures_are_really_drawn(browser: Browser, house: House, completed: dict[str, Any]) -> None:
    browser.go(artifact(house, completed, "figures"))
    browser.see("//img[starts-with(@src,'data:image/png')]")
    pictures = browser.all("//img[starts-with(@src,'data:image/png')]")

    assert len(pictures) == 2
    for picture in pictures:
        house.wait_for("the picture", lambda item=picture: int(item.get_property("naturalWidth") or 0) > 300, 10)
    browser.see_text("State Message")
    browser.photograph("artifact-figures")
