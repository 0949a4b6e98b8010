"""A real Chromium to look at pages with, and what no page may do whatever it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
PATIENCE = 15_000  # ms for anything a page is to do
WIDE, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 844}

Open = Callable[..., Any]


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("LED_AGENT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright, path = None, None
    if path is None:
        told = "no Chromium here: set LED_AGENT_CHROMIUM to one, and pip install playwright"
        if os.environ.get("LED_AGENT_REQUIRE_BROWSER") == "1":
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens an address. Whatever it shows: nothing it holds runs, nothing raises, and it asks no one but ``origin``."""
    pages, contexts = [], []
    wrong: list[str] = []

    def opened(url: str, *, origin: str = "file://", viewport: dict[str, int] = WIDE, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(f"raised: {error}"))
        page.on("console", lambda told: wrong.append(f"console: {told.text}") if _bad(told) else None)

        def asked(route: Any) -> None:
            address = route.request.url
            if address.startswith((origin, "data:", "blob:")):
                route.continue_()
            else:
                wrong.append(f"asked for {address}")
                route.abort()

        context.route("**/*", asked)
        page.goto(url)
        pages.append(page)
        return page

    yield opened
    wrong += ["something ran" for page in pages if page.evaluate("() => window.harmed !== undefined")]
    for context in contexts:
        context.close()
    assert not wrong


def _bad(told: Any) -> bool:
    """Refused requests are told on the console, too; which of them are right is for each test to say."""
    return told.type == "error" and not told.text.startswith("Failed to load resource")


def expect(locator: Any) -> Any:
    """Playwright's assertions, which wait for what is expected; imported late, as there may be no Playwright.

    Its own patience, 5 s, is too little for a page that shares two cores with other tests.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    return expect(locator)


def holds(page: Any, what: str, given: Any = None) -> None:
    """Waits until a JavaScript expression over ``given`` is true: for what no locator tells, as the canvas."""
    page.wait_for_function(f"(given) => {what}", arg=given)


def where(page: Any, node: str, side: int = 0) -> dict[str, float]:
    """Where a node is in the window, and the zoom, once it has been drawn."""
    found: dict[str, float] = page.evaluate(
        """async ([id, side, patience]) => {
          for (const end = performance.now() + patience; performance.now() < end;) {
            await new Promise(requestAnimationFrame);
            const canvas = document.querySelectorAll("canvas")[side];
            const at = canvas?.ledScene?.draws && canvas.ledScene.whereIs(id);
            if (!at) continue;
            const box = canvas.getBoundingClientRect();
            return {x: box.left + at.x, y: box.top + at.y, k: at.k};
          }
          throw new Error(`no node ${id} was drawn`);
        }""",
        [node, side, PATIENCE],
    )
    return found


def click_node(page: Any, node: str, side: int = 0) -> None:
    """Clicks on a node; again where it moved before it was selected, as the nodes of a growing tree do."""
    at: dict[str, float] | None = where(page, node, side)
    while at:
        page.mouse.click(at["x"], at["y"])
        at = moved(page, node, side, at)


def moved(page: Any, node: str, side: int, at: dict[str, float]) -> dict[str, float] | None:
    """Where a node is that is no longer at its place, or nothing once it is selected."""
    found: dict[str, float] | None = page.evaluate(
        """async ([id, side, at, patience]) => {
          for (const end = performance.now() + patience; performance.now() < end;) {
            await new Promise(requestAnimationFrame);
            const canvas = document.querySelectorAll("canvas")[side];
            if (canvas.ledScene.selected === id) return null;
            const {left, top} = canvas.getBoundingClientRect();
            const {x, y, k} = canvas.ledScene.whereIs(id);
            if (Math.hypot(left + x - at.x, top + y - at.y) > 1) return {x: left + x, y: top + y, k};
          }
          throw new Error(`a click on node ${id} does not select it`);
        }""",
        [node, side, at, PATIENCE],
    )
    return found
