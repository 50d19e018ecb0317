"""Names that users bring from other libraries: each leads to a key that is there, in messages and on the page."""

import re
from pathlib import Path

import pytest

from kedge import PPOConfig, RewardConfig, SFTConfig
from kedge.config.names import NAMES, coming_from
from kedge.errors import ConfigError
from kedge.recipes.settings import tables
from kedge.recipes.tables import PPORecipe

PAGES = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def keys():
    """Of every table."""
    pytest.importorskip("gymnasium")
    return {name: set(table.settings.model_fields) for name, table in tables().items() if "." not in name}


def test_every_key_is_there_and_no_name_is_one_of_that_table(keys):
    assert {(name.theirs, s, k) for name in NAMES for s, k in name.ours.items() if k not in keys[s]} == set()
    taken = {
        (name.theirs, s) for name in NAMES for s in name.ours if name.theirs in keys[s] and name.ours[s] != name.theirs
    }
    assert taken == set()
    assert len({name.theirs for name in NAMES}) == len(NAMES)
    assert [name.theirs for name in NAMES if not name.ours and not name.note] == []
    every = set().union(*keys.values())
    said = {word for name in NAMES for word in re.findall(r"`(\w+)(?: = [^`]*)?`", name.note)}
    assert said - every == {"torchrun", "weight"}


def test_the_page_is_what_the_table_gives():
    assert (PAGES / "coming-from.md").read_text() == coming_from(), "run `make pages`"


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        (PPOConfig, "max_completion_length", "kedge's name for it is 'response_length'"),
        (PPOConfig, "beta", "'kl_coef'"),
        (SFTConfig, "policy", "'model', an argument of the trainer"),
        (SFTConfig, "steps", "'epochs' .passes over the data, not steps"),
        (SFTConfig, "kl_coef", r"no setting of \[sft\]; kedge has 'kl_coef' in \[ppo\]"),
        (RewardConfig, "temperature", r"no setting of \[reward\]; kedge has 'temperature' in \[ppo\]"),
        (PPOConfig, "mirror", "unknown key; `kedge settings` prints all"),
        (PPOConfig, "kl_penalty", "not a setting: k1 in the reward"),
        (PPOConfig, "max_length", "'max_prompt_length' .prompt and answer apart"),
        (PPOConfig, "epsilon", "'cliprange'"),
        (PPOConfig, "loss_type", "'advantage_estimator'"),
        (PPOConfig, "save_steps", "'checkpoint_every'"),
        (PPOConfig, "num_iterations", "'num_ppo_epochs'"),
        (PPOConfig, "gae_lambda", "'lam'"),
        (PPOConfig, "lora_r", "'adapter'"),
        (PPOConfig, "output_dir", "'run', an argument of the trainer and no setting"),
        (PPOConfig, "fsdp", "shard = true"),
        (PPOConfig, "tensor_model_parallel_size", "not here yet"),
        (PPOConfig, "num_train_epochs", "'steps'"),
        (PPOConfig, "gradient_accumulation_steps", "not needed"),
        (PPOConfig, "bf16", "'autocast'"),
        (PPOConfig, "logging_steps", "every step is a line"),
        (PPOConfig, "n_steps", "'batch_size'"),
        (PPOConfig, "ent_coef", "'entropy_coef'"),
        (PPOConfig, "clip_range", "'cliprange'"),
        (SFTConfig, "num_train_epochs", "'epochs'"),
        (SFTConfig, "max_seq_length", "'max_length'"),
        (SFTConfig, "beta", r"no setting of \[sft\]; kedge has 'kl_coef' in \[ppo\]"),
        (RewardConfig, "per_device_train_batch_size", "'batch_size'"),
        (PPOConfig, "kl_coeff", "did you mean 'kl_coef'"),  # a slip is still one
    ],
)
def test_what_they_are_told(config, key, said):
    with pytest.raises(ConfigError, match=f"^{key}: .*{said}"):
        config(**{key: 1})


@pytest.mark.parametrize(("config", "key"), [(PPOConfig, "reward"), (SFTConfig, "eval_size")])
def test_an_argument_is_called_one(config, key):
    with pytest.raises(ConfigError) as error:
        config(**{key: 1})
    assert str(error.value) == f"{key}: an argument of the trainer and no setting"


def test_a_recipe_knows_its_own_arguments():
    with pytest.raises(ConfigError, match=r"output_dir: kedge's name for it is 'run'$"):
        PPORecipe(policy="x", prompts="x", reward="x:y", output_dir="out")
