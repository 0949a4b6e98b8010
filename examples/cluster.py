"""The same search in this process and on two decoders in processes of their own. Usage: cluster.py [MODEL]"""

import sys
from collections import Counter

from led_agent import Search
from led_agent.strategies import BestOfN

puzzles = ["Use 3, 20 and 5 to make 35.", "Use 1, 7 and 8 to make 49."]
model = sys.argv[1] if len(sys.argv) > 1 else "countdown"
found = []
for cluster in (None, 2):
    with Search(model, strategy=BestOfN(16, stop_at_first=False), slots=8, cluster=cluster) as search:
        trees = [solution.tree for solution in search.solve_many(puzzles)]
    branches = [node.branch for tree in trees for node in tree.nodes() if node.branch]
    print(dict(Counter(branch.decoder or "this process" for branch in branches)))
    print([solution.branch.text for tree in trees for solution in tree.accepted()[:1]])
    found.append([branch.token_ids for branch in branches])
print("the same tokens in every branch:", found[0] == found[1])
