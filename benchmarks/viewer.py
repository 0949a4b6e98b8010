"""How fast the viewer is with a large tree: time to the first picture, and frames a second while it is moved.

    python benchmarks/viewer.py [--nodes 5000] [--chromium /usr/bin/chromium] [--trace trace.json]

A tree of so many branches is made by the tree's own interface, written as `led-agent show --html` would, and opened in
a headless Chromium that draws by software. Printed is one JSON object: the page's size, milliseconds from the start of
the navigation to the tree's first picture, and for two zooms (the first view, and the whole tree in sight) the frames a
second while the pointer drags it, with the longest frame. Needs `pip install playwright` and a Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from led_agent import Branch, Decoding, Problem, Tree, Verdict
from led_agent.events import Ended
from led_agent.pages.export import write_html

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
LEAST_FPS, MOST_MS = 30, 2000
DRAG = """async ({frames}) => {
  const canvas = document.querySelector("canvas");
  const box = canvas.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  const at = (k) => ({clientX: x + 90 * Math.sin(k / 12), clientY: y + 2 * k, bubbles: true,
    cancelable: true, view: window, button: 0, buttons: 1});
  const frame = () => new Promise(requestAnimationFrame);
  const drawn = canvas.ledScene.draws;
  canvas.dispatchEvent(new MouseEvent("mousedown", at(0)));
  const times = [await frame()];
  for (let k = 1; k <= frames; k += 1) {
    window.dispatchEvent(new MouseEvent("mousemove", at(k % 60)));
    times.push(await frame());
  }
  window.dispatchEvent(new MouseEvent("mouseup", at(0)));
  return {times, draws: canvas.ledScene.draws - drawn, zoom: canvas.ledScene.whereIs("root").k};
}"""


def large_tree(nodes: int) -> Tree:
    """Branches of 20 to 400 tokens, a few levels deep, of every status and kind of decoding."""
    random.seed(0)
    tree = Tree(Problem(prompt="A large tree, to measure the viewer with."), decoding=Decoding.plain())
    kinds = [Decoding.plain(), Decoding.led("paper"), Decoding.noise(0.1), Decoding.greedy()]
    levels = ["root"]
    while len(tree) - 1 < nodes:
        parent = random.choice(levels[-600:])
        wanted = min(random.randint(2, 8), nodes - len(tree) + 1)
        for request in tree.requests(wanted, parent=parent, decoding=random.choice(kinds), max_tokens=400):
            tree.add(request)
            n = random.randint(20, 400)
            tree.attach(
                Branch(
                    id=request.id, text="so 3 * 5 = 15 and 20 + 15 = 35 " * (n // 8), token_ids=tuple(range(n)),
                    entropies=tuple(random.random() for _ in range(n)), explored=(False,) * n,
                    final_logprobs=tuple(-random.random() for _ in range(n)), seconds=1.0,
                )
            )  # fmt: skip
            told = random.choice(["accepted", "rejected", "rejected", "abstained"])
            tree.judge(
                request.id, [Verdict(status=told, verifier="v", reason=f"it is {told}", answer="20 + ( 5 * 3 )")]
            )
            if request.id.count(".") < 8:
                levels.append(request.id)
    tree.end(Ended(status="exhausted", reason="measured", usage=tree.usage(1.0)))
    return tree


def first_picture(page: Page, url: str) -> float:
    """Milliseconds from the start of the navigation until the tree has been drawn."""
    page.add_init_script(
        """window.firstPicture = new Promise((tell) => { const look = () => {
          const scene = document.querySelector("canvas")?.ledScene;
          if (scene?.shown && scene.draws) tell(performance.now()); else requestAnimationFrame(look);
        }; requestAnimationFrame(look); })"""
    )
    page.goto(url, wait_until="commit")
    return float(page.evaluate("window.firstPicture"))


def moved(page: Page, frames: int) -> dict[str, Any]:
    """Frames a second while the tree is dragged."""
    found = page.evaluate(DRAG, {"frames": frames})
    times = found["times"]
    each = [after - before for before, after in itertools.pairwise(times)]
    return {
        "zoom": round(found["zoom"], 3),
        "frames_per_second": round(1000 * len(each) / (times[-1] - times[0]), 1),
        "median_frame_ms": round(statistics.median(each), 1),
        "longest_frame_ms": round(max(each), 1),
        "pictures": found["draws"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--chromium", default=os.environ.get("LED_AGENT_CHROMIUM") or shutil.which("chromium"))
    parser.add_argument("--trace", help="write Chromium's own trace of both drags here; it costs some speed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "large.html"
        tree = large_tree(asked.nodes)
        began = time.monotonic()
        write_html(file, [tree], title="large")
        exported = time.monotonic() - began
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        picture = first_picture(page, file.as_uri())
        if asked.trace:
            browser.start_tracing(page=page, path=asked.trace)
        first = moved(page, asked.frames)
        page.focus("canvas")
        page.keyboard.press("0")
        whole = moved(page, asked.frames)
        if asked.trace:
            browser.stop_tracing()
        row = {
            "nodes": len(tree) - 1, "export_seconds": round(exported, 1),
            "file_mb": round(file.stat().st_size / 1e6, 2), "first_picture_ms": round(picture),
            "first_view": first, "whole_tree": whole, "chromium": browser.version,
            "holds": picture <= MOST_MS and min(first["frames_per_second"], whole["frames_per_second"]) >= LEAST_FPS,
        }  # fmt: skip
        browser.close()
    print(json.dumps(row))


if __name__ == "__main__":
    main()
