"""How components come together: gates, clipping, ranks, weights that change; by literal numbers."""

import math
import statistics

import pytest

from kedge import PPO
from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.parallel import ALONE, Processes
from kedge.rewards.build import build_reward
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import AT_REST, judge
from kedge.sampling.completion import Completion

ONE, TWO = Prompt("ask one"), Prompt("ask two")
PROMPTS = [ONE, ONE, ONE, TWO]
ANSWERS = [Completion([5], [7, 8], [0.0, 0.0], text, "eos") for text in "abcd"]


def told(values):
    def function(prompts, completions):
        return values

    return function


def scored(*parts, prompts=PROMPTS, state=AT_REST, partial=False, training=True):
    specs = [{"function": told(values), "name": name} | terms for name, values, terms in parts]
    reward = build_reward(specs, partial=partial)
    return judge(reward, prompts, ANSWERS, ALONE, state, training=training)


def test_a_gate_that_is_not_passed_leaves_the_gates_alone():
    scores = scored(("format", [1, 0, 0.5, None], {"gate": 0.5, "weight": 2}), ("quality", [5, 6, -7, 8], {}))
    assert scores.total == [7.0, 0.0, -6.0, 8.0]
    assert scores.components["quality"] == [5.0, 6.0, -7.0, 8.0]
    assert scores.paid["quality"] == [5.0, 0.0, -7.0, 8.0]
    assert scores.paid["format"][:3] == [2.0, 0.0, 1.0]
    assert math.isnan(scores.paid["format"][3])


def test_harm_is_not_made_good():
    """A penalty that is a gate: whatever else is gained, the harmful answer has the penalty alone."""
    scores = scored(("harm", [0, -1, 0, 0], {"gate": 0.0, "weight": 3}), ("quality", [1, 100, 1, 1], {}))
    assert scores.total == [1.0, -3.0, 1.0, 1.0]


def test_a_gate_asks_for_the_score_as_it_was():
    scores = scored(("format", [0.2, 0.6, 1, 0], {"gate": 0.5, "clip": [0.5, 1]}), ("quality", [5, 5, 5, 5], {}))
    assert scores.total == [0.5, 5.6, 6.0, 0.5]


def test_two_gates_and_rewards_a_token():
    scores = scored(
        ("a", [1, 1, 0, 0], {"gate": 1.0}), ("b", [1, 0, 1, 0], {"gate": 1.0}), ("steps", [[1, 2]] * 4, {"weight": 2.0})
    )
    assert scores.sums() == [8.0, 1.0, 1.0, 0.0]
    assert scores.per_token == [[2.0, 4.0]] + [[0.0, 0.0]] * 3
    assert scores.paid["steps"] == [6.0, 0.0, 0.0, 0.0]


def test_clipped():
    scores = scored(("far", [-9, 0.5, 7, None], {"clip": [-1, 2], "weight": 10}), ("base", [0, 0, 0, 1], {}))
    assert scores.total == [-10.0, 5.0, 20.0, 1.0]
    assert scores.components["far"][:3] == [-9.0, 0.5, 7.0]


def test_ranks_are_within_a_prompt():
    scores = scored(("r", [10, 30, 20, 99], {"normalize": "rank"}))
    assert scores.total == [-1.0, 1.0, 0.0, 0.0]
    assert scored(("r", [10, 10, 20, 99], {"normalize": "rank"})).total == [-0.5, -0.5, 1.0, 0.0]
    assert scored(("r", [10, 10, 10, 99], {"normalize": "rank"})).total == [0.0] * 4
    unjudged = scored(("r", [10, None, 20, 99], {"normalize": "rank"}), ("base", [0] * 4, {}))
    assert unjudged.total == [-1.0, 0.0, 1.0, 0.0]
    other = scored(("r", [4, 3, 2, 1], {"normalize": "rank"}), prompts=[ONE, ONE, TWO, TWO])
    assert other.total == [1.0, -1.0, 1.0, -1.0]


def test_running_moments_are_those_of_all_scores_so_far():
    batches = [[1, 2, 3, 6], [10, None, 10, 16]]
    reward = build_reward([
        {"function": lambda prompts, completions: batches.pop(0), "name": "r", "normalize": "running", "weight": 2.0},
        {"function": told([0] * 4), "name": "base"},
    ])  # fmt: skip
    first, second = (judge(reward, PROMPTS, ANSWERS, ALONE, training=True) for _ in range(2))
    assert first.total == pytest.approx([2 * (x - 3) / 3.5**0.5 for x in (1, 2, 3, 6)])
    assert first.components["r"] == [1, 2, 3, 6]
    seen = [1, 2, 3, 6, 10, 10, 16]
    mean, std = statistics.fmean(seen), statistics.pstdev(seen)
    assert second.total == pytest.approx([2 * (10 - mean) / std, 0.0, 2 * (10 - mean) / std, 2 * (16 - mean) / std])
    assert math.isnan(second.components["r"][1])


def test_what_is_not_trained_on_is_not_normalized_and_changes_no_moments():
    for normalize in ("rank", "running"):
        reward = build_reward([{"function": told([1, 2, 3, 6]), "normalize": normalize, "clip": [0, 5]}])
        before = reward.state_dict()
        assert judge(reward, PROMPTS, ANSWERS, ALONE).total == [1.0, 2.0, 3.0, 5.0]
        assert reward.state_dict() == before


