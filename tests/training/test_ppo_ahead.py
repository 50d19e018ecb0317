"""PPO whose answers run ahead of the update: with weights that are so many updates old, and the same random numbers."""

import copy
import json
import threading
from dataclasses import replace

import pytest
import torch

from kedge import PPO
from kedge.errors import ConfigError, DataError, NumericsError
from kedge.models.language_model import LanguageModel
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine

STEPS = {"steps": 4}
NEVER = "learning_rate", 1e-30


class Apart(Driver):
    """Writes in a thread with weights of its own. What can be wrong with it: it says that its weights are so much
    older, or log-probabilities that are so much higher, or has no answer from a request on."""

    writes_apart = True

    def __init__(self, lm):
        self.own = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.eos_ids)
        super().__init__(Engine(self.own))
        self.older, self.higher, self.fails_at = 0, 0.0, None
        self.asked, self.published = [], []

    def publish(self, weights, version):
        self.published.append(version)
        super().publish(weights, version)

    def generate(self, prompts, sampling, *, seed=0, first_request=0):
        self.asked.append(first_request)
        if self.fails_at is not None and first_request >= self.fails_at:
            raise DataError("no answer")
        found = super().generate(prompts, sampling, seed=seed, first_request=first_request)
        return [
            replace(each, versions=[v - self.older for v in each.versions],
                    logprobs=[x + self.higher for x in each.logprobs])
            for each in found
        ]  # fmt: skip


@pytest.fixture
def run(make_ppo):
    """``run(settings)``: the trainer after its steps, their metrics, and the answers of each."""
    begun = []

    def train(settings, *, sampler=Apart, **kwargs):
        ppo = make_ppo(settings=STEPS | settings, sampler=sampler, **kwargs)
        begun.append(ppo)
        metrics, answers = [], []
        for each in ppo:
            metrics.append(each)
            answers.append([(c.prompt_ids, c.ids) for c in ppo.experience.completions] if ppo.experience else None)
        return ppo, metrics, answers

    yield train
    for ppo in begun:
        ppo.close()


def test_staleness_0_is_the_same_to_the_last_bit(run, vector):
    engines, _, answers = run({}, sampler=Engine)
    aparts, metrics, the_same = run({"max_staleness": 0})
    assert answers == the_same
    assert torch.equal(vector(engines.policy.model), vector(aparts.policy.model))
    assert all(each["sampler/logprob_diff_max"] < 1e-4 for each in metrics)
    assert "sampler/dropped" not in metrics[0]


@pytest.mark.parametrize("staleness", [1, 2])
def test_what_is_trained_on_is_so_old_at_most(run, staleness):
    ppo, metrics, _ = run({"max_staleness": staleness, "steps": 5})
    for each in metrics:
        assert each["sampler/staleness_max"] <= staleness
        assert each["sampler/dropped"] == 0
        assert each["policy/first_drift_max"] < 1e-4  # of what was computed anew
    assert metrics[0]["sampler/logprob_diff_max"] < 1e-4
    assert metrics[-1]["sampler/staleness_avg"] > 0
    assert metrics[-1]["sampler/logprob_diff_max"] > 1e-3  # the sampler's own are another policy's
    assert metrics[-1]["policy/importance_max"] > 1.001
    assert sorted(ppo.sampler.asked) == [0, 4, 8, 12, 16]
    assert ppo.sampler.published == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("staleness", [1, 3])
def test_a_steps_prompts_draw_from_the_same_streams(run, staleness):
    """Where the weights stay as they are, so do all answers."""
    still = dict([NEVER], kl_coef=0.0)
    _, _, answers = run(still)
    _, metrics, ahead = run(still | {"max_staleness": staleness})
    assert ahead == answers
    assert all(each["policy/importance_max"] < 1 + 1e-4 for each in metrics)


def test_it_learns_from_answers_of_older_weights(run):
    many = {"steps": 24, "batch_size": 16, "mini_batch_size": 8, "learning_rate": 1e-2}
    _, metrics, _ = run({"max_staleness": 2, **many})
    first, last = (sum(m["objective/scores"] for m in part) / 4 for part in (metrics[:4], metrics[-4:]))
    assert last > first + 0.05  # 0.525 -> 0.628; with staleness 0: 0.685


def test_the_policys_own_log_probabilities_are_what_the_kl_starts_from(run):
    ppo, _, _ = run({"max_staleness": 1, "steps": 2})
    assert ppo.experience.batch.old_logprobs is ppo.experience.rollouts.logprobs
    drawn = [x for each in ppo.experience.completions for x in each.logprobs]
    assert not torch.allclose(
        ppo.experience.rollouts.logprobs[ppo.experience.rollouts.response_mask], torch.tensor(drawn)
    )


