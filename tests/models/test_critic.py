"""Critics of both kinds: where they start, and what they write and read."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kedge.errors import ModelError
from kedge.models.batch import padded
from kedge.models.critic import SharedCritic, new_critic
from kedge.models.forward import forward_tokens
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.scalar import ScalarHead, ScalarModel, write_head

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11, 12]]


def values(critic, lm):
    tokens, _ = padded(SEQUENCES, 0)
    mask = torch.tensor([[False, True, True, True, True], [False, True, True, False, False]])
    found = critic.values(tokens, mask)
    if critic.value_head is not None:  # off the policy's own pass
        together = forward_tokens(lm, tokens, mask, value_head=critic.value_head, temperature=1.0).values
        assert torch.allclose(found, together, atol=1e-5)
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_round_trip(tiny_lm, tmp_path, kind):
    lm = tiny_lm("llama")
    critic, again = new_critic(kind, lm), new_critic(kind, lm)
    assert values(critic, lm).eq(0).all()  # an untrained critic claims nothing
    for weight in critic.parameters():
        weight.add_(0.1)
    critic.save(tmp_path / "critic")
    assert (tmp_path / "critic" / "value_head.safetensors").is_file()
    again.load_weights(tmp_path / "critic")
    want = values(critic, lm)
    assert want.abs().max() > 0.01
    assert torch.equal(values(again, lm), want)


@torch.no_grad()
def test_shared_and_separate_agree_on_the_same_trunk(arch, tiny_lm):
    lm = tiny_lm(arch)
    shared, separate = new_critic("shared", lm), new_critic("separate", lm)
    torch.nn.init.normal_(shared.linear.weight)
    separate.head.load_state_dict(shared.state_dict())
    assert values(shared, lm).tolist()[0] == pytest.approx(values(separate, lm).tolist()[0], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mamba"])  # with a sequence classification class, and without
def test_starts_from_the_reward_model(tiny_lm, tmp_path, name):
    lm = tiny_lm(name)
    lm.save(tmp_path / "base")
    reward_model = new_reward_model(tmp_path / "base", device="cpu")
    head = reward_model.model.head.linear if name == "mamba" else reward_model.model.score
    torch.nn.init.normal_(head.weight)
    reward_model.save(tmp_path / "rm")
    reward_model = load_reward_model(tmp_path / "rm", device="cpu")
    critic = new_critic("separate", lm, reward_model)
    # What the critic sees after the last token is the reward model's score; the critic's own copy, though.
    tokens = torch.tensor([SEQUENCES[0]])
    after_each = critic(tokens)
    assert after_each[0, -1].item() == pytest.approx(reward_model([SEQUENCES[0]]).item(), abs=1e-5)
    critic.head.linear.weight.zero_()
    assert reward_model([SEQUENCES[0]]).item() != 0


@pytest.mark.shared
def test_reward_model_with_another_tokenizer(tiny_lm, gpt2_tokenizer, tmp_path):
    tiny_lm("gpt2", tokenizer=gpt2_tokenizer, vocab_size=50257, n_embd=8).save(tmp_path)
    with pytest.raises(ModelError, match="another tokenizer"):
        new_critic("separate", tiny_lm("llama"), new_reward_model(tmp_path, device="cpu"))


def test_refuses_what_does_not_fit(tiny_lm, tmp_path):
    lm = tiny_lm("llama")
    with pytest.raises(ModelError, match="head is missing"):
        SharedCritic(lm).load_weights(tmp_path)
    (tmp_path / "narrow").mkdir()
    write_head(ScalarHead(16).state_dict(), tmp_path / "narrow/value_head.safetensors")
    with pytest.raises(ModelError, match="needs"):
        new_critic("shared", lm).load_weights(tmp_path / "narrow")
    lm.save(tmp_path / "policy")
    with pytest.raises(ModelError, match="head is missing"):
        new_critic("separate", lm).load_weights(tmp_path / "policy")


def test_a_classifier_with_more_labels_gives_no_head(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path)
    three = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert ScalarModel.from_trunk_of(three).head.linear.weight.eq(0).all()
