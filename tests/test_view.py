"""What a terminal shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from led_agent import Branch, Problem, Tree, Verdict, solve
from led_agent.protocols import BranchProgress
from led_agent.strategies import BestOfN, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.types import Rollback
from led_agent.view import LinesView, LiveView, render_solution, render_tree


def console() -> Console:
    return Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)


def shown(screen: Console, thing: object) -> str:
    screen.print(thing)
    return screen.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def growing_tree() -> Tree:
    tree = Tree(Problem(prompt="How many bolts?", answer="3"))
    for request in tree.requests(3):
        tree.add(request)
    return tree


def test_the_live_view_follows_a_search():
    screen = console()
    view, tree = LiveView(screen, "tiny  led"), growing_tree()
    view(tree, tree.started)
    tree.listen(lambda event: view(tree, event))
    view(tree, BranchProgress("1", 17, "two bolts"))
    view(tree, BranchProgress("1", 18, "two bolts of"))
    tree.attach(Branch(id="2", text="The answer is 4.", token_ids=(1, 2, 3)))
    tree.judge("2", [Verdict(status="rejected", reason="found 4, expected 3")])
    out = shown(screen, view.frame())
    assert "21 tokens" in out
    for said in ("growing", "two bolts of", "rejected", "found 4, expected 3", "How many bolts?", "tiny  led"):
        assert said in out


def test_a_frame_is_made_without_the_tree(monkeypatch: pytest.MonkeyPatch):
    """Frames are made in a thread of rich's. A search goes on in its own meanwhile, and a node that was read in the
    middle of a change would be kept, and shown to strategies, as it was before."""
    screen = console()
    view, tree = LiveView(screen, "tiny  led"), growing_tree()
    view(tree, tree.started)
    tree.listen(lambda event: view(tree, event))
    for request in tree.requests(1):
        tree.add(request)

    def read(*_: object) -> None:
        raise AssertionError("the tree was read")

    for name in ("nodes", "__getitem__", "graph"):
        monkeypatch.setattr(Tree, name, read)
    out = shown(screen, view.frame())
    assert out.count("growing") == 4


def test_model_text_can_not_steer_the_terminal():
    tree = growing_tree()
    tree.attach(Branch(id="1", text="\x1b[2J\x1b]0;title\x07 [bold]not markup[/bold]\r\nend"))
    screen = Console(file=io.StringIO(), width=160)
    out = shown(screen, render_tree(tree))
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\r" not in out
    assert "[bold]not markup[/bold] end" in out


def test_the_tree_shows_the_fallback_and_why():
    solution = solve(
        Problem(prompt="2 + 2?", answer="4"),
        decoder=ScriptedDecoder(lambda r: "4" if r.decoding.is_greedy else "5"),
        strategy=Fallback(BestOfN(2), repairs=0),
        verifiers=[lambda p, b: Verdict(status="accepted" if b.text == p.answer else "rejected", reason="seen")],
    )
    out = shown(console(), render_tree(solution.tree))
    assert "fallback: 2 of 2 branches rejected" in out
    assert out.count("rejected") >= 3
    told = shown(console(), render_solution(solution))
    assert "verified" in told
    assert "3 branches" in told


def test_lines_are_printed_for_logs():
    screen = console()
    view = LinesView(screen)
    verify = [lambda p, b: b.text == "4"]
    both = BestOfN(2, stop_at_first=False)  # whichever verdict comes first
    with view:
        solve("2 + 2?", decoder=ScriptedDecoder(["5", "4"]), strategy=both, verifiers=verify, observer=view)
    out = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "2 + 2?" in out
    assert "rejected" in out
    assert "accepted" in out


def test_a_rollback_is_told_with_what_was_measured():
    tree = Tree("A question")
    [request] = tree.requests(1)
    tree.add(request)
    events = (
        Rollback(cause="logprob", measured=-5.21, threshold=-3.0, at=48, back_to=30, lasting=False),
        Rollback(cause="repetition", measured=4, threshold=4, at=90, back_to=60, lasting=True),
        Rollback(cause="nonfinite", measured=0, threshold=0, at=99, back_to=60, lasting=True),
    )
    tree.attach(Branch(id=request.id, text="Said.", token_ids=(1, 2), rollbacks=events, discarded=48))
    screen = Console(file=io.StringIO(), width=240, color_system=None)
    told = shown(screen, render_tree(tree))
    assert "turned back at 48 to 30 (logprob -5.21 < -3), at 90 to 60 (repetition 4 ≥ 4) for good" in told
    assert "at 99 to 60 (nonfinite) for good" in told
    assert tree.usage().generated_tokens == 50
