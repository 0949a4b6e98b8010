"""Pictures of the pages for the docs: scripts/screenshots.py RUN [--compare RUN] [--server URL] [--out docs/img]

RUN is a journal or a run's folder; with --server, the chat and search page of a running server is asked its example,
too. Each is taken at 1280x720 and as on a phone, light and dark. Needs playwright and a Chromium (LED_AGENT_CHROMIUM).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from led_agent.pages.export import write_html
from led_agent.pages.saved import read_saved

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
SIZES = {"wide": {"width": 1280, "height": 720}, "phone": {"width": 390, "height": 844}}
SETTLED = 400  # milliseconds


def viewer(page: Any) -> None:
    """The first accepted branch, or the first of all, opened; with a second run, nothing is."""
    page.locator("canvas").first.focus()
    if page.locator("canvas").count() == 1:
        accepted = page.get_by_test_id("status-accepted")
        if accepted.count():
            accepted.click()
            page.get_by_label("next match").click()
            accepted.click()
            page.locator("canvas").focus()
        else:
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.get_by_test_id("verdicts").wait_for()


def search(page: Any) -> None:
    """The server's example, solved."""
    page.get_by_test_id("model").wait_for(state="attached")  # with it the settings have come, and the example
    example = page.get_by_test_id("prompt").get_attribute("placeholder").removeprefix("for example: ")
    page.get_by_test_id("prompt").fill(example)
    page.get_by_test_id("send").click()
    page.get_by_test_id("standing").wait_for(timeout=120_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--server")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument("--chromium", default=os.environ.get("LED_AGENT_CHROMIUM") or shutil.which("chromium"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages: dict[str, tuple[str, Callable[[Any], None]]] = {}
        single = Path(folder) / "run.html"
        write_html(single, read_saved(asked.run), title=asked.run.name)
        pages["viewer"] = single.as_uri(), viewer
        if asked.compare:
            both = Path(folder) / "both.html"
            write_html(
                both, read_saved(asked.run), title=asked.run.name, other=read_saved(asked.compare),
                other_title=asked.compare.name,
            )  # fmt: skip
            pages["compare"] = both.as_uri(), viewer
        if asked.server:
            pages["page"] = asked.server, search
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=list(FLAGS))
        for name, (address, prepare) in pages.items():
            for size, viewport in SIZES.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(viewport=viewport, color_scheme=scheme)
                    page.goto(address)
                    prepare(page)
                    page.mouse.move(2, 2)
                    page.wait_for_timeout(SETTLED)
                    page.screenshot(path=asked.out / f"{name}-{size}-{scheme}.png")
                    page.close()
        browser.close()


if __name__ == "__main__":
    main()
