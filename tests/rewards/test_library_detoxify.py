"""Detoxify's classifier as a reward: the package itself, with a tiny model in place of its download."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from kedge.errors import ConfigError
from kedge.rewards.build import build_reward
from kedge.rewards.library import Detoxify

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "you", "idiot", "ran"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("detoxify")
    folder = tmp_path_factory.mktemp("detoxify")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=2, max_position_embeddings=16,
    )  # fmt: skip
    config.save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    arch = {
        "model_type": str(folder), "model_name": "BertForSequenceClassification", "tokenizer_name": "BertTokenizer",
        "num_classes": 2,
    }  # fmt: skip
    said = {"dataset": {"args": {"classes": ["toxic", "insult"]}}, "arch": {"args": arch}}
    torch.save({"config": said, "state_dict": model.state_dict()}, folder / "tiny.ckpt")
    return folder / "tiny.ckpt", model.eval(), BertTokenizer.from_pretrained(folder)


def test_it_is_the_classifiers_word(checkpoint):
    path, model, tokenizer = checkpoint
    texts = ["the cat ran", "you idiot", ""]
    want = [model(**tokenizer(text, return_tensors="pt")).logits.sigmoid()[0].tolist() for text in texts]
    scores = Detoxify(checkpoint=path)(texts)
    assert scores == pytest.approx([-toxic for toxic, _ in want], abs=1e-6)
    worst = Detoxify(checkpoint=path, labels=["toxicity", "insult"])(texts * 30)  # more than are read at a time
    assert worst == pytest.approx([-max(both) for both in want] * 30, abs=1e-6)


def test_in_a_run_it_says_why(checkpoint, tmp_path):
    reward = build_reward({"kind": "detoxify", "checkpoint": str(checkpoint[0]), "weight": 2.0}).parts[0][1]
    from kedge.data.records import Prompt
    from kedge.sampling.completion import Completion

    scores = reward([Prompt("a")], [Completion([5], [7], [0.0], "you idiot", "eos")])
    (said,) = scores.remarks["detoxify"]
    assert said == f"toxicity {-scores.total[0]:.2f}"


def test_what_is_not_there(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"detoxify: no label 'rude'; unbiased has: toxicity, insult"):
        build_reward({"kind": "detoxify", "checkpoint": str(checkpoint[0]), "labels": ["rude"]})
    with pytest.raises(ConfigError, match=r"no\.ckpt cannot be loaded.*name a checkpoint"):
        build_reward({"kind": "detoxify", "checkpoint": str(tmp_path / "no.ckpt")})
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"other\.ckpt cannot be loaded: Checkpoint needs to contain the config"):
        build_reward({"kind": "detoxify", "checkpoint": str(tmp_path / "other.ckpt")})
