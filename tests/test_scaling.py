"""The model of many decoders keeps the laws that it must, whatever the figures are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling import Model, Outcome, Setting
from benchmarks.scaling_costs import Costs, Line

SMALL = Setting(decoders=4, slots=16, rate=100.0, tokens=200.0, checks=0.0)


def outcome(costs: Costs, setting: Setting = SMALL, *, seconds: float = 30.0, seed: int = 0) -> Outcome:
    return Model(setting, costs, seed=seed).run(seconds, 10.0)


def test_with_a_driver_that_is_free_the_rate_is_the_ideal_one():
    found = outcome(Costs.nothing())
    assert found.efficiency == pytest.approx(1.0, abs=0.05)
    assert found.tokens_s == pytest.approx(4 * 16 * 100.0, rel=0.03)
    assert found.busy == pytest.approx(1.0, abs=0.01)
    assert found.driver == 0.0


def test_each_branch_ends_once():
    found = outcome(replace(Costs.nothing(), loop_branch=Line(0.002, 0.0), reply_message=0.001))
    assert found.twice == 0
    in_flight = 4 * 16 * 1.25
    assert 0 <= found.submitted - found.ended <= in_flight + 1


def test_the_core_is_busy_for_throughput_times_service():
    found = outcome(replace(Costs.nothing(), loop_branch=Line(0.005, 0.0)))
    assert found.driver == pytest.approx(found.branches_s * 0.005, rel=0.05)
    assert found.service == pytest.approx(0.005, rel=0.05)


def test_a_driver_is_full_at_one_branch_a_service_time():
    costs = replace(Costs.nothing(), loop_branch=Line(0.02, 0.0))
    full = outcome(costs, replace(SMALL, decoders=32))
    assert full.branches_s == pytest.approx(50.0, rel=0.05)
    assert full.driver == pytest.approx(1.0, abs=0.01)
    tenth = outcome(costs, replace(SMALL, decoders=1, slots=10))  # 5 branches/s of 50
    assert tenth.enough_for == pytest.approx(10.0, rel=0.1)


def test_a_loop_that_waits_for_checks_is_full_though_its_core_is_not():
    found = outcome(replace(Costs.nothing(), check_wait=0.02), replace(SMALL, decoders=32, checks=1.0))
    assert found.branches_s == pytest.approx(50.0, rel=0.05)
    assert found.loop == pytest.approx(1.0, abs=0.05)
    assert found.driver == 0.0


def test_the_same_seed_gives_the_same_model():
    costs = replace(Costs.nothing(), loop_branch=Line(0.002, 0.0), reply_message=0.001)
    assert outcome(costs).row() == outcome(costs).row()
    assert outcome(costs).row() != outcome(costs, seed=1).row()


def test_costs_are_kept_as_they_were():
    costs = replace(Costs.nothing(), loop_branch=Line(0.002, 1e-6), checks=1.06)
    assert Costs.of(costs.row()) == costs


def test_costs_are_measured_on_the_real_path():
    from benchmarks.scaling_costs import path

    found = path(64, 64, growths=2)
    assert found.loop > 0
    assert found.dispatch > 0
    assert found.checks == pytest.approx(1 / 16)  # one for each problem