def test_processes_normalize_by_what_all_of_them_scored():
    """Two of them, each with half of the answers: the same ranks and moments as of one."""

    class Two(Processes):
        def share(self, items):
            return items[:2] if self.first else items[2:]

        def gather(self, compute):
            found = []
            for first in (True, False):
                self.first = first
                found += compute()
            return found

    def length(prompts, completions):
        return [float(ord(text)) for text in completions]

    for normalize in ("rank", "running"):
        alone, both = (
            judge(build_reward([{"function": length, "normalize": normalize}]), PROMPTS, ANSWERS, who, training=True)
            for who in (ALONE, Two())
        )
        assert both == alone


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (5, 2.0), (10, 3.0), (99, 3.0)])
def test_a_weight_goes_in_a_straight_line(step, weight):
    state = TrainerState(global_step=step, max_steps=11)
    assert scored(("r", [1, 2, 3, 4], {"weight": 1.0, "final_weight": 3.0}), state=state).total[0] == weight


def test_where_nothing_trains_the_last_weight_holds():
    assert scored(("r", [1, 2, 3, 4], {"final_weight": 3.0})).total == [3.0, 6.0, 9.0, 12.0]


def test_processes_put_together_what_each_was_paid():
    reward = build_reward([{"function": told([1, 2, 3, 4]), "name": "r", "weight": 2.0}])
    assert judge(reward, PROMPTS, ANSWERS, ALONE).paid == {"r": [2.0, 4.0, 6.0, 8.0]}


def test_rewards_a_token_are_neither_clipped_nor_ranked():
    for terms in ({"clip": [0, 1]}, {"normalize": "rank"}):
        with pytest.raises(RewardError, match=f"{next(iter(terms))}: not used with 'r', which scores token by token"):
            scored(("r", [[1, 2]] * 4, terms))


@pytest.mark.parametrize("terms", [{"clip": [2, 1]}, {"clip": [1, 1]}, {"clip": 3}, {"normalize": "z"}, {"gate": "x"}])
def test_wrong_terms(terms):
    with pytest.raises(ConfigError, match=next(iter(terms))):
        build_reward([{"function": told([1] * 4)} | terms])


def test_ranks_need_several_answers(tiny_lm):
    with pytest.raises(ConfigError, match="set num_generations to 2 or more"):
        ppo(tiny_lm, {"function": told([1] * 8), "normalize": "rank"})


def ppo(tiny_lm, reward, **how):
    lm = tiny_lm("llama")
    settings = {"steps": 2, "batch_size": 8, "mini_batch_size": 8, "response_length": 6, "target_kl": "none"}
    settings |= {"checkpoint_every": 1} if "run" in how else {}
    prompts = ["the cat", "a dog ran", "Once upon"]
    return PPO(lm.model, prompts, reward, settings, tokenizer=lm.tokenizer, progress=False, **how)


def test_a_step_says_what_each_component_moves(tiny_lm):
    def format_(prompts, completions):
        return [float(i % 2) for i in range(len(completions))]

    def length(prompts, completions):
        return [float(len(text)) for text in completions]

    parts = [
        {"function": format_, "name": "format", "gate": 1.0},
        {"function": length, "name": "length", "weight": 0.1},
    ]
    metrics = next(iter(ppo(tiny_lm, parts)))
    assert metrics["rewards/format_std"] == pytest.approx(0.5)
    shares = [metrics["rewards/format_share"], metrics["rewards/length_share"]]
    assert sum(shares) == pytest.approx(1.0)
    assert metrics["rewards/largest_share"] == max(shares)


def test_running_moments_outlast_an_interruption(tiny_lm, tmp_path):
    def length(prompts, completions):
        return [float(len(text)) for text in completions]

    reward = [{"function": length, "normalize": "running"}]
    whole = [metrics["objective/scores"] for metrics in ppo(tiny_lm, reward, run=tmp_path / "whole")]
    broken = ppo(tiny_lm, reward, run=tmp_path / "broken")
    first = next(iter(broken))["objective/scores"]
    [second] = [m["objective/scores"] for m in ppo(tiny_lm, reward, run=tmp_path / "broken", resume=True)]
    assert [first, second] == whole
    assert first == pytest.approx(0.0, abs=1e-9)  # by its own mean
    assert abs(second) > 1e-3  # by that of both


def test_a_resumed_run_has_the_same_terms(tiny_lm, tmp_path):
    def length(prompts, completions):
        return [float(len(text)) for text in completions]

    def reward(**terms):
        return [{"function": length, "name": "r"} | terms]

    for _ in zip(range(1), ppo(tiny_lm, reward(gate=0.5), run=tmp_path / "r"), strict=False):
        pass
    with pytest.raises(ConfigError, match="reward"):
        ppo(tiny_lm, reward(gate=0.7), run=tmp_path / "r", resume=True)
    assert ppo(tiny_lm, reward(gate=0.5), run=tmp_path / "r", resume=True).step_done == 1
