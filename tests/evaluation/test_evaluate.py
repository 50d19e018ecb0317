"""A policy's answers as numbers."""

import math

import pytest
import torch

from kedge.data.records import Prompt
from kedge.errors import ConfigError, DataError, RewardError
from kedge.evaluation.evaluate import Comparison, Evaluation, evaluate, measure_policy, sequence_kl
from kedge.parallel import ALONE
from kedge.rewards.function import FunctionReward
from kedge.rewards.weighted import WeightedReward
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

PROMPTS = [Prompt(text) for text in ("the cat", "a little ship and", "the dog ran to", "x")]
LETTERS = {"letters": FunctionReward(lambda prompts, completions: [len(text) for text in completions])}
SAMPLING = Sampling(max_new_tokens=12, temperature=0.8)


@torch.no_grad()
def by_hand(lm, completion, temperature):
    ids, start = completion.prompt_ids + completion.ids, len(completion.prompt_ids)
    log_p = (lm.model(torch.tensor([ids])).logits[0].double() / temperature).log_softmax(-1)
    return sum(log_p[t - 1, ids[t]].item() for t in range(start, len(ids)))


def measured(lm, *args, **kwargs):
    return measure_policy(lm, Engine(lm), *args, **kwargs)


def test_kl_of_a_model_from_itself_is_zero(tiny_lm):
    result = measured(tiny_lm("llama"), PROMPTS, LETTERS, SAMPLING, reference=tiny_lm("llama"))
    assert result.kl == [0.0] * 4


def test_kl_is_a_sum_over_the_tokens(tiny_lm):
    lm, other = tiny_lm("llama"), tiny_lm("llama", seed=1)
    result = measured(lm, PROMPTS, LETTERS, SAMPLING, reference=other)
    want = [by_hand(lm, c, 0.8) - by_hand(other, c, 0.8) for c in result.completions]
    assert result.kl == pytest.approx(want, abs=1e-3)
    assert result.summary()["kl"] > 0.5
    assert sequence_kl(other, lm, result.completions, 0.8, 1024, ALONE) == pytest.approx([-x for x in want], abs=1e-3)


