"""Trees to look at: of a real search, of many problems, and of everything that could do harm in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from led_agent import Branch, Decoding, Problem, Tree, Verdict
from led_agent.events import Ended
from led_agent.journal import Journal
from led_agent.types import Usage

ATTACK = "window.harmed = true"
HOSTILE = {
    "script": f"<script>{ATTACK}</script>",
    "handler": f"<img src=x onerror='{ATTACK}'><svg onload=\"{ATTACK}\">",
    "link": f'<a href="javascript:{ATTACK}">here</a> ${{{ATTACK}}} {{{{ {ATTACK} }}}}',
    "end": f"</script></pre></textarea></title></style><script>{ATTACK}</script>",
    "comment": f"<!-- <script> --> ]]> <![CDATA[ <!--LED_DATA--> --!> <script>{ATTACK}</script>",
    "separators": "a\u2028b\u2029c&lt;d&amp;e\\u003cf",
    "bidi": "safe \u202etxt.exe\u202c \u2066isolated\u2069 \u200f\u200e \u061c end",
    "nul": "before\x00after\x07\x1b[31mred\x7f\x9b",
    "surrogate": "half \ud83d and \udc00 half",
    "invisible": "zero\u200bwidth\u200djoin\ufeffbom\u00adsoft\U000e0041tag",
}


def tree_of(
    key: str,
    branches: Iterable[tuple[str, str, str | None]],
    *,
    prompt: str = "Use 3, 20 and 5 to make 35.",
    verified: bool = False,
) -> Tree:
    """A finished tree: a branch for each (text, verdict's status, answer)."""  # fmt: skip
    rows = list(branches)
    tree = Tree(Problem(prompt=prompt, id=key), decoding=Decoding.led("paper"), model="countdown")
    requests = tree.requests(len(rows))
    for request, (text, status, answer) in zip(requests, rows, strict=True):
        tree.add(request)
        tree.attach(
            Branch(id=request.id, text=text, token_ids=(5,) * 9, entropies=(0.5,) * 9, final_logprobs=(-0.5,) * 9)
        )
        tree.judge(request.id, [Verdict(status=status, verifier="countdown", reason=f"said {status}", answer=answer)])
    status = "verified" if any(row[1] == "accepted" for row in rows) else "exhausted"
    tree.end(Ended(status=status, reason="all were judged", usage=Usage(generated_tokens=9 * len(rows))))
    return tree


def hostile_tree(long: str) -> Tree:
    """Everything that others write is hostile, and one text is very long."""
    everything = "\n".join(HOSTILE.values())
    tree = Tree(Problem(prompt=everything, id=HOSTILE["end"], answer=HOSTILE["bidi"]), model=HOSTILE["script"])
    texts = [*HOSTILE.values(), long]
    for request, text in zip(
        tree.requests(len(texts), trigger=everything, purpose=HOSTILE["handler"]), texts, strict=True
    ):
        tree.add(request)
        tree.attach(Branch(id=request.id, text=text, token_ids=(1, 2), finish="stop", decoder=HOSTILE["handler"]))
        tree.judge(
            request.id,
            [Verdict(status="rejected", verifier=HOSTILE["comment"], reason=text[:5000], answer=text[:5000])],
        )
        tree.note(request.id, everything)
    tree.note("root", everything)
    tree.end(Ended(status="exhausted", reason=everything))
    return tree


def journal_of(path: Path, trees: Sequence[Tree]) -> Path:
    """A journal that these trees are the sum of; a finished tree has its nodes' events in order."""
    with Journal(path) as journal:
        for tree in trees:
            write_events(journal, tree)
    return path


def write_events(journal: Journal, tree: Tree) -> None:
    from led_agent.events import Decoded, Judged, Requested

    journal.begin(tree)
    for node in tree.nodes():
        assert node.request is not None
        journal.record(tree.problem.key, Requested(request=node.request))
        if node.branch is not None:
            journal.record(tree.problem.key, Decoded(branch=node.branch))
            journal.record(tree.problem.key, Judged(id=node.id, verdicts=node.verdicts))
    if tree.ended is not None:
        journal.record(tree.problem.key, tree.ended)
