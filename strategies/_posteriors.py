"""What is believed of the mean of rewards, by conjugate models: for choices by Thompson sampling.

Murphy, "Probabilistic Machine Learning: Advanced Topics", 2023, sections 3.4.3.3 (Gaussian) and 3.4.1 (Beta).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BetaMean", "NormalMean", "Posterior"]


@dataclass(frozen=True)
class NormalMean:
    """Rewards are Gaussian, their mean and variance unknown: a scaled inverse chi-squared variance (``nu``, ``tau2``),
    and given it a Gaussian mean around ``mean`` with the variance divided by ``kappa``."""

    mean: float
    kappa: float
    nu: float
    tau2: float

    def after(self, rewards: Sequence[float]) -> NormalMean:
        """What is believed after these rewards."""
        n = len(rewards)
        if n == 0:
            return self
        average = math.fsum(rewards) / n
        scatter = math.fsum((reward - average) ** 2 for reward in rewards)
        kappa, nu = self.kappa + n, self.nu + n
        shift = n * self.kappa / kappa * (average - self.mean) ** 2
        mean = (self.kappa * self.mean + n * average) / kappa
        return NormalMean(mean, kappa, nu, (self.nu * self.tau2 + scatter + shift) / nu)

    def draw(self, rng: random.Random) -> float:
        """A mean that is believed possible."""
        # A gamma variate of a small shape may underflow to 0.
        precision = max(rng.gammavariate(self.nu / 2, 1.0), sys.float_info.min)
        variance = self.nu * self.tau2 / 2 / precision
        return rng.gauss(self.mean, math.sqrt(variance / self.kappa))


@dataclass(frozen=True)
class BetaMean:
    """Rewards are successes, or parts of one, whose rate has a Beta distribution."""

    a: float
    b: float

    def after(self, rewards: Sequence[float]) -> BetaMean:
        """What is believed after these rewards, each in [0, 1]."""
        won = math.fsum(rewards)
        return BetaMean(self.a + won, self.b + math.fsum(1.0 - reward for reward in rewards))

    def draw(self, rng: random.Random) -> float:
        """A rate that is believed possible."""
        return rng.betavariate(self.a, self.b)


Posterior = NormalMean | BetaMean
