"""How a cluster is shared out, on nodes that are only numbers, and what ``cluster=`` may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from led_agent.cluster.plan import Cluster, Node, Plan, Share, as_cluster, plan
from led_agent.errors import UsageError


def nodes(*sizes: tuple[float, float]) -> list[Node]:
    """Nodes of so many processors and GPUs."""
    return [Node(f"n{at}", f"10.0.0.{at}", cpus, gpus) for at, (cpus, gpus) in enumerate(sizes)]


def planned(*sizes: tuple[float, float], wanted: int | None = None, device: str = "auto", **more: Any) -> Plan:
    return plan(nodes(*sizes), wanted, device=device, small=more.pop("small", False), **more)


# --- without accelerators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "wanted", "small", "share", "decoders"),
    [
        ([(8, 0)], None, False, 4.0, 2),
        ([(8, 0)], None, True, 1.0, 8),
        ([(2, 0)], None, False, 2.0, 1),
        ([(2, 0), (16, 0)], None, False, 2.0, 9),  # the smallest node takes part, too
        ([(0, 0), (4, 0)], None, False, 4.0, 1),  # a head without processors
        ([(4, 0)], 1, False, 4.0, 1),
        ([(4, 0)], 2, False, 2.0, 2),
        ([(4, 0)], 3, False, 1.0, 3),
        ([(4, 0)], 8, False, 0.5, 8),
        ([(2, 0), (2, 0)], 16, False, 0.25, 16),
        ([(1, 0), (7, 0)], 2, False, 3.0, 2),  # both on the larger one, and more for each than one on either
        ([(64, 0)], 1, False, 64.0, 1),
        ([(64, 0)], 1, True, 1.0, 1),  # so that other searches find room, too
        ([(4, 0)], 8, True, 0.5, 8),
    ],
)
def test_processors_are_shared_out(
    sizes: list[tuple[float, float]], wanted: int | None, small: bool, share: float, decoders: int
) -> None:
    found = planned(*sizes, wanted=wanted, small=small)
    assert (found.share, found.decoders) == (Share(share), decoders)
    assert not found.judging_gpu


def test_more_decoders_than_there_is_room_for_are_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"33 decoders.*10\.0\.0\.0: 4 CPUs, 0 GPUs.*ask for fewer"):
        planned((4, 0), wanted=33)
    assert planned((4, 0), wanted=32).decoders == 32


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(UsageError, match="no processor"):
        planned((0, 0))
    with pytest.raises(UsageError, match="no node"):
        plan([], None, device="auto", small=True)
    with pytest.raises(UsageError, match="no node"):
        plan([], 1, device="auto", small=True)


# --- accelerators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [True, False])
def test_each_gpu_has_a_decoder(small: bool) -> None:
    found = planned((16, 2), (8, 1), (4, 0), small=small)
    assert (found.share, found.decoders) == (Share(1.0, 1.0), 3)


def test_fewer_decoders_than_gpus_may_be_asked_for_and_not_more() -> None:
    assert planned((16, 4), wanted=3).decoders == 3
    with pytest.raises(UsageError, match=r"5 decoders.*has 4 GPUs.*10\.0\.0\.0: 16 CPUs, 4 GPUs"):
        planned((16, 4), wanted=5)


def test_a_node_with_fewer_processors_than_gpus_has_a_decoder_on_each_gpu_all_the_same() -> None:
    assert planned((16, 2), (2, 8)).share == Share(0.25, 1.0)
    assert planned((0, 1)).share == Share(0.0, 1.0)


def test_gpus_stay_unused_where_processors_are_asked_for() -> None:
    assert planned((8, 2), device="cpu").share == Share(4.0)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_gpus_that_are_not_there_are_refused_with_the_nodes(device: str) -> None:
    with pytest.raises(UsageError, match=r"no node.*has a GPU \(10\.0\.0\.0: 4 CPUs, 0 GPUs, 10\.0\.0\.1: 2 CPUs"):
        planned((4, 0), (2, 0), device=device)


@pytest.mark.parametrize(
    ("gpus", "wanted", "decoders", "spare"),
    [(4, None, 3, True), (1, None, 1, False), (4, 4, 4, False), (4, 2, 2, True)],
)
def test_a_judging_model_has_a_gpu_of_its_own_where_one_is_left(
    gpus: int, wanted: int | None, decoders: int, spare: bool
) -> None:
    found = planned((16, gpus), wanted=wanted, judging_model=True)
    assert (found.decoders, found.judging_gpu) == (decoders, spare)


# --- verifiers -----------------------------------------------------------------------------------------------------


def test_verifiers_take_what_decoders_leave_of_a_node() -> None:
    assert planned((4, 0), (16, 0)).verifiers == {"n0": 1, "n1": 1}
    assert planned((4, 4), (6, 1), (64, 2)).verifiers == {"n0": 1, "n1": 5, "n2": 8}
    assert planned((4, 0), (16, 2), verifiers=3).verifiers == {"n0": 3, "n1": 3}


# --- anything ------------------------------------------------------------------------------------------------------

CPUS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 7.0, 16.0, 96.0])
SIZES = st.lists(st.tuples(CPUS, st.integers(0, 8)), min_size=1, max_size=6)


def holds(size: tuple[float, float], share: Share) -> int:
    """How many such decoders a node of this size has room for."""
    needs = [(size[0], share.cpus), (size[1], share.gpus)]
    return min(int(there / taken + 1e-9) for there, taken in needs if taken)


@given(SIZES, st.none() | st.integers(1, 300), st.sampled_from(["auto", "cpu", "cuda"]), st.booleans(), st.booleans())
def test_what_is_planned_always_fits(
    sizes: list[tuple[float, float]], wanted: int | None, device: str, small: bool, judging: bool
) -> None:
    try:
        found = planned(*sizes, wanted=wanted, device=device, small=small, judging_model=judging)
    except UsageError:  # only where there is less room than that
        gpus = sum(gpus for _, gpus in sizes)
        cpus = sum(int(cpus / 0.125) for cpus, _ in sizes)
        on_gpus = device == "cuda" or (gpus and device == "auto")
        room = gpus if on_gpus else cpus if wanted is not None else sum(int(cpus) for cpus, _ in sizes)
        assert room < (wanted or 1)
        return
    assert found.decoders >= 1
    assert wanted is None or found.decoders == wanted
    assert found.decoders + found.judging_gpu <= sum(holds(size, found.share) for size in sizes)
    assert set(found.verifiers) == {f"n{at}" for at in range(len(sizes))}
    assert all(1 <= count <= 8 for count in found.verifiers.values())


# --- cluster= ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "address", "decoders"),
    [
        ("local", "local", None),
        (" auto ", "auto", None),
        ("ray://head:10001", "ray://head:10001", None),
        ("10.0.0.1:6379", "10.0.0.1:6379", None),
        ("[::1]:6379", "[::1]:6379", None),
        (3, None, 3),
        ("3", None, 3),
    ],
)
def test_what_cluster_may_be(given: str | int, address: str | None, decoders: int | None) -> None:
    assert as_cluster(given, wait=2) == Cluster(address=address, decoders=decoders, wait=2)


def test_a_cluster_that_is_spelled_out_stays_what_it_is() -> None:
    spelled = Cluster(address="auto", decoders=2, wait=1, verifiers=3)
    assert as_cluster(spelled, wait=9) is spelled


BAD = ["", " ", "head", "head:", ":6379", "head:0", "head:65536", "head:x", "http://head:1", "ray://head", "ray://"]


@pytest.mark.parametrize("given", [*BAD, 0, -1, "0", "-3", True, 1.5, None, ["auto"], b"auto"])
def test_what_is_not_allowed_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="cluster is"):
        as_cluster(given)


@pytest.mark.parametrize("address", [text for text in BAD if text.strip()])
def test_an_address_that_is_spelled_out_is_looked_at_too(address: str) -> None:
    with pytest.raises(UsageError, match=r"allowed are .*'ray://host:port'"):
        as_cluster(Cluster(address=address))


@given(st.text(max_size=20))
def test_any_other_text_is_refused_or_understood(text: str) -> None:
    try:
        found = as_cluster(text)
    except UsageError:
        return
    assert found.address in ("local", "auto") or found.decoders or ":" in str(found.address)


@pytest.mark.parametrize("bad", [{"decoders": 0}, {"wait": -1.0}, {"verifiers": 0}, {"decoder": 1}])
def test_a_cluster_of_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cluster(**bad)
