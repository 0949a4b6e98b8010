"""Evaluation: strategies and decodings side by side on the same problems, with intervals."""
