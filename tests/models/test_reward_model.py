"""Reward models: the score is read at the last token, and plain transformers reads the same one."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from kedge.errors import DataError, ModelError
from kedge.models.reward_loading import load_reward_model, new_reward_model

TEXTS = ["the cat sat on the mat", "a ship", "the dog ran to the red house and the cat sat and sat"]
WITH_CLASS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3"]


@pytest.fixture
def make(tiny_lm, tmp_path):
    """``make(architecture)``: a reward model with a head that says something, saved and loaded again."""

    def made(name, **settings):
        tiny_lm(name, **settings).save(tmp_path / "base")
        model = new_reward_model(tmp_path / "base", device="cpu")
        head = model.model.score if hasattr(model.model, "score") else model.model.head.linear
        torch.manual_seed(0)
        torch.nn.init.normal_(head.weight)
        model.save(tmp_path / "rm")
        return load_reward_model(tmp_path / "rm", device="cpu")

    return made


@torch.no_grad()
def test_batched_is_alone_is_the_head_at_the_last_token(arch, make):
    model = make(arch)
    assert (model.trunk.config.get_text_config().pad_token_id, model.pad_id) == (0, 0)
    together = model.score(TEXTS)
    assert len(set(together)) == 3
    head = model.model.score if hasattr(model.model, "score") else model.model.head.linear
    for text, score in zip(TEXTS, together, strict=True):
        assert model.score([text])[0] == pytest.approx(score, abs=1e-5)
        ids = [*model.tokenizer(text).input_ids, 1]  # finished with the EOS
        hidden = model.trunk(torch.tensor([ids])).last_hidden_state[0, -1]
        assert head(hidden).item() == pytest.approx(score, abs=1e-5)
    one_by_one = model.score(TEXTS, batch_tokens=1)
    assert one_by_one == pytest.approx(together, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_CLASS)
def test_plain_transformers_gives_the_same_score(name, make, tmp_path):
    model = make(name)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    batch = tokenizer([text + "<eos>" for text in TEXTS], padding=True, return_tensors="pt", padding_side="right")
    scores = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    assert model.score(TEXTS) == pytest.approx(scores.tolist(), abs=1e-5)


@torch.no_grad()
@pytest.mark.shared
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_plain_transformers_gives_the_same_score_where_pad_is_eos(name, make, gpt2_tokenizer, tmp_path):
    model = make(
        name, tokenizer=gpt2_tokenizer, vocab_size=50257, pad_token_id=None, eos_token_id=50256, bos_token_id=50256
    )
    assert model.pad_id == 50256
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    texts = [*TEXTS, "ends itself<|endoftext|>", "middle<|endoftext|>of it"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    scores = theirs(**{k: v for k, v in batch.items() if k != "token_type_ids"}).logits[:, 0].tolist()
    assert model.score(texts) == pytest.approx(scores, abs=1e-5)


@torch.no_grad()
def test_an_encoder_pools_for_itself(tiny_tokenizer, tmp_path):
    config = BertConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    model = new_reward_model(tmp_path / "base", device="cpu")
    model.save(tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    model = load_reward_model(tmp_path / "rm", device="cpu")
    alone = [theirs(torch.tensor([model.encode(text)])).logits.item() for text in TEXTS]
    assert model.score(TEXTS) == pytest.approx(alone, abs=1e-5)


def test_without_the_class_the_head_lies_beside_the_trunk(make, tmp_path):
    model = make("mamba")
    assert (tmp_path / "rm" / "score_head.safetensors").is_file()
    AutoModel.from_pretrained(tmp_path / "rm")
    assert min(abs(score) for score in model.score(TEXTS)) > 0


def test_load_weights_goes_back(make, tmp_path):
    for name in ("llama", "mamba"):
        model = make(name)
        want = model.score(TEXTS)
        with torch.no_grad():
            for weight in model.model.parameters():
                weight.add_(0.1)
        assert model.score(TEXTS) != pytest.approx(want, abs=1e-3)
        model.load_weights(tmp_path / "rm")
        assert model.score(TEXTS) == want
        (tmp_path / "rm" / "score_head.safetensors").unlink(missing_ok=True)


def test_gradients_reach_head_and_trunk(make):
    model = make("llama")
    model([[5, 6], [7, 8, 9]]).sum().backward()
    assert model.model.score.weight.grad.abs().sum() > 0
    assert model.trunk.get_input_embeddings().weight.grad[[5, 6, 7, 8, 9]].abs().sum(-1).min() > 0


def test_a_long_text_loses_its_beginning(make, tmp_path):
    make("llama")
    model = load_reward_model(tmp_path / "rm", max_length=6, device="cpu")
    ids = model.encode("the cat sat on the mat and the dog ran")
    assert len(ids) == 6
    assert ids[-1] == 1
    assert model.tokenizer.decode(ids[:-1]).endswith("dog ran")
    assert load_reward_model(tmp_path / "rm", max_length=9999, device="cpu").max_length == 128  # the model's own


def test_chat_goes_through_the_template(make, tiny_tokenizer):
    model = make("llama")
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    assert model.tokenizer.decode(model.encode(chat)) == "<|user|>the cat<eos><|assistant|>sat<eos>"
    model.tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        model.score([chat])


@torch.no_grad()
def test_a_chat_that_ends_with_the_pad_token_is_read_before_it(make, tiny_tokenizer, tmp_path):
    """Where pad is EOS, a template ends with it, and plain transformers takes it for padding."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = "<eos>"
    model = make("llama", tokenizer=tokenizer, pad_token_id=1)
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    rendered = tokenizer("<|user|>the cat<eos><|assistant|>sat").input_ids
    assert model.encode(chat) == rendered
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    [[score]] = theirs(torch.tensor([[*rendered, 1]])).logits.tolist()
    assert model.score([chat]) == pytest.approx([score], abs=1e-5)


