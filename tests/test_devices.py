"""Everything on a device that is not there (:mod:`pretend`).

No float64 where there is none, nothing of two devices in one operation, and the numbers of the CPU, since that is where
they are computed.
"""

from contextlib import contextmanager

import pytest
import torch

import tape
from kedge import PPO, SFT, RewardModeling
from kedge.control import Agent
from kedge.errors import NumericsError
from kedge.models.reward_model import new_reward_model
from kedge.rewards.model import ModelReward
from kedge.sampling.local import graphs
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.slots import SlotDecoder
from kedge.sampling.settings import Sampling
from kedge.training.optimization import retake_step
from pretend import DeviceError, Pretend, pretending, put

KINDS = ["mps", "cuda"]
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
TEXTS = ["the cat", "the dog ran", "on the mat", "a red house", "once upon", "a little ship"]
ONE_STEP = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "micro_batch_tokens": 200}
WAYS = {
    "separate": {"critic": "separate", "scale_rewards": True},
    "shared": {"critic": "shared", "entropy_coef": 0.01, "cutoff": "mask"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss"},
}


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    """``with device() as seen``: there is one of this kind."""

    monkeypatch.setattr(graphs, "record", tape.record)
    monkeypatch.setattr("kedge.sampling.local.engine.is_tight", lambda device: False)
    return lambda: pretending(request.param)


def test_it_minds_what_a_device_minds():
    with pretending("mps") as seen:
        here = torch.ones(3, device="mps")
        assert (type(here), here.device.type, (here + 1.0).device.type) == (Pretend, "mps", "mps")
        with pytest.raises(DeviceError, match="a CPU tensor"):
            here + torch.ones(3)
        with pytest.raises(DeviceError, match="a CPU tensor"):
            _ = here[torch.tensor([0, 1])]
        with pytest.raises(DeviceError, match="no float64"):
            here.double()
        with pytest.raises(DeviceError, match="no float64"):
            torch.zeros(2, dtype=torch.float64, device="mps")
        assert not seen.waits
        assert here.sum().item() == 3.0
        assert here.cpu().device.type == "cpu"
        assert here[here > 0.0].tolist() == [1.0, 1.0, 1.0]
        assert sum(seen.waits.values()) == 4
    with pretending("cuda"):
        assert torch.ones(2, dtype=torch.float64, device="cuda").dtype == torch.float64


def test_answers(arch, tiny_lm, device):
    sampling = Sampling(max_new_tokens=9, top_logprobs=2)
    want = Engine(tiny_lm(arch)).generate(PROMPTS, sampling, seed=3)
    lm = tiny_lm(arch)
    with device() as seen:
        put(lm.model)
        assert lm.device == seen.device
        found = Engine(lm).generate(PROMPTS, sampling, seed=3)
    for ours, theirs in zip(found, want, strict=True):
        assert ours.ids == theirs.ids
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def trained(lm, run, way, resume=False):
    settings = {"steps": 2, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "micro_batch_tokens": 40}
    settings |= {"learning_rate": 1e-3, "eval_every": 1, "checkpoint_every": 1} | WAYS[way]
    ppo = PPO(lm.model, TEXTS, reward, settings, tokenizer=lm.tokenizer, eval_size=2, run=run, progress=False,
              resume=resume)  # fmt: skip
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in ppo], ppo


def reward(prompts, completions):
    return [len(set(text)) / 9 for text in completions]


