"""A headless Chromium that waits for what it looks at, and takes pictures."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, CHROMEDRIVER = "chromium", "chromedriver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
)
WIDTH, HEIGHT = 1280, 1000
PATIENCE_S = 30
MAX_PICTURE_BYTES = 200_000
SCREENSHOTS = "SHEARLINE_SCREENSHOTS"


class Browser:
    """What an operator sees and does in the Prefect UI."""

    def __init__(self, driver: webdriver.Chrome, url: str, folder: Path) -> None:
        self._driver = driver
        self._url = url
        self._folder = folder
        self._pictures = Path(os.environ.get(SCREENSHOTS) or folder / "screenshots")

    @classmethod
    @contextmanager
    def opened(cls, url: str, folder: Path) -> Iterator["Browser"]:
        """Start Chromium with a profile of its own."""
        options = Options()
        options.binary_location = shutil.which(CHROMIUM) or CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which(CHROMEDRIVER)))
        try:
            yield cls(driver, url, folder)
        finally:
            driver.quit()
            # its connection to the driver would be closed at some moment, in some other test
            driver.command_executor.close()

    def go(self, path: str) -> None:
        """Open a page of the UI."""
        self._driver.get(f"{self._url}{path}")

    def _wait(self, condition: Callable[[object], Any], otherwise: str) -> Any:
        # Vue replaces elements and slides toasts over them while one looks
        passing = (StaleElementReferenceException, ElementClickInterceptedException)
        return WebDriverWait(self._driver, PATIENCE_S, 0.1, ignored_exceptions=passing).until(condition, otherwise)

    @property
    def path(self) -> str:
        """The page that is open."""
        return self._driver.current_url.removeprefix(self._url)

    def all(self, xpath: str) -> list[WebElement]:
        """Every element there is now."""
        return self._driver.find_elements(By.XPATH, xpath)

    def see(self, xpath: str) -> WebElement:
        """Wait until something is visible."""

        def visible(_driver: object) -> WebElement | None:
            return next((item for item in self.all(xpath) if item.is_displayed()), None)

        found: WebElement = self._wait(visible, f"nothing to see of {xpath}")
        return found

    def see_text(self, *words: str) -> WebElement:
        """Wait until a text that contains all these words is visible."""
        return self.see(containing(*words))

    def comes_to(self, part: str, unless: str) -> bool:
        """Wait until another page is open, or something else is seen instead; say whether the page is open."""

        def known(_driver: object) -> bool:
            return part in self.path or bool(self.all(unless))

        self._wait(known, f"the page is not {part}")
        return part in self.path

    def wait_for_value(self, item: WebElement, value: str) -> None:
        """Wait until an input has a value."""
        self._wait(lambda _: item.get_property("value") == value, f"the value is not {value}")

    def click(self, xpath: str) -> None:
        """Click on something as soon as it can be clicked on."""

        def clicked(_driver: object) -> bool:
            item = self.see(xpath)
            self.scroll_to(item)
            item.click()
            return True

        self._wait(clicked, f"cannot click on {xpath}")

    def scroll_to(self, item: WebElement, block: str = "center") -> None:
        """Bring an element into the window."""
        self._driver.execute_script(f"arguments[0].scrollIntoView({{block: '{block}'}})", item)

    def hover(self, xpath: str, words: str) -> None:
        """Hold the mouse over something until a hint with these words appears."""

        def hinted(_driver: object) -> bool:
            mouse = ActionChains(self._driver)
            mouse.move_to_element_with_offset(self.see("//body"), 0, 0).move_to_element(self.see(xpath)).perform()
            try:
                WebDriverWait(self._driver, 2, 0.1).until(lambda _: self.all(containing(words)))
            except TimeoutException:
                return False
            return True

        self._wait(hinted, f"no hint with {words}")

    def type(self, item: WebElement, text: str) -> None:
        """Replace the text of an input."""
        self.scroll_to(item)
        item.send_keys(Keys.CONTROL + "a")
        item.send_keys(Keys.DELETE)
        item.send_keys(text)
        self.wait_for_value(item, text)

    def colours_of(self, item: WebElement) -> list[tuple[int, tuple[int, int, int]]]:
        """How many pixels of each colour an element shows."""
        picture = Image.open(io.BytesIO(item.screenshot_as_png)).convert("RGB")
        found: list[tuple[int, tuple[int, int, int]]] = picture.getcolors(picture.width * picture.height)
        return found

    def photograph(self, name: str) -> Path:
        """Keep a picture of the window: few colours, so that it is small."""
        picture = Image.open(io.BytesIO(self._driver.get_screenshot_as_png())).convert("RGB")
        assert picture.width == WIDTH
        path = self._pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size <= MAX_PICTURE_BYTES
        return path

    def keep_evidence(self, name: str) -> str:
        """Keep page and picture of a failure, and say where."""
        page, picture = self._folder / f"{name}.html", self._folder / f"{name}.png"
        page.write_text(self._driver.page_source, encoding="utf-8")
        self._driver.save_screenshot(str(picture))
        return f"at {self.path}; page in {page}, picture in {picture}; logs of the services beside them"


def containing(*words: str) -> str:
    """Elements with a text of their own that contains all these words."""
    return "//*[text()[" + " and ".join(f"contains(normalize-space(.),{quoted(word)})" for word in words) + "]]"


def quoted(text: str) -> str:
    """A text as XPath writes it."""
    if '"' not in text:
        return f'"{text}"'
    return "concat(" + ", '\"', ".join(f'"{part}"' for part in text.split('"')) + ")"
