"""``reward_model``: against plain forwards of the same classifier, one text at a time."""

from __future__ import annotations

import json
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from led_agent.errors import ModelError, UsageError
from led_agent.types import Branch, Message, Problem, Verdict
from led_agent.verifiers import RewardModel, reward_model
from tests.tiny import tiny_config, tiny_tokenizer

PROBLEM = Problem(prompt="w1 w2 w3")
TEXTS = (
    "w4",
    "w5 w6 w7 w8 w9 w10",
    "w11 w12",
    "w4 w4 w4 w4 w4 w4 w4 w4 w4 w20 w21",
    "w79 w3",
    "w5 \n w6",
    *(f"w{i}" for i in range(6)),
)

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Save a random classifier: of what family and head, with how many labels, with or without template and padding."""

    def make(
        family: str = "llama", head: str = "Sequence", labels: int = 1, *, template: bool = True, **changes: Any
    ) -> Path:
        import torch
        import transformers

        tokenizer = tiny_tokenizer()
        if not template:
            tokenizer.chat_template = None
        torch.manual_seed(7)
        vocab = len(tokenizer)
        if family == "bert":
            config: Any = transformers.BertConfig(
                vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
                max_position_embeddings=64, num_labels=labels, initializer_range=0.4, **changes,
            )  # fmt: skip
        elif family == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=64, num_labels=labels,
                initializer_range=0.4, bos_token_id=1, eos_token_id=2, **changes,
            )  # fmt: skip
        elif family == "xlnet":
            config = transformers.XLNetConfig(
                vocab_size=vocab, d_model=32, n_layer=2, n_head=2, d_inner=40, num_labels=labels, initializer_range=0.4,
                pad_token_id=0, **changes,
            )  # fmt: skip
        else:
            config = tiny_config(family, vocab_size=vocab, num_labels=labels, max_position_embeddings=64, **changes)
        kind = getattr(transformers, f"AutoModelFor{head}Classification")
        folder = tmp_path / f"{family}-{head}-{labels}"
        kind.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def plain(folder: Path, text: str, head: str = "Sequence") -> Any:
    """Logits of one text in float64, as transformers computes them: [labels], or [positions, labels]."""
    import torch
    import transformers

    model = getattr(transformers, f"AutoModelFor{head}Classification").from_pretrained(folder).double().eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def ask(verifier: RewardModel, *texts: str, problem: Problem = PROBLEM) -> list[Verdict]:
    return verifier.batch([(problem, Branch(text=text)) for text in texts])


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"pad_token_id": 0}),
        ("qwen3", {}),
        ("bert", {}),
        ("gpt2", {}),
        ("xlnet", {}),
    ],
)
def test_a_batch_scores_each_text_as_plain_transformers_does_alone(build: Build, family: str, changes: dict[str, Any]):
    folder = build(family, **changes)
    verifier = reward_model(folder)
    together = [v.score for v in ask(verifier, *TEXTS)]
    expected = [plain(folder, f"w1 w2 w3 {text} ").sigmoid().item() for text in TEXTS]
    assert together == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > 3  # it tells them apart
    alone = [verifier(PROBLEM, Branch(text=text)).score for text in TEXTS]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_family_that_padding_disturbs_is_batched_by_length(build: Build, monkeypatch: pytest.MonkeyPatch):
    from led_agent.engine.classifier import Classifier

    for family, pads in (("llama", True), ("bert", True), ("xlnet", False)):
        classifier = Classifier.load(build(family))
        assert classifier._pads is pads
        shapes: list[set[int]] = []
        compute = classifier._logits
        monkeypatch.setattr(
            classifier, "_logits", lambda rows, c=compute, s=shapes: s.append({len(r) for r in rows}) or c(rows)
        )
        from led_agent.engine.classifier import Row

        classifier.scores([Row([5] * n) for n in (3, 4, 3, 5, 4)])
        assert shapes == ([{3, 4, 5}] if pads else [{3}, {4}, {5}])


def test_a_forward_is_bounded_in_tokens(build: Build, monkeypatch: pytest.MonkeyPatch):
    import led_agent.engine.classifier as module

    monkeypatch.setattr(module, "_FORWARD_TOKENS", 30)
    folder = build()
    classifier = module.Classifier.load(folder)
    seen: list[int] = []
    compute = classifier._logits
    monkeypatch.setattr(
        classifier, "_logits", lambda rows: seen.append(len(rows) * max(map(len, rows))) or compute(rows)
    )
    rows = [module.Row([4 + (n + i) % 60 for i in range(n)]) for n in (3, 20, 7, 9, 2, 40, 11)]
    cut = classifier.scores(rows)
    assert len(seen) > 2
    assert all(tokens <= 30 or tokens == 40 for tokens in seen)
    monkeypatch.setattr(module, "_FORWARD_TOKENS", 10_000)
    assert [s for row in cut for s in row] == pytest.approx([classifier.scores([row])[0][0] for row in rows], abs=1e-5)


def test_two_labels_are_a_probability_of_the_second_or_the_named_one(build: Build):
    folder = build(labels=2)
    expected = plain(folder, "w1 w2 w3 w4 ").softmax(-1).tolist()
    assert ask(reward_model(folder), "w4")[0].score == pytest.approx(expected[1], abs=1e-5)
    assert ask(reward_model(folder, label="LABEL_0"), "w4")[0].score == pytest.approx(expected[0], abs=1e-5)
    assert ask(reward_model(folder, label="0"), "w4")[0].score == pytest.approx(expected[0], abs=1e-5)


def test_more_labels_must_be_named(build: Build):
    folder = build(labels=3)
    with pytest.raises(ModelError, match=r"3 labels \('LABEL_0', 'LABEL_1', 'LABEL_2'\); name the wanted one"):
        reward_model(folder).check(PROBLEM)
    with pytest.raises(ModelError, match=r"no label 'good'; it has 'LABEL_0'"):
        reward_model(folder, label="good").check(PROBLEM)
    expected = plain(folder, "w1 w2 w3 w4 ").softmax(-1)[2].item()
    assert ask(reward_model(folder, label="LABEL_2"), "w4")[0].score == pytest.approx(expected, abs=1e-5)


def test_labels_that_were_trained_apart_have_probabilities_of_their_own(build: Build):
    folder = build(labels=3, problem_type="multi_label_classification")
    expected = plain(folder, "w1 w2 w3 w4 ")[2].sigmoid().item()
    assert ask(reward_model(folder, label="LABEL_2"), "w4")[0].score == pytest.approx(expected, abs=1e-5)


def test_without_a_chat_template_prompt_and_answer_are_two_lines(build: Build):
    folder = build(template=False)
    assert ask(reward_model(folder), "w4")[0].score == pytest.approx(
        plain(folder, "w1 w2 w3\nw4").sigmoid().item(), abs=1e-5
    )


def test_chat_messages_and_the_text_after_thinking_are_what_is_scored(build: Build):
    folder = build()
    chat = Problem(prompt=(Message(role="system", content="w9"), Message(role="user", content="w1")))
    found = ask(reward_model(folder), "<think>w70 w71</think>w4", problem=chat)[0]
    assert found.score == pytest.approx(plain(folder, "w9 w1 w4 ").sigmoid().item(), abs=1e-5)


AGGREGATES = {
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "last": lambda scores: scores[-1],
    "product": math.prod,
}


@pytest.mark.parametrize("aggregate", list(AGGREGATES))
def test_a_sequence_classifier_scores_each_prefix_that_ends_with_a_step(build: Build, aggregate: Any):
    folder = build()
    verifier = reward_model(folder, "process", aggregate=aggregate, step_separator=" \n ")
    found = ask(verifier, "w4 w5 \n w6 \n  \n w7", "w8")
    prefixes = ["w4 w5", "w4 w5 \n w6", "w4 w5 \n w6 \n  \n w7"]
    steps = [plain(folder, f"w1 w2 w3 {prefix} ").sigmoid().item() for prefix in prefixes]
    assert found[0].score == pytest.approx(AGGREGATES[aggregate](steps), abs=1e-5)
    assert found[1].score == pytest.approx(plain(folder, "w1 w2 w3 w8 ").sigmoid().item(), abs=1e-5)
    worst = steps.index(min(steps)) + 1
    assert f"{aggregate} of 3 steps; lowest is step {worst} with {min(steps):.3g}" in found[0].reason


@pytest.mark.parametrize(("family", "template"), [("llama", True), ("llama", False), ("bert", True)])
def test_a_token_classifier_scores_each_step_at_its_separators_end(build: Build, family: str, template: bool):
    folder = build(family, "Token", 2, template=template)
    verifier = reward_model(folder, "process", aggregate="mean", step_separator=" . \n ")
    found = ask(verifier, "w4 w5 . \n w6", "w8")
    begin = "w1 w2 w3 " if template else "<s> w1 w2 w3 \n "
    logits = plain(folder, f"{begin}w4 w5 . \n w6 . \n", "Token").softmax(-1)[:, 1].tolist()
    at = len(begin.split(" ")) - 1
    assert found[0].score == pytest.approx((logits[at + 3] + logits[at + 6]) / 2, abs=1e-5)
    assert len(logits) == at + 7
    alone = plain(folder, f"{begin}w8 . \n", "Token").softmax(-1)[-1, 1].item()
    assert found[1].score == pytest.approx(alone, abs=1e-5)


def test_a_token_classifier_has_no_outcome(build: Build):
    with pytest.raises(ModelError, match="give reward_model scope='process'"):
        reward_model(build("llama", "Token", 2)).check(PROBLEM)


def test_it_ranks_or_judges_by_a_threshold(build: Build):
    folder = build()
    score = ask(reward_model(folder), "w4")[0].score
    assert ask(reward_model(folder), "w4")[0].status == "abstained"
    low, high = (ask(reward_model(folder, accept=at), "w4")[0] for at in (score - 0.01, score + 0.01))
    assert (low.status, high.status) == ("accepted", "rejected")
    assert low.score == high.score == score
    assert f"{score + 0.01:g} is not reached" in high.reason


def test_what_is_too_long_or_empty_is_said_and_costs_the_others_nothing(build: Build):
    found = ask(reward_model(build()), "w4 " * 80, "w4", "<think>w5</think> \n", "w5")
    assert [v.status for v in found] == ["abstained"] * 4
    assert "have 83 tokens" in found[0].reason
    assert "takes 64 at most; not truncated" in found[0].reason
    assert "text after </think> is empty" in found[2].reason
    assert found[0].score == found[2].score == 0.0
    assert 0 < found[1].score < 1
    assert found[1].score != found[3].score


def test_a_model_that_computes_nonsense_is_an_error_and_no_rejection(build: Build):
    from safetensors.torch import load_file, save_file

    folder = build()
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][:] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = ask(reward_model(folder, accept=0.5), "w4")[0]
    assert (found.status, "no finite score" in found.reason) == ("error", True)


def test_what_has_no_head_of_its_own_is_refused(build: Build, saved_model: Path):
    """transformers would give both a head of random numbers."""
    with pytest.raises(ModelError, match="LlamaForCausalLM, which has no classification head"):
        reward_model(saved_model).check(PROBLEM)
    from safetensors.torch import load_file, save_file

    folder = build()
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of LlamaForSequenceClassification: score\.weight"):
        reward_model(folder).check(PROBLEM)


def test_a_missing_model_is_told_at_the_check(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no model 'nowhere'; give the folder of a sequence or token classifier"):
        reward_model("nowhere").check(PROBLEM)
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        reward_model(tmp_path).check(PROBLEM)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="can't load the classifier"):
        reward_model(tmp_path).check(PROBLEM)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scope": "outcomes"}, "allowed are outcome, process"),
        ({"aggregate": "max"}, "allowed are min, mean, last, product"),
        ({"step_separator": ""}, "step_separator is empty"),
        ({"accept": 1.5}, r"a score in \[0, 1\]"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says):
        reward_model("x/y", **settings)


def test_it_is_loaded_once_by_whichever_thread_comes_first(build: Build, monkeypatch: pytest.MonkeyPatch):
    from led_agent.engine.classifier import Classifier

    loaded: list[int] = []
    load = Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda *a, **k: loaded.append(1) or load(*a, **k))
    verifier = reward_model(build())
    found: dict[str, float] = {}
    threads = [
        threading.Thread(target=lambda t=text: found.update({t: verifier(PROBLEM, Branch(text=t)).score}))
        for text in TEXTS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [1]
    assert [found[t] for t in TEXTS] == pytest.approx([v.score for v in ask(verifier, *TEXTS)], abs=1e-5)
    copy = pickle.loads(pickle.dumps(verifier))
    assert copy == verifier
    verifier.close()
    verifier.close()
    assert ask(verifier, "w4")[0].score == ask(copy, "w4")[0].score
    assert len(loaded) == 3


def test_a_template_that_refuses_is_that_answers_error(build: Build):
    folder = build()
    template = (
        "{% for m in messages %}{% if m.content == 'w66' %}{{ raise_exception('no w66') }}{% endif %}w1 {% endfor %}"
    )
    if (folder / "chat_template.jinja").exists():
        (folder / "chat_template.jinja").write_text(template)
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    found = ask(reward_model(folder), "w66", "w4")
    assert [v.status for v in found] == ["error", "abstained"]
    assert "no w66" in found[0].reason
