"""What a server is made with, as plain values: they can be sent to the machine that serves.

This file knows names and files; from them it makes what the application takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from led_agent.cluster.plan import Cluster
from led_agent.engine.tokens import Tokens
from led_agent.errors import UsageError
from led_agent.journal import Journal
from led_agent.models import default_model, locate
from led_agent.search import Search
from led_agent.serving.app import Loaded, Setup
from led_agent.serving.asking import Defaults
from led_agent.serving.limits import Keys, Limits
from led_agent.strategies.named import parse_strategy
from led_agent.types import Decoding
from led_agent.verifiers.named import parse_verifier

__all__ = ["Plan", "read_keys"]


@dataclass(frozen=True)
class Plan:
    """A server as its owner asks for it: names as on the command line.

    Raises:
        UsageError: a name means nothing.
    """

    model: str | None = None
    strategy: str | None = None
    decoding: str | None = None
    verifiers: tuple[str, ...] = ()
    max_tokens: int = 512
    code: bool = False
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    save: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 16
    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        _ = self.parsed_decoding, self._defaults()

    @property
    def parsed_decoding(self) -> Decoding | None:
        return Decoding.parse(self.decoding) if self.decoding is not None else None

    def setup(self) -> Setup:
        """What the application takes. The model is not loaded yet."""
        return Setup(
            model=self.model or default_model(),
            load=self.load,
            defaults=self._defaults(),
            limits=self.limits,
            keys=Keys(self.keys),
            hosts=self.hosts,
            origins=self.origins,
            journal=Journal(self.save) if self.save is not None else None,
        )

    def load(self) -> Loaded:
        """The model, on this machine or on the cluster.

        Raises:
            ModelError: it is missing or not supported.
            UsageError: it can't do what ``decoding`` asks.
        """
        search = Search(
            self.model,
            verifiers=[],
            decoding=self.parsed_decoding,
            device=self.device,
            dtype=self.dtype,
            slots=self.slots,
            cluster=self.cluster,
        )
        try:
            search.prepare()
            return Loaded(search.decoder, Tokens.load(locate(self.model)), search.chosen_decoding, search.close)
        except BaseException:
            search.close()
            raise

    def _defaults(self) -> Defaults:
        return Defaults(
            strategy=parse_strategy(self.strategy) if self.strategy is not None else None,
            decoding=self.parsed_decoding,
            verifiers={name: parse_verifier(name) for name in self.verifiers},
            max_tokens=self.max_tokens,
            code=self.code,
        )


def read_keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """API keys, those of a file one a line; empty lines and comments (#) are passed over.

    Raises:
        UsageError: a key is empty or has spaces, or the file holds none.
    """
    keys = list(given)
    if file is not None:
        lines = [line.strip() for line in file.read_text().splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UsageError(f"{file} holds no key; write one a line")
        keys += found
    for key in keys:
        if not key or key != key.strip() or " " in key:
            raise UsageError(
                "an API key is empty or has spaces; a key is one word, such as `openssl rand -hex 16` gives"
            )
    return tuple(keys)
