"""Reward models as an ensemble: mean and spread by hand, and the same models as each alone."""

import statistics

import pytest
import torch

from kedge import PPO
from kedge.data.records import Prompt
from kedge.errors import ConfigError
from kedge.models.reward_loading import new_reward_model
from kedge.rewards.build import build_reward
from kedge.sampling.completion import Completion

PROMPTS = [Prompt("the cat"), Prompt("a dog")]
ANSWERS = [Completion([5], [7], [0.0], " sat on the mat", "eos"), Completion([5], [9], [0.0], " ran", "eos")]


@pytest.fixture
def models(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = new_reward_model(tmp_path / "base", device="cpu")
        model.save(tmp_path / f"rm{seed}")
        found.append(model)
    return found


@pytest.mark.parametrize("caution", [0.0, 2.0])
def test_mean_less_spread(models, tmp_path, caution):
    folders = [str(tmp_path / f"rm{seed}") for seed in range(3)]
    reward = build_reward([{"kind": "ensemble", "models": folders, "caution": caution}], device="cpu")
    scores = reward(PROMPTS, ANSWERS)
    texts = ["the cat sat on the mat", "a dog ran"]
    each = list(zip(*[model.score(texts) for model in models], strict=True))
    want = [statistics.fmean(x) - caution * statistics.pstdev(x) for x in each]
    assert scores.total == pytest.approx(want, abs=1e-5)
    assert scores.components["ensemble_spread"] == pytest.approx([statistics.pstdev(x) for x in each], abs=1e-5)
    assert all(spread > 1e-3 for spread in scores.components["ensemble_spread"])
    assert scores.remarks["ensemble"][1] == "members: " + ", ".join(f"{x:.2f}" for x in each[1])
    assert len(reward.models()) == 3


def test_in_a_run(models, tiny_lm, tmp_path):
    lm = tiny_lm("llama")
    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 6}
    reward = {"kind": "ensemble", "models": models, "weight": 2.0}
    [metrics] = PPO(lm.model, ["the cat", "a dog"], reward, settings, tokenizer=lm.tokenizer, progress=False)
    assert metrics["objective/scores"] == pytest.approx(2 * metrics["rewards/ensemble"], abs=1e-5)
    assert metrics["rewards/ensemble_spread"] > 0


@pytest.mark.parametrize("wrong", [{"models": ["a"]}, {"models": ["a", "b"], "caution": -1}, {"caution": 1}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match=r"models|caution"):
        build_reward([{"kind": "ensemble"} | wrong])
