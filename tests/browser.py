"""Debian's Chromium, for tests of pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, sync_playwright

SIZES = {"desktop": {"width": 1100, "height": 900}, "phone": {"width": 390, "height": 844}}


def find_chromium() -> str:
    """Its path; skips where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("there is no chromium here: apt-get install chromium")
    return found


@contextmanager
def run_chromium() -> Iterator[Browser]:
    """A browser. Playwright runs an event loop in this thread until the block ends."""
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Gives a function that opens an address in a browser of some settings, silent: nothing is told on its console."""
    contexts, told = [], []

    def open_(address, *, locale="en-US", size="desktop", scheme="light", silent=True):
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme, locale=locale)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        if silent:
            page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    # The browser's own line where there is no answer, or one that is no 200.
    assert [text for text in told if not text.startswith("Failed to load resource: ")] == []


def read_bars(found: Locator) -> list:
    """The rows of each table: names, scores, widths in percent."""
    return found.locator("table.bars").evaluate_all(
        "tables => tables.map(table => Array.from(table.tBodies[0].rows, row => [row.cells[0].textContent, "
        "row.cells[1].textContent, row.cells[2].firstChild ? parseFloat(row.cells[2].firstChild.style.width) : null]))"
    )


def assert_fits(page: Page, size: str) -> None:
    """Nothing makes the page scroll sideways, and axe-core's rules, colour contrast among them, find nothing."""
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()
