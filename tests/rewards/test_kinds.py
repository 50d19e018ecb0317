"""Kinds of reward from outside the package, by their place and by an entry point, in real runs."""

import json
import re
import sys
from pathlib import Path

import pytest

from kedge import PPO
from kedge.errors import ConfigError
from kedge.models.reward_loading import new_reward_model
from kedge.recipes.fitting import plans
from kedge.recipes.jobs import ppo_job
from kedge.recipes.recipe import Recipe
from kedge.recipes.settings import settings_text
from kedge.recipes.tables import PPORecipe
from kedge.rewards.build import RewardSpec, build_reward, refuse_missing_columns, reward_model_of, spec_of
from kedge.rewards.function import FunctionReward
from kedge.rewards.function_spec import FunctionSpec
from kedge.rewards.model import ModelSpec

ROOT = Path(__file__).parents[2]

SHORT = '''
from dataclasses import asdict

from kedge.errors import RewardError
from kedge.models.reward_loading import load_reward_model
from kedge.rewards.model import ModelReward
from kedge.rewards.scores import AT_REST, Reward, Scores
from kedge.rewards.spec import RewardSpec


class ShortReward(Reward):
    def __init__(self, limit):
        self.name, self.limit = "short", limit

    def __call__(self, prompts, completions, state=AT_REST):
        scores = [float(len(completion.ids) <= self.limit) for completion in completions]
        return Scores(scores, [None] * len(scores), {self.name: scores})


class Short(RewardSpec):
    """Whether an answer is short."""

    limit: int | None = 3
    """Tokens, at most."""
    words: tuple[str, ...] = ()
    """Of no use."""

    def build(self, loading):
        return ShortReward(self.limit if self.limit is not None else 10**6)

    def refuse_missing_columns(self, there):
        if self.words and not set(self.words) <= set(there):
            raise RewardError(f"short wants {self.words}")


class Judge(RewardSpec):
    """A reward model, by another name."""

    judge: str
    """Where it is."""

    def build(self, loading):
        return ModelReward(load_reward_model(self.judge, **asdict(loading)), "judge")

    def reward_models(self):
        return [self.judge]


class Unfinished(RewardSpec):
    pass


class Wrong(RewardSpec):
    def build(self, loading):
        return len
'''


