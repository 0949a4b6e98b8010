"""What a problem's n sampled branches say of k of them: exactly, and not by drawing subsets.

All are expectations over the subsets of size k, every subset as likely as any other. The k-th column of an array is
for ``ks[k]``. This file knows counts, groups and scores; it does not know where they come from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_at", "majority_at", "pass_at", "powers_of_two"]

Floats = NDArray[np.float64]


def powers_of_two(n: int) -> tuple[int, ...]:
    """1, 2, 4, … up to n, and n itself."""
    return tuple(sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})) if n > 0 else ()


def pass_at(ks: Sequence[int], n: int, correct: int) -> Floats:
    """pass@k: the chance that one of k branches is right. Float [len(ks)].

    Chen et al., "Evaluating Large Language Models Trained on Code", 2021 (arXiv 2107.03374), equation 1, as a product,
    so that no factorial is computed.

    Raises:
        ValueError: a k above n, or more right branches than there are.
    """
    _check(ks, n)
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} branches can't be right")
    wrong = n - correct
    return np.array([1.0 if k > wrong else 1.0 - math.prod(1.0 - k / i for i in range(wrong + 1, n + 1)) for k in ks])


def majority_at(ks: Sequence[int], n: int, groups: Sequence[tuple[int, float]]) -> Floats:
    """cons@k: the chance that the answer that most of k branches give is right. Float [len(ks)].

    Self-consistency: Wang et al., 2022 (arXiv 2203.11171). Of answers that lead together each is taken as often as the
    others. A branch without an answer has no vote; k branches without any are wrong.

    Args:
        n: All branches, those without an answer included.
        groups: For each different answer how many branches give it, and the share of those that are right.

    Raises:
        ValueError: a k above n, or more answers than branches.
    """
    _check(ks, n)
    answered = sum(size for size, _ in groups)
    if answered > n or any(size < 1 for size, _ in groups):
        raise ValueError(f"groups of {[size for size, _ in groups]} don't come from {n} branches")
    sizes = tuple(sorted(size for size, _ in groups))
    leads = {size: _lead(size, sizes, n, tuple(ks)) for size in set(sizes)}
    return sum((share * leads[size] for size, share in groups), start=np.zeros(len(ks)))


def best_at(ks: Sequence[int], scores: Sequence[float | None], right: Sequence[bool]) -> Floats:
    """best-of-N@k: the chance that the branch with the highest score of k is right. Float [len(ks)].

    Of branches with equal scores each is taken as often as the others; None is below all scores.

    Raises:
        ValueError: a k above their number, or scores for other branches than these.
    """
    n = len(right)
    _check(ks, n)
    if len(scores) != n:
        raise ValueError(f"{len(scores)} scores for {n} branches")
    level = [-math.inf if score is None else score for score in scores]
    order = sorted(range(n), key=lambda at: -level[at])
    values: list[float] = []
    for _, tied in groupby(order, key=lambda at: level[at]):
        members = list(tied)
        values += [sum(right[at] for at in members) / len(members)] * len(members)
    # The r-th best (from 0) leads a subset that holds it and k - 1 of the n - 1 - r that are below it.
    return np.array([sum(v * math.comb(n - 1 - r, k - 1) for r, v in enumerate(values)) / math.comb(n, k) for k in ks])


def _check(ks: Sequence[int], n: int) -> None:
    if any(not 1 <= k <= n for k in ks):
        raise ValueError(f"k is one of {list(ks)}; allowed are 1 to {n}")


@lru_cache(maxsize=4096)  # problems of one setting have few shapes between them
def _lead(size: int, sizes: tuple[int, ...], n: int, ks: tuple[int, ...]) -> Floats:
    """The chance that one answer's group is taken, by its size: it leads alone, or is drawn among those that lead.

    With m of its branches in the subset, no other group may have more, and with t others that have m as well it is
    taken once in t + 1. The subsets are counted by a polynomial: the power of x is how many branches of other groups
    they hold, the power of y is t. Its coefficients are counts, so nothing cancels.
    """
    others = Counter(sizes)
    others[size] -= 1
    most = max(ks)
    taken = np.zeros(len(ks))
    for m in range(1, min(size, most) + 1):
        counted = _without_more(others, n - sum(sizes), m, most - m)  # [x, y]
        even = counted @ (1.0 / np.arange(1, counted.shape[1] + 1))  # [x]
        for column, k in enumerate(ks):
            if k >= m:
                taken[column] += math.comb(size, m) * even[k - m] / math.comb(n, k)
    taken.setflags(write=False)  # it is kept
    return taken


def _without_more(others: Counter[int], silent: int, m: int, most: int) -> Floats:
    """Ways to draw up to ``most`` branches of the other groups and of those without an answer, no group giving more
    than m. Float [most + 1, ties + 1]."""
    ways = np.zeros((most + 1, 1 + most // m))
    ways[:, 0] = [math.comb(silent, j) for j in range(most + 1)]
    for size, count in others.items():
        for _ in range(count):
            ways = _times(ways, size, m)
    return ways


def _times(ways: Floats, size: int, m: int) -> Floats:
    """Let another group give none to m of its branches; with m it leads, too."""
    most = len(ways) - 1
    made: Any = np.zeros_like(ways)
    for j in range(min(m - 1, size, most) + 1):
        made[j:] += math.comb(size, j) * ways[: most + 1 - j]
    if m <= min(size, most):
        made[m:, 1:] += math.comb(size, m) * ways[: most + 1 - m, :-1]
    return np.asarray(made, dtype=np.float64)
