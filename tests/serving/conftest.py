"""Two servers: one with the embedded model, as users have it, and what slow ones are made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from led_agent.local import LocalDecoder
from led_agent.serving.app import Setup
from tests.serving.servers import Running, embedded, endless, running


@pytest.fixture(scope="session")
def countdown() -> Iterator[Setup]:
    """What a server with the embedded model is made with."""
    with embedded() as setup:
        yield setup


@pytest.fixture(scope="module")
def server(countdown: Setup) -> Iterator[Running]:
    with running(countdown) as up:
        yield up


@pytest.fixture
def slow() -> Iterator[LocalDecoder]:
    """A decoder whose branches take for ever."""
    decoder = endless()
    yield decoder
    decoder.close()
