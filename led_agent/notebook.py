"""How a solution and its tree look in a notebook: HTML without scripts, of bounded size, that needs nothing else.

What a model or a user wrote only ever becomes text: it is escaped, and characters that steer a page or a line's
direction are spelled out. Attributes are made of constants and numbers alone.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from led_agent.nodes import ROOT

if TYPE_CHECKING:
    from led_agent.nodes import Node
    from led_agent.solution import Solution
    from led_agent.tree import Tree
    from led_agent.types import Branch

__all__ = ["MOST_NODES", "solution_html", "tree_html"]

MOST_NODES = 200
_MOST_TEXT, _MOST_BEST, _MOST_LINE, _MOST_TOKENS = 400, 4000, 160, 400
_STEERING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, bidi and other marks, surrogates, separators
_STATUSES = ("accepted", "rejected", "open", "expanded", "pruned", "failed")

# Colours are borders and tints, so that text keeps the notebook's own colour; where a notebook drops the style sheet,
# what is left is readable.
_STYLE = """<style>
.led-agent{font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit;max-width:60em}
.led-agent details{margin:2px 0 2px 1em;padding-left:.5em;border-left:3px solid currentColor}
.led-agent summary{cursor:pointer}
.led-agent pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0;padding:.4em;font-size:12px;
background:transparent;color:inherit;border:1px solid;border-color:rgba(127,127,127,.4)}
.led-agent .dim{opacity:.7}
.led-agent table{border-collapse:collapse;margin:.3em 0;font:inherit;color:inherit}
.led-agent th,.led-agent td{text-align:left;padding:0 .8em .1em 0;background:transparent;color:inherit;border:0}
.led-agent .strip i{display:inline-block;width:5px;height:14px;background:#c2410c}
.led-agent .strip i.x{border-bottom:3px solid #2563eb}
.led-agent .accepted{border-color:#15803d}.led-agent b.accepted{color:#15803d}
.led-agent .rejected{border-color:#b91c1c}.led-agent b.rejected{color:#b91c1c}
.led-agent .failed{border-color:#a21caf}.led-agent b.failed{color:#a21caf}
.led-agent .open,.led-agent .expanded{border-color:#b45309}
.led-agent .pruned{border-color:rgba(127,127,127,.5)}
@media (prefers-color-scheme:dark){
.led-agent .accepted{border-color:#4ade80}.led-agent b.accepted{color:#4ade80}
.led-agent .rejected{border-color:#f87171}.led-agent b.rejected{color:#f87171}
.led-agent .failed{border-color:#e879f9}.led-agent b.failed{color:#e879f9}
.led-agent .open,.led-agent .expanded{border-color:#fbbf24}
.led-agent .strip i{background:#fb923c}.led-agent .strip i.x{border-color:#60a5fa}}
</style>"""


def solution_html(solution: Solution) -> str:
    """The answer, whether it is verified and why, what it cost, and the tree."""
    usage = solution.usage
    standing = ("accepted", "verified") if solution.verified else ("open", "not verified")
    rows = [
        ("answer", _strong(solution.answer if solution.answer is not None else "none")),
        ("standing", f'<b class="{standing[0]}">{standing[1]}</b>'),
        ("why", _line(solution.reason)),
    ]
    if (found := solution.confidence) is not None:
        kind = "right with probability" if found.calibrated else "share of the answers"
        rows.append(("confidence", f"{found.probability:.2f} ({kind}; {found.votes} of {found.of} agree)"))
    cost = (
        f"{usage.branches} branches, {usage.generated_tokens} tokens (+ {usage.prefill_tokens} of the prompt), "
        f"{usage.verifier_calls} verifier calls, {usage.seconds:.1f} s"
    )
    rows.append(("cost", cost))
    table = "".join(f'<tr><th class="dim">{name}</th><td>{told}</td></tr>' for name, told in rows)
    strip = _strip(solution.branch) if solution.branch is not None else ""
    return f'{_STYLE}<div class="led-agent"><table>{table}</table>{strip}{_tree(solution.tree)}</div>'


def tree_html(tree: Tree) -> str:
    """The tree: branches that open, with status, verdicts, decoding, and the end of their text."""
    return f'{_STYLE}<div class="led-agent">{_tree(tree)}</div>'


# --- text ----------------------------------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    """Text as HTML that shows it, and does nothing else. Line ends and tabs stay."""
    return html.escape("".join(map(_visible, text)), quote=True)


def _visible(letter: str) -> str:
    if letter in "\n\t" or unicodedata.category(letter) not in _STEERING:
        return letter
    return f"⟨U+{ord(letter):04X}⟩"


def _line(text: str, most: int = _MOST_LINE) -> str:
    flat = " ".join(text[: 4 * most].split())
    return _escaped(flat if len(flat) <= most and len(text) <= 4 * most else f"{flat[: most - 1]}…")


def _end(text: str, most: int) -> str:
    return _escaped(text if len(text) <= most else f"…{text[-(most - 1) :]}")


def _strong(text: str) -> str:
    return f"<b>{_line(text)}</b>"


# --- tree ----------------------------------------------------------------------------------------------------------


def _tree(tree: Tree) -> str:
    best = tree.best()
    shown = _shown(tree, best)
    below: dict[str, list[Node]] = {}
    for node in shown:
        below.setdefault(node.parent or ROOT, []).append(node)
    notes = "".join(f"<div>{_line(note)}</div>" for note in tree[ROOT].notes)
    branches = "".join(_node(node, below, best) for node in below.get(ROOT, ()))
    more = len(tree) - 1 - len(shown)
    rest = f"<div>and {more} more branches; <code>led-agent show --html</code> shows all</div>" if more else ""
    return f"<div>{_strong(tree.problem.text)}</div>{notes}{branches}{rest}"


def _shown(tree: Tree, best: Node | None) -> list[Node]:
    """As many nodes as are shown, parents with them: those on the way to the best one, and the first of the others."""
    nodes = tree.nodes()
    if len(nodes) <= MOST_NODES:
        return nodes
    kept = set(tree.path(best.id)[:MOST_NODES]) - {ROOT} if best is not None else set()
    for node in nodes:
        if len(kept) >= MOST_NODES:
            break
        kept.add(node.id)
    # A parent comes before its children, so it is among the first, too; or it is on the way to the best one.
    return [node for node in nodes if node.id in kept and (node.parent in kept or node.parent == ROOT)]


def _node(node: Node, below: dict[str, list[Node]], best: Node | None) -> str:
    children = "".join(_node(child, below, best) for child in below.get(node.id, ()))
    status = node.status if node.status in _STATUSES else "open"
    is_best = best is not None and best.id == node.id
    is_open = is_best or any(_leads_to(child.id, best) for child in below.get(node.id, ()))
    inside = _inside(node, _MOST_BEST if is_best else _MOST_TEXT)
    opened = " open" if is_open else ""
    summary = _summary(node, status, is_best)
    return f'<details class="{status}"{opened}><summary>{summary}</summary>{inside}{children}</details>'


def _leads_to(node: str, best: Node | None) -> bool:
    return best is not None and (best.id == node or best.id.startswith(f"{node}."))


def _summary(node: Node, status: str, is_best: bool) -> str:
    name = "growing" if node.pending else status
    parts = [f"<b>{_line(node.id)}</b>", f'<b class="{status}">{name}</b>']
    if is_best:
        parts.append("★")
    if node.verdict is not None and node.verdict.answer:
        parts.append(f"<b>{_line(node.verdict.answer, 40)}</b>")
    dim = list(_figures(node))
    if node.purpose != "explore":
        dim.append(_line(f"{node.purpose}: {node.request.trigger}" if node.request else node.purpose))
    return f'{" ".join(parts)} <span class="dim">{" · ".join(dim)}</span>'


def _figures(node: Node) -> Iterator[str]:
    if node.request is not None:
        yield _line(node.request.decoding.label)
    if node.branch is not None:
        total, explored = len(node.branch.token_ids), sum(node.branch.explored)
        yield f"{total} tokens" + (f", {explored / total:.0%} explored" if explored and total else "")
        if node.branch.mean_logprob is not None:
            yield f"{node.branch.mean_logprob:.2f} nat a token"
        yield f"{node.branch.seconds:.1f} s"
    if node.verdict is not None:
        yield f"score {node.verdict.score:.2f}"


def _inside(node: Node, most: int) -> str:
    lines = [_line(node.reason)] if node.reason else []
    for verdict in node.verdicts:
        told = f": {verdict.reason}" if verdict.reason and verdict.reason != node.reason else ""
        lines.append(_line(f"{verdict.verifier or 'verifier'} {verdict.status}{told}"))
    lines += [_line(note) for note in node.notes]
    if node.branch is not None and node.branch.error:
        lines.append(_line(node.branch.error))
    text = f"<pre>{_end(node.branch.text, most)}</pre>" if node.branch is not None and node.branch.text else ""
    return "".join(f"<div>{line}</div>" for line in lines) + text


def _strip(branch: Branch) -> str:
    """The best branch's entropy, a cell a token, the stronger the less sure; what was explored is underlined."""
    entropies = branch.entropies[:_MOST_TOKENS]
    if not entropies:
        return ""
    highest = max(*entropies, 1e-9)
    explored = (*branch.explored, *(False for _ in entropies))
    cells = "".join(_cells(entropies, explored, highest))
    cut = f" of the first {_MOST_TOKENS} tokens" if len(branch.entropies) > _MOST_TOKENS else ""
    told = f"entropy{cut} of the best branch, a cell a token, the strongest {highest:.2f} nat; underlined are explored"
    return f'<div class="strip">{cells}<div class="dim">{told}</div></div>'


def _cells(entropies: Iterable[float], explored: Iterable[bool], highest: float) -> Iterator[str]:
    for entropy, jumped in zip(entropies, explored, strict=False):
        share = min(1.0, max(0.0, entropy / highest))
        mark = ' class="x"' if jumped else ""
        yield f'<i{mark} style="opacity:{0.06 + 0.94 * share:.2f}"></i>'
