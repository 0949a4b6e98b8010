"""Calling verifiers: names, what their answers mean, and what happens when they raise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from led_agent.errors import PluginError, boundary
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = ["judge", "verifier_name"]


def verifier_name(verifier: Verifier) -> str:
    """Its ``name``, else its ``__name__``, else its class's."""
    for attribute in ("name", "__name__"):
        found = getattr(verifier, attribute, None)
        if isinstance(found, str) and found:
            return found
    return type(verifier).__name__


def judge(verifiers: Sequence[Verifier], problem: Problem, branch: Branch) -> tuple[Verdict, ...]:
    """Ask the verifiers in order, up to the first that rejects; what one raises is its error verdict."""
    return tuple(_until_rejected(_ask(verifier, problem, branch) for verifier in verifiers))


def _until_rejected(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    for verdict in verdicts:
        yield verdict
        if verdict.status == "rejected":
            return


def _ask(verifier: Verifier, problem: Problem, branch: Branch) -> Verdict:
    name = verifier_name(verifier)
    began = time.perf_counter()
    try:
        with boundary(f"verifier {name}"):
            said = _as_verdict(verifier(problem, branch), name)
    except PluginError as error:
        said = Verdict(status="error", reason=str(error))
    except SystemExit as error:  # code under test that calls sys.exit()
        said = Verdict(status="error", reason=f"verifier {name} raised SystemExit: {error}")
    spent = said.seconds or time.perf_counter() - began
    return said.model_copy(update={"verifier": said.verifier or name, "seconds": spent})


def _as_verdict(said: object, name: str) -> Verdict:
    if isinstance(said, Verdict):
        return said
    if isinstance(said, bool):
        return Verdict(status="accepted" if said else "rejected")
    if isinstance(said, int | float) and 0.0 <= said <= 1.0:
        score = float(said)
        if score in (0.0, 1.0):
            return Verdict(status="accepted" if score else "rejected", score=score, reason=f"scored {score:g}")
        return Verdict(status="abstained", score=score, reason=f"scored {score:.3g}")
    shown = f"{type(said).__name__} {str(said)[:80]!r}"
    raise PluginError(f"verifier {name} returned {shown}; allowed are a Verdict, a bool, or a score in [0, 1]")
