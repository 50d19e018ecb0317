"""Everything on a device that is not there (:mod:`pretend`).

No float64 where there is none, nothing of two devices in one operation, and the numbers of the CPU, since that is where
they are computed.
"""

from pathlib import Path

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

import tape
from kedge import PPO, SFT, PPOConfig, RewardModeling
from kedge.control import Agent
from kedge.models.head import agree
from kedge.models.reward_loading import new_reward_model
from kedge.rewards.model import ModelReward
from kedge.sampling.local import graphs
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.training.optimization import retake_step
from kedge.training.ppo.throughput import SIDE
from kedge.training.ppo.update import rounding
from pretend import DeviceError, Pretend, pretending, put

KINDS = ["mps", "cuda"]
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
TEXTS = ["the cat", "the dog ran", "on the mat", "a red house", "once upon", "a little ship"]
ONE_STEP = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "micro_batch_tokens": 200}
WAYS = {
    "separate": {"critic": "separate", "scale_rewards": True},
    "shared": {"critic": "shared", "entropy_coef": 0.01, "cutoff": "mask"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss"},
    "frozen": {"num_layers_unfrozen": 1, "critic": "separate"},
}


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    """``with device() as seen``: there is one of this kind."""

    monkeypatch.setattr(graphs, "record", tape.record)
    monkeypatch.setattr("kedge.sampling.local.engine.is_tight", lambda device: False)
    for module in ("models.language_model", "training.ppo.experience"):
        monkeypatch.setattr(f"kedge.{module}.total_memory", lambda device: 2**30)
    monkeypatch.setitem(SIDE, "cuda", 64)  # what measures a GPU takes a CPU a minute
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


def one_step(lm, reward=reward, **more):
    """Metrics of a step that learns next to nothing: what is compared is computed, not blown up by Adam."""
    settings = ONE_STEP | {"num_ppo_epochs": 2, "learning_rate": 1e-6} | more
    ppo = PPO(lm.model, TEXTS[:4], reward, settings, tokenizer=lm.tokenizer, progress=False)
    [metrics] = ppo
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "throughput/"))}


def test_scores_and_updates(arch, tiny_lm, device):
    want = one_step(tiny_lm(arch))
    lm = tiny_lm(arch)
    with device():
        put(lm.model)
        found = one_step(lm)
    assert found == pytest.approx(want, rel=1e-3, abs=1e-4)
    assert found["policy/grad_norm"] > 0


def test_ppo_with_a_reward_model(tiny_lm, device, tmp_path):
    tiny_lm("llama").save(tmp_path)
    torch.manual_seed(1)
    model = new_reward_model(tmp_path, device="cpu")
    want = one_step(tiny_lm("llama"), [{"model": model}], critic="separate")
    lm = tiny_lm("llama")
    with device():
        put(lm.model)
        put(model.module)
        found = one_step(lm, [{"model": model}], critic="separate")
    assert found == pytest.approx(want, rel=1e-3, abs=1e-4)
    assert abs(found["objective/scores"]) > 1e-3


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
        seen.pinned = 0
        engine.step()
        assert sum(len(request.ids) for request in requests) - drawn > 8
        assert sum(seen.waits.values()) <= 2, seen.waits
        assert sum(seen.uploads.values()) <= 2, seen.uploads
        assert seen.pinned == (seen.device.type == "cuda")  # the random numbers, which the host does not wait for


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


@pytest.mark.parametrize("chosen", [True, False])
def test_the_rounding_of_tensor_float_32_is_known(tiny_lm, chosen):
    """Where a user chose it: the first ratio may be as far from 1, and slots are not given up for it."""
    lm, other = tiny_lm("llama"), torch.tensor([1.0, 1.01])
    torch.backends.cuda.matmul.allow_tf32 = chosen
    try:
        with pretending("cuda"):
            put(lm.model)
            assert rounding(PPOConfig(), lm.model) == ((0.1, 0.01) if chosen else (1e-4, 1e-5))
            assert agree(other.to("cuda"), torch.ones(2, device="cuda")) == chosen
        assert rounding(PPOConfig(), tiny_lm("llama").model) == (1e-4, 1e-5)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_the_optimizer_is_one_kernel_on_a_gpu_and_its_last_step_can_be_taken_again(tiny_lm, device):
    lm = tiny_lm("llama")
    with device() as seen:
        put(lm.model)
        settings = ONE_STEP | {"num_ppo_epochs": 1, "learning_rate": 1e-3, "target_kl": "none"}
        ppo = PPO(lm.model, TEXTS, reward, settings, tokenizer=lm.tokenizer, progress=False)
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


class Seen(TorchDispatchMode):
    """The operations that reach the devices' kernels."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.removeprefix("aten::") + (f".{func._overloadname}".replace(".default", "")))
        with torch._C.DisableTorchFunction():
            return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def kernels():
    """``{operation: the keys that it has a kernel for}``, of PyTorch's own table."""
    torchgen = pytest.importorskip("torchgen")
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found = {}
    for entry in yaml.load(path.read_text(), yaml.CSafeLoader):
        name = entry["func"].partition("(")[0]
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        found[name] = keys, entry.get("structured_delegate")
    return {name: keys | (found[other][0] if other else set()) for name, (keys, other) in found.items()}


def has_kernel(keys, device):
    """None at all: it is made of other operations."""
    return not keys or device in keys or any(key.startswith("Composite") for key in keys)


@pytest.mark.slow
def test_every_operation_has_a_kernel_on_mps(tiny_lm, kernels, monkeypatch):
    for module in ("models.language_model", "training.ppo.experience"):
        monkeypatch.setattr(f"kedge.{module}.total_memory", lambda device: 2**30)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    rows = [{"prompt": text, "completion": " and so on"} for text in TEXTS]
    with pretending("mps"), Seen() as seen:
        for name in ("llama", "gemma3_text"):
            for way in WAYS.values():
                lm = tiny_lm(name)
                put(lm.model)
                PPO(lm.model, TEXTS, reward, ONE_STEP | way, tokenizer=lm.tokenizer, progress=False).train()
        lm = tiny_lm("llama")
        put(lm.model)
        Engine(lm).generate(PROMPTS, Sampling(4, top_p=0.9, top_k=9, min_p=0.01, top_logprobs=2))
        SFT(lm, rows, {"batch_size": 4, "micro_batch_tokens": 64}, eval_size=2, progress=False).train()
        Agent("CartPole-v1", device="mps", n_steps=32, batch_size=32, n_epochs=1).learn(64)
    assert len(seen.names) > 60
    on_the_cpu_alone = {name for name in seen.names if "for_cpu" in name or name.startswith("mkldnn")}
    elsewhere = {name for name in seen.names if "::" in name}  # the profiler's
    missing = {name for name in seen.names - elsewhere - on_the_cpu_alone if not has_kernel(kernels[name], "MPS")}
    assert missing == set()
