"""Adapters: what PEFT gives, saved as PEFT saves it, and nothing else of the model touched."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from kedge.errors import ConfigError, ModelError
from kedge.models.adapters import adapter_of, add_adapter, merge, share_base, train_adapter
from kedge.models.bottom import copy_of_trained
from kedge.models.critic import SeparateCritic, new_critic
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.models.reward_model import Classifier, adapted_part
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

TOKENS = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
LORA = {"method": "lora", "r": 4, "target_modules": "all-linear"}
METHODS = {
    "lora": {"r": 4},
    "dora": {"method": "lora", "r": 4, "use_dora": True},
    "rslora": {"method": "lora", "r": 4, "use_rslora": True, "target_modules": "all-linear"},
    "ia3": {"method": "ia3"},
    "loha": {"method": "loha", "r": 2, "target_modules": ["q_proj", "up_proj"]},
    "lokr": {"method": "lokr", "r": 2, "target_modules": ["q_proj", "up_proj"]},
}


@pytest.fixture
def base(tiny_lm, tmp_path):
    """The folder of a tiny model."""
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def stirred(module):
    """What is trained is no longer what it began as."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return module


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("way", METHODS)
def test_peft_reads_what_is_saved(base, tmp_path, way):
    lm = load_language_model(base, device="cpu")
    plain = logits(lm.model)
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    add_adapter(lm.model, METHODS[way], seed=1)
    assert torch.allclose(logits(lm.model), plain, atol=1e-5)
    stirred(lm.model)
    want = logits(lm.model)
    assert not torch.allclose(want, plain, atol=0.1)
    for name, weight in lm.model.named_parameters():
        assert weight.requires_grad == (name.replace(".base_layer", "") not in before)
        assert weight.requires_grad or torch.equal(weight, before[name.replace(".base_layer", "")])
    lm.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter/config.json").exists()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    assert torch.allclose(logits(theirs), want, atol=1e-5)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    ours = load_language_model(tmp_path / "adapter", device="cpu", merged=False)
    assert torch.equal(logits(ours.model), want)
    whole = load_language_model(tmp_path / "adapter", device="cpu")
    assert adapter_of(whole.model) is None
    assert torch.allclose(logits(whole.model), want, atol=1e-4)
    assert {name for name, _ in whole.model.named_parameters()} == before.keys()
    assert all(weight.requires_grad for weight in whole.model.parameters())


