"""A reward model as a reward: scored on text, by its own tokenizer."""

import pytest
import torch

from kedge.data.records import Prompt
from kedge.errors import RewardError
from kedge.models.reward_model import RewardModel, new_reward_model
from kedge.rewards.model import ModelReward
from kedge.sampling.completion import Completion

CHAT = [{"role": "user", "content": "the cat"}]


@pytest.fixture
def reward_model(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    model = new_reward_model(tmp_path / "base", device="cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.score.weight)
    return model


def done(text):
    return Completion([40_000, 40_001], [50_000, 50_001], [0.0, 0.0], text, "eos")  # ids of a far larger vocabulary


@torch.no_grad()
def by_hand(model: RewardModel, text: str) -> float:
    ids = model.tokenizer(text).input_ids
    return model.model(torch.tensor([ids])).logits.item()


def test_scores_the_text_not_the_policys_ids(reward_model):
    prompts = [Prompt("the cat"), Prompt("a little ship and")]
    scores = ModelReward(reward_model)(prompts, [done(" sat"), done(" the dog")])
    want = [by_hand(reward_model, t) for t in ("the cat sat<eos>", "a little ship and the dog<eos>")]
    assert scores.total == pytest.approx(want, abs=1e-5)
    assert scores.components == {"reward_model": scores.total}
    assert scores.per_token == [None, None]
    assert want[0] != want[1]


def test_chat_through_its_own_template(reward_model):
    [score] = ModelReward(reward_model, "judge")([Prompt(CHAT)], [done("sat")]).components["judge"]
    assert score == pytest.approx(by_hand(reward_model, "<|user|>the cat<eos><|assistant|>sat<eos>"), abs=1e-5)


def test_a_message_that_the_prompt_begins_is_judged_with_its_rest(reward_model):
    begun = [*CHAT, {"role": "assistant", "content": "sat "}]
    [score] = ModelReward(reward_model)([Prompt(begun)], [done("down")]).total
    assert score == pytest.approx(by_hand(reward_model, "<|user|>the cat<eos><|assistant|>sat down<eos>"), abs=1e-5)


def test_chat_without_a_template(reward_model):
    reward_model.tokenizer.chat_template = None
    with pytest.raises(RewardError, match="no chat template") as error:
        ModelReward(reward_model)([Prompt(CHAT)], [done("sat")])
    assert "the cat" in str(error.value)


def test_a_score_that_is_not_finite_shows_its_sample(reward_model):
    torch.nn.init.constant_(reward_model.model.score.weight, torch.nan)
    with pytest.raises(RewardError, match="reward_model gave nan") as error:
        ModelReward(reward_model)([Prompt("the cat")], [done(" sat")])
    assert "the cat" in str(error.value)
