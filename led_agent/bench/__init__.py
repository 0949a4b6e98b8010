"""Speed against other ways of running the same model, on the same machine, in the same run. No torch here."""

from __future__ import annotations

from led_agent.bench.harness import Arm, ArmResult, Comparison, Ratio, Spread, compare
from led_agent.bench.measure import BenchResult, bench
from led_agent.bench.workload import Workload

__all__ = ["Arm", "ArmResult", "BenchResult", "Comparison", "Ratio", "Spread", "Workload", "bench", "compare"]
