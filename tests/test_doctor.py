"""`led-agent doctor`: what it finds, what it says where something is broken, and its exit code."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import led_agent.doctor as module
from led_agent.cli import main
from led_agent.doctor import Finding, examine


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path / "cache"))


def found() -> dict[tuple[str, str], Finding]:
    return {(finding.group, finding.name): finding for finding in examine()}


def test_it_reports_each_group_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]):
    code, out = call(capsys, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {row["group"] for row in rows} == {"version", "device", "model", "ray", "cache", "sandbox"}
    assert all(set(row) == {"group", "name", "ok", "detail", "needed"} for row in rows)
    code, table = call(capsys)
    assert code == 0
    for said in ("torch", "countdown", "cores", "GiB"):
        assert said in table


def test_what_solving_needs_and_lacks_is_exit_code_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    real = module.version

    def version(name: str) -> str:
        if name == lacking:
            raise module.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(module, "version", version)
    lacking = "torch"
    code, out = call(capsys)
    assert (code, "MISSING" in out) == (3, True)
    lacking = "led-agent"
    assert call(capsys)[0] == 0


def test_a_look_that_fails_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    def broken() -> Any:
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr("led_agent.engine.devices.device_facts", broken)
    device = found()["device", "device"]
    assert (device.ok, device.needed, device.detail) == (False, True, "RuntimeError: driver mismatch")
    assert found()["model", "countdown"].ok


def test_a_cache_that_can_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path / "file" / "cache"))
    folder = found()["cache", "folder"]
    assert (folder.ok, "set LED_AGENT_CACHE" in folder.detail) == (False, True)


@pytest.mark.parametrize("chosen", ["B", None])
def test_the_sandboxes_tiers_and_what_leaked(monkeypatch: pytest.MonkeyPatch, chosen: str | None):
    def probe(name: str, passed: bool) -> SimpleNamespace:
        return SimpleNamespace(name=name, passed=passed, detail=f"about {name}")

    def tier(name: str, available: bool, reason: str, *probes: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(tier=name, available=available, reason=reason, probes=probes)

    sandbox: Any = types.ModuleType("led_agent.verifiers.sandbox")
    sandbox.__spec__ = SimpleNamespace(name=sandbox.__name__)
    sandbox.report = lambda: [
        tier("A", False, "no bwrap"),
        tier("B", True, "", probe("connect", True), probe("ptrace", False)),
    ]
    sandbox.chosen = lambda: chosen
    monkeypatch.setitem(sys.modules, "led_agent.verifiers.sandbox", sandbox)
    seen = {name: finding for (group, name), finding in found().items() if group == "sandbox"}
    assert (seen["tier A"].ok, seen["tier A"].detail) == (False, "no probe was run; no bwrap")
    assert (seen["tier B"].ok, seen["tier B"].detail) == (True, "1 of 2 probes contained")
    assert seen["tier B, ptrace"].detail == "about ptrace"
    assert "tier B, connect" not in seen
    assert (seen["chosen"].ok, "refuses" in seen["chosen"].detail) == (chosen is not None, chosen is None)
