"""Stratified siblings: branches that are asked for together share one random shift, and are spread evenly by it.

Vilnis et al., "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models", ICML 2023. Sibling i of n
has the code u = (i / n + s) mod 1. At each step tokens are laid on [0, 1) by cumulative probability; the one whose
interval [low, high) holds u is taken, and u becomes (u - low) / (high - low). Each sibling alone follows the law
exactly, since its own u is uniform; together they are spread as evenly as the law allows. A sibling needs to know
only the group's seed, its own number and how many there are, so siblings may grow on different machines.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from led_agent.decoding.sampling import DRAW_SHIFT, uniform

__all__ = ["ENOUGH", "sibling_code"]

# Of an interval: below, a code has too few random bits left, and the branch goes on with its own numbers.
ENOUGH = 2.0**-40


def sibling_code(group: int, index: int, of: int) -> float:
    """The code in [0, 1) that a sibling starts with; uniform over ``group`` for each ``index``.

    Siblings are numbered so that the first few of many are spread too: those that come later fall between them.
    """
    shift = float(uniform(torch.tensor([group]), torch.tensor([0]), DRAW_SHIFT))
    return (_order(of)[index] / of + shift) % 1.0


@lru_cache(maxsize=64)
def _order(of: int) -> tuple[int, ...]:
    """0 … of - 1 by their bits read backwards."""
    bits = max(1, (of - 1).bit_length())
    return tuple(sorted(range(of), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2)))
