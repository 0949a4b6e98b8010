"""Record `led-agent solve` as an animated SVG of its live view: python scripts/record_solve.py docs/solve.svg"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.text import Text

from led_agent import Search
from led_agent.events import Event, Judged
from led_agent.protocols import BranchProgress
from led_agent.strategies import BestOfN, Fallback
from led_agent.tree import Tree
from led_agent.view import LiveView, render_solution

PUZZLE = "Use 3, 20 and 5 to make 35."
COMMAND = f'led-agent solve "{PUZZLE}" --n 12 --all'
WIDTH, EVERY, SHOWN = 112, 60, 0.35  # columns; events between frames; seconds a frame, the last one ten times that
ROWS = 24


class Recorder:
    """Notes what the live view shows, now and then and at each verdict."""

    def __init__(self) -> None:
        self.view = LiveView(Console(file=io.StringIO(), width=WIDTH), "countdown")
        self.frames: list[str] = []
        self._events = 0

    def __call__(self, tree: Tree, event: Event | BranchProgress) -> None:
        self.view(tree, event)
        self._events += 1
        if isinstance(event, Judged) or self._events % EVERY == 0:
            self.frames.append(picture(self.view.frame()))


def picture(shown: RenderableType) -> str:
    """One frame as an SVG, all of one size."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
    console.print(Text(f"$ {COMMAND}", style="bold"))
    console.print(Align(shown, height=ROWS))  # padded: frames of different heights would be scaled
    return console.export_svg(title="led_agent")


def animated(frames: list[str]) -> str:
    """Frames one after the other, for ever; where nothing moves the last one stands."""
    seconds = [SHOWN] * (len(frames) - 1) + [10 * SHOWN]
    total = sum(seconds)
    box = re.search(r'viewBox="([^"]*)"', frames[0])
    if box is None:
        raise ValueError("rich wrote an SVG without a viewBox")
    style, begun = [], 0.0
    for index, length in enumerate(seconds):
        start, end = 100 * begun / total, 100 * (begun + length) / total
        style.append(
            f"@keyframes f{index} {{ 0%, {start:.2f}% {{visibility: hidden}} {start + 0.01:.2f}%, {end:.2f}% "
            f"{{visibility: visible}} {min(end + 0.01, 100):.2f}%, 100% {{visibility: hidden}} }}\n"
            f".f{index} {{ visibility: {'visible' if index == len(frames) - 1 else 'hidden'}; "
            f"animation: f{index} {total:.2f}s step-end infinite }}"
        )
        begun += length
    groups = "\n".join(f'<g class="f{index}">{frame}</g>' for index, frame in enumerate(frames))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}"><style>{" ".join(style)}</style>{groups}</svg>\n'
    )


def main(path: Path) -> None:
    recorder = Recorder()
    with Search(strategy=Fallback(BestOfN(12, stop_at_first=False)), observer=recorder) as search:
        solution = search.solve(PUZZLE)
    last = picture(Group(recorder.view.frame(), Text(), render_solution(solution)))
    path.write_text(animated([*recorder.frames, last]))
    print(f"{len(recorder.frames) + 1} frames, {path.stat().st_size / 1e3:.0f} kB in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
