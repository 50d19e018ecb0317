"""Ratings: their loss by hand, what is learnt of several objectives, and what comes of it in scores and PPO."""

import json
import statistics

import pytest
import torch

from kedge import PPO, RewardConfig, RewardModeling
from kedge.core import rating_loss
from kedge.data.files import rows_of
from kedge.data.ratings import labelled
from kedge.data.records import read_prompts
from kedge.errors import ConfigError, DataError, KedgeError
from kedge.evaluation.evaluate import measure_policy
from kedge.evaluation.scoring import score_rows
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import load_reward_model
from kedge.rewards.model import ModelReward
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

NAN = float("nan")
WORDS = ["cat", "dog", "ship", "house", "mat"]
ROWS = [
    {"prompt": "the", "completion": f" {a} {b}", "cats": 10 + 5 * ("cat" in (a, b)), "ships": 3 * (b == "ship")}
    for a in WORDS
    for b in WORDS
]
BOTH = {"cats": 1.0, "ships": -2.0}


def test_the_loss_by_hand():
    outputs = torch.tensor([[1.0, 2.0], [0.0, 5.0]], requires_grad=True)
    loss, metrics = rating_loss(outputs, torch.tensor([[0.0, 4.0], [3.0, NAN]]), denominator=4)
    assert loss.item() == pytest.approx(((1 + 4) / 2 + 9) / 4)
    assert metrics["error"].item() == loss.item()
    loss.backward()
    assert outputs.grad.tolist() == [[0.25, -0.5], [-1.5, 0.0]]


@pytest.fixture
def make_rm(make_labelled):
    return lambda rows=ROWS, **how: make_labelled(rows, **({"epochs": 12} | how))


def test_two_objectives_are_learnt(make_rm, tmp_path):
    rm = make_rm(objectives=BOTH, run=tmp_path / "run", epochs=45)
    summary = rm.train()
    trained = load_reward_model(tmp_path / "run")
    texts = ["the cat dog", "the dog cat", "the dog ship", "the mat mat"]
    told = score_rows(trained, rows_of([{"text": text} for text in texts]))
    want = [(15, 0), (15, 0), (10, 3), (10, 0)]
    for row, (cats, ships) in zip(told, want, strict=True):
        assert row["cats"] == pytest.approx(cats, abs=1.0)
        assert row["ships"] == pytest.approx(ships, abs=0.6)
        assert row["score"] == pytest.approx(row["cats"] - 2 * row["ships"], abs=1e-4)
    assert summary["after"]["error"] < 0.1 < summary["before"]["error"]
    assert summary["trust"]["cats"]["correlation"] > 0.95
    assert {"bag_of_words", "rmse", "spread"} <= summary["trust"]["ships"].keys()
    page = (tmp_path / "run/trust/trust.md").read_text()
    assert page.startswith("# Trust report: 4 held-out texts")
    assert "| ships: correlation |" in page
    assert "## cats: furthest from the raters" in page
    assert (tmp_path / "run/trust/trust.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "run/trust/trust.json").read_text())
    assert [each["objective"] for each in report] == ["cats", "ships"]
    assert report[0]["rated"] == [example.record.scores[0] for example in rm.unseen]


def test_a_column_called_score_is_learnt_unasked(make_rm):
    rm = make_rm([{"text": row["prompt"] + row["completion"], "score": row["cats"]} for row in ROWS], epochs=30)
    rm.train()
    assert rm.model.score(["the cat dog", "the dog mat"]) == pytest.approx([15, 10], abs=1.0)
    assert score_rows(rm.model, rows_of([{"text": "the cat"}]))[0].keys() == {"score"}


def test_an_architecture_without_the_class_learns_one(make_rm):
    rm = make_rm(arch="mamba", objectives={"cats": 1.0}, epochs=30)
    rm.train()
    assert rm.model.score(["the cat dog", "the dog mat"]) == pytest.approx([15, 10], abs=1.5)


def test_micro_batches_and_gaps_change_nothing(make_rm, vector):
    gaps = [row | ({"ships": None} if i % 3 else {}) for i, row in enumerate(ROWS)]
    whole, parts = (make_rm(gaps, objectives=BOTH, epochs=1, micro_batch_tokens=size) for size in (4096, 12))
    for rm in (whole, parts):
        rm.train()
    assert torch.allclose(vector(whole.module), vector(parts.module), atol=1e-5)


def test_resumed_is_uninterrupted(make_rm, vector, tmp_path):
    whole = make_rm(objectives=BOTH, run=tmp_path / "whole", epochs=1)
    whole.train()
    broken = make_rm(objectives=BOTH, run=tmp_path / "broken", epochs=1, checkpoint_every=2)
    for _ in zip(range(3), broken, strict=False):
        pass
    resumed = RewardModeling.resume(tmp_path / "broken", data=ROWS, progress=False)
    assert resumed.step_done == 2
    resumed.train()
    assert torch.equal(vector(resumed.module), vector(whole.module))
    assert load_reward_model(tmp_path / "broken").reading == whole.model.reading


def test_ppo_is_told_each_objective(make_rm, tmp_path, tiny_lm):
    make_rm(objectives=BOTH, run=tmp_path / "run", epochs=1).train()
    lm = tiny_lm("llama")
    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 4}
    both, cats = (
        next(iter(PPO(lm.model, ["the"], reward, settings, tokenizer=lm.tokenizer, progress=False)))
        for reward in (
            {"model": tmp_path / "run", "name": "r"},
            {"model": tmp_path / "run", "name": "r", "objectives": {"cats": 3.0}},
        )
    )
    assert both["rewards/r"] == pytest.approx(both["rewards/r_cats"] - 2 * both["rewards/r_ships"], abs=1e-4)
    assert cats["rewards/r"] == pytest.approx(3 * cats["rewards/r_cats"], abs=1e-4)
    assert cats["objective/scores"] == pytest.approx(cats["rewards/r"])


