"""The recipes that come along: each says what it needs, and the support desk's need nothing but the project."""

import shutil
from pathlib import Path

import pytest

from kedge.errors import ConfigError, DataError, ModelError
from kedge.recipes.jobs import ppo_job, reward_job, sft_job
from kedge.recipes.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the recipes and nothing beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RECIPES, tmp_path / "clone/recipes")
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.syspath_prepend(str(tmp_path / "clone"))


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.toml")))
def test_what_is_not_there_is_said_to_be_needed(clone, name):
    recipe = Recipe(Path("recipes", name), [])
    jobs = {"sft": sft_job, "reward": reward_job, "ppo": ppo_job}
    for stage in recipe.stages.keys() & jobs.keys():
        with pytest.raises((DataError, ModelError), match=rf"no such .*\n.*{name} needs: ."):
            jobs[stage](recipe)


@pytest.mark.slow
def test_the_desk_from_a_clone_alone(clone, desk):
    shutil.copytree(desk, "runs/desk")
    for file in Path("runs/desk/data").iterdir():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:40]))  # for the time's sake
    few = ["steps=1", "response_length=8", "batch_size=8", "mini_batch_size=8"]
    for stage, name, small in (
        ("sft", "desk-sft", ["eval_size=8", "warmup_steps=0", "epochs=1"]),
        ("reward", "desk-reward", ["warmup_steps=0", "epochs=1"]),
        ("ppo", "desk-ppo", few),
        ("ppo", "desk-grpo", few),
    ):
        recipe = Recipe(Path("recipes", f"{name}.toml"), small, stage=stage)
        job = {"sft": sft_job, "reward": reward_job, "ppo": ppo_job}[stage](recipe)
        assert "after" in job.train()
        assert Path("runs", name, "summary.json").is_file()


def test_needs(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('needs = 3\n[sft]\nmodel = "m"\ndata = "d.jsonl"\n')
    with pytest.raises(ConfigError, match="needs must be a text"):
        Recipe(file, [])
    (tmp_path / "d.jsonl").write_text('{"prompt": "x"}\n')
    file.write_text(f'needs = "a map"\n[sft]\nmodel = "{tmp_path}"\ndata = "{tmp_path}/d.jsonl"\n')
    with pytest.raises(DataError, match="no column 'completion'") as error:  # all is there; something else is wrong
        sft_job(Recipe(file, [f"sft.run={tmp_path}/run"]))
    assert "a map" not in str(error.value)


def test_one_file_for_agents_and_language_models(tmp_path, monkeypatch):
    """What one command accepts, the others do; each reads its own table."""
    pytest.importorskip("gymnasium")
    (tmp_path / "d.jsonl").write_text('{"text": "x"}\n')
    file = tmp_path / "r.toml"
    whole = (
        f'name = "both"\nneeds = "time"\n[control]\nenv = "CartPole-v1"\n'
        f'[sft]\nmodel = "{tmp_path}"\ndata = "{tmp_path}/d.jsonl"\n'
    )
    file.write_text(whole)
    assert Recipe(file, ["n_envs=2"], stage="control").stages["control"].n_envs == 2
    recipe = Recipe(file, ["epochs=2"], stage="sft")
    assert [*recipe.stages] == ["control", "sft"]
    assert (recipe.run_path("control"), recipe.run_path("sft")) == ("runs/both", "runs/both-sft")
    with pytest.raises(ConfigError, match=r"'control.n_envs=2': of \[control\], and \[sft\] is what is read here"):
        Recipe(file, ["control.n_envs=2"], stage="sft")
    with pytest.raises(ConfigError, match=r"\[sft\] has no 'eval_episodes'; \[control\] has, and is not read"):
        Recipe(file, ["eval_episodes=2"], stage="sft")
    with pytest.raises(ConfigError, match=r"no table \[ppo\], which `kedge ppo` reads; .* are: \[control\], \[sft\]"):
        Recipe(file, [], stage="ppo")
    file.write_text(whole.replace("env =", "n_env = 3\nenv ="))
    for stage in ("sft", "control"):
        with pytest.raises(ConfigError, match=r"\[control\] n_env: unknown key; did you mean 'n_envs'"):
            Recipe(file, [], stage=stage)
    monkeypatch.setattr("kedge.recipes.stages.control.find_spec", lambda name: None)
    assert [*Recipe(file, [], stage="sft").stages] == ["sft"]  # nobody can tell
    with pytest.raises(ConfigError, match=r"pip install 'kedge\[control\]'"):
        Recipe(file, [], stage="control")
