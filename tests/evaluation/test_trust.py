"""Trust reports: literal numbers, other libraries, and scorers whose faults are known."""

import json
import math
import random

import pytest
import torch

from kedge import RewardModeling
from kedge.data.records import Preference
from kedge.evaluation.trust.baselines import bag_of_words_accuracy, length_accuracy
from kedge.evaluation.trust.calibration import (
    calibration_error,
    correlation,
    fitted_temperature,
    log_loss,
    reliability,
)
from kedge.evaluation.trust.page import as_page, write_report
from kedge.evaluation.trust.perturbations import PERTURBATIONS, perturbed, synonyms, typos
from kedge.evaluation.trust.report import trust_report


def pairs(n, seed=0):
    """The chosen one is kind; lengths say nothing."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(40)]

    def text(*more):
        some = [*rng.sample(words, rng.randint(3, 9)), *more]
        rng.shuffle(some)
        return " ".join(some)

    return [Preference(text("kind"), text("rude"), f"row {i}") for i in range(n)]


def test_log_loss_by_hand():
    assert log_loss([0.0]) == pytest.approx(0.6931471806)
    assert log_loss([2.0, -1.0]) == pytest.approx((0.1269280110 + 1.3132616875) / 2)
    assert log_loss([1000.0, -1000.0]) == pytest.approx(500.0)


def test_a_model_is_calibrated_where_it_is_as_often_right_as_it_says():
    """Four pairs at 75%: three right. Then four at 75% of which one is right."""
    margin = math.log(3)
    assert calibration_error([margin] * 3 + [-margin]) == pytest.approx(0.0)
    assert calibration_error([margin] + [-margin] * 3) == pytest.approx(0.5)
    [part] = reliability([margin] * 3 + [-margin])
    assert (part.confidence, part.accuracy, part.pairs) == (pytest.approx(0.75), 0.75, 4)
    low, high = reliability([0.0, 20.0])
    assert (low.accuracy, high.accuracy) == (0.5, 1.0)


def test_the_temperature_is_the_one_that_the_data_were_made_with():
    generator = torch.Generator().manual_seed(0)
    chances = torch.randn(20_000, generator=generator) * 2
    signs = torch.where(torch.rand(20_000, generator=generator) < chances.sigmoid(), 1.0, -1.0)
    margins = (signs * chances * 3).tolist()  # three times too sure
    fitted = fitted_temperature(margins)
    assert fitted == pytest.approx(3, rel=0.05)
    best = log_loss([margin / fitted for margin in margins])
    assert best < min(log_loss([margin / t for margin in margins]) for t in (2.5, 3.5))
    assert calibration_error([margin / 3 for margin in margins]) < 0.01 < calibration_error(margins)
    assert fitted_temperature([-1.0, -2.0]) == math.inf
    assert fitted_temperature([1.0, 2.0]) == pytest.approx(0.01)


def test_correlation_is_torchs():
    both = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    assert correlation(*both.tolist()) == pytest.approx(torch.corrcoef(both)[0, 1].item(), abs=1e-6)
    assert correlation([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_baselines():
    train, held = pairs(60), pairs(40, seed=1)
    assert bag_of_words_accuracy(train, held, seed=0) == 1.0
    assert 0.3 < length_accuracy(train, held) < 0.7
    short = [Preference("a", "aaa"), Preference("aa", "aaaa")]
    assert length_accuracy(short, short) == 1.0
    assert length_accuracy(short, [Preference("aaa", "a"), Preference("a", "b")]) == 0.25
    chinese = [Preference(f"很好的回答{i}", f"很差的回答{i}") for i in range(20)]
    assert bag_of_words_accuracy(chinese[:10], chinese[10:], seed=0) == 1.0


def test_small_changes():
    assert synonyms("a big problem, maybe; bigger") == "a large issue, perhaps; bigger"
    assert synonyms("因此非常重要") == "所以十分关键"
    assert sorted(typos("the kindest of words")) == sorted("the kindest of words") != typos("the kindest of words")
    assert PERTURBATIONS["spaces doubled"]("a b  c") == "a  b  c"
    chat = [{"role": "user", "content": "HI"}, {"role": "assistant", "content": "Ho"}]
    assert [m["content"] for m in perturbed(chat, str.lower)] == ["hi", "ho"]
    assert chat[0]["content"] == "HI"


def test_of_one_pair_nothing_is_learnt_but_its_length():
    assert trust_report(score, pairs(5), pairs(1)).baselines.keys() == {"length"}
    assert trust_report(score, pairs(5), pairs(2)).baselines.keys() == {"length", "TF-IDF"}


def score(texts):
    """Kind is good, rude is bad; it reads lower case alone, and likes length a little."""
    return [("kind" in text) - 2 * ("rude" in text) + 0.01 * len(text) for text in texts]


def test_a_report():
    held = [*pairs(30), Preference("rude", "kind " * 3, "the wrong one")]
    report = trust_report(score, held, pairs(40, seed=5))
    assert report.accuracy == pytest.approx(30 / 31)
    assert report.low < 30 / 31 < report.high
    assert report.swapped == pytest.approx(1 / 31)
    [error] = report.worst
    assert (error.origin, error.margin) == ("the wrong one", pytest.approx(-2 + 0.04 - 1 - 0.15))
    assert report.baselines["TF-IDF"] > 0.9
    assert report.agreement == {**dict.fromkeys(PERTURBATIONS, 1.0), "typos": report.agreement["typos"]}
    assert 0 < report.length_correlation < 1
    assert (
        trust_report(lambda texts: [float(text.isupper()) for text in texts], [Preference("AB", "ab")]).agreement[
            "lower case"
        ]
        == 0.0
    )


def test_a_score_of_more_than_the_text_is_seen():
    """Whatever is scored first wins: accuracy after swapping does not fall."""
    calls = iter(range(100))
    report = trust_report(lambda texts: [-float(next(calls))] * len(texts), pairs(5))
    assert report.accuracy == report.swapped == 1.0


def test_it_needs_pairs():
    with pytest.raises(ValueError, match="held-out pairs"):
        trust_report(score, [])


def test_files(tmp_path):
    report = trust_report(score, pairs(30), pairs(40, seed=5))
    write_report(report, tmp_path / "trust")
    assert {path.name for path in (tmp_path / "trust").iterdir()} == {"trust.json", "trust.md", "trust.png"}
    numbers = json.loads((tmp_path / "trust/trust.json").read_text())
    assert numbers["accuracy"] == 1.0
    page = (tmp_path / "trust/trust.md").read_text()
    assert "| accuracy | 100.0% | 95% interval 88.6% to 100.0%; " in page
    assert "The" not in as_page(trust_report(score, pairs(3))).splitlines()[-1]


def test_after_every_training(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    rows = [{"chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs(30)]
    settings = {"batch_size": 8, "epochs": 20, "learning_rate": 1e-2, "device": "cpu"}
    modeling = RewardModeling(tmp_path / "base", rows[:24], settings, eval_data=rows[24:], run=tmp_path / "run",
                              progress=False)  # fmt: skip
    summary = modeling.train()
    found = json.loads((tmp_path / "run/trust/trust.json").read_text())
    assert found["accuracy"] == pytest.approx(summary["after"]["accuracy"]) == summary["trust"]["accuracy"]
    assert found["log_loss"] == pytest.approx(summary["after"]["loss"], abs=1e-4)
    assert set(found["baselines"]) == {"length", "TF-IDF"}
    assert found["pairs"] == 6
