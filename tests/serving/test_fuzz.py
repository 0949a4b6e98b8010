"""The interface as its own description has it, with whatever a generator thinks of: no 500, and nothing undescribed."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from led_agent import Decoding
from led_agent.engine.tokens import Tokens
from led_agent.serving.app import Loaded, Setup, create_app
from led_agent.serving.asking import Defaults
from led_agent.testing import ScriptedDecoder
from tests.serving.servers import PATIENCE, Running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def description() -> dict[str, Any]:
    """What the server says of itself; it takes no model to say it. Keys are left out: they have tests of their own."""
    loaded = Loaded(ScriptedDecoder(["?"]), Tokens(None), Decoding.greedy())
    told = create_app(Setup(model="?", load=lambda: loaded, defaults=Defaults())).openapi()
    del told["components"]["securitySchemes"]
    for path in told["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
    return told


schema = schemathesis.openapi.from_dict(description())


@schema.exclude(path_regex="/events$").parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_is_sent_breaks_it(case: schemathesis.Case, server: Running):
    if isinstance(case.body, dict):
        case.body.pop("stream", None)  # a stream has no schema to be held against
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=PATIENCE)
