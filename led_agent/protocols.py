"""The three plug-in points: each is one call behind a Protocol.

A plain function is a valid verifier; a frozen dataclass with ``propose`` is a valid strategy; a decoder is
whatever takes requests and reports branches to a sink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from led_agent.types import Branch, DecodeRequest, Problem, Verdict

if TYPE_CHECKING:
    from led_agent.tree import Tree

__all__ = ["BranchDone", "BranchProgress", "DecodeEvent", "Decoder", "Sink", "Strategy", "Verifier"]


@runtime_checkable
class Strategy(Protocol):
    """What to try next.

    Stateless: all it needs is on the tree, so that resuming, replaying and moving it to another machine come free.
    A strategy may also have ``finished(tree) -> bool``: the search ends, and cancels what is in flight, as soon as
    it is true. Without it, the search ends at the first accepted branch.

    And it may have ``prune(tree) -> Sequence[tuple[str, str]]``, asked whenever a branch or its verdict has come: node
    ids to give up, each with the reason. What is below them goes with them; what is being decoded is cancelled, and no
    verifier is asked about a branch that was given up before.

    And ``choose(tree) -> str | None``, asked at the end where no branch was accepted: the node that gives the answer;
    None leaves it to the verifiers' scores, and where they tell nothing apart, to the answer that most branches give.
    """

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        """Up to ``slots`` new requests, made by ``tree.requests(…)``.

        Called again whenever slots come free or the tree has changed. Nothing proposed while nothing is in flight
        ends the search.
        """
        ...


class Verifier(Protocol):
    """Whether a branch's answer holds.

    Called off the decoding thread, from several threads at once. ``branch`` holds the whole text from the prompt
    on. A bool is accepted or rejected. A float is a score in [0, 1]: 1 accepts, 0 rejects, and anything between
    abstains and only ranks. Its name in verdicts is its ``name`` attribute, else its ``__name__``, else its class's.

    A verifier may have more, each of it optional:

    - ``check(problem) -> str | None``, asked before anything is decoded: why it has nothing to say on this problem
      (it would abstain), or None. A problem on which no verifier has anything to say is refused. It raises
      ``UsageError`` where the problem itself is at fault, and ``MachineError`` where the machine is.
    - ``batch(asked) -> Sequence[Verdict | bool | float]``, for a sequence of (problem, branch) pairs that wait
      together, with ``batch_size``, how many it takes at most: one call in place of several. Of these calls one is
      under way at a time, or as many as its ``batches_at_once`` says then.
    - ``together(problem, branches) -> Sequence[Verdict | bool | float]``, one for each branch, for a verifier that
      compares branches with each other. It is asked once, when a problem's branches are complete, and not called.
    - ``step(problem, branch) -> Verdict | bool | float``, asked where a branch ends at a step of a longer answer (a
      process reward). A rejection rejects the step; an acceptance only ranks it by its score.
    - ``replicas``, how many copies of it a cluster holds at most: 1 for one that keeps a model in memory. None, as
      without it, is one in each process that verifies.
    - ``close()``, called when the search is closed.
    """

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict | bool | float: ...


@dataclass(frozen=True)
class BranchProgress:
    """A branch has grown: its tokens and text so far."""

    id: str
    tokens: int
    text: str


@dataclass(frozen=True)
class BranchDone:
    """A branch is complete, cancelled or failed. Exactly one for each request."""

    branch: Branch


DecodeEvent = BranchProgress | BranchDone
Sink = Callable[[DecodeEvent], None]


class Decoder(Protocol):
    """Grows branches, in this process or elsewhere.

    One that sees each step may have ``limit(problem, tokens, prefill_tokens)``: cancel all that is being decoded for a
    problem as soon as so many tokens have been generated or prefilled for it from now on; None is no limit, and two of
    them lift what was there. Without it a budget is run over by what is decoded between two reports.

    And it may have ``follows_up``: False where the model can't be asked about what it has said, as a chat; and
    ``calibration``: the map from how branches agree to a probability (``led_agent.confidence.Calibration``).
    """

    @property
    def slots(self) -> int:
        """How many branches grow at a time."""
        ...

    def check(self, request: DecodeRequest) -> None:
        """Refuse what this model can't do, before anything is computed.

        Raises:
            UsageError: settings beyond the model, or a prompt beyond its context.
        """
        ...

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        """Queue a request; its events go to ``sink``, from a thread of the decoder's own. Its name may be an earlier
        one's of the same problem that has ended, or was cancelled: it is another request all the same."""
        ...

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        """End these requests, of those submitted so far, soon; each is still reported, with ``finish="cancelled"`` and
        what it had."""
        ...

    def close(self) -> None:
        """Give the model's memory and threads back."""
        ...