def test_what_is_too_old_is_counted_and_never_trained_on(run, vector):
    def older(lm):
        sampler = Apart(lm)
        sampler.older = 3
        return sampler

    before, _, _ = run({"max_staleness": 1, "steps": 1, **dict([NEVER])})
    ppo, metrics, _ = run({"max_staleness": 1, "steps": 2}, sampler=older)
    assert [each["sampler/dropped"] for each in metrics] == [4, 4]
    assert metrics[0]["policy/updates"] == 0
    assert torch.equal(vector(ppo.policy.model), vector(before.policy.model))


def test_a_sampler_of_another_distribution_is_found_out_at_once(make_ppo):
    def higher(lm):
        sampler = Apart(lm)
        sampler.higher = 0.01
        return sampler

    ppo = make_ppo(settings=STEPS | {"max_staleness": 1}, sampler=higher)
    with pytest.raises(NumericsError, match=r"the sampler's log-probabilities differ from the policy's by 0\.01"):
        next(iter(ppo))
    ppo.close()


def test_an_error_in_the_thread_is_its_steps(make_ppo):
    def failing(lm):
        sampler = Apart(lm)
        sampler.fails_at = 8
        return sampler

    ppo = make_ppo(settings=STEPS | {"max_staleness": 2}, sampler=failing)
    steps = iter(ppo)
    next(steps), next(steps)
    with pytest.raises(DataError, match="no answer"):
        next(steps)
    ppo.close()


def test_no_thread_is_left(make_ppo):
    before = {*threading.enumerate()}
    ppo = make_ppo(settings=STEPS | {"max_staleness": 2, "response_length": 40}, sampler=Apart)
    next(iter(ppo))
    assert len({*threading.enumerate()} - before) >= 1
    ppo.close()
    assert not {*threading.enumerate()} - before


def test_a_resumed_run_writes_anew_what_ran_ahead(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    settings = {"steps": 4, "batch_size": 2, "mini_batch_size": 2, "response_length": 4, "max_staleness": 2,
                "checkpoint_every": 1}  # fmt: skip
    made = []

    def maker(lm):
        made.append(Apart(lm))
        return made[-1]

    prompts, reward = ["a b", "c d", "e f"], lambda prompts, completions: [float(len(text)) for text in completions]
    ppo = PPO(tmp_path / "base", prompts, reward, settings, run=tmp_path / "run", sampler=maker, progress=False)
    steps = iter(ppo)
    next(steps), next(steps)
    ppo.answers.ahead.settle()
    ppo.close()
    assert sorted(made[0].asked)[1:] == [0, 2, 4, 6]  # the first is a look at the reward
    again = PPO.resume(tmp_path / "run", prompts=prompts, reward=reward, sampler=maker, progress=False)
    metrics = list(again)
    again.close()
    assert [each["episode"] for each in metrics] == [6, 8]
    resumed = next(each for each in made[1:] if 4 in each.asked)
    assert resumed.published == [2, 3, 4]
    assert sorted(x for x in resumed.asked if x) == [4, 6]  # none twice
    assert metrics[0]["sampler/staleness_max"] == 0
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    versions = {each["step"]: each["policy_version"] for each in samples if each["split"] == "train"}
    assert versions == {1: 0, 2: 0, 3: 2, 4: 2}


def test_a_step_that_is_left_out_does_not_make_its_weights_older(run):
    calls = []

    def reward(prompts, completions):
        calls.append(len(completions))
        return [float("nan") if len(calls) == 2 else float(len(text)) for text in completions]

    ppo, metrics, _ = run({"max_staleness": 1}, reward=reward)
    assert "train/left_out" in metrics[1]
    assert all(each.get("sampler/dropped", 0) == 0 for each in metrics)
    assert ppo.sampler.published == [1, 2, 3, 4]


@pytest.mark.parametrize("sampler", [Engine, lambda lm: Driver(Engine(lm))])
def test_weights_that_are_being_trained_write_nothing_ahead(make_ppo, sampler):
    with pytest.raises(ConfigError, match="max_staleness: 2 needs a sampler with weights of its own, and "):
        make_ppo(settings={"max_staleness": 2}, sampler=sampler)


@pytest.mark.parametrize("name", ["importance", "importance_cap"])
def test_what_has_no_use_without_it(make_ppo, name):
    with pytest.raises(ConfigError, match=f"{name}: .*max_staleness"):
        make_ppo(settings={name: {"importance": "mask", "importance_cap": 3.0}[name]})


def test_masking_and_another_cap_train_otherwise(run, vector):
    seen = [vector(run({"max_staleness": 2, **more})[0].policy.model) for more in (
        {}, {"importance": "mask", "importance_cap": 1.05}, {"importance_cap": 1.05})]  # fmt: skip
    assert not any(torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