def test_one_that_peft_saved_elsewhere(base, tmp_path):
    """Another name than PEFT's default, and read further: resumed in place, strictly."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, task_type="CAUSAL_LM"))
    stirred(model).save_pretrained(tmp_path / "theirs")
    lm = load_language_model(tmp_path / "theirs", tokenizer=base, device="cpu", merged=False)
    assert torch.allclose(logits(lm.model), logits(model.eval()), atol=1e-6)
    kept = logits(lm.model)
    lm.save(tmp_path / "ours")
    stirred(lm.model)
    assert not torch.allclose(logits(lm.model), kept)
    lm.load_weights(tmp_path / "ours")
    assert torch.equal(logits(lm.model), kept)


def test_the_first_weights_are_the_seeds(base):
    made = [load_language_model(base, device="cpu").model for _ in range(3)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for model, seed in zip(made, (1, 1, 2), strict=True):
        add_adapter(model, LORA, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (torch.cat([w.flatten() for w in m.parameters() if w.requires_grad]) for m in made)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_four_roles_on_one_trunk(base, tmp_path):
    """Each gives what it would give by itself, and the base is in memory once."""
    reward = new_reward_model(base, device="cpu")
    add_adapter(adapted_part(reward), LORA, seed=3)
    stirred(reward.module)
    reward.save(tmp_path / "reward")
    policy = load_language_model(base, device="cpu")
    policy.model.requires_grad_(False)
    reference = policy.frozen_copy()
    plain = logits(reference.model)
    add_adapter(policy.model, LORA, seed=1)
    critic = new_critic("separate", policy)
    scorer = load_reward_model(tmp_path / "reward", device="cpu")
    share_base(scorer.module, policy.model)  # a part of it may be trained, so it stays its own
    assert not {w.data_ptr() for w in scorer.module.parameters()} & {w.data_ptr() for w in policy.model.parameters()}
    scorer.module.requires_grad_(False)
    alone = scorer.score(["the cat", "a red house"])
    share_base(scorer.module, policy.model)

    stirred(policy.model)
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[:, 0] = False
    values = critic.values(TOKENS, mask)
    assert torch.equal(logits(reference.model), plain)  # it has none
    stirred(critic)
    assert not torch.allclose(critic.values(TOKENS, mask), values)
    want = logits(policy.model)
    assert scorer.score(["the cat", "a red house"]) == alone
    assert alone == pytest.approx(reward.score(["the cat", "a red house"]), abs=1e-5)
    assert torch.equal(logits(policy.model), want)

    places = {weight.data_ptr() for weight in policy.model.parameters() if not weight.requires_grad}
    for module in (reference.model, critic, scorer.module):
        own = sum(w.numel() for w in module.parameters() if w.data_ptr() not in places)
        assert own < 0.4 * sum(w.numel() for w in reference.model.parameters()), type(module)
    adapters = [{w.data_ptr() for w in m.parameters() if w.requires_grad} for m in (policy.model, critic)]
    assert not set.intersection(*adapters)


def test_a_base_that_differs_stays_its_own(tiny_lm):
    policy, other = tiny_lm("llama"), tiny_lm("llama", seed=1)
    policy.model.requires_grad_(False)
    share_base(other.model.requires_grad_(False), policy.model)
    theirs = {weight.data_ptr() for weight in policy.model.parameters() if weight.dim() > 1}
    assert not theirs & {weight.data_ptr() for weight in other.model.parameters()}
    trained = tiny_lm("llama")
    twin = copy_of_trained(trained.model)
    share_base(twin.requires_grad_(False), trained.model)  # what is trained is never shared
    assert not {w.data_ptr() for w in trained.model.parameters()} & {w.data_ptr() for w in twin.parameters()}


@pytest.mark.parametrize("name", ["llama", "mamba"])  # with a class for sequence classification, and without
def test_reward_models(tiny_lm, tmp_path, name):
    tiny_lm(name).save(tmp_path / "base")
    model = new_reward_model(tmp_path / "base", device="cpu")
    targets = "all-linear" if name == "llama" else ["in_proj", "x_proj"]  # the others of Mamba's take none
    add_adapter(adapted_part(model), LORA | {"target_modules": targets}, seed=1)
    trained = {name.partition(".")[0] for name, weight in model.module.named_parameters() if weight.requires_grad}
    assert trained >= {"score" if name == "llama" else "head"}
    stirred(model.module)
    want = model.score(["the cat", "a red house"])
    model.save(tmp_path / "reward")
    for merged in (False, True):
        again = load_reward_model(tmp_path / "reward", device="cpu", merged=merged)
        assert again.score(["the cat", "a red house"]) == pytest.approx(want, abs=1e-4)
        assert (adapter_of(adapted_part(again)) is None) == merged
    if isinstance(model, Classifier):
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
        theirs = PeftModel.from_pretrained(theirs, tmp_path / "reward").eval()
        ids = torch.tensor([model.encode("the cat")])
        with torch.no_grad():
            found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert float(found) == pytest.approx(want[0], abs=1e-5)
    with torch.no_grad():
        for weight in model.module.parameters():
            weight.requires_grad and weight.zero_()
    model.load_weights(tmp_path / "reward")
    assert model.score(["the cat", "a red house"]) == want


def test_a_reward_model_begins_with_what_an_adapter_was_taught(base, tmp_path):
    lm = load_language_model(base, device="cpu")
    add_adapter(lm.model, LORA, seed=1)
    stirred(lm.model)
    lm.save(tmp_path / "sft")
    trunk = new_reward_model(tmp_path / "sft", device="cpu").trunk
    with torch.no_grad():
        want = lm.model.model(input_ids=TOKENS, use_cache=False).last_hidden_state
        assert torch.allclose(trunk(input_ids=TOKENS, use_cache=False).last_hidden_state, want, atol=1e-4)
    assert all(weight.requires_grad for weight in trunk.parameters())


def test_answers(base):
    """In slots, as the model scores them."""
    lm = load_language_model(base, device="cpu")
    add_adapter(lm.model, LORA, seed=1)
    stirred(lm.model)
    engine = Engine(lm)
    [found] = engine.generate([[5, 6, 7]], Sampling(max_new_tokens=8), seed=1)
    assert type(engine._decoder).__name__ == "SlotDecoder"
    ids = torch.tensor([[5, 6, 7, *found.ids]])
    with torch.no_grad():
        scored = lm.model(input_ids=ids).logits[0, 2:-1].log_softmax(-1)
    assert found.logprobs == pytest.approx(scored.gather(1, ids[0, 3:, None]).flatten().tolist(), abs=1e-4)


def test_it_is_trained_in_float32_on_a_base_in_less(tiny_lm):
    model = tiny_lm("llama").model.bfloat16()
    add_adapter(model, LORA, seed=1)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_what_would_not_be_saved_is_not_trained(tiny_lm):
    """Somebody has thawed a part of the base."""
    model = tiny_lm("llama").model
    add_adapter(model, LORA, seed=1)
    model.lm_head.weight.requires_grad_(True)
    train_adapter(model)
    assert {name.split(".")[-3] for name, w in model.named_parameters() if w.requires_grad} == {"lora_A", "lora_B"}


def test_a_critic_of_a_reward_model_with_an_adapter_is_trained_whole(base):
    """Where the policy is."""
    model = new_reward_model(base, device="cpu")
    add_adapter(adapted_part(model), LORA, seed=1)
    stirred(model.module)
    critic = model.copied_as(SeparateCritic)
    ids = torch.tensor([model.encode("the cat")])
    assert float(critic(ids)[0, -1]) == pytest.approx(model.score(["the cat"])[0], abs=1e-4)
    assert all(weight.requires_grad for weight in critic.parameters())
    assert not any("lora" in name for name, _ in critic.named_parameters())


def test_one_that_is_switched_off_or_merged_is_trained_all_the_same(tiny_lm):
    model = tiny_lm("llama").model
    add_adapter(model, LORA, seed=1)
    want = logits(stirred(model))
    for layer in model.modules():
        if hasattr(layer, "merge"):
            layer.merge()
    train_adapter(model)
    assert torch.allclose(logits(model), want, atol=1e-4)
    for layer in model.modules():
        if hasattr(layer, "merge"):
            layer.enable_adapters(False)
    train_adapter(model)
    assert torch.allclose(logits(model), want, atol=1e-4)
    assert any(weight.requires_grad for weight in model.parameters())


def test_what_is_excluded_has_none(tiny_lm):
    model = tiny_lm("llama").model
    add_adapter(model, LORA | {"exclude_modules": ".*layers.0.*"}, seed=1)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("layers.1." in name for name in trained)


def test_a_checkpoint_is_no_base(tiny_lm, tmp_path):
    """Its run deletes it."""
    folder = tmp_path / "run/checkpoints/step-000002/policy"
    tiny_lm("llama").save(folder)
    with pytest.raises(ConfigError, match=r"adapter: its base, .*step-000002.*, is a checkpoint"):
        add_adapter(load_language_model(folder, device="cpu").model, LORA, seed=1)


def test_merging_leaves_no_trace(base):
    model = load_language_model(base, device="cpu").model
    add_adapter(model, LORA, seed=1)
    want = logits(stirred(model))
    merge(model)
    assert torch.allclose(logits(model), want, atol=1e-4)
    assert adapter_of(model) is None
    assert not any("lora" in name for name, _ in model.named_modules())
    add_adapter(model, LORA, seed=2)  # and another may come
    train_adapter(model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "lora", "rank": 4}, "adapter.rank: lora has no such setting"),
        ({"method": "lora", "lora_alhpa": 4}, "adapter.lora_alhpa: .* did you mean 'lora_alpha'"),
        (
            {"method": "prefix"},
            "adapter.method: must be one of lora, ia3, loha, lokr, adalora, prefix_tuning, not 'prefix'",
        ),
        ({"target_modules": ["no_proj"]}, "adapter.target_modules: .*no_proj"),
        ({"r": 0}, "adapter.r: a whole number of at least 1, not 0"),
        ({"r": 4.5}, "adapter.r: a whole number of at least 1, not 4.5"),
        ({"lora_dropout": "a"}, "adapter.lora_dropout: a number, not 'a'"),
        ({"use_dora": "no"}, "adapter.use_dora: true or false, not 'no'"),
        ({"target_modules": ["q_proj", "nope"]}, "adapter.target_modules: 'nope' is the name of no linear layer"),
        ({"modules_to_save": ["norm"]}, "adapter.modules_to_save: not used here"),
        ({"bias": "lora_only"}, "adapter.bias: not used here"),
        ({"lora_bias": True}, "adapter.lora_bias: not used here"),
        ({"r": "8"}, "adapter.r: a number, not '8'"),
        ({"target_modules": "("}, "adapter: missing"),
        ({"init_lora_weights": "pissa"}, "adapter.init_lora_weights: 'pissa' is none of those that leave the base"),
        ({"init_lora_weights": "olora"}, "adapter.init_lora_weights: 'olora' is none of those that leave the base"),
    ],
)
def test_wrong_settings(tiny_lm, settings, said):
    model = tiny_lm("llama").model
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ConfigError, match=said):
        add_adapter(model, settings, seed=1)
    base = [weight for name, weight in model.named_parameters() if "lora" not in name]
    assert all(torch.equal(weight, then) for weight, then in zip(base, before, strict=True))


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_a_weight_of_two_modules_gets_no_adapter(tiny_lm, layer):
    """Merged, it would change both."""
    settings = {"target_modules": [layer, "q_proj"]}
    with pytest.raises(ConfigError, match=f"adapter.target_modules: .*{layer} shares its weight"):
        add_adapter(tiny_lm("llama", tie_word_embeddings=True).model, settings, seed=1)
    add_adapter(tiny_lm("llama", tie_word_embeddings=False).model, settings, seed=1)


def test_parts_of_the_base_that_peft_trained(base, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, modules_to_save=["norm"])).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"parts of its base are trained too \(modules_to_save\)"):
        load_language_model(tmp_path / "theirs", tokenizer=base, device="cpu")


def test_a_head_in_float32_on_a_trunk_in_less(base):
    model = new_reward_model(base, device="cpu", dtype="bfloat16")
    add_adapter(adapted_part(model), LORA, seed=1)
    assert len(set(model.score(["the cat", "a red house"]))) == 2
    model([[5, 6, 7]]).sum().backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_wrong_folders(base, tiny_lm, tmp_path):
    lm = load_language_model(base, device="cpu")
    add_adapter(lm.model, LORA, seed=1)
    lm.save(tmp_path / "adapter")
    config = tmp_path / "adapter/adapter_config.json"
    said = json.loads(config.read_text())

    def saying(**other):
        config.write_text(json.dumps(said | other))

    tiny_lm("llama", hidden_size=16, num_attention_heads=4).save(tmp_path / "other")
    saying(base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(ModelError, match=r"not this model's adapter|does not fit its base"):
        load_language_model(tmp_path / "adapter", device="cpu")
    saying(base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"an adapter of .*gone, which is not there"):
        load_language_model(tmp_path / "adapter", device="cpu")
    saying(base_model_name_or_path=None)
    with pytest.raises(ModelError, match="does not name its base"):
        load_language_model(tmp_path / "adapter", device="cpu")
    saying()
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="the adapter's weights are missing"):
        load_language_model(tmp_path / "adapter", device="cpu")


def test_without_peft(tiny_lm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"adapter: needs PEFT; pip install 'kedge\[adapters\]'"):
        add_adapter(tiny_lm("llama").model, LORA, seed=1)


def test_a_classifier_of_several_labels_that_peft_has_saved(base, tmp_path):
    """Its score is the log-odds of the label that is named, as of a classifier without an adapter."""
    from peft import LoraConfig, get_peft_model

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    theirs = stirred(get_peft_model(plain, LoraConfig(r=2, task_type="SEQ_CLS"))).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    load_language_model(base, device="cpu").tokenizer.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ModelError, match=r'label = "..." of LABEL_0, LABEL_1, LABEL_2'):
        load_reward_model(tmp_path / "theirs", device="cpu")
    for merged in (True, False):
        reward = load_reward_model(tmp_path / "theirs", device="cpu", label="LABEL_2", merged=merged)
        ids = torch.tensor([reward.encode_whole("the cat")])
        with torch.no_grad():
            theirs.base_model.config.pad_token_id = 0
            shares = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].softmax(-1)
        odds = (shares[2] / (1 - shares[2])).log()
        assert reward.score(["the cat"]) == pytest.approx([float(odds)], abs=1e-4)
