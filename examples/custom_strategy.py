"""Your own strategy is a frozen dataclass: here, grow the best line so far. Usage: custom_strategy.py [MODEL]"""

import sys
from dataclasses import dataclass

from led_agent import Tree, solve


@dataclass(frozen=True)
class GreedyLines:
    lines: int = 3

    def propose(self, tree: Tree, slots: int) -> list:
        best = max(tree.leaves(), key=lambda n: n.branch.mean_logprob or -99, default=tree["root"])
        if tree.pending() or tree.depth(best.id) >= self.lines or (best.branch and best.branch.finish != "step"):
            return []
        return tree.requests(4, parent=best.id, step=["\n", ". "], max_tokens=32)


print(solve("Tell me about rain.", sys.argv[1] if len(sys.argv) > 1 else "smollm2", strategy=GreedyLines()).text)
