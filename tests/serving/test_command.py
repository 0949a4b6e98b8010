"""`led-agent serve` as a process: where it answers, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.journal import read_trees
from led_agent.serving.plan import Plan, read_keys
from led_agent.serving.run import listen
from tests.serving.servers import PATIENCE, asked

ROOT = Path(__file__).parents[2]


@contextmanager
def served(*options: str, **variables: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """What a server says of itself, and its process."""
    command = [sys.executable, "-m", "led_agent", "serve", "--port", "0", "--json", "--quiet", *options]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths, **variables},
    ) as started:  # fmt: skip
        try:
            assert started.stdout is not None
            first = started.stdout.readline()
            assert first, started.communicate()[1]
            yield json.loads(first), started
        finally:
            started.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, end: signal.Signals):
    keys = tmp_path / "keys.txt"
    keys.write_text("# ours\nfrom-a-file\n\n")
    options = ("--api-keys-file", str(keys), "--save", str(tmp_path / "runs.jsonl"), "--max-branches", "9")
    with served(*options, LED_AGENT_SERVE_API_KEY="from-the-environment") as (told, process):
        assert told == {"url": told["url"], "model": "countdown", "key_needed": True}
        runs = []
        for key in ("from-a-file", "from-the-environment"):
            reply = httpx2.post(
                f"{told['url']}/v1/chat/completions", json=asked(), timeout=PATIENCE,
                headers={"Authorization": f"Bearer {key}"},
            )  # fmt: skip
            runs.append(reply.json()["led"]["run"])
        refused = httpx2.post(f"{told['url']}/v1/chat/completions", json=asked(), timeout=PATIENCE)
        assert refused.status_code == 401
        settings = httpx2.get(
            f"{told['url']}/v1/settings", headers={"Authorization": "Bearer from-a-file"}, timeout=PATIENCE
        )
        assert settings.json()["limits"]["branches"] == 9
        process.send_signal(end)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list(read_trees(tmp_path / "runs.jsonl")) == runs


def test_other_machines_are_served_with_a_key_or_when_it_is_meant(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--host", "0.0.0.0", "--port", "0"])
    assert ended.value.code == 2
    assert "can be reached from other machines, and no key is asked for" in " ".join(capsys.readouterr().err.split())
    with served("--host", "0.0.0.0", "--no-auth") as (told, _):
        assert told["url"].startswith("http://0.0.0.0:")
        reply = httpx2.get(told["url"] + "/healthz", headers={"Host": "any.example"}, timeout=PATIENCE)
        assert reply.status_code == 200


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]):
    with listen("127.0.0.1", 0) as taken, pytest.raises(SystemExit) as ended:
        main(["serve", "--model", "no/such-model", "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 3
    assert "already in use" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--strategy", "bfs"], "no strategy is called 'bfs'"),
        (["--decoding", "hot"], "no decoding is called 'hot'"),
        (["--verifier", "nonsense"], "no verifier is called 'nonsense'"),
        (["--max-seconds", "0"], "seconds"),
        (["--api-key", "two words"], "a key is one word"),
        (["--cluster-wait", "3"], "give --cluster, too"),
    ],
)
def test_bad_settings_are_refused_at_once(options: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *options])
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_keys_are_read_from_both_places(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("b\n  # no key\nc  \n")
    assert read_keys(["a"], file) == ("a", "b", "c")
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no key; write one a line"):
        read_keys([], file)


def test_a_plan_is_plain_values():
    """It is sent to the machine that serves."""
    import pickle

    plan = Plan(strategy="beam:width=2", decoding="plain", verifiers=("math_answer",), keys=("k",))
    assert pickle.loads(pickle.dumps(plan)) == plan
    setup = plan.setup()
    assert (setup.model, setup.keys.needed, setup.defaults.names[0]) == ("countdown", True, "math_answer")
