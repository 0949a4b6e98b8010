"""The pool keeps its promises whatever a worker does: die, hang, write nonsense, outlive its parent."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import led_agent
from led_agent.errors import UsageError
from led_agent.verifiers.workers import WorkerDied, WorkerPool, WorkerTimeout

LONG = 60.0  # a limit that no test means to reach

TOY = """
    import os, signal, time
    from pathlib import Path
    from led_agent.verifiers.workers import serve

    def handle(payload):
        match payload["do"]:
            case "echo":
                return {"value": payload["value"], "pid": os.getpid()}
            case "hang":
                if "fifo" in payload:
                    Path(payload["fifo"]).write_text("begun")
                while True:
                    pass
            case "c call":
                Path(payload["fifo"]).write_text("begun")
                3 ** 10**9
            case "sleep":
                time.sleep(payload["for"])
                return {}
            case "wait":
                with Path(payload["begun"]).open("w"):
                    pass
                Path(payload["go"]).read_text()
                return {}
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die once":
                first = Path(payload["first"])
                if not first.exists():
                    first.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"pid": os.getpid()}
            case "print":
                print("noise", flush=True)
                os.system("echo noise")
                return {"done": True}
            case "repeat":
                return {"value": "x" * payload["times"]}
            case "grow":
                grown.append(bytearray(payload["bytes"]))
                return {"pid": os.getpid()}

    grown = []
    time.sleep(float(os.environ.get("TOY_START", 0)))
    serve(handle, memory=512 << 20)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with misbehaving workers."""
    (tmp_path / "toy_worker.py").write_text(textwrap.dedent(TOY))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "toy_worker"


@pytest.fixture
def pool(toy: str):
    pool = WorkerPool(toy, 2)
    yield pool
    pool.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def await_word(handle: int) -> None:
    """Wait until a worker has written to the fifo that it has begun."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(LONG * 1000), "the worker has not begun"
    assert os.read(handle, 5) == b"begun"
    os.close(handle)


