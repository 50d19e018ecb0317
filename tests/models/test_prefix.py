"""Prefix tuning: what PEFT gives with the same numbers as the beginning of a cache, however the model is run."""

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    OPTConfig,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kedge.errors import ConfigError, ModelError
from kedge.models.adapters import adapter_of, add_adapter, base_within, merge
from kedge.models.critic import new_critic
from kedge.models.forward import forward_tokens
from kedge.models.language_model import load_language_model, positions_of
from kedge.models.prefix import PREFIXED, SPREAD, prefix_length, prefixes_of, saved_form
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.reward_model import adapted_part
from kedge.sampling.local.columns import ColumnDecoder
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.slots import SlotDecoder
from kedge.sampling.settings import Sampling

TOKENS = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
PREFIX = {"method": "prefix_tuning", "num_virtual_tokens": 3}
KINDS = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi3", "olmo2")
OTHERS = {
    "mistral": "keeps something else", "gemma2": "keeps something else", "gemma3_text": "keeps something else",
    "mamba": "sdpa", "lfm2": "keeps something else", "kedge_lstm": "sdpa",
}  # fmt: skip


@pytest.fixture
def base(tiny_lm, tmp_path):
    """The folder of a tiny model."""
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def with_prefix(folder, seed=1):
    lm = load_language_model(folder, device="cpu")
    add_adapter(lm.model, PREFIX, seed=seed)
    return stirred(lm)


