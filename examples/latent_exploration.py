"""Explore inside the model in several ways, and see how many of sixteen branches each gets right."""

from led_agent import Decoding, LatentNoise, QualityGuard, solve
from led_agent.strategies import BestOfN

led, noise = Decoding.led(depths=4, temperature=1.0), LatentNoise(sigma=0.1, orthogonal=True)
ways = {
    "plain": Decoding.plain(1.0),
    "LED": led,
    "noise": Decoding.noise(0.1, temperature=1.0, hold=4),
    "LED, noise, a guard": led.replace(latent_noise=noise, guard=QualityGuard(min_logprob=-0.5, window=8)),
}
for name, decoding in ways.items():
    tree = solve("Use 3, 20 and 5 to make 35.", decoding=decoding, strategy=BestOfN(16, stop_at_first=False)).tree
    branches = [node.branch for node in tree.nodes() if node.branch]
    turned = sum(bool(branch.rollbacks) for branch in branches)
    print(f"{name}: {len(tree.accepted())} right, {len({b.token_ids for b in branches})} differ, {turned} turned back")