@pytest.mark.parametrize(
    ("rows", "settings", "error", "said"),
    [
        (ROWS, {"objectives": {"dogs": 1.0}}, DataError, "column 'dogs'"),
        (ROWS, {"objectives": BOTH, "label_smoothing": 0.1}, ConfigError, "label_smoothing: not used with ratings"),
        (ROWS, {"objectives": BOTH, "length_debiasing": True}, ConfigError, "length_debiasing: not used with ratings"),
        ([ROWS[0] | {"cats": "many"}], {"objectives": BOTH}, DataError, "row 1: 'cats' must be a number.*not 'many'"),
        ([ROWS[0] | {"cats": NAN}], {"objectives": BOTH}, DataError, "row 1: 'cats' must be a number"),
        ([ROWS[0] | {"cats": True}], {"objectives": BOTH}, DataError, "row 1: 'cats' must be a number"),
        ([*ROWS[:2], {"text": "a", "cats": ""}], {"objectives": {"cats": 1.0}}, DataError, "row 3: "),
        (ROWS, {"objectives": {"cats": 0.0, "ships": 0.0}}, ConfigError, "objectives: all weigh 0"),
        (ROWS, {"objectives": {"score": 1.0, "ships": 1.0}}, ConfigError, "'score' is a name of kedge's own"),
        ([ROWS[0], ROWS[6]], {"objectives": BOTH}, DataError, "objectives: 'ships': all are 0, in 2 rows"),
    ],
)
def test_what_cannot_be_learnt(make_rm, rows, settings, error, said):
    with pytest.raises(error, match=said):
        make_rm(rows, **settings)


def test_pairs_and_labels_that_have_a_score_too_are_what_they_were():
    pairs = labelled(rows_of([{"chosen": "a", "rejected": "b", "score": 3}]))
    assert (pairs[0].chosen, pairs[0].rejected) == ("a", "b")
    tagged = labelled(rows_of([{"text": "a", "label": 1, "score": 3}, {"text": "b", "label": 0, "score": 4}]))
    assert (tagged[0].chosen, tagged[0].rejected) == ("a", "b")


