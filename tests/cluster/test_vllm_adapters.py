"""Adapters that go to real servers of vLLM as files: what is written is the model's own, whichever adapter it has."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "sampling"))

from answers import random_prompts
from exchanges import MODEL, sharpened
from test_fleet import adapted, assert_of, files, recomputed_biased

from kedge.models.adapters import adapter_weights
from kedge.sampling.fleet.spec import FleetSpec
from kedge.sampling.settings import Sampling
from kedge.training.ppo import PPO

pytestmark = pytest.mark.cluster
SAMPLING = Sampling(max_new_tokens=24, temperature=0.8)
PROMPTS = random_prompts([3, 40, 12, 1, 70, 33])


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def served(request, tiny_lm, vllm_python, tmp_path_factory):
    """``(fleet, make)``: a server that is held for all tests, and what makes a model of its kind, by a seed."""

    def make(seed=0):
        tied = {"tie_word_embeddings": request.param == "llama"}
        return sharpened(tiny_lm(request.param, seed=seed, **MODEL, **tied))

    weights = tmp_path_factory.mktemp("weights")
    fleet = FleetSpec(
        kind="vllm", servers=1, python=str(vllm_python), weights=str(weights), timeout=300, health_timeout=60,
        args=["--max-num-seqs", "64", "--enable-lora"],
    ).fleet()  # fmt: skip
    with fleet(adapted(make())):
        yield fleet, make


def moved(lm, factor=1.3):
    with torch.no_grad():
        for weight in adapter_weights(lm.model):
            weight.mul_(factor)


def test_log_probabilities_are_the_models_after_every_publish(served):
    """With prompts seen before, another adapter, an adapter of another base, and a whole model in between."""
    fleet, make = served
    lm, whole = adapted(make()), make(seed=1)
    other = adapted(
        make(seed=1), r=3, use_rslora=True, rank_pattern={"q_proj": 5}, target_modules=["q_proj", "up_proj"]
    )
    with fleet(lm) as sampler:
        before = sampler.generate(PROMPTS, SAMPLING, seed=3)
        assert_of(lm, before, atol=1e-4)
        assert files(fleet) == {"adapter_config.json", "adapter_model.safetensors"}
        for version in (1, 2):
            moved(lm)
            sampler.publish(lm.weights(), version)
            after = sampler.generate(PROMPTS, SAMPLING, seed=3)
            assert_of(lm, after, atol=1e-4)
            assert {each for answer in after for each in answer.versions} == {version}
            assert sampler.metrics()["sampler/agreement"] < 1e-4
        assert [each.ids for each in after] != [each.ids for each in before]
        for another in (other, whole, adapted(make(), use_dora=True)):
            with fleet(another) as in_between:
                assert_of(another, in_between.generate(PROMPTS, SAMPLING), atol=1e-4)
            assert_of(lm, sampler.generate(PROMPTS, SAMPLING), atol=1e-4)


def test_what_is_being_written_goes_on_with_the_new_adapter_and_says_so(served):
    fleet, make = served
    lm = adapted(make())
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


def test_ppo_and_a_server_that_dies(served):
    """It is there again with the adapter of now."""
    fleet, make = served
    learner = make()
    settings = {"steps": 4, "batch_size": 16, "mini_batch_size": 8, "response_length": 24, "learning_rate": 1e-2,
                "max_staleness": 1, "adapter": {"method": "lora", "r": 4, "target_modules": "all-linear"}}  # fmt: skip
    ppo = PPO(
        learner.model, [f"{a} {b}" for a in "abcd" for b in "wxyz"],
        lambda prompts, completions: [float(len(text)) for text in completions], settings,
        tokenizer=learner.tokenizer, eval_prompts=["e f"], progress=False, sampler=fleet,
    )  # fmt: skip
    with closing(ppo):
        for step, metrics in enumerate(ppo):
            assert metrics["sampler/agreement"] < 1e-4
            assert metrics["policy/first_drift_max"] < 1e-4
            assert metrics["sampler/dropped"] == 0
            if step == 1:
                [own] = fleet._own.values()
                [server] = psutil.Process(own._process.pid).children()
                os.kill(server.pid, signal.SIGKILL)
        assert_of(ppo.policy, ppo.sampler.generate(PROMPTS, SAMPLING), atol=1e-4)
        assert all("adapter" in name for name in files(fleet))
