"""The benchmark of extensions: what each law is, how settings are chosen, and that its tables come from its file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import extensions
from benchmarks.extensions import DecisionPoints, Noise, Plain
from led_agent.countdown_puzzles import sample_puzzles
from training.countdown.model import prompts, rollout
from training.countdown.problems import END, IDS, PAD

TOKENS = 31


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return extensions.embedded()


@pytest.fixture(scope="module")
def puzzles():
    return sample_puzzles("dev", 24, 0)


@pytest.fixture(scope="module")
def means(model, puzzles):
    return extensions.mean_weights(model, puzzles, 3, TOKENS)


def written(model, setting, puzzles, means):
    law = extensions.law_of(setting, model, 7, means)
    return [words for _, words in extensions.branches(model, puzzles, 2, law, TOKENS)]


@pytest.mark.parametrize(
    "setting",
    [
        DecisionPoints(math.inf, heat=2.0, min_p=0.03, temperature=1.0),
        DecisionPoints(0.0, heat=1.0, min_p=0.0, temperature=1.0),
        *(Noise(0.0, hold=hold) for hold in ("token", "step", "branch")),
        *(Noise(0.0, weight=weight) for weight in ("entropy", "inverse")),
    ],
    ids=repr,
)
def test_without_heat_or_noise_the_laws_are_plain_sampling(model, puzzles, means, setting):
    assert written(model, setting, puzzles, means) == written(model, Plain(1.0), puzzles, means)


def test_heat_and_noise_change_what_is_written(model, puzzles, means):
    plain = written(model, Plain(1.0), puzzles, means)
    hot = DecisionPoints(0.1, heat=3.0, min_p=0.01, temperature=1.0)
    for setting in (hot, Noise(0.3), Noise(0.3, hold="branch"), Noise(0.3, weight="entropy")):
        assert written(model, setting, puzzles, means) != plain


def test_a_decision_point_draws_only_tokens_that_clean_depths_agree_on(model, puzzles):
    setting = DecisionPoints(0.1, heat=5.0, min_p=0.05, depths=(1, 2), temperature=0.6)
    law = extensions.law_of(setting, model, 7, {})
    points = 0

    def spy(states, thinking):
        nonlocal points
        token = law(states, thinking)
        final = torch.softmax(model.lm_head(states[-1]), -1)
        for row in range(len(token)):
            entropy = -float((final[row] * final[row].clamp(min=1e-30).log()).sum())
            if not thinking[row] or entropy < 0.1:
                continue
            points += 1
            shallow = (model.lm_head(model.model.norm(states[after][row])) for after in (11, 10))  # of 12 blocks
            read = [final[row], *(torch.softmax(logits, -1) for logits in shallow)]
            shared = all(p[token[row]] >= 0.05 * p.max() for p in read)
            assert shared or token[row] == final[row].argmax()
        return token

    rollout(model, prompts(puzzles), spy, TOKENS)
    assert points > 20


def watched(model, setting, puzzles, means):
    """At each forward its states; from the second on its directions [rows, blocks, width], and the rows that it has, by
    number."""
    law = extensions.law_of(setting, model, 7, means)
    seen, alive, last = [], np.arange(len(puzzles)), None

    def spy(states, thinking):
        nonlocal alive, last
        if last is not None and len(thinking) < len(last):
            alive = alive[(last != IDS[END]).numpy()]
        seen.append((states, law.direction.transpose(0, 1).clone(), alive, last))
        last = law(states, thinking)
        return last

    with law.installed():
        grown = rollout(model, prompts(puzzles), spy, TOKENS)
    return seen, grown


def test_noise_is_added_behind_the_middle_blocks_of_generated_positions(model, puzzles, means):
    read = {after: [] for after in range(1, 12)}  # what the block after so many gets, at each forward
    hooks = [
        model.model.layers[after].register_forward_pre_hook(lambda _, args, at=after: read[at].append(args[0][:, -1]))
        for after in read
    ]
    (_, (_, direction, *_), *_), _ = watched(model, Noise(0.2), puzzles, means)
    moved, read = read, {after: [] for after in read}
    watched(model, Noise(0.0), puzzles, means)
    for hook in hooks:
        hook.remove()
    assert extensions.noisy_blocks(model) == (5, 6, 7, 8)
    assert all(torch.equal(moved[after][0], read[after][0]) for after in read)  # the prompt's
    assert all(torch.equal(moved[after][1], read[after][1]) for after in range(1, 5))
    assert not torch.allclose(moved[8][1], read[8][1])
    rms = read[5][1].square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(moved[5][1], read[5][1] + 0.2 * rms * direction[:, 0])


@pytest.mark.parametrize("hold", ["token", "step", "branch"])
def test_a_direction_is_held_as_long_as_it_should_be_and_stays_with_its_branch(model, puzzles, means, hold):
    seen, grown = watched(model, Noise(0.1, hold=hold), puzzles, means)
    last = dict(enumerate(seen[0][1]))
    kept = redrawn = 0
    for at, (_, directions, rows, _) in enumerate(seen[1:]):
        for row, direction in zip(rows, directions, strict=True):
            fed = grown[row, at]
            if fed in (IDS[END], IDS[PAD]):  # over, and not dropped yet
                continue
            fresh = hold == "token" or (hold == "step" and bool(fed == IDS["no"]))
            assert torch.equal(direction, last[row]) != fresh
            last[row] = direction
            kept, redrawn = kept + (not fresh), redrawn + fresh
    assert len(seen[-1][2]) < len(puzzles)  # some were dropped on the way
    assert (kept > 0) == (hold != "token")
    assert (redrawn > 0) == (hold != "branch")


@pytest.mark.parametrize("weight", ["even", "entropy", "inverse"])
def test_the_mean_scale_of_all_weights_is_sigma_over_plain_branches(model, puzzles, means, weight):
    law = extensions.NoisyLaw(model, torch.Generator().manual_seed(3), Noise(0.0, weight=weight), means)
    list(extensions.branches(model, puzzles, extensions.CALIBRATION, law, TOKENS))
    np.testing.assert_allclose(law.weighed[:, 0] / law.weighed[:, 1], law.means, rtol=1e-6)


def test_a_kinds_setting_is_chosen_by_pass_at_16_then_by_pass_at_1():
    def row(setting, right):
        return {"name": str(setting), "kind": setting.kind, "settings": {"sigma": 0.0}, "right": right}

    rows = [
        row(Plain(0.6), [16, 0]),
        row(Plain(1.0), [2, 1]),
        row(Plain(1.2), [3, 1]),
        row(Plain(1.4), [1, 3]),
        row(Noise(0.1), [9, 0]),
    ]
    chosen = extensions.choose(rows, 16)
    assert {kind: found["name"] for kind, found in chosen.items()} == {
        "temperature": str(Plain(1.2)),
        "noise per token": str(Noise(0.1)),
    }


def test_the_same_seed_gives_the_same_tables_and_so_does_the_file(tmp_path, monkeypatch):
    few = Plain(0.6), Plain(1.4), DecisionPoints(0.1, 1.4, 0.03), Noise(0.1), Noise(0.2), Noise(0.1, hold="step")
    monkeypatch.setattr(extensions, "GRID", few)
    app = extensions.typer.Typer()
    app.command()(extensions.main)
    sizes = ["--dev", "4", "--test", "6", "--test-samples", "20", "--seed", "5"]
    first, again = (CliRunner().invoke(app, [*sizes, "--out", str(tmp_path / name)]) for name in ("a", "b"))
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert CliRunner().invoke(app, ["--from", str(tmp_path / "a")]).stdout == first.stdout
    kept = json.loads((tmp_path / "a").read_text())
    names = [row["name"] for row in kept["test"]["rows"]]
    assert {str(Plain(0.6)), str(Plain(1.4)), str(few[2]), str(few[5]), str(Noise(0.1))} <= set(names)
    assert all(len(row["right"]) == 6 and max(row["right"]) <= 20 for row in kept["test"]["rows"])
    kept["dev"]["rows"], kept["test"]["rows"] = kept["dev"]["rows"][:2], []
    (tmp_path / "a").write_text(json.dumps(kept))  # interrupted
    assert CliRunner().invoke(app, ["--from", str(tmp_path / "a")]).exit_code != 0
    assert CliRunner().invoke(app, [*sizes, "--out", str(tmp_path / "a")]).stdout == first.stdout
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert CliRunner().invoke(app, ["--dev", "5", "--out", str(tmp_path / "a")]).exit_code != 0
