"""A headless Chromium, if this computer has one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDE, PHONE = (1280, 800), (390, 844)


def executable() -> str:
    """Path of the browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser, found none of {', '.join(NAMES)}: apt-get install chromium-headless-shell")
    return found


@contextmanager
def browser() -> Iterator:
    """A function that opens an address in a window of a size; the page counts its requests elsewhere as `outside`."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements/dev.txt")
    with sync_api.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=executable(), args=["--no-sandbox"])

        def show(address: str, size: tuple[int, int], outside: list[str]):
            width, height = size
            phone = width < 600
            context = chromium.new_context(
                viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone
            )
            page = context.new_page()
            page.set_default_timeout(60_000)
            home = address.split("?", maxsplit=1)[0]
            own = (home, "data:", home.replace("http", "ws"))
            page.on("request", lambda r: None if r.url.startswith(own) else outside.append(r.url))
            page.goto(address)
            return page

        yield show
        chromium.close()


def on_top(page, selector: str) -> bool:
    """Whether an element is whole inside the window, and its middle is not covered by another one."""
    box, size = page.locator(selector).bounding_box(), page.viewport_size
    inside = box["x"] >= 0 and box["y"] >= 0
    inside &= box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    hit = "([s, x, y]) => document.elementFromPoint(x, y) === document.querySelector(s)"
    return inside and page.evaluate(hit, [selector, *middle])
