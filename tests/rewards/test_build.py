"""From what a user writes to a reward."""

import math

import pytest
import torch

from kedge.data.records import Prompt
from kedge.errors import ConfigError, ModelError
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.rewards.build import RewardSpec, build_reward, reward_model_of
from kedge.sampling.completion import Completion

PROMPTS, ANSWERS = [Prompt("the cat")], [Completion([5], [7, 8], [0.0, 0.0], " sat", "eos")]


def letters(prompts, completions):
    return [len(completion) for completion in completions]


@pytest.fixture
def folder(tiny_lm, tmp_path):
    """A run folder of a reward model with a random head."""
    tiny_lm("llama").save(tmp_path / "base")
    model = new_reward_model(tmp_path / "base", device="cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.score.weight)
    model.save(tmp_path / "run" / "reward_model")
    return tmp_path / "run"


def components(what):
    return build_reward(what, device="cpu")(PROMPTS, ANSWERS).components


def test_functions():
    assert components(letters) == {"letters": [4.0]}
    assert components([letters, letters]) == {"letters": [4.0], "letters_2": [4.0]}


def test_a_function_by_name(tmp_path, monkeypatch):
    (tmp_path / "kedge_judges_three.py").write_text("def loud(prompts, completions, **_):\n    return [2.0]\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert components("kedge_judges_three:loud") == {"loud": [2.0]}
    spec = {"function": "kedge_judges_three:loud", "weight": -3, "name": "noise"}
    scores = build_reward([spec, letters])(PROMPTS, ANSWERS)
    assert scores.components == {"noise": [2.0], "letters": [4.0]}
    assert scores.total == [-2.0]
    assert build_reward(RewardSpec(**spec))(PROMPTS, ANSWERS).total == [-6.0]


def test_reward_models(folder):
    model = load_reward_model(folder, device="cpu")
    [want] = model.score(["the cat sat"])
    for what in (folder, str(folder), model, {"model": str(folder)}, [str(folder)]):
        assert components(what)["reward_model"] == pytest.approx([want], abs=1e-5)
    mixed = build_reward([{"model": str(folder), "weight": 0.5, "name": "judge"}, letters], device="cpu")
    scores = mixed(PROMPTS, ANSWERS)
    assert set(scores.components) == {"judge", "letters"}
    assert scores.total[0] == pytest.approx(want / 2 + 4, abs=1e-5)
    assert reward_model_of(mixed).score(["the cat sat"]) == pytest.approx([want], abs=1e-5)
    assert reward_model_of(build_reward(letters)) is None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "an empty list"),
        (3, "3 is no function, reward model, or list of these"),
        ({"function": "a:b", "model": "c"}, "either function= or model="),
        ({"weight": 1.0}, "either function= or model="),
        ({"function": "judges.py"}, "must read package.module:name"),
        ({"fuction": "a:b"}, "fuction: unknown key; did you mean 'function'"),
        ({"function": "a:b", "weight": math.nan}, "weight"),
        ("kedge_no_such:judge", "No module named"),
    ],
)
def test_not_a_reward(what, message):
    with pytest.raises(ConfigError, match=message):
        build_reward(what)


def test_no_such_model(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        build_reward(tmp_path / "nowhere")
