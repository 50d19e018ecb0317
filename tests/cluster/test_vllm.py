"""A fleet against real servers of vLLM on the CPU, which kedge starts: weights, labels, log-probabilities, staleness.

``KEDGE_RECORD=1`` writes down anew what it answers, for tests/sampling/test_stand_in.py.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "sampling"))

from answers import random_prompts
from exchanges import MODEL, RECORDED, ask, fields, read_by_kedge, recorded, sharpened
from test_fleet import assert_of, recomputed, recomputed_biased

from kedge.sampling.fleet.spec import FleetSpec
from kedge.sampling.settings import Sampling
from kedge.training.ppo import PPO

pytestmark = pytest.mark.cluster
SAMPLING = Sampling(max_new_tokens=24, temperature=0.8)
PROMPTS = random_prompts([3, 40, 12, 1, 70, 33])


@pytest.fixture(scope="module", params=["untied", "tied"])
def served(request, tiny_lm, vllm_python, tmp_path_factory):
    """``(fleet, make)``: a server that is held for all tests, and what makes a model of its kind, by a seed."""

    def make(seed=0):
        return sharpened(tiny_lm("llama", seed=seed, **MODEL, tie_word_embeddings=request.param == "tied"))

    weights = tmp_path_factory.mktemp("weights")
    fleet = FleetSpec(
        kind="vllm", servers=1, python=str(vllm_python), weights=str(weights), timeout=300, health_timeout=60,
        args=["--max-num-seqs", "64"],
    ).fleet()  # fmt: skip
    with fleet(make()):
        yield fleet, make


def moved(lm, factor=1.2):
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(factor)


def test_log_probabilities_are_the_models_after_every_publish(served):
    """Prompts seen before included, whose keys and values a cache may hold."""
    fleet, make = served
    lm, another = make(), make(seed=1)
    with fleet(lm) as sampler:
        before = sampler.generate(PROMPTS, SAMPLING, seed=3)
        again = sampler.generate(PROMPTS, SAMPLING, seed=3)
        assert [each.ids for each in again] == [each.ids for each in before]
        assert_of(lm, before, atol=1e-4)
        for version in (1, 2):
            moved(lm)
            sampler.publish(lm.weights(), version)
            after = sampler.generate(PROMPTS, SAMPLING, seed=3)
            assert_of(lm, after, atol=1e-4)
            assert {each for answer in after for each in answer.versions} == {version}
            assert sampler.metrics()["sampler/agreement"] < 1e-4
        assert [each.ids for each in after] != [each.ids for each in before]
        with fleet(another) as other:
            assert_of(another, other.generate(PROMPTS, SAMPLING), atol=1e-4)
        assert_of(lm, sampler.generate(PROMPTS, SAMPLING), atol=1e-4)


def test_what_is_being_written_goes_on_with_the_new_weights_and_says_so(served):
    fleet, make = served
    lm = make()
    long = replace(SAMPLING, max_new_tokens=50, logit_bias=tuple((token, -100.0) for token in lm.eos_ids))
    many = random_prompts([4 + i % 40 for i in range(60)])
    with fleet(lm) as sampler, ThreadPoolExecutor() as pool:
        kept = {0: {name: weight.clone() for name, weight in lm.weights().items()}}
        written = [pool.submit(sampler.generate, many, long, seed=seed) for seed in range(4)]
        for version in (1, 2):
            time.sleep(1.0)
            moved(lm)
            kept[version] = {name: weight.clone() for name, weight in lm.weights().items()}
            sampler.publish(lm.weights(), version)
        answers = [answer for each in written for answer in each.result()]
        assert any(len({*answer.versions}) > 1 for answer in answers)
        for version, weights in kept.items():
            lm.model.load_state_dict(weights, strict=False)
            for answer in answers:
                own, theirs = recomputed_biased(lm, answer, long), torch.tensor(answer.logprobs)
                mine = torch.tensor([each == version for each in answer.versions])
                assert torch.allclose(own[mine], theirs[mine], atol=1e-4)
        lm.model.load_state_dict(kept[2], strict=False)


def test_ppo_with_answers_that_run_ahead(served):
    fleet, make = served
    learner = make()
    settings = {"steps": 5, "batch_size": 16, "mini_batch_size": 8, "response_length": 24, "learning_rate": 1e-3,
                "max_staleness": 2}  # fmt: skip
    ppo = PPO(
        learner.model, [f"{a} {b}" for a in "abcd" for b in "wxyz"],
        lambda prompts, completions: [float(len(text)) for text in completions], settings,
        tokenizer=learner.tokenizer, eval_prompts=["e f"], progress=False, sampler=fleet,
    )  # fmt: skip
    with closing(ppo):
        for metrics in ppo:
            assert metrics["sampler/agreement"] < 1e-4
            assert metrics["policy/first_drift_max"] < 1e-4
            assert metrics["sampler/staleness_max"] <= 2
            assert metrics["sampler/dropped"] == 0
        assert metrics["sampler/staleness_avg"] > 0
        found = ppo.sampler.generate(PROMPTS, SAMPLING)
        for each in found:
            assert torch.allclose(
                recomputed(ppo.policy, each, SAMPLING.temperature), torch.tensor(each.logprobs), atol=1e-4
            )


def test_what_was_recorded_is_what_it_answers(served, tmp_path):
    fleet, make = served
    lm = make()
    lm.save(tmp_path / "model")
    with fleet(lm):
        found = ask(fleet.servers[0].url, tmp_path / "model")
    if os.environ.get("KEDGE_RECORD"):
        RECORDED.parent.mkdir(exist_ok=True)
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    for ours, theirs in zip(found, recorded(), strict=True):
        assert read_by_kedge(ours) == read_by_kedge(theirs)
        assert fields(ours["answer"]) == fields(theirs["answer"])
        assert ours["status"] == theirs["status"]