def save_head(folder, head):
    state = load_file(folder / "model.safetensors")
    del state["score.weight"]
    save_file(state | head, folder / "model.safetensors", {"format": "pt"})


def test_missing_and_misshapen_heads(make, tiny_lm, tmp_path):
    make("llama")
    with pytest.raises(ModelError, match=r"score\.weight; this is no reward model; train one with `kedge reward`"):
        load_reward_model(tmp_path / "base", device="cpu")
    save_head(tmp_path / "rm", {})
    with pytest.raises(ModelError, match=r"weights missing: score\.weight"):
        load_reward_model(tmp_path / "rm", device="cpu")
    tiny_lm("mamba").save(tmp_path / "mamba")
    with pytest.raises(ModelError, match=r"no score_head\.safetensors in it"):
        load_reward_model(tmp_path / "mamba", device="cpu")


def test_misshapen_head(make, tmp_path):
    make("llama")
    save_head(tmp_path / "rm", {"score.weight": torch.ones(1, 16)})
    with pytest.raises(ModelError, match="another shape"):
        load_reward_model(tmp_path / "rm", device="cpu")


def test_three_labels(make, tmp_path):
    make("llama")
    labels = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, **labels)
    model.save_pretrained(tmp_path / "rm")
    with pytest.raises(ModelError, match=r'3 labels; say which is the score: label = "\.\.\." of bad, so so, good'):
        load_reward_model(tmp_path / "rm", device="cpu")
    with pytest.raises(ModelError, match="3 labels; there is no label 'best'"):
        load_reward_model(tmp_path / "rm", device="cpu", label="best")
    found = load_reward_model(tmp_path / "rm", device="cpu", label="good")
    [score] = found.score(["the cat"])
    model.config.pad_token_id = found.pad_id
    with torch.no_grad():
        chances = model.eval()(torch.tensor([found.encode("the cat")])).logits[0].softmax(-1)
    assert score == pytest.approx(math.log(chances[2] / (1 - chances[2])), abs=1e-4)
    make("llama")
    with pytest.raises(ModelError, match="label 'good', but it has one score and no labels"):
        load_reward_model(tmp_path / "rm", device="cpu", label="good")


@pytest.mark.shared
def test_no_tokenizer_or_another(make, gpt2_tokenizer, tmp_path):
    make("llama")
    for file in (tmp_path / "rm").glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer in this folder"):
        load_reward_model(tmp_path / "rm", device="cpu")
    gpt2_tokenizer.save_pretrained(tmp_path / "rm")
    with pytest.raises(ModelError, match="the tokenizer has 50,257 tokens and the model 320"):
        load_reward_model(tmp_path / "rm", device="cpu")


def test_nothing_there(tmp_path):
    for load in (load_reward_model, new_reward_model):
        with pytest.raises(ModelError, match="no such folder"):
            load(tmp_path / "nowhere")
        with pytest.raises(ModelError, match="nobody/no-model"):
            load("nobody/no-model")
    with pytest.raises(ModelError, match=r"neither a model folder .* nor a run with a reward_model/"):
        load_reward_model(tmp_path)
