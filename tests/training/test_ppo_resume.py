"""A run that is killed and resumed is the run that was not."""

import pytest
import torch

from kedge.errors import ConfigError, RewardError

SETTINGS = {"steps": 5, "checkpoint_every": 2, "eval_every": 2, "weight_decay": 0.1, "warmup_steps": 2}


def by_length(prompts, completions, completion_ids):
    return [float(7 * len(set(ids)) + ids[0] % 5) for ids in completion_ids]


def state(ppo, vector):
    return torch.cat([vector(ppo.policy.model), vector(ppo.critic)])


@pytest.mark.parametrize("killed_after", [3, 4])  # a step behind its last checkpoint, and right at it
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"critic": "shared"},
        {"critic_warmup_steps": 3},
        {"kl_controller": "adaptive", "kl_target": 0.01, "kl_horizon": 20.0},
        {"scale_rewards": True, "clip_rewards": 3.0, "whiten_advantages": False},
        {"kl_in": "loss", "temperature": 0.7, "lr_scheduler_type": "cosine"},
    ],
    ids=str,
)
def test_resumed_is_uninterrupted(make_ppo, tmp_path, vector, lines, settings, killed_after):
    kwargs = {"reward": by_length, "settings": SETTINGS | settings, "eval_size": 2}
    whole = make_ppo(run=tmp_path / "whole", **kwargs)
    summary = whole.train()
    for _ in make_ppo(run=tmp_path / "broken", **kwargs):
        if len([row for row in lines(tmp_path / "broken", "metrics.jsonl") if row["step"]]) == killed_after:
            break
    resumed = make_ppo(run=tmp_path / "broken", resume=True, **kwargs)
    assert resumed.step_done == killed_after // 2 * 2
    again = resumed.train()
    assert torch.equal(state(resumed, vector), state(whole, vector))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(tmp_path / "broken", name) == lines(tmp_path / "whole", name)
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    assert again["seconds"].keys() == summary["seconds"].keys()


def test_the_adaptive_coefficient_moves(make_ppo):
    settings = {"steps": 4, "kl_controller": "adaptive", "kl_coef": 0.1, "kl_target": 6.0, "kl_horizon": 40.0}
    coefficients = [metrics["objective/kl_coef"] for metrics in make_ppo(settings=settings)]
    # KL stays far below 6: the error is -20%, and 4 of 40 episodes make a tenth of it.
    assert coefficients == pytest.approx([0.1, 0.098, 0.09604, 0.0941192])


def test_the_same_seed_is_the_same_run(make_ppo, vector):
    def trained(seed):
        ppo = make_ppo(settings={"seed": seed})
        torch.manual_seed(id(ppo))  # the global stream plays no part
        ppo.train()
        return state(ppo, vector)

    assert torch.equal(trained(3), trained(3))
    assert not torch.equal(trained(3), trained(4))


def test_a_checkpoint_is_a_model_folder_and_only_the_last_are_kept(make_ppo, tmp_path, vector):
    ppo = make_ppo(settings={"steps": 5, "checkpoint_every": 1, "keep_last": 2}, run=tmp_path / "run")
    ppo.train()
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000005"]
    loaded = type(ppo.policy.model).from_pretrained(folder / "step-000005" / "policy")
    assert torch.equal(vector(loaded), vector(ppo.policy.model))


def test_going_on_after_a_break(make_ppo, tmp_path, lines):
    ppo = make_ppo(settings={"steps": 4, "checkpoint_every": 1}, run=tmp_path / "run")
    for _ in ppo:
        if ppo.step_done == 2:
            break
    ppo.train()
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [1, 2, 3, 4]


def test_resuming_a_finished_run_writes_no_line_twice(make_ppo, tmp_path, lines):
    kwargs = {"settings": {"checkpoint_every": 2}, "eval_size": 1, "run": tmp_path / "run"}
    make_ppo(**kwargs).train()
    make_ppo(resume=True, **kwargs).train()
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl") if "eval/score" in row] == [0, 2]
    held = [row["step"] for row in lines(tmp_path / "run", "samples.jsonl") if row["split"] == "eval"]
    assert held == [0, 2]


def test_a_run_without_a_checkpoint_is_not_begun_anew(make_ppo, tmp_path):
    make_ppo(run=tmp_path / "run").train()
    policy = (tmp_path / "run/policy/model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"no checkpoint in it .*--overwrite"):
        make_ppo(run=tmp_path / "run", resume=True)
    assert (tmp_path / "run/policy/model.safetensors").read_bytes() == policy


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 1e-9), ("kl_coef", 9.0), ("seed", 1), ("batch_size", 2)])
def test_a_resumed_run_keeps_its_settings(make_ppo, tmp_path, key, value):
    make_ppo(settings={"checkpoint_every": 1}, run=tmp_path / "run").train()
    with pytest.raises(ConfigError, match=rf"ppo\.{key} was .* and is {value!r} now"):
        make_ppo(settings={"checkpoint_every": 1, key: value}, run=tmp_path / "run", resume=True)
    longer = make_ppo(settings={"checkpoint_every": 1, "steps": 3}, run=tmp_path / "run", resume=True)
    longer.train()
    assert longer.step_done == 3


def test_a_run_cannot_be_shorter_than_it_is(make_ppo, tmp_path):
    make_ppo(settings={"steps": 3, "checkpoint_every": 1}, run=tmp_path / "run").train()
    with pytest.raises(ConfigError, match="3 steps are done, which is more than 2"):
        make_ppo(settings={"steps": 2, "checkpoint_every": 1}, run=tmp_path / "run", resume=True)


def test_a_reward_that_fails_leaves_the_old_run_alone(make_ppo, tmp_path):
    make_ppo(run=tmp_path / "run").train()
    with pytest.raises(RewardError, match="nan"):
        make_ppo(
            lambda prompts, completions: [float("nan")] * len(prompts), run=tmp_path / "run", overwrite=True
        ).train()
    assert (tmp_path / "run/policy/model.safetensors").is_file()
