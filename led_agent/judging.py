"""Calling verifiers: names, what their answers mean, what happens when they raise, and what they refuse beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from led_agent.errors import LedError, PluginError, UsageError, boundary, raised
from led_agent.protocols import Verifier
from led_agent.types import Branch, Problem, Verdict

__all__ = [
    "ask",
    "batch_limit",
    "compares",
    "failure",
    "fewest_replicas",
    "judge",
    "read",
    "read_all",
    "refuse",
    "replica_limit",
    "signed",
    "unable",
    "verifier_name",
]

_BATCH = 32  # pairs in one call of a verifier that does not say how many it takes


def verifier_name(verifier: Verifier) -> str:
    """Its ``name``, else its ``__name__``, else its class's."""
    for attribute in ("name", "__name__"):
        found = getattr(verifier, attribute, None)
        if isinstance(found, str) and found:
            return found
    return type(verifier).__name__


def compares(verifier: Verifier) -> bool:
    """Whether it judges a problem's branches together and not one by one."""
    return callable(getattr(verifier, "together", None))


def batch_limit(verifier: Verifier) -> int | None:
    """How many (problem, branch) pairs one call of its ``batch`` takes; None where it has no ``batch``.

    Raises:
        UsageError: its ``batch_size`` is no whole number above 0.
    """
    if not callable(getattr(verifier, "batch", None)):
        return None
    most = getattr(verifier, "batch_size", _BATCH)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise UsageError(
            f"verifier {verifier_name(verifier)} has batch_size {most!r}; a whole number from 1 on is allowed"
        )
    return most


def replica_limit(verifier: Verifier) -> int | None:
    """How many copies of it a cluster holds at most; None is as many as there are processes.

    Raises:
        UsageError: its ``replicas`` is neither None nor a whole number above 0.
    """
    most = getattr(verifier, "replicas", None)
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UsageError(
            f"verifier {verifier_name(verifier)} has replicas {most!r}; None or a whole number from 1 on is allowed"
        )
    return most


def fewest_replicas(verifiers: Sequence[Verifier]) -> int | None:
    """How many copies a cluster holds of a verifier that is made of these."""
    return min((most for verifier in verifiers if (most := replica_limit(verifier)) is not None), default=None)


def judge(verifiers: Sequence[Verifier], problem: Problem, branch: Branch) -> tuple[Verdict, ...]:
    """Ask the verifiers in order, up to the first that rejects; what one raises is its error verdict."""
    return tuple(_until_rejected(ask(verifier, problem, branch) for verifier in verifiers))