def test_answers_and_scores(tiny_lm):
    lm = tiny_lm("qwen3")
    result = measured(lm, PROMPTS, LETTERS, SAMPLING, seed=3)
    assert result.kl is None
    assert "kl" not in result.summary()
    assert result.scores == {"letters": [len(c.text) for c in result.completions]}
    assert [c.prompt_ids for c in result.completions] == [lm.tokenizer(p.text).input_ids for p in PROMPTS]
    again = measured(lm, PROMPTS, LETTERS, SAMPLING, seed=3)
    other = measured(lm, PROMPTS, LETTERS, SAMPLING, seed=4)
    ids = [[c.ids for c in e.completions] for e in (result, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_parts_of_a_reward_are_reported(tiny_lm):
    parts = [
        (1.0, FunctionReward(lambda prompts, completions: [len(text) for text in completions], "letters")),
        (-0.5, FunctionReward(lambda prompts, completions: [None, *[2.0] * (len(completions) - 1)], "politeness")),
    ]
    result = measured(tiny_lm("llama"), PROMPTS, {"score": WeightedReward(parts)} | LETTERS, SAMPLING)
    letters = [len(completion.text) for completion in result.completions]
    assert result.scores["score"] == [letters[0], *[n - 1.0 for n in letters[1:]]]
    summary = result.summary()
    assert (summary["rewards/letters"], summary["rewards/politeness"]) == (pytest.approx(sum(letters) / 4), 2.0)
    assert [row["scores"]["politeness"] for row in result.samples()] == [None, 2.0, 2.0, 2.0]
    alone = measured(tiny_lm("llama"), PROMPTS, {"score": WeightedReward(parts[:1])}, SAMPLING)
    assert not any(name.startswith("rewards/") for name in alone.summary())  # the score itself


def test_a_prompt_keeps_its_random_numbers_whatever_the_policy(tiny_lm):
    """The same weights under another name answer the same, and a prompt's answer does not hang on the others."""
    few = measured(tiny_lm("llama"), PROMPTS[:2], LETTERS, SAMPLING)
    all_of_them = measured(tiny_lm("llama"), PROMPTS, LETTERS, SAMPLING)
    assert [c.ids for c in few.completions] == [c.ids for c in all_of_them.completions[:2]]


def evaluation(scores, texts=("a b", "a b c")):
    reasons = ["eos", "length"]
    answers = [
        Completion([5], [7] * (2 * i + 1), [], t, r) for i, (t, r) in enumerate(zip(texts, reasons, strict=True))
    ]
    return Evaluation(PROMPTS[:2], answers, {"judge": scores}, [1.0, 4.0])


def test_summary_literal():
    assert evaluation([1.0, 2.0]).summary() == pytest.approx(
        {"judge": 1.5, "kl": 2.5, "length": 2.0, "ended_by_eos": 0.5, "distinct_1": 3 / 5, "distinct_2": 2 / 3}
    )
    assert evaluation([math.nan, 2.0]).summary()["judge"] == 2.0


def test_compare():
    rate = Comparison(before=evaluation([0.0, 3.0]), after=evaluation([1.0, 2.0])).win_rates()["judge"]
    assert (rate.rate, rate.n) == (0.5, 2)
    rate = Comparison(before=evaluation([0.0, 3.0]), after=evaluation([1.0, math.nan])).win_rates()["judge"]
    assert (rate.rate, rate.n) == (1.0, 1)  # only what both were judged on


def test_a_judge_that_abstains():
    nothing = evaluation([math.nan, math.nan])
    assert "judge" not in nothing.summary()
    for before, after in ((nothing, nothing), (evaluation([1.0, math.nan]), evaluation([math.nan, 2.0]))):
        summary = Comparison(before, after).summary()
        assert summary["win_rate"] == {}  # nothing that both were judged on
    assert summary["after"]["judge"] == 2.0


def test_a_prompt_too_long(tiny_lm):
    with pytest.raises(DataError, match="more than the model's 128 positions"):
        measured(tiny_lm("llama"), [Prompt("the cat " * 80)], LETTERS, SAMPLING)


def always_one(prompts, completions):
    return [1.0] * len(prompts)


def only_the_first(prompts, completions):
    return [1.0] + [None] * (len(prompts) - 1)


class TestAgainstAnother:
    def test_every_number_is_there(self, tiny_lm):
        ours, theirs = tiny_lm("llama"), tiny_lm("llama", seed=1)
        prompts = ["the cat", "a dog", "Once"]
        result = evaluate(ours, theirs, prompts, reward=always_one, metrics=[only_the_first], limit=2)
        summary = result.summary()
        assert summary["eval_prompts"] == 2
        assert summary["win_rate"]["score"]["rate"] == 0.5
        assert summary["win_rate"]["only_the_first"]["n"] == 1  # the other was judged by neither
        assert summary["before"]["kl"] == pytest.approx(0, abs=1e-4)
        assert summary["after"]["kl"] > 1

    def test_a_policy_against_itself(self, tiny_lm):
        result = evaluate(tiny_lm("llama"), tiny_lm("llama"), ["the cat", "a dog"], reward=always_one)
        assert [c.ids for c in result.before.completions] == [c.ids for c in result.after.completions]

    @pytest.mark.parametrize("sampling", [Sampling(4, temperature=0.0), Sampling(4, top_p=0.5), Sampling(4, top_k=3)])
    def test_no_kl_of_what_was_not_sampled_from(self, tiny_lm, sampling):
        result = evaluate(tiny_lm("llama"), tiny_lm("llama", seed=1), ["the cat"], sampling=sampling)
        assert "kl" not in result.summary()["after"]

    @pytest.mark.shared
    def test_no_kl_between_vocabularies(self, tiny_lm, stories):
        result = evaluate(tiny_lm("llama"), stories, ["the cat"], reward=always_one)
        assert "kl" not in result.summary()["after"]
        assert result.win_rates()["score"].rate == 0.5

    @pytest.mark.parametrize(
        "metrics",
        [
            [always_one, always_one],
            [{"function": always_one, "name": "score"}],
            [{"function": always_one, "name": "kl"}],
        ],
    )
    def test_names_that_are_taken(self, tiny_lm, metrics):
        with pytest.raises(ConfigError, match=r"the name .* is taken"):
            evaluate(tiny_lm("llama"), tiny_lm("llama"), ["the cat"], reward=always_one, metrics=metrics)

    def test_a_column_that_is_not_there_is_said_before_anything_is_loaded(self):
        for judges in ({"reward": lambda answer: []}, {"metrics": [lambda answer: []]}):
            with pytest.raises(RewardError, match="wants column 'answer'; there are: prompt, level"):
                evaluate("no/such/policy", "none/such", [{"prompt": "a", "level": 1}], **judges)