@pytest.fixture
def world(tmp_path, tiny_lm, monkeypatch):
    """A folder with a model, prompts, a recipe without its reward, and modules of kinds, one of them installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("kedge_kinds", "kedge_short"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    [example] = re.findall(r"```python\n(\"\"\".*?)```", (ROOT / "docs/rewards.md").read_text(), re.DOTALL)
    (tmp_path / "kedge_kinds.py").write_text(example)
    site = tmp_path / "site"
    (site / "x-1.0.dist-info").mkdir(parents=True)
    (site / "x-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    names = "short = kedge_short:Short\nborrowed = kedge_short:Judge\n"
    (site / "x-1.0.dist-info/entry_points.txt").write_text(f"[kedge.rewards]\n{names}")
    (site / "kedge_short.py").write_text(SHORT)
    tiny_lm("llama").save(tmp_path / "model")
    rows = [json.dumps({"prompt": f"the cat {i}"}) for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "r.toml").write_text(
        '[ppo]\npolicy = "model"\nprompts = "prompts.jsonl"\nsteps = 1\nbatch_size = 4\nmini_batch_size = 4\n'
        'response_length = 4\ncheckpoint_every = 1\ndevice = "cpu"\nmicro_batch_tokens = 256\n'
    )
    return tmp_path


@pytest.fixture
def installed(world, monkeypatch):
    """The package that brings ``short`` and ``borrowed`` is there."""
    monkeypatch.syspath_prepend(world / "site")
    return world


def recipe(reward, *more):
    return Recipe(Path("r.toml"), [f"ppo.reward={reward}", *more])


def saved(run):
    return Recipe(Path(run, "recipe.toml"), []).stages["ppo"].reward


MATCHES = '{kind="kedge_kinds:Matches",pattern="[a-e]",points=2.0,weight=0.5,name="vowels"}'


def test_the_example_of_the_documentation_in_a_run(world):
    ppo_job(recipe(MATCHES)).train()
    [metrics] = map(json.loads, Path("runs/r-ppo/metrics.jsonl").read_text().splitlines())
    assert 0 < metrics["rewards/vowels"] <= 2
    [spec] = saved("runs/r-ppo")
    assert (spec.kind, spec.pattern, spec.points, spec.weight) == ("kedge_kinds:Matches", "[a-e]", 2.0, 0.5)
    assert [spec] == recipe(MATCHES).stages["ppo"].reward  # read back to the same thing

    assert PPO.resume("runs/r-ppo", steps=2, progress=False).train()["steps"] == 2
    ppo_job(recipe(MATCHES, "steps=3"), resume=True).train()
    with pytest.raises(ConfigError, match=r"(?s)another reward 'vowels'.*weight 0.5, source \w+, settings \w+ then"):
        ppo_job(recipe(MATCHES.replace("[a-e]", "[a-f]"), "steps=4"), resume=True)


def test_an_installed_kind_in_a_run(installed):
    reward = '[{kind="short",limit="none"},{kind="short",limit=2,name="very"}]'
    ppo_job(recipe(reward)).train()
    [metrics] = map(json.loads, Path("runs/r-ppo/metrics.jsonl").read_text().splitlines())
    assert metrics["rewards/short"] == 1.0 > metrics["rewards/very"]
    assert [(spec.kind, spec.limit) for spec in saved("runs/r-ppo")] == [("short", None), ("short", 2)]
    assert PPO.resume("runs/r-ppo", steps=2, progress=False).train()["steps"] == 2
    with pytest.raises(ConfigError, match="another reward 2 'very'"):
        ppo_job(recipe(reward.replace("limit=2", "limit=3"), "steps=4"), resume=True)
    said = settings_text("ppo.reward.short")
    assert "Whether an answer is short." in said
    assert "limit = 3  (whole number | none)\n    Tokens, at most." in " ".join(said.split("\n  ")).replace(
        "     ", "\n    "
    )


def test_an_instance_from_python_goes_on_without_being_given_again(world):
    sys.path.insert(0, str(world))
    from kedge_kinds import Matches

    settings = {"steps": 1, "batch_size": 4, "mini_batch_size": 4, "response_length": 4, "checkpoint_every": 1}
    other = Matches(pattern="b", name="b")
    for run, reward in {"runs/0": Matches(pattern="a"), "runs/1": [Matches(pattern="a", weight=2), other]}.items():
        PPO("model", "prompts.jsonl", reward, settings, run=run, progress=False).train()
        assert PPO.resume(run, steps=2, progress=False).train()["steps"] == 2
    assert [spec.weight for spec in saved("runs/1")] == [2.0, 1.0]


def test_what_no_recipe_can_say():
    class Here(RewardSpec):
        what: object

        def build(self, loading):
            raise NotImplementedError

    assert Here(what=1).said() is None  # its class has no place
    assert spec_of(len).said() is None
    assert spec_of("m:f").said() == {"function": "m:f"}
    assert spec_of({"model": "runs/x", "weight": 2}).said() == {"model": "runs/x", "weight": 2.0}


@pytest.mark.slow
def test_plans_and_critics_see_a_reward_model_in_it(installed):
    model = new_reward_model("model", device="cpu")
    model.save(installed / "rm/reward_model")
    (installed / "rm/recipe.toml").write_text("[reward]\n")
    [(_, plan)] = plans(recipe('{kind="borrowed",judge="rm"}'))
    roles = {role for phase in plan.as_dict()["phases"].values() for role in phase["bytes"]}
    assert any("reward" in role for role in roles), roles
    [(_, without)] = plans(recipe('{kind="short"}'))
    assert without.peak < plan.peak
    assert reward_model_of(build_reward([{"kind": "short"}, {"kind": "borrowed", "judge": "rm"}])) is not None


def test_columns_are_asked_for_before_anything_is_loaded(installed):
    with pytest.raises(Exception, match=r"short wants \('colour',\)"):
        refuse_missing_columns({"kind": "short", "words": ["colour"]}, ["size"])
    refuse_missing_columns({"kind": "short", "words": ["colour"]}, ["colour"])


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ('{kind="shrt"}', "no kind of reward is called 'shrt'; did you mean 'short'?"),
        ('{kind="poem"}', "no kind of reward is called 'poem'; .*; one of your own is named by its place"),
        ('{kind="short",limt=3}', r"\[ppo\] reward: limt: unknown key; did you mean 'limit'?"),
        ('{kind="borrowed"}', "reward: judge: missing, and it has no default"),
        ('{kind="short",limit="many"}', "reward: limit: Input should be a valid integer"),
        ('{kind="kedge_kinds:Match",pattern="a"}', "kedge_kinds has no 'Match'"),
        ('{kind="kedge_kinds:re.sub"}', "kedge_kinds:re.sub is no kind of reward"),
        ('{kind="nowhere_at_all:Kind"}', "No module named 'nowhere_at_all'"),
        ('{kind="kedge_short:Unfinished"}', "Unfinished is no whole kind of reward: give Unfinished build\\(\\)"),
        ("{kind=3}", "kind: a name, or package.module:Class, got 3"),
        ('{model="m:f"}', "'m:f' reads like a function"),
        (
            '{model="runs/x",workers=2}',
            "workers: not used with function=none; a reward model is called by the run itself",
        ),
        ('{kind="model",function="m:f"}', "reward: model: missing, and it has no default; function: unknown key"),
        ('{pattern="x"}', "pattern: unknown key; there are: .*kind"),
    ],
)
def test_what_is_refused(installed, reward, said):
    with pytest.raises(ConfigError, match=said):
        recipe(reward)


def test_a_broken_package_is_named(installed):
    (installed / "site/kedge_short.py").write_text("import no_such_thing\n")
    with pytest.raises(ConfigError, match=r"short: x 1\.0 brings it \(kedge_short:Short\).*no_such_thing"):
        recipe('{kind="short"}')


def test_build_gives_a_reward(installed):
    with pytest.raises(ConfigError, match=r"build\(\) of kind 'kedge_short:Wrong' gives builtin_function_or_method"):
        build_reward({"kind": "kedge_short:Wrong"})


def test_settings_show_the_others(installed):
    (installed / "site/kedge_short.py").write_text("import no_such_thing\n")
    said = settings_text(None, width=200)
    assert (
        "short: x 1.0 brings it (kedge_short:Short), and it cannot be loaded: No module named 'no_such_thing'" in said
    )
    assert "package.module:name" in settings_text("ppo.reward.function")
    with pytest.raises(ConfigError, match=r"x 1\.0 brings it .* cannot be loaded"):
        settings_text("ppo.reward.short")


@pytest.mark.parametrize("kind", ["model", "kedge.rewards.model:ModelSpec"])
def test_a_kind_that_is_not_the_class_is_refused(kind):
    with pytest.raises(ConfigError, match=f"kind: '{kind}' is a ModelSpec and this a FunctionSpec; take it out"):
        FunctionSpec(kind=kind, function="m:f")
    assert FunctionSpec(kind="none", function="m:f") == FunctionSpec(function="m:f")


def test_the_built_in_kinds_go_without_saying():
    assert type(RewardSpec(function="m:f")) is FunctionSpec
    assert RewardSpec(model="x") == RewardSpec(kind="model", model="x") == ModelSpec(model="x")
    table = PPORecipe(policy="p", prompts="q", reward={"kind": "function", "function": "m:f"}, metrics=["runs/y"])
    assert table.resolved()["reward"] == [{"function": "m:f", "weight": 1.0}]
    assert table.resolved()["metrics"] == ["runs/y"]


class Halved(FunctionSpec):
    """A kind built on a built-in one."""


def test_a_kind_built_on_a_built_in_one_is_itself():
    table = PPORecipe(policy="p", prompts="q", reward={"kind": f"{__name__}:Halved", "function": "m:f"})
    assert table.resolved()["reward"] == [{"kind": f"{__name__}:Halved", "function": "m:f", "weight": 1.0}]
    assert type(spec_of(table.resolved()["reward"][0])) is Halved
    assert Halved(function="m:f").said() == {"kind": f"{__name__}:Halved", "function": "m:f"}


class HalvedReward(FunctionReward):
    def scores(self, items):
        return super().scores([item / 2 for item in items])


def test_another_class_of_reward_is_another_reward():
    assert FunctionReward(len).fingerprint() == FunctionReward(len).fingerprint()
    assert HalvedReward(spec_of).fingerprint() != FunctionReward(spec_of).fingerprint()
