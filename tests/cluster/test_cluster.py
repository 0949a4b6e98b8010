"""Searches on a real Ray: the answers are those of a search in this process, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import get_node_ip_address, placement_group_table, remove_placement_group

import led_agent
from led_agent import Budget, Search
from led_agent.cluster import crew
from led_agent.cluster.actor import DecoderActor, Status
from led_agent.cluster.decoder import ClusterDecoder
from led_agent.cluster.plan import Cluster, Share
from led_agent.cluster.watch import look
from led_agent.errors import MachineError, ModelError, UsageError
from led_agent.journal import Journal
from led_agent.protocols import BranchProgress
from led_agent.solution import Solution
from led_agent.testing import ScriptedDecoder
from led_agent.tree import Tree
from led_agent.types import Decoding, Problem
from tests.cluster import decoders
from tests.cluster.searching import SOON, Grown, Once, branches, grown, puzzles, searching, until

pytestmark = pytest.mark.usefixtures("ray_session")
ASKED = puzzles(6)


@pytest.fixture(scope="module")
def local() -> Callable[..., list[Solution]]:
    """Solutions of a search in this process, each made once."""
    made: dict[str, list[Solution]] = {}

    def solutions(model: str = "countdown", asked: list[Problem] = ASKED) -> list[Solution]:
        key = f"{model} {[problem.prompt for problem in asked]}"
        if key not in made:
            with searching(model) as search:
                made[key] = list(search.solve_many(asked))
        return made[key]

    return solutions


@pytest.fixture(scope="module")
def shared(ray_session: None) -> Iterator[ClusterDecoder]:
    """Two decoders, which searches share one after another: each start costs seconds."""
    made = ClusterDecoder(Cluster(decoders=2), model="countdown", device="cpu", dtype="float32", slots=4)
    yield made
    made.close()


def made_of(monkeypatch: pytest.MonkeyPatch, kind: type[DecoderActor]) -> None:
    """Let decoders be of this class."""
    monkeypatch.setattr(crew, "DecoderActor", kind)


def of(decoder: ClusterDecoder) -> list[Status]:
    """A search's decoders, those that have loaded their model."""
    return [status for status in look().decoders if status.name.startswith(f"led-decoder-{decoder.run}-")]


def busiest(decoder: ClusterDecoder) -> int:
    """The process that holds most, by the driver's own table: while all are asked, they may end what they hold."""
    live = [seat for seat in decoder.crew.seats if seat.state == "live"]
    return max((len(seat.worker.held), seat.loaded.pid) for seat in live if seat.worker and seat.loaded)[1]


def without_errors(solutions: list[Solution]) -> Grown:
    assert not [branch.error for branch in branches(solutions).values() if branch.error]
    return grown(solutions)


# --- the same answers ----------------------------------------------------------------------------------------------


