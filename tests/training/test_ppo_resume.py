"""A run that is killed and resumed is the run that was not."""

import json
import linecache
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from victim import by_letters

from kedge import PPO, SFT, PPOConfig, RewardConfig, RewardModeling, SFTConfig
from kedge.errors import ConfigError, RewardError
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import new_reward_model
from kedge.recipes.recipe import Recipe
from kedge.rewards.build import RewardSpec
from kedge.rewards.foreign import import_function
from kedge.runs.folder import RunFolder
from kedge.training.fingerprints import of_rows

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
SMALL = {"batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6, "learning_rate": 3e-3}
SETTINGS = {"steps": 5, "checkpoint_every": 2, "eval_every": 2, "weight_decay": 0.1, "warmup_steps": 2}


def by_length(prompts, completions, completion_ids):
    return [float(7 * len(set(ids)) + ids[0] % 5) for ids in completion_ids]


def state(ppo, vector):
    return torch.cat([vector(ppo.policy.model), vector(ppo.critic)])


# A step behind its last checkpoint, and right at it.
@pytest.mark.parametrize("killed_after", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"critic": "shared"},
        pytest.param({"critic_warmup_steps": 3}, marks=pytest.mark.slow),
        {"kl_controller": "adaptive", "kl_target": 0.01, "kl_horizon": 20.0},
        {"scale_rewards": True, "clip_rewards": 3.0, "whiten_advantages": False},
        pytest.param({"kl_in": "loss", "temperature": 0.7, "lr_scheduler_type": "cosine"}, marks=pytest.mark.slow),
        {"num_layers_unfrozen": 1, "critic": "separate"},
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


ADAPTIVE = {"kl_controller": "adaptive", "kl_coef": 0.1, "kl_target": 6.0}


@pytest.mark.parametrize(
    "settings", [{"kl_horizon": 40.0}, {"kl_horizon": 80.0, "num_generations": 2, "advantage_estimator": "rloo"}]
)
def test_the_adaptive_coefficient_moves(make_ppo, settings):
    ppo = make_ppo(settings=ADAPTIVE | {"steps": 4} | settings)
    coefficients = [metrics["objective/kl_coef"] for metrics in ppo]
    # KL stays far below 6: the error is -20%, and 4 of 40 episodes, or 8 answers of 80, make a tenth of it.
    assert coefficients == pytest.approx([0.1, 0.098, 0.09604, 0.0941192])


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_steered_coefficient_is_the_one_that_counts(make_ppo, vector, kl_in):
    """One that was steered from .1 to .7 trains as one that began with .7."""

    def trained(coefficient, steered):
        ppo = make_ppo(settings=ADAPTIVE | {"kl_coef": coefficient, "kl_horizon": 1e9, "kl_in": kl_in})
        ppo.kl_controller.coefficient = steered
        for _ in ppo:
            pass
        return state(ppo, vector)

    assert torch.equal(trained(0.1, 0.7), trained(0.7, 0.7))
    assert not torch.equal(trained(0.1, 0.1), trained(0.7, 0.7))


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


def test_a_summary_after_a_break_is_written_under_the_lock(make_ppo, tmp_path, monkeypatch):
    ppo = make_ppo(settings={"steps": 4}, run=tmp_path / "run", eval_size=1)
    for _ in ppo:
        break
    assert ppo.run._give_back is None  # another process may take it up
    locked, save = [], ppo.save
    monkeypatch.setattr(ppo, "save", lambda folder: locked.append(ppo.run._give_back) or save(folder))
    assert ppo.summary()["steps"] == 1
    assert locked[0] is not None
    assert ppo.run._give_back is None


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
    with pytest.raises(ConfigError, match=r"no checkpoint in it .*overwrite=True"):
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


class TestGivenOthers:
    """A run that is resumed must be given what it began with."""

    KEPT: ClassVar = {"checkpoint_every": 1}

    @pytest.fixture
    def begun(self, make_ppo, tmp_path):
        ppo = make_ppo(by_letters, self.KEPT, run=tmp_path / "run", eval_size=1, metrics=[by_length])
        ppo.train()
        return ppo

    def contents(self, run):
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name[:5] != ".lock"}

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"seed": 1}, r"another policy\n  policy: weights \w+ then, weights \w+ now"),
            ({"prompts": ["the cat", "a dog", "b", "c", "d"]}, r"another held-out prompts, prompts\n.*prompts: 1 rows"),
            ({"prompts": [{"prompt": p, "answer": "x"} for p in "abcdef"]}, "another held-out prompts, prompts"),
            ({"reward": by_length}, "another reward 'by_length', reward 'by_letters'"),
            (
                {"reward": [{"function": by_letters, "weight": 2.0}]},
                r"reward 'by_letters': weight 1, .* then, weight 2, ",
            ),
            ({"metrics": []}, r"another metric 'by_length'\n  metric 'by_length': .* then, none now"),
        ],
        ids=lambda given: str(given).partition(" at 0x")[0],
    )
    def test_others_are_refused(self, make_ppo, tiny_lm, tmp_path, begun, other, said):
        before = self.contents(tmp_path / "run")
        if "seed" in other:
            other = {"lm": tiny_lm("llama", **other)}
        given = {"reward": by_letters, "run": tmp_path / "run", "eval_size": 1, "metrics": [by_length]} | other
        with pytest.raises(ConfigError, match=f"(?s)the run began with .*{said}"):
            make_ppo(settings=self.KEPT, resume=True, **given)
        assert self.contents(tmp_path / "run") == before

    def test_a_trained_model_is_another_one(self, begun, tmp_path):
        with pytest.raises(ConfigError, match="began with another policy"):  # a notebook's variable, and not the file
            PPO.resume(
                tmp_path / "run",
                policy=begun.policy.model,
                tokenizer=begun.policy.tokenizer,
                prompts=PROMPTS,
                reward=by_letters,
                metrics=[by_length],
            )

    def test_a_changed_function_is_another_one(self, make_ppo, tmp_path, monkeypatch):
        def judge(text):
            (tmp_path / "kedge_judge.py").write_text(text)
            sys.modules.pop("kedge_judge", None)
            linecache.clearcache()
            return import_function("kedge_judge:judge")

        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        first = "def judge(completions):\n    return [1.0 * len(c) for c in completions]\n"
        kwargs = {"settings": self.KEPT, "run": tmp_path / "run"}
        make_ppo(judge(first), **kwargs).train()
        with pytest.raises(
            ConfigError, match=r"(?s)another reward 'judge'\n.*source \w+ then.*delete .*fingerprints.json"
        ):
            make_ppo(judge(first.replace("1.0", "2.0")), resume=True, **kwargs)
        make_ppo(judge("# another line above\n\n" + first), resume=True, **kwargs)
        (tmp_path / "run/fingerprints.json").unlink()
        make_ppo(judge(first.replace("1.0", "2.0")), resume=True, **kwargs).train()
        assert (tmp_path / "run/fingerprints.json").is_file()

    def test_what_a_function_is_given_belongs_to_it(self, make_ppo, tmp_path):
        def scaled(completions, by):
            return [by * len(c) for c in completions]

        kwargs = {"settings": self.KEPT, "run": tmp_path / "run"}
        make_ppo(partial(scaled, by=1.0), **kwargs).train()
        with pytest.raises(ConfigError, match="began with another reward"):
            make_ppo(partial(scaled, by=-1.0), resume=True, **kwargs)
        make_ppo(partial(scaled, by=1.0), resume=True, **kwargs)

    def test_what_is_typed_in_has_no_source(self, make_ppo, tmp_path):
        functions = [eval("lambda completions: [1.0 * len(c) for c in completions]") for _ in range(2)]
        kwargs = {"settings": self.KEPT, "run": tmp_path / "run"}
        make_ppo(functions[0], **kwargs).train()
        make_ppo(functions[1], resume=True, **kwargs)

    def test_a_reward_model_trained_in_place(self, make_ppo, tiny_lm, tmp_path):
        tiny_lm("llama").save(tmp_path / "m")
        kwargs = {"settings": self.KEPT, "run": tmp_path / "run"}
        rm = new_reward_model(tmp_path / "m", device="cpu")
        make_ppo(rm, **kwargs).train()
        with torch.no_grad():
            rm.model.score.weight[0, 5] += 1e-4
        with pytest.raises(ConfigError, match="another reward 'reward_model'"):
            make_ppo(rm, resume=True, **kwargs)