def stirred(lm, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in lm.trained():
            weight.add_(torch.randn(weight.shape, generator=generator))
    return lm


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_is_saved(tiny_lm, tmp_path, kind):
    tiny_lm(kind).save(tmp_path / "base")
    lm = with_prefix(tmp_path / "base")
    want = logits(lm.model)
    assert not torch.allclose(want, logits(load_language_model(tmp_path / "base", device="cpu").model), atol=0.1)
    lm.save(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():  # PEFT gives the cache it has made; without a mask it makes none of the prefix
        assert torch.allclose(theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits, want, atol=1e-5)
    for merged in (True, False):  # a prefix is no part of any weight, and stays
        ours = load_language_model(tmp_path / "adapter", device="cpu", merged=merged)
        assert torch.equal(logits(ours.model), want)
        assert prefix_length(ours.model) == 3
    assert {name for name, weight in ours.model.named_parameters() if weight.requires_grad} == {
        f"{name}.{part}" for name in prefixes_of(ours.model) for part in ("keys", "values")
    }


def test_no_architecture_is_left_out(arch):
    assert (arch in KINDS) != (arch in OTHERS)


@pytest.mark.parametrize("kind", OTHERS)
def test_one_that_it_does_not_go_with_is_refused(tiny_lm, kind):
    with pytest.raises(ConfigError, match=f"adapter.method: prefix_tuning does not go with .*{OTHERS[kind]}"):
        add_adapter(tiny_lm(kind).model, PREFIX, seed=0)


def test_a_model_that_calls_only_a_part_of_its_trunk(tmp_path, tiny_tokenizer):
    """OPT's head is behind the decoder within the trunk: the text's positions must be right there too."""
    config = OPTConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    add_adapter(model, PREFIX, seed=1)
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ).eval()
    saved = saved_form(prefixes_of(model), model.state_dict())["prompt_embeddings"]
    theirs.prompt_encoder["default"].load_prompt_embeddings(saved)
    with torch.no_grad():
        want = theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    assert torch.allclose(logits(model), want, atol=1e-5)


def test_another_attention_is_refused_and_not_replaced(base):
    lm = load_language_model(base, device="cpu", attn_implementation="eager")
    with pytest.raises(ConfigError, match="computed by 'eager'"):
        add_adapter(lm.model, PREFIX, seed=0)


def test_one_that_does_not_read_it_as_its_cache_is_refused(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    monkeypatch.setitem(AttentionInterface._global_mapping, PREFIXED, sdpa_attention_forward)
    with pytest.raises(ConfigError, match="does not read it as the beginning of its cache"):
        add_adapter(lm.model, PREFIX, seed=0)


def test_it_begins_near_the_model(fresh_stories):
    """PEFT's own first numbers make noise of what a model says; these leave it nearly as it was."""
    lm = fresh_stories()
    story = torch.tensor([lm.tokenizer("Once upon a time, there was a girl. She had a dog.").input_ids])

    def surprise():
        said = logits(lm.model, story)[0, :-1].log_softmax(-1)
        return float(-said.gather(1, story[0, 1:, None]).mean())

    plain = surprise()
    add_adapter(lm.model, PREFIX | {"num_virtual_tokens": 20}, seed=0)
    assert abs(surprise() - plain) < 0.3
    with torch.no_grad():
        for weight in lm.trained():
            weight.div_(SPREAD)
    assert surprise() > plain + 1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_all_ways_to_run_it_agree(tiny_lm, tmp_path, kind):
    """In slots, by columns and whole; alone and beside others of other lengths."""
    tiny_lm(kind).save(tmp_path)
    lm = with_prefix(tmp_path)
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    greedy = Sampling(max_new_tokens=6, temperature=0)
    engine = Engine(lm)
    answers = [each.ids for each in engine.generate(prompts, greedy)]
    assert isinstance(engine._decoder, SlotDecoder)
    engine._decoder = ColumnDecoder(lm.model)
    assert [each.ids for each in engine.generate(prompts, greedy)] == answers
    for prompt, answer in zip(prompts, answers, strict=True):
        text = list(prompt)
        for token in answer:
            assert int(logits(lm.model, torch.tensor([text]))[0, -1].argmax()) == token
            text.append(token)


def test_scored_as_it_was_drawn(base):
    lm = with_prefix(base)
    done = Engine(lm).generate([[5, 6, 7], [8, 9, 10, 11, 12]], Sampling(max_new_tokens=5, temperature=0.7), seed=3)
    for each in done:
        row = torch.tensor([[*each.prompt_ids, *each.ids, 0, 0]])  # right-padded
        mask = torch.zeros_like(row, dtype=torch.bool)
        mask[0, len(each.prompt_ids) : len(each.prompt_ids) + len(each.ids)] = True
        found = forward_tokens(lm, row, mask, temperature=0.7).logprobs[mask]
        assert torch.allclose(found, torch.tensor(each.logprobs), atol=1e-4)


def test_the_gradient_is_that_of_the_cache(base):
    """Against PEFT's, of the same numbers."""
    lm = with_prefix(base)
    lm.save(base.parent / "adapter")
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    saved = load_file(base.parent / "adapter/adapter_model.safetensors")["prompt_embeddings"]
    theirs.prompt_encoder["default"].load_prompt_embeddings(saved)
    theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits.logsumexp(-1).sum().backward()
    lm.model(input_ids=TOKENS, use_cache=False).logits.logsumexp(-1).sum().backward()
    want = theirs.prompt_encoder["default"].embedding.weight.grad.view(3, 4, 2, 8)  # 2 layers, 2 heads of 8
    for number, prefix in enumerate(prefixes_of(lm.model).values()):
        assert torch.allclose(prefix.keys.grad, want[:, 2 * number].transpose(0, 1), atol=1e-5)
        assert torch.allclose(prefix.values.grad, want[:, 2 * number + 1].transpose(0, 1), atol=1e-5)
    assert all(weight.grad is None for name, weight in lm.model.named_parameters() if ".prefix." not in name)


def test_one_that_peft_has_made(base, tmp_path):
    """Brought along in PEFT's class, and saved by PEFT; with an MLP before it, what that gives."""
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        want = theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_language_model(tmp_path / "theirs", tokenizer=base, device="cpu")
    assert torch.allclose(logits(loaded.model), want, atol=1e-5)
    model = base_within(theirs)
    assert torch.allclose(logits(model), want, atol=1e-5)
    assert adapter_of(model).num_virtual_tokens == 4
    loaded.save(tmp_path / "again")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "again").eval()
    with torch.no_grad():
        assert torch.allclose(again(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits, want, atol=1e-5)


def test_roles_on_one_trunk(base, tmp_path):
    """The reference has no prefix, critic and reward model their own; what is frozen is in memory once."""
    policy = load_language_model(base, device="cpu")
    plain = logits(policy.model)
    policy.model.requires_grad_(False)
    reference = policy.frozen_copy()
    add_adapter(policy.model, PREFIX, seed=1)
    critic = new_critic("separate", policy)
    stirred(policy)
    assert torch.equal(logits(reference.model), plain)
    assert prefix_length(reference.model) == 0
    values = critic.module(TOKENS)
    stirred(critic, seed=9)
    assert not torch.allclose(critic.module(TOKENS), values)
    assert len(critic.trained()) == 4 + 2  # keys and values of two layers, and the head
    critic.save(tmp_path / "critic")
    kept = critic.module(TOKENS)
    stirred(critic, seed=10)
    critic.load_weights(tmp_path / "critic")
    assert torch.equal(critic.module(TOKENS), kept)
    shared = {id(weight) for weight in policy.model.parameters() if not weight.requires_grad}
    assert {id(weight) for weight in reference.model.parameters()} == shared
    assert {id(w) for w in critic.module.parameters() if not w.requires_grad} <= shared


def test_a_reward_model(base, tmp_path):
    reward = new_reward_model(base, device="cpu")
    before = reward.score(["one two", "three"])
    add_adapter(adapted_part(reward), PREFIX, seed=1)
    stirred(reward)
    scores = reward.score(["one two", "three"])
    assert scores != before
    reward.save(tmp_path / "reward")
    assert load_reward_model(tmp_path / "reward", device="cpu").score(["one two", "three"]) == pytest.approx(scores)
    theirs = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), tmp_path / "reward"
    ).eval()
    theirs.base_model.config.pad_token_id = 0
    ids = torch.tensor([reward.encode_whole("one two")])
    with torch.no_grad():
        assert theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item() == pytest.approx(
            scores[0], abs=1e-4
        )


