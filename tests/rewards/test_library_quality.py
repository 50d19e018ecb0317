"""Diversity, length and sentiment, against numbers worked out by hand and other libraries."""

import pytest

from kedge.errors import ConfigError, RewardError
from kedge.rewards.library import (
    Diversity,
    Length,
    Sentiment,
    cosine_length,
    distinct_n,
    near_target,
    self_bleu,
    soft_overlong,
    unrepeated,
)


def test_repetition_within_an_answer():
    # the cat | cat the | the cat | cat sat: three of four; the first three words and both cats stand in a repeat.
    assert distinct_n(["the cat the cat sat"], 2) == 0.75
    assert unrepeated("the cat the cat sat", 2) == pytest.approx(3 / 5)
    assert unrepeated("go go go go", 1) == 0.25
    assert unrepeated("", 2) == 0.0
    assert Diversity(n=1)(["a a a b", "a b c d", ""]) == [0.5, 1.0, 0.0]
    assert Diversity(measure="unrepeated", n=2)(["the cat the cat sat"]) == [pytest.approx(3 / 5)]


def test_chinese_repeats_by_characters():
    assert Diversity(n=1)(["好好好好", "天地玄黄", "好，好。"]) == [0.25, 1.0, 0.5]
    assert Diversity(n=2)(["我爱我爱我"]) == [0.5]


def test_self_bleu_is_of_the_answers_to_one_prompt():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = ["the cat sat on the mat", "the cat sat on a mat", "dogs run far away now"]
    expected = [
        sacrebleu.sentence_bleu(texts[i], texts[:i] + texts[i + 1 :], tokenize="none").score / 100 for i in range(3)
    ]
    assert self_bleu(texts) == pytest.approx(expected)
    assert expected[0] > 0.5 > 0.1 > expected[2]
    spec = Diversity(measure="self_bleu")
    scores = spec([*texts, "the cat sat on the mat", *texts[:2]], prompts=["p"] * 3 + ["q"] + ["r"] * 2)
    assert scores[:3] == pytest.approx([1 - each for each in expected])
    assert scores[3] is None  # alone
    assert scores[4] == pytest.approx(1 - 0.5373, abs=1e-4)  # against one other, and nobody of p
    assert spec(["同样的话", "同样的话", ""], prompts=["p"] * 3) == pytest.approx([0.0, 0.0, 0.0])


def test_near_a_target():
    assert [near_target(n, 100, 10) for n in (90, 110, 85, 160, 210, 0)] == pytest.approx([1, 1, 0.95, 0.5, 0, 0.1])


def test_soft_overlong_is_dapo_s():
    # Yu et al. 2025: 16,384 tokens, and 4,096 more in which the punishment grows.
    lengths = (100, 16_384, 17_408, 18_432, 20_480, 30_000)
    assert [soft_overlong(n, 20_480, 4_096) for n in lengths] == [0, 0, -0.25, -0.5, -1, -1]


def test_cosine_is_the_paper_s():
    # Yeo et al. 2025, with their right (2 to 1) and wrong (-10 to 0) answers.
    assert [cosine_length(n, 1000, 2, 1, -10) for n in (0, 500, 999.999999, 1000)] == pytest.approx([2, 1.5, 1, -10])
    assert cosine_length(250, 1000, -10, 0, -10) == pytest.approx(-8.535534)


def test_what_is_counted():
    words = Length(shape="target", target=4, unit="words")
    assert words(["one two three four", "我爱北京", "one two"]) == [1.0, 1.0, 0.5]
    assert Length(shape="overlong", limit=6, buffer=4, unit="characters")([" abcd ", "ab"]) == [-0.5, 0.0]
    tokens = Length(shape="cosine", limit=4)
    assert tokens(["x", "x"], completion_ids=[[5, 6], [5, 6, 7, 8]]) == pytest.approx([0.5, 0.0])
    with pytest.raises(RewardError, match=r"sample 0: length counts tokens.*set unit to words or characters"):
        tokens(["x"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "shape: missing"),
        ({"shape": "target"}, "target: missing; shape='target' needs it, in tokens"),
        ({"shape": "overlong", "limit": 5}, "buffer: missing"),
        ({"shape": "overlong", "limit": 5, "buffer": 6}, "buffer: 6 is more than limit=5"),
        ({"shape": "target", "target": 5, "limit": 6}, "limit: not used with shape='target'"),
        ({"shape": "target", "target": 0}, "target: .*greater than 0"),
    ],
)
def test_wrong_lengths(settings, said):
    with pytest.raises(ConfigError, match=said):
        Length(**settings)


def test_sentiment():
    pytest.importorskip("vaderSentiment")
    texts = ["VADER is smart, handsome, and funny.", "Today SUX!", "The book was good.", "今天很好"]
    assert Sentiment()(texts) == [0.8316, -0.5461, 0.4404, 0.0]  # as its README has them
