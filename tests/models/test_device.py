"""Which device a word means, and whose it is: on machines with as many GPUs as a test says."""

import pytest
import torch

from kedge import PPOConfig
from kedge.control import ControlConfig
from kedge.errors import ConfigError, ModelError
from kedge.models.device import logits_at_a_time, pick_device


@pytest.fixture
def machine(monkeypatch):
    """``machine(gpus, rank=None, mps=False)``: so many GPUs; ``rank`` of several processes."""

    def make(gpus, rank=None, mps=False):
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
        for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": str(rank)}.items():
            monkeypatch.delenv(name, raising=False)
            if rank is not None:
                monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    ("gpus", "rank", "mps", "word", "device"),
    [
        (0, None, False, "auto", "cpu"),
        (0, None, True, "auto", "mps"),
        (2, None, False, "auto", "cuda:0"),
        (2, None, False, "cuda", "cuda:0"),
        (2, None, False, "cuda:1", "cuda:1"),
        (2, None, False, "cpu", "cpu"),
        (2, 1, False, "auto", "cuda:1"),  # each process its own
        (2, 1, False, "cuda", "cuda:1"),
        (2, 1, False, "cuda:1", "cuda:1"),
        (2, 5, False, "cpu", "cpu"),  # more processes than GPUs, which none of them computes on
        (0, 5, False, "auto", "cpu"),
    ],
)
def test_which_one_is_meant(machine, gpus, rank, mps, word, device):
    machine(gpus, rank, mps)
    assert pick_device(word) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "rank", "word", "said"),
    [
        (0, None, "cuda", "device='cuda': torch finds none here"),
        (0, None, "mps", "device='mps': torch finds none here"),
        (2, None, "cuda:2", "there are 2 GPUs here, cuda:0 to cuda:1"),
        (2, 1, "cuda:0", "each of several processes takes the GPU of its own number; say 'cuda'"),
        (2, 2, "auto", r"process 2 .* has no GPU of its own, there are 2; start no more than 2 \(torchrun"),
        (2, None, "gpu", r"device: must be auto, cuda, cuda:1 \(the second GPU\), mps or cpu, not 'gpu'"),
    ],
)
def test_what_is_not_there_is_named(machine, gpus, rank, word, said):
    machine(gpus, rank)
    with pytest.raises(ModelError, match=said):
        pick_device(word)


def test_recipes_take_the_same_words():
    assert PPOConfig(device="cuda:3").device == "cuda:3"
    assert ControlConfig(device="auto").device == "auto"
    for config in (PPOConfig, ControlConfig):
        with pytest.raises(ConfigError, match=r"device: must be auto, cuda, cuda:1 .* not 'cuda:x'"):
            config(device="cuda:x")


def test_logits_take_a_part_of_an_accelerators_memory():
    """A 256th in float32; on the CPU, and on a small device, 64 MiB."""
    assert logits_at_a_time("cpu", 2**40) == 2**24
    assert logits_at_a_time("mps", 2**31) == 2**24
    assert logits_at_a_time("cuda", 80 * 2**30) * 4 * 256 == 80 * 2**30
