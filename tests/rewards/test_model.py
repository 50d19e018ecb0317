"""A reward model as a reward: scored on text, by its own tokenizer."""

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from kedge import PPO
from kedge.data.records import Prompt
from kedge.errors import RewardError
from kedge.models.reward_loading import new_reward_model
from kedge.models.reward_model import RewardModel
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


@pytest.fixture
def gpt2(shared, tmp_path):
    """``gpt2(template)``: the folder of a random GPT-2 with the real GPT-2's tokenizer, which has no pad token."""

    def make(template=None):
        tokenizer = AutoTokenizer.from_pretrained(shared / "models/gpt2-tokenizer")
        tokenizer.chat_template = template
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=128)
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
        tokenizer.save_pretrained(tmp_path / "gpt2")
        return tmp_path / "gpt2"

    return make


def one_step(policy, judge, prompts, **more):
    """The trainer after a step of PPO, and its metrics."""
    torch.manual_seed(1)
    torch.nn.init.normal_(judge.model.score.weight)
    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 8, "device": "cpu"} | more
    ppo = PPO(policy, prompts, judge, settings, progress=False)
    return ppo, next(iter(ppo))


@pytest.mark.shared
def test_stories_judged_by_a_gpt2(shared, gpt2):
    """The texts are read with GPT-2's tokens, whose EOS is no pad token at the end of a text."""
    judge = new_reward_model(gpt2(), device="cpu")
    ppo, metrics = one_step(shared / "models/stories260K", judge, ["Once upon a time"], stop_tokens="<s>")
    texts = ["Once upon a time" + c.text for c in ppo.experience.completions]
    assert metrics["objective/scores"] == pytest.approx(sum(by_hand(judge, text) for text in texts) / 4, abs=1e-4)
    assert len({by_hand(judge, text) for text in texts}) > 1


@pytest.mark.shared
def test_a_gpt2_judged_by_stories(shared, gpt2):
    """And the reverse; a conversation goes through the judge's own template, which is another one."""
    stories = new_reward_model(shared / "models/stories260K", device="cpu")
    stories.tokenizer.chat_template = "{% for m in messages %}({{ m.role[0] }}) {{ m.content }} {% endfor %}"
    chat = [{"role": "user", "content": "Tell me a story"}]
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>>{% endif %}"
    )
    ppo, metrics = one_step(gpt2(template), stories, [chat])
    texts = [f"(u) Tell me a story (a) {c.text} " for c in ppo.experience.completions]
    rows = [stories.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in texts]
    with torch.no_grad():
        want = [stories.model(ids).logits.item() for ids in rows]
    assert metrics["objective/scores"] == pytest.approx(sum(want) / 4, abs=1e-4)
