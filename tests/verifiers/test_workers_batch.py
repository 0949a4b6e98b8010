"""Calls sent together: in order, each with its own limit, and none the worse for its neighbours."""

from __future__ import annotations

import os
import textwrap
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from led_agent.errors import UsageError
from led_agent.verifiers.workers import Outcome, WorkerDied, WorkerPool, WorkerTimeout

LONG = 60.0  # a limit that no test means to reach

TOY = """
    import contextlib, os, signal
    from pathlib import Path
    from led_agent.verifiers.workers import serve

    def handle(payload):
        match payload["do"]:
            case "echo":
                return {"value": payload["value"], "pid": os.getpid()}
            case "long":
                return {"value": "x" * payload["bytes"]}
            case "hang":
                while True:
                    pass
            case "wait":
                with Path(payload["begun"]).open("w"):
                    pass
                Path(payload["go"]).read_text()
                return {"value": "waited", "pid": os.getpid()}
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die once":
                first = Path(payload["first"])
                if not first.exists():
                    first.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"value": "alive", "pid": os.getpid()}
            case "grow":
                grown.append(bytearray(300 << 20))
                return {"value": "grown", "pid": os.getpid()}
            case "twice":
                for pipe in range(3, 9):  # one of them is the worker's end of the pipe
                    with contextlib.suppress(OSError):
                        os.write(pipe, b'{"reply": {"value": "forged"}}' + chr(10).encode())
                return {"value": "true", "pid": os.getpid()}

    grown = []
    serve(handle, memory=512 << 20)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "batch_worker.py").write_text(textwrap.dedent(TOY))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = WorkerPool("batch_worker", 2)
    yield pool
    pool.close()


def echoes(*values: object) -> list[dict]:
    return [{"do": "echo", "value": value} for value in values]


def value(outcome: Outcome) -> object:
    """What was replied; for a failure, its type."""
    return type(outcome.error) if outcome.reply is None else outcome.reply["value"]


def test_outcomes_are_in_order_and_from_every_worker(pool):
    outcomes = pool.batch(echoes(*range(50)), LONG)
    assert [value(one) for one in outcomes] == list(range(50))
    assert all(one.error is None and one.seconds >= 0.0 for one in outcomes)
    assert {one.reply["pid"] for one in outcomes} <= set(pool.pids())


def test_a_batch_is_computed_by_as_many_workers_as_there_are(pool, tmp_path):
    """Two calls that each wait for a word that comes only when both have begun."""
    begun, go = [[str(tmp_path / f"{name}{n}") for n in range(2)] for name in ("begun", "go")]
    for fifo in begun + go:
        os.mkfifo(fifo)

    def release() -> None:
        for fifo in begun:
            Path(fifo).read_bytes()
        for fifo in go:
            Path(fifo).write_text("go")

    thread = threading.Thread(target=release, daemon=True)  # a failure must not wait for it
    thread.start()
    outcomes = pool.batch([{"do": "wait", "begun": begun[n], "go": go[n]} for n in range(2)], LONG)
    thread.join(LONG)
    assert len({one.reply["pid"] for one in outcomes}) == 2


def test_an_empty_batch_starts_no_worker(pool):
    assert pool.batch([], LONG) == []
    assert pool.pids() == ()


@pytest.mark.parametrize("at", [0, 3, 7, 15])
def test_one_that_hangs_costs_its_own_outcome_only(pool, at):
    asked = echoes(*range(16))
    asked[at] = {"do": "hang"}
    outcomes = pool.batch(asked, 3.0)  # what is right has so long, too
    assert [value(one) for one in outcomes] == [WorkerTimeout if n == at else n for n in range(16)]
    assert "3 s" in str(outcomes[at].error)
    assert outcomes[at].seconds >= 2.9


def test_one_whose_workers_die_costs_its_own_outcome_only(pool):
    asked = echoes(*range(16))
    asked[2] = asked[9] = {"do": "die"}
    outcomes = pool.batch(asked, LONG)
    assert [value(one) for one in outcomes] == [WorkerDied if n in (2, 9) else n for n in range(16)]
    assert "two workers failed" in str(outcomes[2].error)


def test_one_whose_worker_died_by_chance_is_asked_again(pool, tmp_path):
    asked = echoes(*range(16))
    asked[2] = {"do": "die once", "first": str(tmp_path / "first")}
    assert [value(one) for one in pool.batch(asked, LONG)] == ["alive" if n == 2 else n for n in range(16)]


def test_a_worker_that_has_grown_answers_none_of_the_rest(pool):
    asked = echoes(*range(8))
    asked[1] = {"do": "grow"}
    outcomes = WorkerPool.batch(pool, asked, LONG)
    assert [value(one) for one in outcomes] == ["grown" if n == 1 else n for n in range(8)]
    # Of those in its own message; the same worker may have answered the other message before.
    assert outcomes[1].reply["pid"] not in {one.reply["pid"] for one in outcomes[2:4]}


def test_a_line_too_many_is_no_reply_to_any_request(pool):
    outcomes = pool.batch([*echoes(1), {"do": "twice"}, *echoes(2, 3)], LONG)
    assert [value(one) for one in outcomes] == [1, WorkerDied, 2, 3]
    assert [value(one) for one in pool.batch(echoes(4, 5), LONG)] == [4, 5]


def test_requests_and_replies_longer_than_a_pipe_do_not_block_each_other(pool):
    asked = [{"do": "long", "bytes": 200_000, "padding": "y" * 30_000} for _ in range(40)]
    assert [len(str(value(one))) for one in pool.batch(asked, LONG)] == [200_000] * 40


def test_where_no_worker_starts_all_outcomes_say_so(monkeypatch):
    outcomes = WorkerPool("no_such_worker", 1).batch(echoes(*range(8)), LONG)
    assert [value(one) for one in outcomes] == [WorkerDied] * 8
    assert "no_such_worker" in str(outcomes[7].error)


def test_a_payload_that_is_no_json_refuses_the_whole_batch_at_no_cost(pool):
    with pytest.raises(UsageError, match="plain JSON"):
        pool.batch([*echoes(1), {"value": object()}], LONG)
    assert pool.pids() == ()


def test_close_ends_what_is_under_way_and_what_waits(pool, tmp_path):
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    hanging = {"do": "wait", "begun": str(begun), "go": str(begun)}
    first = pool.submit(hanging, LONG)
    begun.read_bytes()
    waiting = [pool.submit({"do": "hang"}, LONG) for _ in range(4)]
    pool.close()
    assert value(first.result(LONG)) is WorkerDied
    assert [value(one.result(LONG)) for one in waiting] == [WorkerDied] * 4
    assert pool.pids() == ()
    assert value(pool.submit({"do": "echo", "value": 1}, LONG).result(LONG)) == 1


def test_what_is_cancelled_before_it_begins_is_never_computed(pool, tmp_path):
    begun, go = ([tmp_path / f"{name}{n}" for n in range(2)] for name in ("begun", "go"))
    waits = []
    for n in range(2):
        os.mkfifo(begun[n])
        os.mkfifo(go[n])
        waits.append(pool.submit({"do": "wait", "begun": str(begun[n]), "go": str(go[n])}, LONG))
        begun[n].read_bytes()
    mark = tmp_path / "mark"
    behind = pool.submit({"do": "die once", "first": str(mark)}, LONG)
    assert behind.cancel()
    with pytest.raises(CancelledError):
        behind.result(LONG)
    for n in range(2):
        go[n].write_text("go")
        assert value(waits[n].result(LONG)) == "waited"
    assert value(pool.submit({"do": "echo", "value": 1}, LONG).result(LONG)) == 1
    assert not mark.exists()
