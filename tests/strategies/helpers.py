"""For the tests of strategies: every strategy there is, a search driven by hand, and trees as text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from led_agent import strategies
from led_agent.events import Event
from led_agent.protocols import Strategy
from led_agent.search import solve
from led_agent.solution import Solution
from led_agent.strategies import (
    DVTS,
    MCTS,
    Beam,
    BestOfN,
    EntropyBranching,
    Escalate,
    Fallback,
    ParticleFilter,
    Portfolio,
    Repair,
    SelfConsistency,
    TreeOfThoughts,
    WeightedVote,
    WithoutReplacement,
)
from led_agent.testing import ScriptedDecoder
from led_agent.tree import Node, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Decoding, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", id="six")
LED = Decoding.led(depths=2)
SAFETY = Budget(branches=500, seconds=60)


@dataclass(frozen=True)
class TwoSteps:
    """``width`` first steps, and two endings of each; a first step that failed is left alone."""

    width: int = 1

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        missing = self.width - len(tree.children(purpose="explore"))
        if missing > 0:
            return tree.requests(min(missing, slots), step=["\n"]) if slots > 0 else []
        for first in tree.children(purpose="explore"):
            done = len(tree.children(first.id, purpose="explore"))
            if first.branch is not None and first.status in ("open", "expanded") and done < 2 and slots > 0:
                return tree.requests(min(2 - done, slots), parent=first.id)
        return []


# Every strategy there is, as it comes, and some as they are used.
DEFAULTS: list[Strategy] = [getattr(strategies, name)() for name in strategies.__all__]

# The tree is the same whatever the order of results and the number of slots, where no answer is accepted.
SETTLED: list[Strategy] = [
    BestOfN(1),
    BestOfN(5, stop_at_first=False),
    SelfConsistency(6, confidence=1),
    WeightedVote(5, weight="probability"),
    Beam(width=2, expand=2, max_depth=4),
    Beam(width=3, expand=2, diversity=0.3, max_depth=3, stop_at_first=False),
    Beam(width=2, expand=3, max_depth=1),
    DVTS(n=6, width=2, max_depth=4),
    DVTS(n=4, width=4, max_depth=1),
    MCTS(simulations=9, width=3, batch=2, max_depth=3),
    MCTS(simulations=7, width=2, batch=3, max_depth=1),
    ParticleFilter(n=4, ess=1, max_depth=4),
    ParticleFilter(n=5, sharpness=1, max_depth=3),
    TreeOfThoughts(propose_n=2, keep=2, max_depth=3, threshold=0.3),
    TreeOfThoughts("dfs", propose_n=2, max_depth=3, n=20, threshold=0.4),
    EntropyBranching(n=9, roots=2, forks=2, gap=2),
    EntropyBranching(n=7, roots=1, forks=1, gap=1),
    WithoutReplacement(n=14, batch=3, step="line"),
    WithoutReplacement(n=14, batch=2, step="line", distinct_answers=True),
    WithoutReplacement(n=14, batch=2, step="line", max_step_tokens=3, order="steps"),
    WithoutReplacement(n=24, batch=3, step="line", order="breadth"),
    Fallback(WithoutReplacement(n=12, batch=2, step="line"), dead_end=1),
    Repair(BestOfN(3), rounds=2, width=2),
    Repair(Beam(width=2, expand=2, max_depth=3)),
    Fallback(BestOfN(2), tries=1, temperature=0.7),
    Fallback(BestOfN(2), tries=0, repairs=0),
    Fallback(Fallback(BestOfN(1), tries=1)),
    Fallback(Beam(width=2, expand=3, max_depth=3), dead_end=2),
    Fallback(DVTS(n=4, width=2, max_depth=3), dead_end=2),
    Fallback(DVTS(n=6, width=2, max_depth=3), dead_end=0),
    Fallback(MCTS(simulations=8, width=3, batch=2, max_depth=3), dead_end=1, vote=False),
    Fallback(ParticleFilter(n=4, max_depth=3), dead_end=1),
    Fallback(TreeOfThoughts("dfs", propose_n=2, max_depth=3), dead_end=1),
    Fallback(EntropyBranching(n=5)),
    Escalate(BestOfN(12), every=3, noise=0.02),
    Escalate(Beam(width=2, expand=2, max_depth=3), every=2),
    Escalate(Fallback(BestOfN(3)), every=2),
]
# What they ask for next depends on what is there first.
ARMS = (Beam(width=2, expand=2, max_depth=3), BestOfN(6))
HASTY: list[Strategy] = [
    Fallback(TwoSteps(2)),  # its siblings are as many as there are slots
    SelfConsistency(8, confidence=0.8),
    Portfolio(ARMS, n=20),
    Portfolio((Portfolio((MCTS(simulations=6, max_depth=3), BestOfN(4)), n=12), Repair(BestOfN(2)))),
    Fallback(Portfolio(ARMS, n=10)),
    Fallback(Escalate(MCTS(simulations=8, batch=2, max_depth=3), every=3)),
    Escalate(DVTS(n=4, width=2, max_depth=3), every=2),
]
ALL: list[Strategy] = [*DEFAULTS, *SETTLED, *HASTY]


def is_hasty(strategy: Strategy) -> bool:
    """Whether its tree may depend on the order of results even where nothing is accepted."""
    return strategy in HASTY or type(strategy).__name__ in ("Portfolio", "SelfConsistency")


def says_42(problem: Problem, branch: Branch) -> bool:
    return "42" in branch.text


def step_by_step(request: DecodeRequest) -> Branch:
    """A script for any strategy: a step where steps are asked for, an ending else, and always wrong."""
    luck = random.Random(request.seed)
    steps = bool(request.step or request.max_step_tokens or request.step_tokens)
    count = luck.randint(1, 3) if steps else luck.randint(2, 5)
    ids = tuple(luck.randint(1, 3) for _ in range(count))
    chances = tuple(-luck.random() for _ in range(count))
    return Branch(
        text="first\n" if steps else "41",
        token_ids=ids,
        final_logprobs=chances,
        logprobs=chances,
        entropies=tuple(round(2 * luck.random(), 3) for _ in range(count)),
        kept_text="so ",
        prefill_tokens=3 if request.parent == "root" else 0,
        finish="step" if steps and len(request.prefix_ids) < 8 and luck.random() < 0.9 else "eos",
    )


def run(strategy: Strategy, script: Any, *, verifiers: Sequence[Any] = (says_42,), **options: Any) -> Solution:
    """A search with the loop itself."""
    chosen = {"budget": SAFETY, "decoding": LED, **options}
    decoder = chosen.pop("decoder", None) or ScriptedDecoder(script)
    return solve(PROBLEM, decoder=decoder, strategy=strategy, verifiers=list(verifiers), **chosen)


Script = Callable[[DecodeRequest], Branch]
Judge = Callable[[Tree, Node], Sequence[Verdict]]


def rejects(tree: Tree, node: Node) -> Sequence[Verdict]:
    """All answers are wrong, and of steps there is a process reward that follows from their tokens."""
    assert node.branch is not None
    if node.branch.finish != "step":
        return [Verdict(status="rejected", reason="no", score=sum(node.branch.token_ids) % 7 / 10)]
    return rates(tree, node)


def rates(tree: Tree, node: Node) -> Sequence[Verdict]:
    """Scores for steps and answers alike, from all of their tokens."""
    tokens = tree.branch(node.id).token_ids
    return [Verdict(status="abstained", score=0.05 + hash(tokens) % 90 / 100)]


def rejects_ends(tree: Tree, node: Node) -> Sequence[Verdict]:
    """All answers are as wrong, and of steps nothing is said."""
    return () if node.branch is not None and node.branch.finish == "step" else [Verdict(status="rejected")]


def silent(tree: Tree, node: Node) -> Sequence[Verdict]:
    return ()


@dataclass
class Play:
    """A search driven by hand: what is asked for is put on the tree, and comes back, and is judged, in a drawn order.

    ``luck`` draws what happens next; without it all that is asked for comes back and is judged before anything more is
    asked for. ``tokens`` is the budget: at what count nothing more is asked for.
    """

    strategy: Strategy
    script: Script = step_by_step
    judge: Judge = rejects
    slots: int = 8
    luck: random.Random | None = None
    tokens: int | None = None
    seed: int = 0
    follow_up: bool = True
    max_tokens: int = 512
    problem: Problem = PROBLEM
    decoding: Decoding = LED
    asked: int = 0

    def __post_init__(self) -> None:
        self.tree = Tree(
            self.problem, decoding=self.decoding, seed=self.seed, follow_up=self.follow_up, max_tokens=self.max_tokens
        )
        self.events: list[Event] = [self.tree.started]
        self.tree.listen(self.events.append)
        self.flying: list[str] = []
        self.judging: list[str] = []
        self.spent = 0

    def __call__(self) -> Tree:
        """Play to the end."""
        while True:
            self.prune()
            if self._finished() or self._broke():
                return self.tree
            self.propose()
            if not self.flying and not self.judging:
                return self.tree
            if self.luck is None:
                while self.flying:
                    self.decode(0)
                while self.judging:
                    self.judge_one(0)
            else:
                at = self.luck.randrange(len(self.flying) + len(self.judging))
                if at < len(self.flying):
                    self.decode(at)
                else:
                    self.judge_one(at - len(self.flying))

    def prune(self) -> None:
        for name, reason in getattr(self.strategy, "prune", lambda tree: ())(self.tree):
            if self.tree[name].status != "pruned":
                self.tree.prune(name, reason)

    def propose(self) -> None:
        room = self.slots - len(self.flying)
        wanted = list(self.strategy.propose(self.tree, room)) if room > 0 else []
        assert len(wanted) <= max(0, room)
        for request in wanted:
            self.tree.add(request)
            self.flying.append(request.id)
            self.asked += 1
            assert self.asked <= 600, "it does not end"

    def decode(self, at: int) -> None:
        name = self.flying.pop(at)
        node = self.tree[name]
        assert node.request is not None
        branch = self.script(node.request).model_copy(update={"id": name})
        if node.status == "pruned":
            branch = branch.model_copy(update={"finish": "cancelled"})
        self.spent += len(branch.token_ids)
        self.tree.attach(branch)
        if not self.tree[name].settled:
            self.judging.append(name)

    def judge_one(self, at: int) -> None:
        name = self.judging.pop(at)
        if not self.tree[name].settled:
            self.tree.judge(name, self.judge(self.tree, self.tree[name]))

    def _finished(self) -> bool:
        finished = getattr(self.strategy, "finished", None)
        return bool(finished(self.tree) if finished is not None else self.tree.accepted())

    def _broke(self) -> bool:
        return self.tokens is not None and self.spent >= self.tokens


def told(texts: dict[str, str], scores: dict[str, float]) -> dict[str, Any]:
    """A script and a judge for a play: a text that ends in a line break is a step, anything that is not told "41", an
    answer. Steps and answers with a score get it, an answer with 1 is accepted, and other answers are rejected."""

    def script(request: DecodeRequest) -> Branch:
        text = texts.get(request.id, "41")
        return Branch(text=text, token_ids=tuple(map(ord, text)), finish="step" if text.endswith("\n") else "eos")

    def judge(tree: Tree, node: Node) -> Sequence[Verdict]:
        score = scores.get(node.id)
        if node.branch is not None and node.branch.finish == "step":
            return [Verdict(status="abstained", score=score)] if score is not None else []
        status: Any = "accepted" if score == 1 else "abstained" if score is not None else "rejected"
        return [Verdict(status=status, score=score or 0.0)]

    return {"script": script, "judge": judge}


def canonical(tree: Tree) -> dict[str, Any]:
    """All that a tree holds, but for times and the order in which things came."""
    return {
        node.id: (
            node.request,
            node.branch,
            node.status,
            node.reason,
            tuple((v.status, v.score, v.reason) for v in node.verdicts),
        )
        for node in sorted(tree.nodes(), key=lambda node: node.id)
    }


def drawn(tree: Tree, *, decoding: bool = True) -> str:
    """A tree as text: a line a node, indented by depth: id, purpose, decoding, status, text."""
    lines = []
    for node in sorted(tree.nodes(), key=lambda node: [int(step) for step in node.id.split(".")]):
        assert node.request is not None
        text = node.branch.text.strip() if node.branch is not None else "…"
        label = f" [{node.request.decoding.label}]" if decoding else ""
        lines.append(f"{'  ' * (tree.depth(node.id) - 1)}{node.id} {node.purpose}{label} {node.status}: {text}")
    return "\n".join(lines)


def outline(picture: str) -> str:
    """A picture in a test, without the test's indentation."""
    lines = picture.strip("\n").rstrip().splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[margin:] for line in lines)
