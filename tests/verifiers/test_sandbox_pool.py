"""Zygotes that come and go, whatever else happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from led_agent.verifiers.sandbox import Broken, Limits, Program, Sandbox, pool
from led_agent.verifiers.sandbox.process import Zygote


def test_closing_ends_a_run_whose_zygote_is_just_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox("none", size=1)

    def start(*asked: Any) -> Zygote:
        made = Zygote(*asked)
        sandbox.close()  # from another thread, in truth
        return made

    monkeypatch.setattr(pool, "Zygote", start)
    with pytest.raises(Broken, match="was closed"):
        sandbox.calls(Program(("def f(): return 1",)), "f", [pool.Call()], Limits(seconds=60.0))
    assert sandbox.pids() == ()
