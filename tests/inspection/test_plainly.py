"""A bound that is never below what a rehearsal finds, and by which small jobs begin at once."""

from dataclasses import replace

import pytest

from kedge.inspection.machine import Machine
from kedge.inspection.plainly import _bound, plainly_fits
from kedge.recipes.fitting import planned_job

ROOMY = Machine("cpu", free=2**34, total=2**34)


@pytest.fixture
def folder(tmp_path, tiny_lm):
    tiny_lm("llama").save(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.slow
def test_a_small_model_fits_and_a_small_machine_does_not_hold_it(folder):
    assert plainly_fits([folder], 4096, ROOMY, trust_remote_code=False)
    assert not plainly_fits([folder], 4096, replace(ROOMY, total=2**27), trust_remote_code=False)
    assert not plainly_fits([folder], 10**8, ROOMY, trust_remote_code=False)
    assert not plainly_fits([folder] * 1000, 4096, ROOMY, trust_remote_code=False)


def test_what_nothing_is_known_of_is_rehearsed(folder, tmp_path):
    (tmp_path / "model/model.safetensors").unlink()
    assert not plainly_fits([folder], 64, ROOMY, trust_remote_code=False)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_the_bound_is_above_every_rehearsal(recipe, folder, stage):
    planned = planned_job(recipe(policy=folder, response_length=64, batch_size=32, mini_batch_size=32), stage, ROOMY)
    peak = max(phase.peak for phase in planned.rehearse())
    work, config = planned.work, planned.config
    tokens = 32 * (64 + 30) if stage == "ppo" else config.batch_size * max(example.size for example in work.examples)
    bound = _bound(folder, tokens, False)
    assert peak < bound


def test_a_job_says_whether_it_does(recipe, folder):
    planned = planned_job(recipe(policy=folder), "ppo", ROOMY)
    assert planned.plainly_fits()
    assert not replace(planned, machine=replace(ROOMY, total=2**24)).plainly_fits()