def test_a_static_cache(base):
    """Longer than the prompt, and causal from its first column on."""
    model = with_prefix(base).model
    cache = StaticCache(config=model.config, max_cache_len=32)
    with torch.no_grad():
        found = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), past_key_values=cache).logits
    assert torch.allclose(found, logits(model), atol=1e-5)


def test_a_peft_model_is_left_as_it_is(base):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        before = theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
        ours = base_within(theirs)
        assert torch.equal(theirs(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits, before)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=TOKENS).logits, before, atol=0.1)
    assert torch.allclose(logits(ours), before, atol=1e-5)


@pytest.mark.parametrize("count", [128, 10**9])
def test_one_that_leaves_no_room_is_refused_before_it_is_drawn(tiny_lm, tmp_path, count):
    lm = tiny_lm("gpt2")
    with pytest.raises(ConfigError, match=f"adapter.num_virtual_tokens: {count} leave no room for a text in 128"):
        add_adapter(lm.model, PREFIX | {"num_virtual_tokens": count}, seed=0)
    lm.save(tmp_path)
    with pytest.raises(ConfigError, match="leave no room for a text in 128"):
        positions_of(tmp_path, PREFIX | {"num_virtual_tokens": count})


def test_positions_are_taken_by_it(tiny_lm, tmp_path):
    tiny_lm("gpt2").save(tmp_path)
    lm = with_prefix(tmp_path)
    assert lm.positions == 128 - 3
    logits(lm.model, torch.full((1, 125), 7))
    with pytest.raises(IndexError):
        logits(lm.model, torch.full((1, 126), 7))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "num_virtual_tokens: missing; prefix_tuning needs"),
        ({"num_virtual_tokens": 0}, "at least 1"),
        ({"num_virtual_tokens": "20"}, "not '20'"),
        ({"num_virtual_tokens": 2, "prefix_projection": True}, "adapter.prefix_projection"),
        ({"num_virtual_tokens": 2, "init_weights": "zero"}, "stay alike"),
        ({"num_virtual_tokens": 2, "r": 8}, "adapter.r: prefix_tuning has no setting but"),
    ],
)
def test_wrong_settings(tiny_lm, settings, said):
    with pytest.raises(ConfigError, match=said):
        add_adapter(tiny_lm("llama").model, {"method": "prefix_tuning", **settings}, seed=0)


def test_what_is_saved_for_another_model_is_refused(base, tiny_lm, tmp_path):
    lm = with_prefix(base)
    lm.save(tmp_path / "adapter")
    tiny_lm("llama", num_hidden_layers=3).save(base)
    with pytest.raises(ModelError, match="prompt_embeddings"):
        load_language_model(tmp_path / "adapter", device="cpu")


def test_it_stays_where_others_are_merged(base):
    lm = with_prefix(base)
    want = logits(lm.model)
    merge(lm.model)
    assert torch.equal(logits(lm.model), want)
    assert adapter_of(lm.model) is not None
