"""A search while a cable is cut: nodes in network namespaces, whose packets are really lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import namespaces
from tests.cluster.namespaces import Health, ray_cluster

HERE = Path(__file__).parent
SOON = 180.0  # seconds; nothing here takes so long unless it is broken
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _possible() -> None:
    reason = namespaces.supported()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("mended", [True, False])
def test_all_answers_arrive_though_a_node_is_cut_off_in_mid_run(mended: bool) -> None:
    """For good, or until others have done its work: none is lost, none counts twice, all are what they are here."""
    with ray_cluster(2, health=Health(period_ms=1000, timeout_ms=1000, failures=20 if mended else 5)) as cluster:
        driver = cluster.driver(HERE / "cut_search_driver.py")
        count = driver.event("local", SOON)["branches"]
        running = driver.event("running", SOON)
        assert running["decoders"] == 2
        (cut,) = [name for name, node in cluster.network.nodes.items() if node.address == running["host"]]
        cluster.cut(cut)
        driver.tell("cut")
        found = driver.event("found", SOON)
        if mended:
            cluster.mend(cut)
        assert found["same"], found
        assert found["problems"] == [f"p{at}" for at in range(6)]
        assert found["errors"] == []
        assert sum(found["decoders"].values()) == count == 24
        assert found["attempts"] >= 2, found  # what the lost one held was sent again
        assert found["state"]["stalls"] + found["state"]["deaths"] >= 1
        assert (found["state"]["open"], found["state"]["put_aside"]) == (0, 0)
        driver.event("ended", SOON)
