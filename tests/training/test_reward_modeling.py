"""Reward modelling: against transformers' classifier, invariances, and what it learns and leaves behind."""

import itertools
import json
import math
import random
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kedge import RewardConfig, RewardModeling
from kedge.errors import ConfigError, DataError
from kedge.models.reward_loading import load_reward_model, new_reward_model

GOOD, BAD = [" sat on the mat", " and the dog", " was a ship"], [" ran to the red house", " ran", " ran on"]
PAIRS = [
    {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    for prompt in ("the cat", "a little ship", "Once upon a time")
    for chosen, rejected in zip(GOOD, BAD, strict=True)
]
LABELS = [{"text": f"the cat{end}", "label": int(end in GOOD)} for end in GOOD + BAD]
OTHERS = [{"prompt": "the dog", "chosen": GOOD[0], "rejected": BAD[1]}, {"chosen": "red mat", "rejected": "red ran"}]


@pytest.fixture
def base(tiny_lm, tmp_path):
    """``base("llama")``: the folder of a tiny language model, a trunk to start from."""

    def make(arch):
        tiny_lm(arch).save(tmp_path / "base" / arch)
        return tmp_path / "base" / arch

    return make


@pytest.fixture
def make_rm(base):
    def make(data=PAIRS, settings=None, *, arch="llama", **kwargs):
        config = RewardConfig(
            **({"batch_size": 3, "epochs": 1, "learning_rate": 3e-3, "device": "cpu"} | (settings or {}))
        )
        torch.manual_seed(0)  # of the fresh head
        return RewardModeling(base(arch), data, config, progress=False, **kwargs)

    return make


def test_raters_who_are_not_sure(make_rm):
    """Margins and shares of raters are columns, empty in some rows; literal losses where both sides score the same."""
    rows = [OTHERS[1] | {"margin": 2.0}, OTHERS[1] | {"agreement": "0.5", "margin": None}, OTHERS[1]]
    rm = make_rm(rows, {"label_smoothing": 0.25})
    torch.nn.init.zeros_(rm.model.model.score.weight)
    losses = [rm.loss([row], 1.0)[0].item() for row in range(3)]
    assert losses == pytest.approx([2.1269280110 - 0.25 * 2, 0.6931471806, 0.6931471806])
    for value in ("much", -0.1, 1.5, True):
        with pytest.raises(DataError, match=r"row 2: 'agreement' must be a number from 0 to 1, not"):
            make_rm([OTHERS[1], OTHERS[1] | {"agreement": value}])
    with pytest.raises(DataError, match=r"row 1: 'margin' must be a number from 0, not -1"):
        make_rm([OTHERS[1] | {"margin": -1}])


@pytest.mark.slow
def test_what_length_alone_explains_is_not_learnt(make_rm, tmp_path):
    """Raters who like long answers more than good ones. Scored are answers of both lengths that are good and bad."""
    rng = random.Random(0)

    def text(good, long):
        words = [rng.choice(["cat", "dog", "ship", "house"]) for _ in range(14 if long else 4)]
        words[rng.randrange(len(words))] = "mat" if good else "ran"
        return " ".join(words)

    kinds = list(itertools.product((True, False), repeat=2))
    rows = []
    for _ in range(240):
        a, b = rng.sample(kinds, 2)
        margin = 1.5 * (a[0] - b[0]) + 2.5 * (a[1] - b[1])
        won = rng.random() < 1 / (1 + math.exp(-margin))
        rows.append({"chosen": text(*(a if won else b)), "rejected": text(*(b if won else a))})
    found = {}
    for debiasing in (False, True):
        settings = {"length_debiasing": debiasing, "epochs": 6, "batch_size": 16, "learning_rate": 3e-3}
        rm = make_rm(rows, settings)
        rm.train()
        scores = {kind: sum(rm.model.score([text(*kind) for _ in range(40)])) / 40 for kind in kinds}
        for_length = scores[True, True] + scores[False, True] - scores[True, False] - scores[False, False]
        found[debiasing] = abs(for_length) / 2
    assert found[False] > 1.0
    assert found[True] < 0.4 * found[False]


def test_settings_as_a_dict_with_a_large_seed(base):
    config = {"seed": 10**30, "device": "cpu", "batch_size": 3}
    assert RewardModeling(base("llama"), PAIRS, config, progress=False).train()["steps"] == 3


@torch.no_grad()
def score_of_transformers(model, tokenizer, text):
    """One text alone, EOS appended, through the plain classifier."""
    return model(torch.tensor([[*tokenizer(text).input_ids, 1]])).logits.item()


def test_loss_is_that_of_a_logistic_regression_on_differences(make_rm):
    rm = make_rm(settings={"center_rewards_coefficient": 0.25})
    model, tokenizer = rm.model.model, rm.model.tokenizer
    torch.nn.init.normal_(model.score.weight)
    with torch.no_grad():
        loss, metrics = rm.loss(range(9), 9)
    chosen, rejected = (
        torch.tensor([score_of_transformers(model, tokenizer, row["prompt"] + row[side]) for row in PAIRS])
        for side in ("chosen", "rejected")
    )
    logistic = binary_cross_entropy_with_logits(chosen - rejected, torch.ones(9))
    assert loss.item() == pytest.approx((logistic + 0.25 * ((chosen + rejected) ** 2).mean()).item(), rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx((chosen > rejected).float().mean().item())
    assert metrics["margin"].item() == pytest.approx((chosen - rejected).mean().item(), rel=1e-4)


@pytest.mark.parametrize("arch", ["llama", "mamba"])  # with a sequence classification class, and without
def test_micro_batches_change_nothing(make_rm, vector, arch):
    def trained(budget):
        rm = make_rm(arch=arch, settings={"micro_batch_tokens": budget, "batch_size": 9})
        metrics = [rm.step() for _ in range(3)]
        return vector(rm.module), metrics

    (whole, metrics), (parts, metrics_of_parts) = trained(10_000), trained(50)
    assert torch.allclose(whole, parts, atol=1e-5)
    for a, b in zip(metrics, metrics_of_parts, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


def test_held_out_metrics_are_the_same_in_micro_batches(make_rm):
    found = []
    for budget in (50, 10_000):
        rm = make_rm(settings={"micro_batch_tokens": budget}, eval_data=PAIRS)
        with torch.no_grad():
            rm.model.model.score.weight.copy_(torch.linspace(1, -1, 32))
        found.append(rm.look().metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert 0 < found[1]["eval/accuracy"] <= 1


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mamba", "kedge_lstm"])
def test_learns_to_tell_them_apart(make_rm, arch, tmp_path):
    rm = make_rm(arch=arch, settings={"epochs": 15}, eval_data=PAIRS, run=tmp_path / "run")
    summary = rm.train()
    assert summary["before"]["accuracy"] < 0.9
    assert summary["after"]["accuracy"] == 1.0
    assert summary["after"]["loss"] < 0.3 < 0.6 < summary["before"]["loss"]
    assert summary["after"]["margin"] > 1
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    loaded = load_reward_model(tmp_path / "run", device="cpu")
    texts = ["the cat sat on the mat", "the cat ran", "a dog"]
    assert loaded.score(texts) == pytest.approx(rm.model.score(texts), abs=1e-5)


def test_its_folder_gives_the_same_scores_in_transformers(make_rm, tmp_path):
    rm = make_rm(settings={"epochs": 3}, run=tmp_path / "run")
    rm.train()
    folder = tmp_path / "run" / "reward_model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["the cat sat on the mat", "the cat ran", "a dog and a ship"]
    ours = rm.model.score(texts)
    assert [score_of_transformers(model, tokenizer, text) for text in texts] == pytest.approx(ours, abs=1e-5)
    assert len({round(score, 3) for score in ours}) == 3
    ended = tokenizer([text + "<eos>" for text in texts], return_tensors="pt", padding=True)
    assert model(**ended).logits.flatten().tolist() == pytest.approx(ours, abs=1e-5)  # in a batch, padded


def test_texts_with_labels(make_rm):
    rm = make_rm(LABELS, {"epochs": 30})
    assert len(rm.examples) == 3
    accuracy = [rm.step()["train/accuracy"] for _ in range(15)]
    assert accuracy[-1] == 1.0
    good, bad = (rm.model.score([row["text"] for row in LABELS if row["label"] == label]) for label in (1, 0))
    assert min(good) > max(bad)


def test_resumed_is_uninterrupted(make_rm, tmp_path, vector, lines):
    settings = {"epochs": 2, "checkpoint_every": 2, "eval_every": 3}
    kwargs = {"settings": settings, "arch": "gpt2", "eval_data": OTHERS}
    whole = make_rm(run=tmp_path / "whole", **kwargs)
    whole.train()
    broken = make_rm(run=tmp_path / "broken", **kwargs)
    step = broken.step

    def killed_at_5():
        if broken.step_done == 5:
            raise KeyboardInterrupt
        return step()

    broken.step = killed_at_5
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = make_rm(run=tmp_path / "broken", resume=True, **kwargs)
    assert resumed.step_done == 4
    resumed.train()
    assert torch.equal(vector(resumed.module), vector(whole.module))
    assert lines(tmp_path / "broken", "metrics.jsonl") == lines(tmp_path / "whole", "metrics.jsonl")


def test_the_centre_pulls_scores_to_zero(make_rm):
    def sums(coefficient):
        rm = make_rm(settings={"epochs": 20, "center_rewards_coefficient": coefficient})
        for _ in range(40):
            rm.step()
        scores = rm.model.score([row["prompt"] + row[side] for row in PAIRS for side in ("chosen", "rejected")])
        return sum(abs(a + b) for a, b in pairwise(scores))

    assert sums(1.0) < sums(0.0) / 2


LONG, SHORT = {"chosen": "the cat " * 200, "rejected": " ran"}, {"chosen": "the cat sat", "rejected": "a"}


def test_long_texts_lose_their_beginning_and_it_is_said(make_rm, capsys, tmp_path, lines):
    long = make_rm([LONG, SHORT], run=tmp_path / "run")
    (chosen, rejected), _ = long.examples
    assert (len(chosen), chosen[-1], long.model.tokenizer.decode(rejected)) == (128, 1, " ran<eos>")
    long.train()
    said = "1 of 2 rows of data have more than 128 tokens (the model's positions), row 1 the most, 402; they lose the "
    said += "beginnings of their texts (too_long='truncate')"
    assert said in capsys.readouterr().err
    assert [event["message"] for event in lines(tmp_path / "run", "events.jsonl")] == [said]
    assert make_rm([LONG, SHORT, SHORT], {"too_long": "skip"}).origins == ["row 2", "row 3"]
    for way, what in (("error", "Set too_long='skip'"), ("skip", "too many to leave out")):
        with pytest.raises(DataError, match=rf"2 of 3 rows of data .*{what}"):
            make_rm([LONG, LONG, SHORT], {"too_long": way})


def test_most_are_cut_only_if_that_is_asked_for(make_rm):
    with pytest.raises(DataError, match=r"1 of 1 .* \(max_length=2\).*too many to cut unasked\. Set too_long='tr"):
        make_rm([SHORT], {"max_length": 2})
    [(chosen, rejected)] = make_rm([SHORT], {"max_length": 2, "too_long": "truncate"}).examples
    assert (len(chosen), len(rejected)) == (2, 2)
    with pytest.raises(ConfigError, match="the longest example has 4 tokens; set micro_batch_tokens=4"):
        make_rm([SHORT], {"max_length": 2, "too_long": "truncate", "micro_batch_tokens": 3})


def test_a_loaded_model_is_trained_in_place(base, vector):
    model = new_reward_model(base("llama"), device="cpu")
    before = vector(model.model)
    RewardModeling(model, PAIRS, RewardConfig(batch_size=9), progress=False).train()
    assert not torch.equal(vector(model.model), before)


def test_the_new_head_comes_from_the_seed(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "model")

    def head(seed):
        torch.rand(seed + 3)  # whatever was drawn before
        config = RewardConfig(seed=seed, device="cpu")
        return RewardModeling(tmp_path / "model", PAIRS, config, progress=False).model.model.score.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
