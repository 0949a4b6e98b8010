"""Two servers: one with the embedded model, as users have it, and what slow ones are made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from led_agent import Search
from led_agent.local import LocalDecoder
from led_agent.serving.app import Loaded, Setup
from led_agent.serving.asking import Defaults
from led_agent.serving.run import LOOPBACK_HOSTS
from tests.serving.servers import Running, endless, running


@pytest.fixture(scope="session")
def countdown() -> Iterator[Setup]:
    """What a server with the embedded model is made with."""
    with Search("countdown", slots=32) as search:
        search.prepare()
        decoder = search.decoder
        assert isinstance(decoder, LocalDecoder)
        loaded = Loaded(decoder, decoder.tokens, search.chosen_decoding)
        yield Setup(
            model="countdown",
            load=lambda: loaded,
            defaults=Defaults(),
            hosts=LOOPBACK_HOSTS,
        )


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
