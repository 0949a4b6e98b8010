"""What a page shows of a tree, as plain JSON: an index of all nodes, small enough for thousands of them, and the
details of one node, which are asked for when it is opened.

This file knows trees. It does not know HTML, HTTP or where a tree comes from. Texts are a model's own: whoever shows
them must not take them for markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from led_agent.events import Decoded, Ended, Event, Judged, Noted, Pruned, Requested, Started
from led_agent.protocols import BranchProgress
from led_agent.solution import Solution
from led_agent.tree import ROOT, Node, Tree
from led_agent.types import Branch, DecodeRequest

__all__ = ["FORMAT", "Pieces", "changes", "detail", "index", "kind_of", "node_row", "problem_head", "problem_row"]

FORMAT = "led_agent.page/1"
_TAIL = 80  # characters of a branch's end in the index

Pieces = Callable[[Sequence[int], Sequence[int]], list[str]]
"""The text that each of some tokens adds, given those before them (``led_agent.engine.tokens.Tokens.pieces``)."""


def index(trees: Iterable[Tree], *, title: str, live: bool = False) -> dict[str, Any]:
    """All problems with all their nodes, without texts and figures of single tokens."""
    return {"format": FORMAT, "title": title, "live": live, "problems": [problem_row(tree) for tree in trees]}


def problem_row(tree: Tree) -> dict[str, Any]:
    """One problem of the index, parents before children."""
    return {**problem_head(tree), "nodes": [node_row(node) for node in tree.nodes()]}


def problem_head(tree: Tree) -> dict[str, Any]:
    """One problem of the index, without its nodes."""
    problem, started = tree.problem, tree.started
    chat = None if isinstance(problem.prompt, str) else [message.model_dump() for message in problem.prompt]
    return {
        "key": problem.key,
        "prompt": problem.text,
        "messages": chat,
        "model": started.model,
        "seed": str(started.seed),  # 63 bits are more than a browser's numbers hold
        "decoding": started.decoding.label,
        "reference": problem.answer,
        "notes": list(tree[ROOT].notes),
        "ended": _ended(tree, tree.ended) if tree.ended is not None else None,
    }


def node_row(node: Node) -> dict[str, Any]:
    """One node of the index."""
    branch, verdict, request = node.branch, node.verdict, node.request
    tokens = len(branch.token_ids) if branch is not None else 0
    return {
        "id": node.id,
        "parent": node.parent,
        "status": node.status,
        "pending": node.pending,
        "tokens": tokens,
        "label": request.decoding.label if request is not None else "",
        "kind": kind_of(request, branch) if request is not None else "plain",
        "purpose": node.purpose,
        "trigger": request.trigger if request is not None else "",
        "part": request.part if request is not None else "",
        "reason": node.reason,
        "answer": verdict.answer if verdict is not None else None,
        "score": verdict.score if verdict is not None else None,
        "verifiers": {v.verifier: v.status for v in node.verdicts},
        "explored": sum(branch.explored) / tokens if branch is not None and tokens else 0.0,
        "logprob": branch.mean_logprob if branch is not None else None,
        "rollbacks": len(branch.rollbacks) if branch is not None else 0,
        "seconds": branch.seconds if branch is not None else 0.0,
        "tail": branch.text[-_TAIL:] if branch is not None else "",
    }


def kind_of(request: DecodeRequest, branch: Branch | None = None) -> str:
    """What an edge is drawn as: "conservative" where decoding is greedy or the ladder's reliable rung, "explored" where
    it changes the law of the next token, "noisy" where it adds noise, "explored+noisy", or "plain". Once a branch is
    there, what was off in its span counts for nothing."""
    decoding = request.decoding
    if decoding.is_greedy or request.purpose == "fallback":
        return "conservative"
    on = decoding.span != "none" and not (branch is not None and branch.token_ids and branch.span == "none")
    changed = any(law is not None for law in (decoding.exploration, decoding.distiller, decoding.contrast))
    told = [name for name, so in (("explored", changed), ("noisy", decoding.noisy)) if so and on]
    return "+".join(told) or "plain"


def changes(tree: Tree, event: Event | BranchProgress) -> list[tuple[str, dict[str, Any]]]:
    """What an event that has taken effect on a tree changes on a page that shows it: names and data of the page's own
    events ("problem", "node", "growing"), in order."""
    key = tree.problem.key
    if isinstance(event, BranchProgress):
        return [("growing", {"problem": key, "id": event.id, "tokens": event.tokens, "tail": event.text[-_TAIL:]})]
    match event:
        case Started() | Ended() | Noted(id="root"):
            return [("problem", problem_head(tree))]
        case Requested(request=request):
            changed = [name for name in (request.parent, request.id) if name != ROOT]
        case Decoded(branch=branch):
            changed = [branch.id]
        case Judged(id=name) | Noted(id=name):
            changed = [name]
        case Pruned(id=name):
            changed = [node.id for node in tree.nodes() if node.id == name or node.id.startswith(f"{name}.")]
    return [("node", {"problem": key, "node": node_row(tree[name])}) for name in changed]


def detail(tree: Tree, name: str, pieces: Pieces | None = None) -> dict[str, Any]:
    """All there is of one node: its text, and of each of its tokens what it adds to the text, entropy and the rest.

    Args:
        pieces: The tokenizer's; without it texts can't be laid over tokens, and ``pieces`` is None.

    Raises:
        UsageError: the tree has no such node.
    """
    node = tree[name]
    branch, request = node.branch or Branch(text="", id=name), node.request
    whole = tree.branch(name) if node.branch is not None and name != ROOT else branch
    before_ids = whole.token_ids[: len(whole.token_ids) - len(branch.token_ids)]
    figures = ("token_ids", "entropies", "logprobs", "final_logprobs")
    return {
        "id": name,
        "text": branch.text,
        "before": whole.text[: len(whole.text) - len(branch.text)],
        "finish": branch.finish if node.branch is not None else "",
        "error": branch.error,
        "pieces": pieces(branch.token_ids, before_ids) if pieces is not None else None,
        **{figure: list(getattr(branch, figure)) for figure in figures},
        "explored": [int(so) for so in branch.explored],
        "noise": list(branch.noise_scales),
        "span": branch.span,
        "rollbacks": [rollback.model_dump() for rollback in branch.rollbacks],
        "notes": list(node.notes),
        "verdicts": [v.model_dump(exclude={"feedback"}) for v in node.verdicts],
        "decoder": branch.decoder,
        "attempts": branch.attempts,
        "seed": str(request.seed if request is not None else tree.started.seed),
        "prompt": _own_prompt(tree, request),
        "decoding": request.decoding.model_dump(mode="json") if request is not None else None,
    }


def _own_prompt(tree: Tree, request: DecodeRequest | None) -> str | None:
    """What a node was asked, where it isn't what the problem asks."""
    if request is None or request.prompt == tree.problem.prompt:
        return None
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n\n".join(f"{message.role}: {message.content}" for message in request.prompt)


def _ended(tree: Tree, ended: Ended) -> dict[str, Any]:
    solution = Solution.of(tree, ended)
    return {
        "status": ended.status,
        "reason": ended.reason,
        "best": solution.branch.id if solution.branch is not None else None,
        "answer": solution.answer,
        "verified": solution.verified,
        "usage": ended.usage.model_dump(),
        "confidence": ended.confidence.model_dump() if ended.confidence is not None else None,
    }
