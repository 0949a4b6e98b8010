"""The tree: all that a search knows of a problem. Strategies read it, the loop writes it, the journal replays it.

This file is the only one that knows networkx. It does not know how branches are decoded or judged: it keeps what
came of that, refuses what can't follow, and answers questions about it.

Every change is an event (``led_agent.events``); a tree is the sum of its events, so replaying a journal gives the
same tree.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import networkx as nx
from pydantic import ValidationError

from led_agent.errors import UsageError, explain
from led_agent.events import Decoded, Ended, Event, Judged, Noted, Pruned, Requested, Started
from led_agent.nodes import RANK, ROOT, Entry, Node, NodeStatus, blank, derive_seed, summary_verdict, trimmed
from led_agent.types import Branch, DecodeRequest, Decoding, Message, Problem, Sibling, Usage, Verdict

__all__ = ["ROOT", "Node", "NodeStatus", "Tree", "derive_seed", "summary_verdict"]

_FORMAT = "led_agent.tree/1"


class Tree:
    """The state of a search on one problem, around a ``networkx.DiGraph``.

    Node ids are paths: "3" is the root's third child, "3.1" its first child. Nodes carry ``request``, ``branch``,
    ``verdicts``, ``status`` (open, expanded, accepted, rejected, pruned, failed), ``decoding``, ``seed``,
    ``reason`` and ``notes``.
    """

    def __init__(
        self,
        problem: Problem | str,
        *,
        decoding: Decoding | None = None,
        seed: int = 0,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        follow_up: bool = True,
        model: str = "",
    ) -> None:
        asked = Problem(prompt=problem) if isinstance(problem, str) else problem
        chosen = decoding if decoding is not None else Decoding.led("paper")
        self.started = Started(
            problem=asked,
            decoding=chosen,
            seed=seed,
            max_tokens=max_tokens,
            stop=_strings(stop),
            follow_up=follow_up,
            model=model,
        )
        self.ended: Ended | None = None
        self._part = ""
        self._views: dict[str, Node] = {}  # strategies look at all nodes again and again
        self._sums: dict[str, tuple[int, float, int]] = {}  # of what can't change any more: see _summed
        self._graph = nx.DiGraph()
        self._graph.add_node(ROOT, **blank(None, order=0))
        self._listeners: list[Callable[[Event], None]] = []

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def problem(self) -> Problem:
        return self.started.problem

    @property
    def graph(self) -> nx.DiGraph:
        """The graph itself, as a read-only view."""
        return self._graph.copy(as_view=True)

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, node: object) -> bool:
        return node in self._graph and self._shown(str(node))

    def __getitem__(self, node: str) -> Node:
        view = self._views.get(node)
        if view is None:
            attributes = self._graph.nodes[self._known(node)]
            names = ("request", "branch", "verdicts", "status", "reason", "notes", "order", "settled")
            view = Node(id=node, parent=self.parent(node), **{name: attributes[name] for name in names})
            self._views[node] = view
        return view

    def parent(self, node: str) -> str | None:
        request = self._request(self._known(node))
        return request.parent if request is not None else None

    def nodes(self) -> list[Node]:
        """All nodes but the root, in the order in which they were asked for."""
        return [self[name] for name in self._names() if name != ROOT]

    def children(self, node: str = ROOT, *, purpose: str | None = None) -> list[Node]:
        """A node's children in the order in which they were asked for, of one purpose or all."""
        found = (self[name] for name in self._graph.successors(self._known(node)) if self._shown(name))
        return [child for child in found if purpose is None or child.purpose == purpose]

    def leaves(self) -> list[Node]:
        """Decoded nodes that nothing below them continues whole: a fork inside a branch, or another prompt, leaves it a
        leaf."""
        return [n for n in self.nodes() if n.branch is not None and not self._continued(n.id)]

    def pending(self) -> list[Node]:
        """Nodes that are being decoded."""
        return [n for n in self.nodes() if n.pending]

    def unsettled(self) -> list[Node]:
        """Nodes that are being decoded, or whose verdict is still to come: a strategy that decides by verdicts waits
        for these."""
        return [n for n in self.nodes() if not n.settled]

    def part(self, name: str) -> Tree:
        """The tree as a part of a composed strategy sees it, read-only: the root and the nodes that were asked for by
        way of this view. Parts of parts nest. What is proposed through it bears its name (``DecodeRequest.part``)."""
        if not name or "/" in name:
            raise UsageError(f"a part is called {name!r}; a name without a slash is allowed")
        view = copy.copy(self)
        view._part, view._listeners = f"{self._part}/{name}".lstrip("/"), []
        return view

    def room(self, node: str = ROOT) -> int:
        """How many tokens the search's limit leaves after the output that ends in ``node``."""
        return self.started.max_tokens - (0 if node == ROOT else self._summed(node)[0])

    def mean_logprob(self, node: str) -> float | None:
        """That of the whole output that ends in ``node`` (see ``Branch.mean_logprob``)."""
        _, total, known = self._summed(node)
        return total / known if known else None

    def accepted(self) -> list[Node]:
        """Accepted nodes, the first asked for first."""
        return [n for n in self.nodes() if n.status == "accepted"]

    def depth(self, node: str) -> int:
        return len(self.path(node)) - 1

    def path(self, node: str) -> list[str]:
        """Ids from the root to ``node``, both included."""
        found = [node]
        while (above := self.parent(found[-1])) is not None:
            found.append(above)
        return found[::-1]

    def branch(self, node: str) -> Branch:
        """The whole output that ends in ``node``: its own branch behind those that it continues.

        A node whose prompt differs from its parent's starts over.

        Raises:
            UsageError: the node has not been decoded.
        """
        parts: list[Branch] = []
        run = self._run_of(node)
        for name in run:
            part = self[name].branch
            if part is None:
                raise UsageError(f"node {name!r} has not been decoded yet")
            parts.append(part)
        if not parts:
            raise UsageError("the root holds no branch")
        if len(parts) == 1:
            return parts[0]
        parts = trimmed(parts, [self._request(name) for name in run[1:]])
        sequences = ("token_ids", "logprobs", "final_logprobs", "entropies", "explored")
        merged = {name: tuple(x for part in parts for x in getattr(part, name)) for name in sequences}
        if any(part.noise_scales for part in parts):  # a part without noise has none of it at each of its tokens
            merged["noise_scales"] = tuple(x for p in parts for x in p.noise_scales or (0.0,) * len(p.token_ids))
        merged["rollbacks"] = tuple(r for part in parts for r in part.rollbacks)
        total = {name: sum(getattr(p, name) for p in parts) for name in ("prefill_tokens", "discarded", "seconds")}
        return parts[-1].model_copy(update={"text": "".join(p.text for p in parts), **merged, **total})

    def text(self, node: str) -> str:
        """The text of the whole output that ends in ``node``; empty for the root."""
        return "" if node == ROOT else self.branch(node).text

    def best(self) -> Node | None:
        """The best answer so far, a leaf or an accepted node: accepted before open before rejected before cut off; then
        by verdict score, by having ended of itself, by mean log-probability, and by age. Once the search is over, it is
        the one that was decided on. None where nothing was decoded."""
        if self.ended is not None and self.ended.best in self:
            return self[str(self.ended.best)]
        return max([*self.leaves(), *self.accepted()], key=self._rank, default=None)

    def ranked(self) -> list[Node]:
        """All whole answers, the best first: leaves and accepted nodes in ``best``'s order."""
        found = {node.id: node for node in (*self.leaves(), *self.accepted())}
        chosen = str(self.ended.best) if self.ended is not None else ""
        return sorted(found.values(), key=lambda node: (node.id == chosen, self._rank(node)), reverse=True)

    def usage(self, seconds: float = 0.0) -> Usage:
        """What stands on the tree has cost; seconds are the caller's to know."""
        branches = [node.branch for node in self.nodes() if node.branch is not None]
        return Usage(
            generated_tokens=sum(len(b.token_ids) + b.discarded for b in branches),
            prefill_tokens=sum(b.prefill_tokens for b in branches),
            seconds=seconds,
            branches=len(self) - 1,
            verifier_calls=sum(len(node.verdicts) for node in self.nodes()),
        )

    def requests(
        self,
        n: int = 1,
        *,
        siblings: int | None = None,
        parent: str = ROOT,
        keep: int | None = None,
        exclude: Sequence[int] = (),
        decoding: Decoding | None = None,
        max_tokens: int | None = None,
        step: Sequence[str] = (),
        max_step_tokens: int | None = None,
        step_tokens: Sequence[int] = (),
        prompt: str | Sequence[Message] | None = None,
        purpose: str = "explore",
        trigger: str = "",
    ) -> list[DecodeRequest]:
        """``n`` complete requests for children of ``parent``: what a strategy proposes.

        Ids follow the parent's children, so make all requests for one parent in one call. Seeds are derived from
        the search's seed, the prompt and the id. Nothing is added to the tree.

        Args:
            siblings: How many are asked for in all, over this and later calls for the same parent and purpose; by
                default ``n``. Siblings share random numbers as ``Decoding.siblings`` says.
            keep: How many of the parent's own tokens are kept, for a fork inside it; None keeps all.
            exclude: Tokens that the first new one must not be.
            max_tokens: New tokens at most; by default what the search's limit leaves after the prefix.
            step, max_step_tokens, step_tokens: Where a step ends, after which the branch may be continued.
            prompt: Ask something else than the parent was asked; the children then start over.

        Raises:
            UsageError: the parent has not been decoded, or has fewer tokens than are to be kept.
        """
        above = self[parent]
        asked = above.request.prompt if above.request else self.problem.prompt
        fresh = prompt is not None and (prompt if isinstance(prompt, str) else tuple(prompt)) != asked
        prefix = () if parent == ROOT or fresh else self._prefix(parent, keep)
        names = [self._child_name(parent, k) for k in range(1, n + 1)]
        places = self._places(parent, purpose, n, max(n, siblings or n))
        return [
            DecodeRequest(
                id=name,
                parent=parent,
                problem=self.problem.key,
                prompt=asked if prompt is None else (prompt if isinstance(prompt, str) else tuple(prompt)),
                decoding=decoding if decoding is not None else self.started.decoding,
                seed=derive_seed(self.started.seed, self.problem, name),
                sibling=place,
                max_tokens=max_tokens if max_tokens is not None else max(1, self.started.max_tokens - len(prefix)),
                prefix_ids=prefix,
                keep=keep,
                exclude=tuple(exclude),
                stop=self.started.stop,
                step=_strings(step),
                max_step_tokens=max_step_tokens,
                step_tokens=tuple(step_tokens),
                part=self._part,
                purpose=purpose,
                trigger=trigger,
            )
            for name, place in zip(names, places, strict=True)
        ]

    def numbered(self, requests: Iterable[DecodeRequest]) -> list[DecodeRequest]:
        """Requests that were made in several calls, with ids and seeds as if they had been made in one. Siblings'
        places are left as they are."""
        taken: Counter[str] = Counter()
        found = []
        for request in requests:
            taken[request.parent] += 1
            name = self._child_name(request.parent, taken[request.parent])
            seed = derive_seed(self.started.seed, self.problem, name)
            found.append(request.model_copy(update={"id": name, "seed": seed}))
        return found

    # --- writing -----------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event from now on, after it has taken effect."""
        self._listeners.append(listener)

    def hush(self) -> None:
        """Call no listener any more: with them a tree holds, and outlives, all that they know of."""
        self._listeners.clear()

    def add(self, request: DecodeRequest) -> None:
        """Put a request on the tree as a pending node.

        Raises:
            UsageError: its id is taken, or its parent is missing, not decoded or given up.
        """
        self.apply(Requested(request=request))

    def attach(self, branch: Branch) -> bool:
        """Put a decoded branch on its node; False, and nothing changes, where another result came first."""
        if self[branch.id].branch is not None:
            return False
        self.apply(Decoded(branch=branch))
        return True

    def judge(self, node: str, verdicts: Sequence[Verdict]) -> None:
        """Put verdicts on a decoded node and set its status by them; without any, say that none will come."""
        self.apply(Judged(id=node, verdicts=tuple(verdicts)))

    def prune(self, node: str, reason: str) -> None:
        """Give a node up, and all open ones below it; what was accepted or rejected stays so."""
        self.apply(Pruned(id=node, reason=reason))

    def note(self, node: str, text: str) -> None:
        """Keep a remark on a node."""
        self.apply(Noted(id=node, text=text))

    def end(self, ended: Ended) -> None:
        """Say that the search is over."""
        self.apply(ended)

    def apply(self, event: Event) -> None:
        """Change the tree by one event, then tell the listeners.

        Raises:
            UsageError: the event can't follow what is there, or this is a part of a tree, which is read-only.
        """
        if self._part:
            raise UsageError(f"the part {self._part!r} of a tree is read-only; change the tree itself")
        match event:
            case Started():
                raise UsageError("a tree starts once: build it with Tree.replay or Tree(problem)")
            case Requested(request=request):
                self._add(request)
            case Decoded(branch=branch):
                self._attach(branch)
            case Judged(id=node, verdicts=verdicts):
                self._judge(node, verdicts)
            case Pruned(id=node, reason=reason):
                self._prune(node, reason)
            case Noted(id=node, text=text):
                self._set(node, notes=(*self[node].notes, text))
            case Ended():
                self.ended = event
        for listener in self._listeners:
            listener(event)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> Tree:
        """The tree that a run's events add up to; the first must be ``Started``.

        Raises:
            UsageError: the events aren't those of one run.
        """
        stream = iter(events)
        first = next(stream, None)
        if not isinstance(first, Started):
            raise UsageError(f"a run begins with a 'started' event, found {getattr(first, 'event', 'nothing')!r}")
        tree = cls._from_started(first)
        for event in stream:
            tree.apply(event)
        return tree

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from led_agent.notebook import tree_html

        return tree_html(self)

    # --- export and import -------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The whole tree as one JSON document; ``from_json`` reads it back."""
        return json.dumps(self._document(), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Tree:
        """Raises UsageError where the text isn't a tree of ours."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a tree: not valid JSON ({error})") from error
        return cls._from_document(document)

    def to_node_link(self) -> dict[str, Any]:
        """networkx's node-link form, every attribute plain JSON."""
        graph = nx.DiGraph(**self._head())
        for entry in self._entries():
            graph.add_node(entry["id"], **{k: v for k, v in entry.items() if k not in ("id", "parent")})
            if entry["parent"] is not None:
                graph.add_edge(entry["parent"], entry["id"])
        data: dict[str, Any] = nx.node_link_data(graph, edges="edges")
        return data

    @classmethod
    def from_node_link(cls, data: dict[str, Any]) -> Tree:
        """Raises UsageError where the data isn't a tree of ours."""
        try:
            graph = nx.node_link_graph(data, edges="edges", directed=True)
        except (KeyError, TypeError, ValueError, AttributeError, nx.NetworkXError) as error:
            raise UsageError(f"not node-link data: {error}") from error
        return cls._from_graph(graph, lambda attributes: attributes)

    def to_graphml(self) -> str:
        """GraphML for Gephi, yEd and the like. Scalars are attributes of their own (status, tokens, score, seed …);
        ``record`` holds the whole node as JSON, so that nothing is lost on the way back."""
        graph = nx.DiGraph(**{name: json.dumps(value) for name, value in self._head().items()})
        for node, entry in zip((self[name] for name in self._graph), self._entries(), strict=True):
            verdict = node.verdict
            graph.add_node(
                node.id,
                status=node.status,
                decoding=node.request.decoding.label if node.request else "",
                seed=str(node.request.seed) if node.request else "",
                tokens=len(node.branch.token_ids) if node.branch else 0,
                score=verdict.score if verdict else 0.0,
                record=json.dumps({k: v for k, v in entry.items() if k not in ("id", "parent")}),
            )
            if node.parent is not None:
                graph.add_edge(node.parent, node.id)
        buffer = io.BytesIO()
        nx.write_graphml(graph, buffer)
        return buffer.getvalue().decode()

    @classmethod
    def from_graphml(cls, text: str) -> Tree:
        """Raises UsageError where the text isn't a tree of ours."""
        try:
            graph = nx.parse_graphml(text)
            graph.graph = {name: json.loads(value) for name, value in graph.graph.items() if name in _HEAD}
        except (nx.NetworkXError, SyntaxError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"not GraphML of a tree: {error}") from error
        return cls._from_graph(graph, lambda attributes: json.loads(attributes["record"]))

    # --- inside ------------------------------------------------------------------------------------------------

    @classmethod
    def _from_started(cls, started: Started) -> Tree:
        return cls(
            started.problem,
            decoding=started.decoding,
            seed=started.seed,
            max_tokens=started.max_tokens,
            stop=started.stop,
            follow_up=started.follow_up,
            model=started.model,
        )

    def _shown(self, name: str) -> bool:
        """Whether a node belongs to what this view shows."""
        if not self._part or name == ROOT:
            return True
        request = self._request(name)
        return request is not None and f"{request.part}/".startswith(f"{self._part}/")

    def _names(self) -> list[str]:
        return [name for name in self._graph if self._shown(name)]

    def _request(self, name: str) -> DecodeRequest | None:
        found: DecodeRequest | None = self._graph.nodes[name]["request"]
        return found

    def _continues(self, request: DecodeRequest) -> bool:
        """Whether a request goes on where its parent ends, instead of forking inside it or asking something else."""
        above = self._graph.nodes[request.parent]
        asked = above["request"].prompt if above["request"] is not None else self.problem.prompt
        own = len(above["branch"].token_ids) if above["branch"] is not None else 0
        return request.prompt == asked and (request.keep is None or request.keep >= own)

    def _continued(self, node: str) -> bool:
        below = (self._request(name) for name in self._graph.successors(node) if self._shown(name))
        return any(request is not None and self._continues(request) for request in below)

    def _prefix(self, parent: str, keep: int | None) -> tuple[int, ...]:
        """The tokens of the output that ends in ``parent``, all or up to so many of its own."""
        whole, own = self.branch(parent).token_ids, self[parent].branch
        most = len(own.token_ids) if own is not None else 0
        if keep is not None and not 0 <= keep <= most:
            raise UsageError(f"keep is {keep}; node {parent!r} has {most} tokens of its own to keep")
        return whole if keep is None else whole[: len(whole) - most + keep]

    def _summed(self, node: str) -> tuple[int, float, int]:
        """Of the whole output that ends in ``node``: its tokens, the sum of the log-probabilities, and their number."""
        if node not in self._sums:
            own, request, above = self[node].branch, self[node].request, self.parent(node)
            if own is None or request is None or request.keep is not None or above in (None, ROOT):
                whole = self.branch(node)
                self._sums[node] = len(whole.token_ids), sum(whole.final_logprobs), len(whole.final_logprobs)
            else:
                before = self._summed(str(above)) if self._continues(request) else (0, 0.0, 0)
                parts = len(own.token_ids), sum(own.final_logprobs), len(own.final_logprobs)
                self._sums[node] = before[0] + parts[0], before[1] + parts[1], before[2] + parts[2]
        return self._sums[node]

    def _run_of(self, node: str) -> list[str]:
        """The nodes whose texts make up the output that ends in ``node``."""
        run: list[str] = []
        for name in self.path(node)[1:]:
            request, above = self[name].request, self[self.parent(name) or ROOT].request
            asked = above.prompt if above else self.problem.prompt
            if request is not None and request.prompt != asked:
                run = []
            run.append(name)
        return run

    def _places(self, parent: str, purpose: str, n: int, of: int) -> list[Sibling | None]:
        """The next ``n`` places among siblings that come ``of`` at a time; None where a branch stands alone."""
        if of == 1:
            return [None]
        taken = {(s.group, s.index) for c in self.children(parent) if c.request and (s := c.request.sibling)}
        found: list[Sibling | None] = []
        owner = f"{self._part} " if self._part else ""
        for k in itertools.count():
            group = derive_seed(self.started.seed, self.problem, f"{owner}{parent} {purpose} {of} {k}")
            free = [Sibling(group=group, index=i, of=of) for i in range(of) if (group, i) not in taken]
            found += free[: n - len(found)]
            if len(found) == n:
                break
        return found

    def _child_name(self, parent: str, k: int) -> str:
        """The id of the k-th child that a node has yet to get, from 1."""
        number = len(self._graph.succ[parent]) + k  # out_degree would tie graph and view into a knot
        return str(number) if parent == ROOT else f"{parent}.{number}"

    def _known(self, node: str) -> str:
        if node not in self._graph:
            raise UsageError(f"the tree has no node {node!r}; ids are {ROOT!r} and paths such as '2' or '2.1'")
        return node

    def _rank(self, node: Node) -> tuple[float, ...]:
        branch, verdict = node.branch, node.verdict
        ended = branch is not None and branch.finish in ("eos", "stop")
        likely = branch.mean_logprob if branch is not None else None
        return (
            RANK[node.status],
            verdict.score if verdict else 0.0,
            float(ended),
            likely if likely is not None else float("-inf"),
            -node.order,
        )

    def _set(self, node: str, **attributes: object) -> None:
        self._graph.nodes[node].update(attributes)
        self._views.pop(node, None)

    def _add(self, request: DecodeRequest) -> None:
        if request.id in self._graph:
            raise UsageError(
                f"the tree already has a node {request.id!r}; make all requests for one parent in one call of "
                "tree.requests, and each only once"
            )
        if request.problem != self.problem.key:
            raise UsageError(
                f"request {request.id!r} is for {request.problem!r}, but this tree is {self.problem.key!r}"
            )
        if request.parent not in self._graph:
            raise UsageError(f"request {request.id!r} names a parent {request.parent!r} that the tree does not have")
        above = self[request.parent]
        if above.id != ROOT and (above.branch is None or above.status in ("failed", "pruned")):
            state = "still pending" if above.pending else above.status
            raise UsageError(f"request {request.id!r} continues node {above.id!r}, which is {state}")
        if above.status == "open" and self._continues(request):
            self._set(above.id, status="expanded")
        self._graph.add_node(request.id, **blank(request, order=len(self._graph)))
        self._graph.add_edge(request.parent, request.id)

    def _attach(self, branch: Branch) -> None:
        node = self[branch.id]
        if node.request is None or node.branch is not None:
            raise UsageError(f"node {branch.id!r} is {node.status} and not waiting for a branch")
        if node.status == "pruned":  # given up while it was in flight: keep what it had
            self._set(branch.id, branch=branch, settled=True)
        elif branch.finish == "error":
            reason = branch.error or "decoding failed"
            self._set(branch.id, branch=branch, status="failed", reason=reason, settled=True)
        elif branch.finish == "cancelled":
            reason = branch.error or "cancelled"
            self._set(branch.id, branch=branch, status="pruned", reason=reason, settled=True)
        else:
            self._set(branch.id, branch=branch)

    def _judge(self, name: str, verdicts: tuple[Verdict, ...]) -> None:
        node = self[name]
        if node.branch is None or node.status in ("failed", "pruned"):
            raise UsageError(f"node {name!r} is {'pending' if node.pending else node.status} and can't be judged")
        everything = (*node.verdicts, *verdicts)
        decisive = summary_verdict(everything)
        status: NodeStatus = node.status
        if decisive is not None and decisive.status in ("accepted", "rejected"):
            status = "accepted" if decisive.status == "accepted" else "rejected"
        elif node.status in ("accepted", "rejected"):
            status = "expanded" if self._continued(name) else "open"
        self._set(name, verdicts=everything, status=status, reason=decisive.reason if decisive else "", settled=True)

    def _prune(self, name: str, reason: str) -> None:
        if name == ROOT:
            raise UsageError("the root can't be pruned; end the search instead")
        for below in [name, *nx.descendants(self._graph, self._known(name))]:
            node = self[below]
            if node.status in ("open", "expanded"):
                self._set(below, status="pruned", reason=reason, settled=node.branch is not None)

    def _head(self) -> dict[str, Any]:
        ended = self.ended.model_dump(mode="json") if self.ended else None
        return {"format": _FORMAT, "started": self.started.model_dump(mode="json"), "ended": ended}

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {
                "id": node.id,
                "parent": node.parent,
                "status": node.status,
                "reason": node.reason,
                "notes": list(node.notes),
                "settled": node.settled,
                "verdicts": [v.model_dump(mode="json") for v in node.verdicts],
                "request": node.request.model_dump(mode="json") if node.request else None,
                "branch": node.branch.model_dump(mode="json") if node.branch else None,
            }
            for node in (self[name] for name in self._graph)
        ]

    def _document(self) -> dict[str, Any]:
        return {**self._head(), "nodes": self._entries()}

    @classmethod
    def _from_document(cls, document: Any) -> Tree:
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise UsageError(f"not a tree: expected the format {_FORMAT!r}, found {found!r}")
        try:
            tree = cls._from_started(Started.model_validate(document["started"]))
            entries = [Entry.model_validate(entry) for entry in document["nodes"]]
            for entry in entries:
                tree._restore(entry)
            if len(tree) != len(entries):
                raise UsageError("not a tree: the root must be there, and once")
            tree.ended = Ended.model_validate(document["ended"]) if document.get("ended") else None
        except ValidationError as error:
            raise UsageError(f"not a tree: {explain(error)}") from error
        except (KeyError, TypeError) as error:
            raise UsageError(f"not a tree: {type(error).__name__} at {error}") from error
        return tree

    def _restore(self, entry: Entry) -> None:
        if (request := entry.request) is not None:
            if request.id in self._graph:
                raise UsageError(f"not a tree: there are two nodes {request.id!r}")
            if request.parent not in self._graph:
                raise UsageError(f"not a tree: node {request.id!r} comes before its parent {request.parent!r}")
            self._graph.add_node(request.id, **blank(request, order=len(self._graph)))
            self._graph.add_edge(request.parent, request.id)
        names = ("status", "reason", "notes", "verdicts", "branch", "settled")
        self._set(entry.id, **{name: getattr(entry, name) for name in names})

    @classmethod
    def _from_graph(cls, graph: nx.DiGraph, read: Callable[[dict[str, Any]], dict[str, Any]]) -> Tree:
        try:
            entries = [{"id": name, "parent": None, **read(attributes)} for name, attributes in graph.nodes.items()]
            document = {**graph.graph, "nodes": entries}
        except KeyError as error:
            raise UsageError(f"not a tree: a node lacks {error}") from error
        except (ValueError, TypeError) as error:
            raise UsageError(f"not a tree: {error}") from error
        return cls._from_document(document)


_HEAD = ("format", "started", "ended")


def _strings(given: Sequence[str]) -> tuple[str, ...]:
    """One string is a sequence of its letters, but never meant as one."""
    return (given,) if isinstance(given, str) else tuple(given)