def test_a_search_on_two_decoders_is_the_search_in_this_process(
    local: Callable[..., list[Solution]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_GRACE", SOON)  # both take part, however long the second one takes to load
    with searching(cluster=2) as search:
        found = list(search.solve_many(ASKED))
        assert isinstance(search.decoder, ClusterDecoder)
        run = search.decoder.run
        boards = []

        def told_all() -> bool:  # decoders are told every second; nothing is open before the first branch, too
            boards.append(look())
            return not boards[-1].silent and boards[-1].runs.get(run, {}).get("done") == len(ASKED) * 4

        assert until(told_all)
        board = boards[-1]
    assert without_errors(found) == grown(local())
    assert [(s.answer, s.status, s.verified) for s in found] == [(s.answer, s.status, s.verified) for s in local()]
    assert any(s.verified for s in found)
    decoder_names = {branch.decoder for branch in branches(found).values()}
    assert decoder_names == {f"led-decoder-{run}-{seat}-1" for seat in (0, 1)}  # both took part
    assert all(branch.attempts >= 1 for branch in branches(found).values())
    state = board.runs[run]
    assert (state["open"], state["deaths"], state["decoders"]) == (0, 0, 2)
    assert state["done"] == len(ASKED) * 4
    verdicts: dict[str, int] = {}
    for told in board.verifiers:  # they ran on the nodes
        for status, count in told["verifiers"].get("countdown", {"verdicts": {}})["verdicts"].items():
            verdicts[status] = verdicts.get(status, 0) + count
    assert sum(verdicts.values()) == len(ASKED) * 4
    assert until(lambda: run not in look().runs)  # its decoders have ended with the search


def test_searches_with_different_models_share_a_cluster(local: Callable[..., list[Solution]]) -> None:
    def run(model: str) -> list[Solution]:
        with searching(model, cluster=1) as search:
            return list(search.solve_many(ASKED))

    names = ("countdown", "countdown-sft")
    with ThreadPoolExecutor(2) as threads:
        found = dict(zip(names, threads.map(run, names), strict=True))
    for name in names:
        assert without_errors(found[name]) == grown(local(name))
    assert grown(found["countdown"]) != grown(found["countdown-sft"])


def test_more_and_fewer_decoders_while_it_runs(shared: ClusterDecoder, local: Callable[..., list[Solution]]) -> None:
    with searching(decoder=shared, observer=Once(lambda: shared.scale(3))) as search:
        solutions = search.solve_many(ASKED)
        found = [next(solutions)]
        search.scale(1)
        found += solutions
        assert without_errors(found) == grown(local())
        for count in (1, 3, 2):
            search.scale(count)
            assert until(lambda count=count: len(of(shared)) == count)
        with pytest.raises(UsageError, match="at least 1"):
            search.scale(0)
        with pytest.raises(UsageError, match="room"):
            search.scale(5)  # of one processor each, of four


def test_a_decoder_of_several_devices_has_them_on_one_node() -> None:
    """Nothing makes one yet: the placement is there for a model that is split over several GPUs."""
    group, options = crew.placement(Share(cpus=1.0, devices=2))
    try:
        actor: Any = ray.remote(DecoderActor).options(**options).remote("split")
        assert ray.get(actor.status.remote(), timeout=SOON) is None  # it runs, and has loaded nothing
        table = placement_group_table(group)
        assert (table["strategy"], len(table["bundles"]), len(set(table["bundles_to_node_id"].values()))) == (
            "STRICT_PACK", 2, 1,
        )  # fmt: skip
        ray.kill(actor)
    finally:
        remove_placement_group(group)


def test_a_search_in_one_process_can_not_be_scaled() -> None:
    with Search(decoder=ScriptedDecoder(["x"])) as search, pytest.raises(UsageError, match="give Search a cluster"):
        search.scale(2)


# --- deaths --------------------------------------------------------------------------------------------------------


def test_a_decoder_killed_in_mid_run_changes_nothing(
    shared: ClusterDecoder, local: Callable[..., list[Solution]]
) -> None:
    def kill() -> None:
        os.kill(busiest(shared), signal.SIGKILL)

    before = shared.state()
    with searching(decoder=shared, observer=Once(kill)) as search:
        found = list(search.solve_many(ASKED))
    assert until(lambda: shared.state()["deaths"] == before["deaths"] + 1)
    assert without_errors(found) == grown(local())
    assert shared.state()["sent_again"] > before["sent_again"]
    assert max(branch.attempts for branch in branches(found).values()) >= 2  # a steal is one more


def test_all_decoders_killed_in_mid_run_are_replaced(
    shared: ClusterDecoder, local: Callable[..., list[Solution]]
) -> None:
    def kill() -> None:
        for status in of(shared):
            os.kill(status.pid, signal.SIGKILL)

    with searching(decoder=shared, observer=Once(kill)) as search:
        found = list(search.solve_many(ASKED))
    assert without_errors(found) == grown(local())


def test_a_stopped_decoder_s_work_is_done_by_the_other(
    shared: ClusterDecoder, local: Callable[..., list[Solution]]
) -> None:
    """It hangs, and comes back when the others have done its work: what it has to say then changes nothing."""
    stopped: list[int] = []
    others = puzzles(3, seed=8)

    def stop() -> None:
        stopped.append(busiest(shared))
        os.kill(stopped[0], signal.SIGSTOP)

    assert until(lambda: len(of(shared)) == 2)
    stalls = shared.state()["stalls"]
    with searching(decoder=shared, observer=Once(stop)) as search:
        try:
            found = list(search.solve_many(ASKED))
            assert shared.state()["stalls"] > stalls
        finally:
            with contextlib.suppress(ProcessLookupError):  # after half a minute of silence it was replaced
                os.kill(stopped[0], signal.SIGCONT)
        assert without_errors(found) == grown(local())
        again = list(search.solve_many(others))  # its branches are called as those before, which it has still to end
    assert without_errors(again) == grown(local(asked=others))


def test_what_is_asked_while_no_decoder_can_be_reached_is_answered_when_one_can(shared: ClusterDecoder) -> None:
    answers: list[Future[None]] = [Future(), Future()]
    (good,) = Tree(ASKED[0], decoding=Decoding.plain()).requests(1)

    def ask() -> None:
        for seat in shared.crew.seats:
            seat.unreachable = True
        for request, answer in zip((good, good.model_copy(update={"prompt": "What?"})), answers, strict=True):
            shared.crew.check(request, answer)

    shared._dispatcher.post(ask)
    assert answers[0].result(SOON) is None
    with pytest.raises(UsageError, match="Countdown"):
        answers[1].result(SOON)


@pytest.mark.parametrize("kind", [decoders.Dies, pytest.param(decoders.ShortOfMemory, marks=pytest.mark.slow)])
def test_a_request_that_kills_its_decoders_is_put_aside_and_all_others_are_answered(
    kind: type[DecoderActor], local: Callable[..., list[Solution]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of(monkeypatch, kind)
    poisoned = Problem(id=decoders.POISON[0], prompt=puzzles(1, seed=9)[0].prompt)
    with searching(cluster=1) as search:
        found = list(search.solve_many([poisoned, *ASKED]))
    all_branches = branches(found)
    culprit = all_branches.pop(decoders.POISON)
    assert culprit.finish == "error"
    assert "put aside" in str(culprit.error)
    assert [branch.error for branch in all_branches.values() if branch.error] == []
    assert grown(found[1:]) == grown(local())
    assert [s.verified for s in found[1:]] == [s.verified for s in local()]


def test_a_decoder_that_never_starts_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(monkeypatch, decoders.NeverLoads)
    monkeypatch.setattr(crew, "_MOST_PAUSE", 0.1)
    slowly = Cluster(decoders=1, wait=10 * SOON)  # ten processes start one after another
    with (
        searching(cluster=slowly) as search,
        pytest.raises(MachineError, match=r"no decoder is left: 10 deaths in a row"),
    ):
        search.prepare()


# --- ends ----------------------------------------------------------------------------------------------------------


def test_stopping_gives_what_there_is(shared: ClusterDecoder) -> None:
    observer = Once(lambda: search.stop(), when=BranchProgress)
    with searching(decoder=shared, max_tokens=4000, observer=observer) as search:
        ended: list[list[Solution]] = []
        thread = threading.Thread(target=lambda: ended.append(list(search.solve_many(ASKED))), daemon=True)
        thread.start()
        thread.join(SOON)
        assert ended, "it did not end"
        assert observer.done.is_set()
        assert "interrupted" in {solution.status for solution in ended[0]}
        assert any(branch.token_ids for branch in branches(ended[0]).values())
        assert until(lambda: shared.state()["open"] == 0)
        whole = search.solve(ASKED[0])  # it can go on
    assert whole.status in ("verified", "exhausted")


def test_a_budget_is_kept_within_a_step_on_one_decoder(shared: ClusterDecoder) -> None:
    shared.scale(1)
    assert until(lambda: len(of(shared)) == 1)
    for tokens in (1, 40, 150):
        with searching(decoder=shared, budget=Budget(tokens=tokens), seed=tokens) as search:
            for solution in search.solve_many(ASKED[:3]):
                assert solution.usage.generated_tokens <= tokens + 4  # branches that grow at a time


def test_a_run_that_was_dropped_is_resumed_by_other_decoders(
    tmp_path: Path, shared: ClusterDecoder, local: Callable[..., list[Solution]]
) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal, searching(cluster=1, journal=journal) as search:
        solutions = search.solve_many(ASKED)
        next(solutions)
        solutions.close()  # type: ignore[attr-defined]
    with Journal(path) as journal, searching(decoder=shared, journal=journal) as search:
        assert without_errors(list(search.solve_many(ASKED))) == grown(local())


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(kind: type[Exception], match: str, model: str | None = "countdown", **options: Any) -> None:
    runs = set(look().runs)
    with searching(model, **options) as search, pytest.raises(kind, match=match):
        search.prepare()
    assert set(look().runs) <= runs  # nothing is left behind


def test_a_missing_model_is_named_with_its_node(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    # Four, so that each takes one processor, of which the decoders above leave some.
    refused(ModelError, rf"on node {get_node_ip_address()}: .*{folder}", str(folder), cluster=4)


def test_gpus_that_are_not_there_are_refused() -> None:
    refused(UsageError, r"device is 'cuda', and no node of the cluster has a GPU", cluster=1, device="cuda")


def test_more_decoders_than_there_is_room_for_are_refused() -> None:
    refused(UsageError, "100000 decoders are asked for", cluster=100_000)


def test_room_that_does_not_come_is_waited_for_as_long_as_was_said() -> None:
    refused(UsageError, "100000 decoders are asked for", cluster=Cluster(decoders=100_000, wait=1.5))


def test_another_cluster_than_the_one_connected_to_is_refused() -> None:
    refused(
        MachineError,
        r"is connected to the Ray cluster at .* already, and cluster is '127\.0\.0\.1:1'",
        cluster="127.0.0.1:1",
    )


def test_a_node_with_another_led_agent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(monkeypatch, decoders.OfAnotherVersion)
    refused(MachineError, rf"node \S+ has led_agent 0\.0\.1, this process {led_agent.__version__}", cluster=1)


def test_nodes_with_different_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(monkeypatch, decoders.WithOtherWeights)
    monkeypatch.setattr(crew, "_GRACE", SOON)  # the second one is waited for, however slow its node
    refused(MachineError, r"the model 'countdown' on node \S+ has other weights than on node", cluster=2)


def test_a_problem_that_the_model_can_not_be_asked_fails_and_the_others_go_on(shared: ClusterDecoder) -> None:
    odd = Problem(id="odd", prompt="What is the capital of France?")
    with searching(decoder=shared) as search:
        found = {solution.problem.key: solution for solution in search.solve_many([odd, ASKED[0]])}
    assert found["odd"].status == "failed"
    assert "Countdown" in found["odd"].reason
    assert found[ASKED[0].key].status in ("verified", "exhausted")


def test_a_cluster_and_a_decoder_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="leave one of them out"):
        Search(cluster=2, decoder=ScriptedDecoder(["x"]))
