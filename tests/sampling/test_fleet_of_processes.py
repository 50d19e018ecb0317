"""Servers that write for several processes: the leading one asks them, and all have the answers and the same step."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_work import DORA, LORA, trained
from safetensors.torch import load_file
from stand_in import StandIn, serving


@pytest.fixture(scope="module")
def world(tiny_lm, tmp_path_factory):
    """What one process has trained (``one``), and two."""
    folder = tmp_path_factory.mktemp("fleet")
    tiny_lm("llama").save(folder / "llama")
    tiny_lm("llama", seed=5).save(folder / "other")
    with ExitStack() as servers:
        stand_ins = [StandIn(folder / "other") for _ in range(2)]
        for stand_in in stand_ins:
            stand_in.rank = 8
        urls = [servers.enter_context(serving(each)) for each in stand_ins]
        trained(folder, urls, "one")
        trained(folder, urls, "one-lora", **LORA)
        trained(folder, urls, "one-dora", **DORA)
        script = Path(__file__).with_name("fleet_work.py")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script), str(folder), *urls]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(world):
    return json.loads((world / "found.json").read_text())


@pytest.mark.parametrize(
    ("name", "alone", "weights"),
    [
        ("whole", "one", "model"),
        ("sharded", "one", "model"),
        ("lora", "one-lora", "adapter_model"),
        ("merged", "one-dora", "adapter_model"),
    ],
)
def test_the_step_is_that_of_one_process(world, name, alone, weights):
    for folder in ("policy", "critic"):
        one, two = (load_file(world / run / folder / f"{weights}.safetensors") for run in (alone, name))
        assert one.keys() == two.keys()
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5


def test_all_processes_have_the_same_answers(found):
    first, second = found
    for name in first:
        assert first[name]["versions"] == second[name]["versions"]
        for one, two in zip(first[name]["metrics"], second[name]["metrics"], strict=True):
            assert one["objective/entropy"] == two["objective/entropy"]
            assert one["sampler/logprob_diff_max"] == two["sampler/logprob_diff_max"]
            assert name == "ahead" or one["sampler/logprob_diff_max"] < 1e-4


def test_answers_run_ahead_of_sharded_training(found):
    ahead = found[0]["ahead"]
    assert len(ahead["metrics"]) == 6
    assert max(each["sampler/staleness_max"] for each in ahead["metrics"]) in (1.0, 2.0)
    assert ahead["metrics"][-1]["sampler/dropped"] == 0.0
    assert all(version >= 5 - 2 for versions in ahead["versions"] for version in versions)


def test_nothing_is_left_of_the_weights(world):
    assert [*(world / "weights").iterdir()] == []