class TestFromPythonAgain:
    """``PPO.resume(run)`` takes everything from the run."""

    SETTINGS: ClassVar = {**SMALL, "steps": 4, "checkpoint_every": 1, "stop_strings": ("z",), "device": "cpu"}

    @pytest.fixture
    def model(self, tiny_lm, tmp_path):
        tiny_lm("llama").save(tmp_path / "model")
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
        return tmp_path / "model"

    def begin(self, run, **given):
        ppo = PPO(config=PPOConfig(**self.SETTINGS), run=run, progress=False, **given)
        for _ in ppo:
            if ppo.step_done == 2:
                break

    def test_what_a_recipe_can_say_need_not_be_said_again(self, model, tmp_path, monkeypatch, lines):
        monkeypatch.setattr("sys.path", [str(Path(__file__).parent), *sys.path])
        given = {
            "policy": model, "prompts": tmp_path / "prompts.jsonl", "eval_size": 2,
            "reward": [RewardSpec(function="victim:by_letters", weight=0.5)], "metrics": ["victim:by_length"],
        }  # fmt: skip
        PPO(config=PPOConfig(**self.SETTINGS), run=tmp_path / "whole", progress=False, **given).train()
        self.begin(tmp_path / "run", **given)
        resumed = PPO.resume(tmp_path / "run", progress=False)
        assert resumed.step_done == 2
        resumed.train()
        assert lines(tmp_path / "run", "metrics.jsonl") == lines(tmp_path / "whole", "metrics.jsonl")
        assert Recipe(tmp_path / "run/recipe.toml", []).run_path("ppo") == str(tmp_path / "run")

    def test_objects_are_given_again(self, model, tmp_path):
        self.begin(tmp_path / "run", policy=model, prompts=PROMPTS, reward=by_letters)
        with pytest.raises(ConfigError, match=r"prompts was an object of Python.*resume\(run, prompts=\.\.\.\)"):
            PPO.resume(tmp_path / "run", reward=by_letters)
        resumed = PPO.resume(tmp_path / "run", reward=by_letters, prompts=PROMPTS, steps=3, progress=False)
        resumed.train()
        assert resumed.step_done == 3
        lm = load_language_model(model)
        again = {"reward": by_letters, "prompts": PROMPTS, "policy": lm.model, "tokenizer": lm.tokenizer}
        assert PPO.resume(tmp_path / "run", progress=False, steps=5, **again).step_done == 3

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"polcy": "x"}, "polcy: unknown; did you mean 'policy'"),
            ({"learning_rate": 1e-9}, r"ppo\.learning_rate was .* and is 1e-09 now"),
        ],
    )
    def test_what_cannot_be_given(self, model, tmp_path, given, said):
        self.begin(tmp_path / "run", policy=model, prompts=PROMPTS, reward=by_letters)
        with pytest.raises(ConfigError, match=said):
            PPO.resume(tmp_path / "run", reward=by_letters, prompts=PROMPTS, **given)

    def test_rows_with_odd_cells(self):
        cells = [{1: "a", "b": 2}, {("a", "b"): 2}, np.int64(1), np.int64(2), datetime(2026, 1, 1), {"a": 1}, {"a": 2}]
        cells.append([])
        cells[-1].append(cells[-1])
        found = [of_rows([cell]) for cell in cells]
        assert len({*found}) == len(cells) - 2  # of the first two and the last nothing is told

    def test_no_run(self, tmp_path):
        with pytest.raises(ConfigError, match="no run to go on with"):
            PPO.resume(tmp_path / "none")
        with pytest.raises(ConfigError, match=r"it is a checkpoint: resume its run, .*/run$"):
            PPO.resume(tmp_path / "run/checkpoints/step-000001")
        RunFolder(tmp_path / "sft", {"sft": {}}).start()
        with pytest.raises(ConfigError, match=r"no table \[ppo\]; it is the run of another job"):
            PPO.resume(tmp_path / "sft")
        for name, said in (("config", "given by name"), ("overwrite", "not both"), ("resume", "what is done")):
            with pytest.raises(ConfigError, match=f"^{name}: .*{said}"):
                PPO.resume(tmp_path / "sft", **{name: {}})

    @pytest.mark.parametrize(
        ("job", "config", "rows"),
        [
            (SFT, SFTConfig, [{"prompt": p, "completion": " sat"} for p in PROMPTS]),
            (RewardModeling, RewardConfig, [{"prompt": p, "chosen": " sat", "rejected": " ran"} for p in PROMPTS]),
        ],
    )
    def test_supervised_jobs_too(self, model, tmp_path, job, config, rows):
        settings = config(epochs=2, batch_size=2, checkpoint_every=2, device="cpu")
        job(model, rows, settings, run=tmp_path / "run", progress=False).train()
        with pytest.raises(ConfigError, match=r"data was an object of Python"):
            job.resume(tmp_path / "run")
        with pytest.raises(ConfigError, match=r"began with another data\n"):
            job.resume(tmp_path / "run", data=rows[1:] + rows[:1])
        weights = load_file(model / "model.safetensors")
        save_file({k: v + 1e-5 for k, v in weights.items()}, model / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=r"began with another model\n"):
            job.resume(tmp_path / "run", data=rows)
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=rf"{job.config_class.STAGE}\.learning_rate was \S+ and is 0\.01 now"):
            job(model, rows, settings.model_copy(update={"learning_rate": 0.01}), run=tmp_path / "run", resume=True)
        resumed = job.resume(tmp_path / "run", data=rows, epochs=3, progress=False)
        assert (resumed.step_done, resumed.total_steps) == (6, 9)
        resumed.train()