def _until_rejected(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    for verdict in verdicts:
        yield verdict
        if verdict.status == "rejected":
            return


def ask(verifier: Verifier, problem: Problem, branch: Branch, *, tries: int = 1) -> Verdict:
    """One verifier's verdict on one branch. What it raises is an error verdict, after so many ``tries``."""
    name = verifier_name(verifier)
    began = time.perf_counter()
    for left in reversed(range(tries)):
        try:
            said = read(verifier(problem, branch), name)
            break
        except Exception as error:  # noqa: BLE001 - whatever a verifier raises is its error verdict
            said = failure(name, error)
            if not left:
                break
        except SystemExit as error:  # code under test that calls sys.exit()
            said = failure(name, error)
            break
    return signed(said, name, time.perf_counter() - began)


def ask_many(verifier: Verifier, pairs: Sequence[tuple[Problem, Branch]]) -> list[Verdict]:
    """One verifier's verdicts on many branches, in batches where it takes them. What raises is tried once more."""
    most = batch_limit(verifier)
    if most is None:
        return [ask(verifier, problem, branch, tries=2) for problem, branch in pairs]
    name = verifier_name(verifier)
    verdicts: list[Verdict] = []
    for first in range(0, len(pairs), most):
        some = pairs[first : first + most]
        began = time.perf_counter()
        try:
            said = verifier.batch(some)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - each of them is tried again, alone, and says what it raises
            verdicts += [ask(verifier, problem, branch) for problem, branch in some]
        else:
            share = (time.perf_counter() - began) / len(some)
            verdicts += [signed(verdict, name, share) for verdict in read_all(said, len(some), name)]
    return verdicts


def ask_together(verifier: Verifier, problem: Problem, branches: Sequence[Branch]) -> list[Verdict]:
    """The verdicts of a verifier that compares branches, one for each; what raises is tried once more."""
    name = verifier_name(verifier)
    began = time.perf_counter()
    for last in (False, True):
        try:
            said = verifier.together(problem, branches)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - whatever a verifier raises is its error verdict
            if last:
                return [signed(failure(name, error), name, time.perf_counter() - began)] * len(branches)
        else:
            break
    share = (time.perf_counter() - began) / max(1, len(branches))
    return [signed(verdict, name, share) for verdict in read_all(said, len(branches), name)]


def signed(said: Verdict, name: str, seconds: float) -> Verdict:
    """The verdict with its verifier's name and time, where it did not say them itself."""
    return said.model_copy(update={"verifier": said.verifier or name, "seconds": said.seconds or seconds})


def failure(name: str, error: BaseException) -> Verdict:
    """The verdict of a verifier that raised."""
    told = str(error) if isinstance(error, PluginError) else raised(f"verifier {name}", error)
    return Verdict(status="error", reason=told)


def read(said: object, name: str) -> Verdict:
    """What a verifier's answer means; nonsense is an error verdict."""
    try:
        with boundary(f"verifier {name}"):
            return _as_verdict(said, name)
    except PluginError as error:
        return failure(name, error)


def read_all(said: object, wanted: int, name: str) -> list[Verdict]:
    """What the answers to ``wanted`` branches mean; another number of them is an error verdict on each."""
    try:
        with boundary(f"verifier {name}"):
            found = list(said) if isinstance(said, Sequence) and not isinstance(said, str) else None
    except PluginError as error:
        return [failure(name, error)] * wanted
    if found is None or len(found) != wanted:
        shown = type(said).__name__ if found is None else f"{len(found)} answers"
        reason = f"verifier {name} returned {shown} for {wanted} branches; one answer for each is allowed, in a list"
        return [Verdict(status="error", reason=reason)] * wanted
    return [read(answer, name) for answer in found]


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


# --- before anything is decoded ------------------------------------------------------------------------------------


def refuse(verifiers: Sequence[Verifier], problem: Problem) -> None:
    """Refuse a problem on which no verifier has anything to say. Without verifiers nothing is refused.

    Raises:
        UsageError: the problem is at fault, or every verifier says why it can't judge it.
        MachineError: what a verifier needs is not on this machine.
        PluginError: a verifier's ``check`` raised something else, or returned nonsense.
    """
    reasons = [unable(verifier, problem) for verifier in verifiers]
    if reasons and all(reasons):
        told = "; ".join(f"{verifier_name(v)}: {reason}" for v, reason in zip(verifiers, reasons, strict=True))
        raise UsageError(
            f"no verifier can judge this problem: {told}; give the problem what one of them needs, or other verifiers"
        )


def unable(verifier: Verifier, problem: Problem) -> str | None:
    """Why a verifier has nothing to say on a problem; None where it has, or has no ``check``.

    Raises:
        UsageError, MachineError, PluginError: as ``refuse``.
    """
    check = getattr(verifier, "check", None)
    if not callable(check):
        return None
    name = f"verifier {verifier_name(verifier)}"
    try:
        reason = check(problem)
    except LedError:
        raise
    except Exception as error:
        raise PluginError(f"{raised(name, error)}, in check") from error
    if reason is not None and not isinstance(reason, str):
        raise PluginError(f"{name} returned {reason!r} from check; allowed are None, or a reason in words")
    return reason or None