def test_settings_of_a_recipe():
    assert RewardConfig(objectives={"a": 1, "b": -0.5}).objectives == {"a": 1.0, "b": -0.5}


class TestReference:
    """Scores of mean 0 and spread 1 on a policy's answers."""

    @pytest.fixture
    def reference(self, tiny_lm, tmp_path):
        tiny_lm("gpt2", seed=4).save(tmp_path / "policy")
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"the {w}"}) + "\n" for w in WORDS * 8))
        return {"policy": str(tmp_path / "policy"), "prompts": str(tmp_path / "prompts.jsonl"), "response_length": 5}

    @pytest.mark.parametrize("arch", ["llama", "mamba"])
    def test_it_is_stored_with_the_model(self, make_rm, reference, tmp_path, arch):
        rm = make_rm(arch=arch, objectives={"cats": 1.0}, run=tmp_path / "run", epochs=2, reference=reference)
        summary = rm.train()
        trained = load_reward_model(tmp_path / "run")
        evaluation = evaluate_answers(trained, reference, seed=0)
        assert statistics.fmean(evaluation) == pytest.approx(0.0, abs=1e-4)
        assert statistics.pstdev(evaluation) == pytest.approx(1.0, abs=1e-4)
        assert trained.reading.mean == summary["reference"]["mean"] == pytest.approx(10, abs=6)
        assert rm.model.score(["the cat"]) == pytest.approx(trained.score(["the cat"]), abs=1e-5)
        # What raters gave is still what the objective says.
        outputs = trained.run_texts(["the cat"])
        raw = trained.reading.each(outputs)["cats"].item()
        assert trained.score(["the cat"])[0] == pytest.approx(
            (raw - trained.reading.mean) / trained.reading.std, abs=1e-4
        )

    def test_of_pairs(self, make_rm, reference, tmp_path):
        pairs = [{"prompt": "the", "chosen": f" cat {w}", "rejected": f" dog {w}"} for w in WORDS]
        summary = make_rm(pairs * 2, run=tmp_path / "run", epochs=1, reference=reference | {"limit": 20}).train()
        scores = evaluate_answers(load_reward_model(tmp_path / "run"), reference, seed=0)[:20]
        assert (statistics.fmean(scores), statistics.pstdev(scores)) == (
            pytest.approx(0, abs=1e-4),
            pytest.approx(1, abs=1e-4),
        )
        assert summary["trust"]["accuracy"] <= 1

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"policy": "nowhere/x"}, "nowhere/x"),
            ({"prompts": "no.jsonl"}, "no.jsonl"),
            ({"prompts": "one.jsonl"}, r"one\.jsonl has 1 prompt; a spread needs two"),
            ({"prompts": "long.jsonl"}, r"long\.jsonl: line 2 has \d+ tokens, and the policy 128 positions"),
            ({"prompts": "chat.jsonl"}, r"chat\.jsonl has chat prompts, but the reward model's tokenizer no template"),
        ],
    )
    def test_what_is_missing_is_told_before_anything_is_trained(
        self, make_rm, reference, wrong, said, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        chat = [{"role": "user", "content": "the"}]
        for name, prompts in (("one", ["a"]), ("long", ["a", "the cat " * 90]), ("chat", [chat] * 2)):
            rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
            (tmp_path / f"{name}.jsonl").write_text(rows)
        make_rm(objectives=BOTH)
        (tmp_path / "base-llama/chat_template.jinja").unlink()
        with pytest.raises(KedgeError, match=said):
            make_rm(objectives=BOTH, reference=reference | wrong)


def evaluate_answers(model, reference, *, seed):
    """Its scores of what the reference answers."""
    policy = load_language_model(reference["policy"])
    prompts = read_prompts(reference["prompts"])
    sampling = Sampling(max_new_tokens=reference["response_length"])
    return measure_policy(policy, Engine(policy), prompts, {"s": ModelReward(model)}, sampling, seed=seed).scores["s"]
