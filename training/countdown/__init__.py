"""The embedded reasoner: a small Llama that plays Countdown with three numbers, trying and backtracking.

``python -m training.countdown build`` makes both checkpoints from nothing but seeds; RESULTS.md beside this package
says what came out. Prior art: TinyZero; Stream of Search (arXiv 2404.03683).
"""
