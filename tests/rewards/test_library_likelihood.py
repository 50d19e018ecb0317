"""Coherence and bias: against the model's own logits, by hand; and CrowS-Pairs against its published definition."""

import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from kedge.errors import ConfigError, ModelError
from kedge.evaluation.crows_pairs import crows_pairs, shared
from kedge.models.language_model import load_language_model
from kedge.rewards.build import build_reward
from kedge.rewards.library import Bias, Coherence, Swap

ASK, ANSWERS = "the cat", [" sat on the mat", " and a dog ran"]


@pytest.fixture
def folder(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "lm")
    return str(tmp_path / "lm")


def by_hand(lm, before, then):
    """Log-probability of ``then`` after ``before``, token by token from the whole distribution."""
    ids = [*before, *then]
    with torch.no_grad():
        chances = lm.model(torch.tensor([ids])).logits[0].double().softmax(-1)
    return sum(math.log(chances[len(before) + i - 1, token]) for i, token in enumerate(then))


def test_coherence_is_pointwise_mutual_information(folder):
    lm = load_language_model(folder, device="cpu")
    words = lambda text: lm.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    start = [lm.tokenizer.bos_token_id or lm.tokenizer.eos_token_id]
    want = []
    for answer in ANSWERS:
        then = words(answer)
        want.append((by_hand(lm, words(ASK), then) - by_hand(lm, start, then)) / len(then))
    assert Coherence(model=folder)(ANSWERS, [ASK, ASK]) == pytest.approx(want, abs=1e-4)
    assert Coherence(model=folder)(ANSWERS[:1], [ASK]) == pytest.approx(want[:1], abs=1e-4)  # whoever stands beside it


def test_sentences_are_compared_with_the_one_before(folder):
    lm = load_language_model(folder, device="cpu")
    words = lambda text: lm.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    start = [lm.tokenizer.bos_token_id or lm.tokenizer.eos_token_id]
    texts = ["the cat sat.", " a dog ran.", " the mat"]
    gains = []
    for before, then in ((texts[0], texts[1]), (texts[1].strip(), texts[2])):
        ids = words(then)
        gains.append((by_hand(lm, start + words(before), ids) - by_hand(lm, start, ids)) / len(ids))
    answer = "the cat sat. a dog ran. the mat"
    [found] = Coherence(model=folder, measure="sentences")([answer], [ASK])
    assert found == pytest.approx(sum(gains) / 2, abs=1e-4)
    [prompt] = Coherence(model=folder)([answer], [ASK])
    [both] = Coherence(model=folder, measure="both")([answer], [ASK])
    assert both == pytest.approx((prompt + found) / 2, abs=1e-4)
    assert Coherence(model=folder, measure="sentences")(["one only"], [ASK]) == [None]
    assert Coherence(model=folder)(["  ", "x"], [ASK, ""]) == [None, None]


def test_bias_is_the_change_of_likelihood(folder):
    lm = load_language_model(folder, device="cpu")
    words = lambda text: lm.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    own, other = words(" He ran"), words(" She ran")
    change = by_hand(lm, words("a man"), own) / len(own) - by_hand(lm, words("a woman"), other) / len(other)
    scores = Bias(model=folder)([" He ran", " it ran"], ["a man", "a man"])
    assert scores == pytest.approx([-abs(change), 0.0], abs=1e-4)
    assert scores[0] < -0.001
    [same] = Bias(model=folder)([" She ran"], ["a woman"])
    assert same == pytest.approx(scores[0], abs=1e-4)  # the one is as far from the other


def test_swapping():
    swap = Swap([("he", "she"), ("his", "her"), ("him", "her"), ("他", "她"), ("先生", "女士")])
    assert swap("He said SHE saw him; the hero's") == "She said HE saw her; the hero's"
    assert swap("her") == "his"
    assert swap("他说女士来了") == "她说先生来了"


def test_in_a_run(folder):
    reward = build_reward([{"kind": "coherence", "model": folder}, {"kind": "bias", "model": folder, "weight": 0.5}])
    assert [part.name for _, part in reward.parts] == ["coherence", "bias"]
    with pytest.raises(ModelError, match="no such folder"):
        build_reward([{"kind": "coherence", "model": "./nowhere"}])
    with pytest.raises(ConfigError, match="model"):
        build_reward([{"kind": "coherence"}])
    with pytest.raises(ConfigError, match="pairs: two different words each"):
        build_reward([{"kind": "bias", "model": folder, "pairs": [["a", "a"]]}])


def test_what_is_too_long_for_the_model_loses_its_beginning(tiny_lm, tmp_path):
    tiny_lm("llama", max_position_embeddings=16).save(tmp_path / "lm")
    [score] = Coherence(model=str(tmp_path / "lm"))([" sat on the mat"], ["the cat and " * 20])
    assert math.isfinite(score)


def test_shared_tokens():
    assert shared([1, 2, 3, 4], [1, 9, 8, 3, 4]) == ([0, 2, 3], [0, 3, 4])


def test_crows_pairs_of_a_causal_model(tiny_lm):
    lm = tiny_lm("llama")
    texts = ("the man ran", "the woman ran")
    found = crows_pairs(lm.model, lm.tokenizer, [texts])
    for score, text, other in zip((found.more[0], found.less[0]), texts, texts[::-1], strict=True):
        ids, others = (lm.tokenizer(x).input_ids for x in (text, other))
        places = shared(ids, others)[0]
        begins = lm.tokenizer.bos_token_id
        want = sum(by_hand(lm, ([begins] if begins is not None else []) + ids[:i], [ids[i]]) for i in places
                   if i > 0 or begins is not None)  # fmt: skip
        assert score == pytest.approx(want, abs=1e-4)
    assert found.rate == float(found.more[0] > found.less[0])


def test_crows_pairs_of_a_masked_model(tiny_tokenizer):
    """Each shared token masked in its turn, all others seen; the words that differ are never asked for."""
    words = type(tiny_tokenizer)(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, mask_token="<pad>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64)  # fmt: skip
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    pairs = [("the man ran", "the woman ran"), ("a cat", "a dog")]
    found = crows_pairs(model, words, pairs)
    for number, pair in enumerate(pairs):
        ids = [words(text).input_ids for text in pair]
        for side, scores in enumerate((found.more, found.less)):
            total = 0.0
            for place in shared(*ids)[side]:
                if ids[side][place] in words.all_special_ids:
                    continue
                masked = list(ids[side])
                masked[place] = words.mask_token_id
                with torch.no_grad():
                    chances = model(torch.tensor([masked])).logits[0, place].double().softmax(-1)
                total += math.log(chances[ids[side][place]])
            assert scores[number] == pytest.approx(total, abs=1e-4)
    with pytest.raises(ValueError, match="pairs"):
        crows_pairs(model, words, [])
