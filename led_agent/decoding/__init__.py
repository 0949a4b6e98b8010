"""What the next token is: pure torch functions. No model, no cache, no scheduling."""

from led_agent.decoding.exploration import exploration_law

__all__ = ["exploration_law"]
