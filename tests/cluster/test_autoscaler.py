"""A cluster that has no room until it is asked for: Ray's own autoscaler, whose machines are processes here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from tests.cluster.heads import ROOT, environment, free_port, head, processes
from tests.cluster.searching import until

LONG = 400  # seconds; a node takes half a minute to start on a busy machine
pytestmark = pytest.mark.slow


def configuration(port: int) -> dict[str, object]:
    """A head without processors, and two nodes of one each when they are wanted."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"CPU": 1, "object_store_memory": 80_000_000}
    return {
        "cluster_name": "made of processes",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in commands},
        **{name: {} for name in ("docker", "auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nodes_are_asked_for_while_there_is_work_and_go_when_there_is_none(scheme: str, tmp_path: Path) -> None:
    port, client_port, path = free_port(), free_port(), tmp_path / "autoscaler.json"
    path.write_text(json.dumps(configuration(port)))
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    options = ("--num-cpus=0", f"--ray-client-server-port={client_port}", f"--autoscaling-config={path}")
    with head(port, *options, variables=variables) as folder:

        def nodes() -> int:
            return len(processes(f"--raylet_socket_name={folder}"))

        assert nodes() == 1
        address = f"{scheme}{get_node_ip_address()}:{client_port if scheme else port}"
        command = [sys.executable, str(ROOT / "tests/cluster/autoscaler_driver.py"), address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=environment(), cwd=ROOT)
        assert ended.returncode == 0, ended.stderr[-4000:]
        assert json.loads(ended.stdout.splitlines()[-1]) == {"decoders": 2, "errors": []}
        assert until(lambda: nodes() == 1)