@pytest.mark.parametrize("way", WAYS)
def test_ppo(tiny_lm, device, tmp_path, way):
    want, _ = trained(tiny_lm("llama"), tmp_path / "cpu", way)
    lm = tiny_lm("llama")
    with device():
        put(lm.model)
        found, ppo = trained(lm, tmp_path / "device", way)
        ppo.summary()
        ppo.run.close()
        same = tiny_lm("llama")
        put(same.model)
        assert trained(same, tmp_path / "device", way, resume=True)[1].step_done == 2
    assert len(found) == len(want) == 2
    for ours, theirs in zip(found, want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_supervised(tiny_lm, device):
    rows = [{"prompt": text, "completion": " and so on"} for text in TEXTS]
    lm = tiny_lm("llama")
    with device():
        put(lm.model)
        summary = SFT(lm, rows, {"batch_size": 4, "micro_batch_tokens": 64}, eval_size=2, progress=False).train()
    assert summary["after"]["loss"] < summary["before"]["loss"]


@pytest.mark.parametrize("name", ["llama", "mamba"])  # with a class for sequence classification, and without
def test_reward_models(tiny_lm, device, tmp_path, name):
    tiny_lm(name).save(tmp_path)
    pairs = [{"chosen": text + " good", "rejected": text + " bad day"} for text in TEXTS]
    model = new_reward_model(tmp_path, device="cpu")
    with device():
        put(model.module)
        RewardModeling(model, pairs, {"batch_size": 4, "micro_batch_tokens": 99}, eval_size=2, progress=False).train()
        scores = ModelReward(model).model.score(TEXTS)
    assert len(set(scores)) == len(TEXTS)


def test_a_burst_waits_for_the_device_at_most_twice(tiny_lm, device):
    lm = tiny_lm("llama")
    with device() as seen:
        put(lm.model)
        engine = Engine(type(lm)(lm.model, lm.tokenizer, ()), burst=8)
        engine.generate(PROMPTS, Sampling(max_new_tokens=4), seed=1)  # the trials of the first time
        requests = [engine.submit(prompt, Sampling(max_new_tokens=100), seed=2) for prompt in PROMPTS]
        engine.step()  # takes the prompts in
        drawn = sum(len(request.ids) for request in requests)
        seen.waits.clear()
        seen.uploads.clear()
        engine.step()
        assert sum(len(request.ids) for request in requests) - drawn > 8
        assert sum(seen.waits.values()) <= 2, seen.waits
        assert sum(seen.uploads.values()) <= 2, seen.uploads


def test_a_micro_batch_waits_for_the_device_at_most_twice(tiny_lm, device):
    """Four minibatches, cut in two ways: the second has eight times as many micro-batches."""
    counts = {}
    for budget in (400, 8):
        lm = tiny_lm("llama")
        with device() as seen:
            put(lm.model)
            settings = {"steps": 2, "batch_size": 8, "mini_batch_size": 8, "response_length": 6}
            settings |= {"num_ppo_epochs": 4, "micro_batch_tokens": budget, "target_kl": "none"}
            ppo = PPO(lm.model, TEXTS[:1] * 8, reward, settings, tokenizer=lm.tokenizer, progress=False)
            batch = ppo.collect().batch
            seen.waits.clear()
            ppo.update(batch, 0, 0.0)
            counts[budget] = dict(seen.waits)
    whole, cut = (sum(each.values()) for each in counts.values())
    assert whole <= 4 * 4 + 4, counts  # its numbers and its norm; and in the end how far it went
    assert cut - whole <= 2 * (4 * 7 + 7), counts


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("policy", ["feedforward", "lstm"])
def test_control(device, monkeypatch, tmp_path, env, policy):
    """Plays and learns as on the CPU; what it saves is read there."""
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "n_envs": 2, "policy": policy, "seed": 3}
    settings |= {"hidden_sizes": (8,), "normalize_observations": True, "normalize_rewards": True}
    want = Agent(env, **settings).learn(256)
    with device() as seen:
        monkeypatch.setattr(
            f"torch.{'backends.mps' if seen.device.type == 'mps' else 'cuda'}.is_available", lambda: True
        )
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        agent = Agent(env, device=seen.device.type, **settings).learn(256)
        assert agent.network.log_std.device.type == seen.device.type
        agent.save(tmp_path / "agent")
        Agent(env, device=seen.device.type, **settings).restore(tmp_path / "agent")
    for ours, theirs in zip(agent.metrics, want.metrics, strict=True):
        ours.pop("steps_per_second"), theirs.pop("steps_per_second")
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
    monkeypatch.undo()
    back = Agent(env, **settings)
    back.restore(tmp_path / "agent")
    observation = back.observation_space.sample()
    assert back.predict(observation, deterministic=True)[0] == pytest.approx(
        want.predict(observation, deterministic=True)[0], abs=1e-2
    )


@contextmanager
def tensor_float_32(chosen):
    torch.backends.cuda.matmul.allow_tf32 = chosen
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("told", [True, False])
def test_tensor_float_32(tiny_lm, monkeypatch, told):
    """Its rounding is known: answers are written in slots, and the first ratio may be as far from 1 as it makes it."""
    lm = tiny_lm("llama")
    monkeypatch.setattr(graphs, "record", tape.record)
    monkeypatch.setattr("kedge.sampling.local.engine.is_tight", lambda device: False)
    with pretending("cuda") as seen, tensor_float_32(told):
        put(lm.model)
        ppo = PPO(lm.model, TEXTS, reward, ONE_STEP, tokenizer=lm.tokenizer, progress=False)
        seen.tf32 = True
        if told:
            [metrics] = ppo
            assert isinstance(ppo.sampler._decoder, SlotDecoder)
            assert 1e-4 < metrics["policy/first_drift_max"] < 0.1
        else:
            with pytest.raises(NumericsError, match="differ from the sampler's"):
                list(ppo)


def test_the_optimizer_is_one_kernel_on_a_gpu_and_its_last_step_can_be_taken_again(tiny_lm, device):
    lm = tiny_lm("llama")
    with device() as seen:
        put(lm.model)
        ppo = PPO(lm.model, TEXTS, reward, ONE_STEP, tokenizer=lm.tokenizer, progress=False)
        assert bool(ppo.optimizer.param_groups[0]["fused"]) == (seen.device.type == "cuda")
        before = [weight.detach().clone() for weight in lm.model.parameters()]
        ppo.update(ppo.collect().batch, 0, 0.0)
        moved = max(float((a - b).detach().abs().max()) for a, b in zip(before, lm.model.parameters(), strict=True))
        [group, *_] = ppo.optimizer.param_groups
        seen.waits.clear()
        retake_step(group, ppo.optimizer, 0.0)
        assert sum(seen.waits.values()) <= 1
        back = max(float((a - b).detach().abs().max()) for a, b in zip(before, lm.model.parameters(), strict=True))
    assert back < 1e-3 * moved
