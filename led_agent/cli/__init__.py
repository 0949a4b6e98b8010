"""The command line. Each command reads its options, calls the library, and prints; nothing is decided here.

Exit codes: 0 verified, 1 not verified, 2 usage, 3 model or machine, 130 interrupted.
"""

from led_agent.cli.entry import app, main

__all__ = ["app", "main"]