def await_end(handle: int) -> None:
    """Wait until the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(LONG * 1000), "the worker is still there"
    os.close(handle)


def run_script(path: Path, text: str, **options) -> subprocess.CompletedProcess[str]:
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=LONG, **options)


def echo(pool: WorkerPool, value: object) -> dict:
    return pool.call({"do": "echo", "value": value}, LONG)


def both_pids(pool: WorkerPool, folder: Path) -> tuple[int, ...]:
    """The two workers, once both are there: each has a call that waits for a word which comes when both have begun."""
    begun, go = ([folder / f"{name}{n}" for n in range(2)] for name in ("begun", "go"))
    for fifo in begun + go:
        os.mkfifo(fifo)
    with ThreadPoolExecutor(2) as threads:
        asked = [{"do": "wait", "begun": str(begun[n]), "go": str(go[n])} for n in range(2)]
        calls = [threads.submit(pool.call, one, LONG) for one in asked]
        for fifo in begun:
            fifo.read_bytes()
        for fifo in go:
            fifo.write_text("go")
        assert [call.result(LONG) for call in calls] == [{}, {}]
    pids = pool.pids()
    assert len(pids) == 2
    return pids


def test_no_worker_starts_before_it_is_needed_and_an_idle_one_is_used_again(pool):
    assert pool.pids() == ()
    pids = {echo(pool, n)["pid"] for n in range(3)}
    assert pids == set(pool.pids())
    assert len(pids) == 1


def test_each_of_many_threads_gets_its_own_reply(pool):
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: echo(pool, n), range(200)))
    assert [reply["value"] for reply in replies] == list(range(200))
    assert {reply["pid"] for reply in replies} <= set(pool.pids())
    assert len(pool.pids()) <= pool.size == 2


def test_the_default_size_is_between_one_and_four(toy):
    assert 1 <= WorkerPool(toy).size <= 4


@pytest.mark.parametrize("value", ["é\u2028\x00\ud800", "x" * 300_000, {"a": [1, None, 2.5]}])
def test_payloads_and_replies_of_any_text_and_size_pass(pool, value):
    assert echo(pool, value)["value"] == value


def test_what_a_worker_prints_is_no_reply(pool):
    assert pool.call({"do": "print"}, LONG) == {"done": True}


def test_a_worker_killed_in_mid_call_is_replaced_and_the_call_repeated(pool, tmp_path):
    before = echo(pool, 1)["pid"]
    reply = pool.call({"do": "die once", "first": str(tmp_path / "first")}, LONG)
    assert reply["pid"] != before
    assert pool.pids() == (reply["pid"],)


def test_workers_killed_while_idle_are_replaced(pool, tmp_path):
    before = both_pids(pool, tmp_path)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert echo(pool, 2)["pid"] not in before, "the second attempt must not take another old worker"


def test_two_deaths_in_a_row_are_an_error_that_names_the_module(pool):
    with pytest.raises(WorkerDied, match="toy_worker"):
        pool.call({"do": "die"}, LONG)
    assert echo(pool, 1)["value"] == 1


def test_a_time_out_costs_its_worker_and_no_other(pool, tmp_path):
    before = both_pids(pool, tmp_path)
    with pytest.raises(WorkerTimeout, match=r"0\.2 s"):
        pool.call({"do": "hang"}, 0.2)
    (left,) = pool.pids()
    (lost,) = set(before) - {left}
    assert not is_alive(lost)
    assert echo(pool, 1) == {"value": 1, "pid": left}


def test_neither_a_slow_start_nor_the_queue_counts_against_the_limit(toy, monkeypatch):
    monkeypatch.setenv("TOY_START", "3.5")
    pool = WorkerPool(toy, 1)
    try:
        with ThreadPoolExecutor(6) as threads:
            replies = list(threads.map(lambda n: pool.call({"do": "sleep", "for": 0.7}, 3.0), range(6)))
        assert replies == [{}] * 6
    finally:
        pool.close()


def test_a_worker_that_never_gets_ready_is_given_up(toy, monkeypatch):
    monkeypatch.setenv("TOY_START", "1000")
    pool = WorkerPool(toy, 1, start_seconds=0.2)
    with pytest.raises(WorkerDied, match=r"not ready within 0\.2 s"):
        echo(pool, 1)
    assert pool.pids() == ()


@pytest.mark.parametrize(
    "module",
    [
        "raise SystemExit(3)",
        "print('no json', flush=True); input()",
        "print('[]', flush=True); input()",
        "print('{}', flush=True); input(); print('{\"reply\": 3}', flush=True); input()",
        "print('{}', flush=True); input(); print('{\"reply\": {}}', flush=True); input()",
        "print('{}', flush=True); input(); print('{\"reply\"', flush=True)",
    ],
)
def test_nonsense_on_the_pipe_is_a_dead_worker_and_never_a_reply(tmp_path, monkeypatch, module):
    (tmp_path / "raw_worker.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = WorkerPool("raw_worker", 1)
    with pytest.raises(WorkerDied, match="two workers failed"):
        echo(pool, 1)
    assert pool.pids() == ()


def test_a_reply_has_a_longest_length(toy):
    pool = WorkerPool(toy, 1, max_reply=10_000)
    try:
        assert len(pool.call({"do": "repeat", "times": 9_000}, LONG)["value"]) == 9_000
        with pytest.raises(WorkerDied, match="longer than 10000 bytes"):
            pool.call({"do": "repeat", "times": 10_000_000}, LONG)
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_has_grown_is_replaced_after_its_reply(pool):
    first = pool.call({"do": "grow", "bytes": 300 << 20}, LONG)["pid"]
    assert pool.pids() == ()
    assert echo(pool, 1)["pid"] != first


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no limit on the address space")
def test_a_worker_has_no_more_memory_than_its_limit(pool):
    with pytest.raises(WorkerDied):
        pool.call({"do": "grow", "bytes": 600 << 20}, LONG)


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(WorkerDied, match="no_such_worker"):
        echo(WorkerPool("no_such_worker", 1), 1)


def test_close_ends_every_worker_may_be_repeated_and_leaves_the_pool_usable(pool, tmp_path):
    pids = both_pids(pool, tmp_path)
    pool.close()
    pool.close()
    assert pool.pids() == ()
    assert not any(map(is_alive, pids))
    assert echo(pool, 1)["pid"] not in pids


def test_close_fails_a_call_under_way(toy, tmp_path):
    pool = WorkerPool(toy, 1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(pool.call, {"do": "hang", "fifo": str(fifo)}, LONG)
        assert fifo.read_text() == "begun"
        pids = pool.pids()
        pool.close()
        with pytest.raises(WorkerDied, match="closed"):
            busy.result(LONG)
    assert not any(map(is_alive, pids))
    assert pool.pids() == ()


def test_workers_end_with_the_pool_object(toy):
    pool = WorkerPool(toy, 1)
    pid = echo(pool, 1)["pid"]
    del pool
    assert not is_alive(pid)


def test_ctrl_c_in_the_terminal_does_not_reach_a_worker(pool):
    assert os.getsid(echo(pool, 1)["pid"]) != os.getsid(0)


def test_a_module_in_the_current_folder_does_not_shadow_an_installed_one(pool, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(there)
    assert echo(pool, 1)["value"] == 1


@pytest.mark.parametrize(("size", "seconds", "payload"), [(0, 1.0, {}), (1, 0.0, {}), (1, float("nan"), {})])
def test_limits_without_sense_are_refused(size, seconds, payload):
    with pytest.raises(UsageError):
        WorkerPool("toy_worker", size).call(payload, seconds)


def test_a_payload_that_is_no_json_is_refused_and_costs_nothing(pool):
    with pytest.raises(UsageError, match="plain JSON"):
        pool.call({"value": object()}, LONG)
    assert pool.pids() == ()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process that isn't its child")
@pytest.mark.parametrize(
    ("last", "seconds"),
    [
        ('{"do": "echo", "value": 1}', LONG),
        ('{"do": "hang", "fifo": sys.argv[1]}', LONG),
        ('{"do": "c call", "fifo": sys.argv[1]}', 3.0),
    ],
)
def test_no_worker_outlives_a_parent_that_is_killed(toy, tmp_path, last, seconds):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # Open at both ends: a worker that waited for a reader might reach its limit, and leave none who writes.
    told = os.open(fifo, os.O_RDWR)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, threading
        from pathlib import Path
        from led_agent.verifiers.workers import WorkerPool

        pool = WorkerPool("{toy}", 1)
        print(pool.call({{"do": "echo", "value": 1}}, 60)["pid"], flush=True)
        pool.call({last}, {seconds})
        Path(sys.argv[1]).write_text("begun")
        threading.Event().wait()
    """)
    )
    with subprocess.Popen([sys.executable, str(script), str(fifo)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        await_word(told)
        parent.kill()
    await_end(worker)


def test_no_worker_outlives_an_interpreter_that_ends_without_closing(toy, tmp_path):
    done = run_script(
        tmp_path / "script.py",
        f"""
        from led_agent.verifiers.workers import WorkerPool

        pool = WorkerPool("{toy}", 1)
        print(pool.call({{"do": "echo", "value": 1}}, 60)["pid"])
        """,
    )
    assert done.stderr == ""
    assert not is_alive(int(done.stdout))


def test_a_fork_has_workers_of_its_own_and_leaves_its_parents_alone(toy, tmp_path):
    done = run_script(
        tmp_path / "script.py",
        f"""
        import os, sys
        from led_agent.verifiers.workers import WorkerPool

        def pid():
            return pool.call({{"do": "echo", "value": 1}}, 60)["pid"]

        pool = WorkerPool("{toy}", 1)
        before = pid()
        child = os.fork()
        if child == 0:
            sys.exit(0 if pid() != before else 1)
        print(os.waitpid(child, 0)[1], pid() == before)
        """,
    )
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_workers_run_the_same_copy_of_the_package_also_where_it_is_not_installed(tmp_path):
    source = Path(led_agent.__file__).parent
    shutil.copytree(source, tmp_path / "led_agent", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "whose_worker.py").write_text(
        "import led_agent\n"
        "from led_agent.verifiers.workers import serve\n"
        "serve(lambda payload: {'file': led_agent.__file__})\n"
    )
    done = run_script(
        tmp_path / "script.py",
        """
        from led_agent.verifiers.workers import WorkerPool

        print(WorkerPool("whose_worker", 1).call({}, 60)["file"])
        """,
        cwd="/",
    )
    assert Path(done.stdout.strip()).parent.parent == tmp_path


def test_calls_work_from_a_thread_that_ends_before_the_next_call(pool):
    replies: list[dict] = []
    for n in range(3):
        thread = threading.Thread(target=lambda n=n: replies.append(echo(pool, n)))
        thread.start()
        thread.join()
    assert len({reply["pid"] for reply in replies}) == 1, "a worker must not end with the thread that started it"
