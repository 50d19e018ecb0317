"""`kedge plan` as a user types it, and jobs that are refused before their weights are read."""

import json
from types import SimpleNamespace

import pytest

from kedge.errors import ConfigError
from kedge.inspection import machine
from kedge.inspection.machine import Machine, read_bytes, read_rate
from kedge.recipes.fitting import refuse_what_cannot_fit

BIG = {"batch_size": 32, "mini_batch_size": 32, "response_length": 64, "layers": 1, "micro_batch_tokens": 8192}


@pytest.fixture
def memory(monkeypatch):
    """``memory(free, total)``: what the machine says it has."""

    def have(free, total):
        told = SimpleNamespace(available=free, total=total)
        monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: told)

    return have


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("80gb", 80 * 10**9),
        ("512 MB", 512 * 10**6),
        ("1.5TiB", 1.5 * 2**40),
    ],
)
def test_memory_as_it_is_written(text, size):
    assert read_bytes(text, option="--gpu") == size


@pytest.mark.parametrize("text", ["", "24", "GB", "-3GB", "0GB", "24 apples", "24XB", "24G", "2iB", "1.2.3GB"])
def test_memory_that_is_none_names_the_option_and_the_form(text):
    with pytest.raises(ConfigError, match=r"--gpu.*24GB"):
        read_bytes(text, option="--gpu")


@pytest.mark.parametrize(
    ("text", "unit", "rate"),
    [
        ("312T", "flop", 312e12),
        ("312TFLOP/s", "flop", 312e12),
        ("1e12", "flop", 1e12),
        ("2TB/s", "b", 2e12),
        ("2TiB", "b", 2**41),
    ],
)
def test_rates(text, unit, rate):
    assert read_rate(text, option="--flops", unit=unit) == rate


def test_the_table(kedge, recipe):
    status, out, _ = kedge("plan", recipe(critic="separate", layers=1).path)
    assert status == 0
    for words in ("sft:", "reward:", "ppo:", "critic optimizer", "policy KV cache", "s a step", "it fits"):
        assert words in out


@pytest.mark.slow
def test_advice_on_80_columns_can_be_typed_back(kedge, recipe):
    made = recipe(**BIG)
    _, out, _ = kedge("plan", made.path, "--gpu", "2.2MB")
    assert "it does not fit" in out
    assert "ppo.micro_batch_tokens=" in out
    setting = next(word for word in out.split() if word.startswith("ppo.micro_batch_tokens="))
    assert kedge("plan", made.path, setting, "--gpu", "1GB")[0] == 0


@pytest.mark.slow
def test_json_is_one_object(kedge, recipe):
    status, out, _ = kedge(
        "plan", recipe(**BIG).path, "--json", "--gpu", "2.2MB", "--flops", "1T", "--bandwidth", "100GB"
    )
    found = json.loads(out)
    assert status == 0
    assert list(found) == ["sft", "reward", "ppo"]
    ppo = found["ppo"]
    assert (ppo["device"], ppo["limit"], ppo["fits"]) == ("cuda", 2_200_000, False)
    assert ppo["peak"] == max(phase["peak"] for phase in ppo["phases"].values())
    assert ppo["seconds"] == pytest.approx(sum(phase["seconds"] for phase in ppo["phases"].values()))
    assert ppo["phases"]["update"]["bytes"]["policy"]["weights"] > 0
    assert all(key.startswith("ppo.") for advice in ppo["advice"] for key in advice["settings"])


def test_without_speeds_of_that_gpu_there_are_no_seconds(kedge, recipe):
    _, out, _ = kedge("plan", recipe(layers=1).path, "--gpu", "1GB")
    assert "it fits" in out
    assert "s a step" not in out
    assert "seconds" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpu", "lots"], "--gpu: 'lots'"),
        (["--flops", "fast"], "--flops: 'fast'"),
        (["--bandwidth", "2 apples"], "--bandwidth"),
        (["--gpu", "24GB", "--flops", "1T"], "give both, or none"),
        (["--model", "./nowhere"], "no such folder"),
        (["ppo.mini_batch_size=3"], "mini_batch_size"),
    ],
)
def test_what_is_wrong_has_status_2(kedge, recipe, words, says):
    status, _, err = kedge("plan", recipe().path, *words)
    assert status == 2
    assert says in err


def test_a_job_that_cannot_fit_is_refused_before_its_weights_are_read(kedge, recipe, memory):
    """There are no weights: whoever looked for them would complain of that."""
    path = recipe(**BIG).path
    memory(10**6, 2_200_000)
    status, _, err = kedge("ppo", path)
    assert status == 2
    assert "[ppo] needs about" in err
    assert "set ppo.micro_batch_tokens=" in err
    assert "kedge plan" in err
    for stage in ("sft", "reward"):
        memory(10**5, 5 * 10**5)
        status, _, err = kedge(stage, path, f"{stage}.micro_batch_tokens=8192")
        assert status == 2
        assert f"[{stage}] needs about" in err


def test_a_job_is_refused_only_where_all_memory_is_not_enough(kedge, recipe, memory):
    memory(10**5, 2**40)  # next to nothing is free: that may change
    assert "No module named 'never_imported'" in kedge("ppo", recipe().path)[2]


def test_a_job_that_cannot_be_planned_begins(kedge, recipe, memory, monkeypatch):
    memory(1, 1)
    monkeypatch.setattr("kedge.inspection.ppo_rehearsal.PPO", None)
    assert "No module named 'never_imported'" in kedge("ppo", recipe().path)[2]


def test_several_processes_are_not_planned(recipe, memory, monkeypatch):
    memory(1, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse_what_cannot_fit(recipe(), "ppo")


def test_this_machine_has_some_memory():
    import torch

    here = Machine.here(torch.device("cpu"))
    assert 10**8 < here.free <= here.total
    assert here.with_speeds(None, None, torch.float32).trials.limit == here.free // machine.SHARE
    assert here.with_speeds(1e9, None, torch.float32).trials is None
    speeds = here.with_speeds(None, 3e9, torch.float32).speeds
    assert speeds.bandwidth == 3e9
    assert speeds.flops > 1e8
    assert 0 < speeds.overhead < 1e-2
    assert 0 < speeds.fresh < 1e-6  # a new page is never free
    there = Machine("cuda", 1, 1).with_speeds(1e12, 1e11, torch.float32).speeds
    assert (there.flops, there.bandwidth) == (1e12, 1e11)
    assert there.fresh == 0
