"""A stage from outside the package, brought by an entry point: recipe, command, run, settings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kedge.cli.app import program
from kedge.errors import ConfigError
from kedge.recipes.fitting import plans
from kedge.recipes.recipe import Recipe
from kedge.recipes.registry import COMMANDS, STAGES, names, stage_called

COUNTING = '''
"""Counts words: nothing that learns, and all that a stage is."""

import torch  # heavy, as what others bring may be

from kedge.config.settings import Config
from kedge.recipes.stage import Stage


class Counting(Config):
    """What is counted."""

    text: str
    """Words."""
    per: float = 1.0
    """Points a word."""
    run: str | None = None
    """Folder."""


class CountJob:
    def __init__(self, settings, run):
        self.settings, self.run = settings, run

    def train(self):
        self.run.start()
        summary = {"points": len(self.settings.text.split()) * self.settings.per}
        self.run.write_summary(summary)
        return summary


class CountStage(Stage):
    name, about = "count", "A text -> the number of its words"

    def table(self):
        return Counting

    def job(self, recipe, *, overwrite, resume):
        run = recipe.run_folder("count", overwrite=overwrite, resume=resume)
        return CountJob(recipe.stage("count", Counting), run)
'''


@pytest.fixture
def kedge(kedge, monkeypatch, tmp_path):
    """``kedge("count", "r.toml")`` where the stage is installed: ``(status, stdout, stderr)``."""
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    (site / "count-1.0.dist-info").mkdir(parents=True)
    (site / "count-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: count\nVersion: 1.0\n")
    (site / "count-1.0.dist-info/entry_points.txt").write_text("[kedge.stages]\ncount = kedge_count:CountStage\n")
    (site / "kedge_count.py").write_text(COUNTING)
    monkeypatch.delitem(sys.modules, "kedge_count", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(site)
    (tmp_path / "r.toml").write_text(
        '[count]\ntext = "the cat sat"\n[sft]\nmodel = "model"\ndata = "d.jsonl"\n[control]\nenv = "CartPole-v1"\n'
    )

    return kedge


def test_its_command_leaves_a_run(kedge, tmp_path):
    status, out, err = kedge("count", "r.toml", "per=2")
    assert (status, out) == (0, "run: runs/r-count\n"), err
    assert json.loads(Path("runs/r-count/summary.json").read_text()) == {"points": 6.0}
    status, _, err = kedge("count", "r.toml", "per=2")
    assert (status, "--overwrite" in err, "--resume" in err) == (2, True, True)
    assert "count.per was 2.0 and is 1.0 now" in kedge("count", "r.toml", "--resume")[2]
    assert kedge("count", "r.toml", "per=2", "--resume")[0] == 0
    assert kedge("count", "runs/r-count/recipe.toml", "--overwrite", "count.run=again")[0] == 0  # it repeats the run
    assert json.loads(Path("again/summary.json").read_text()) == {"points": 6.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("count r.toml pr=2", "r.toml: [count] pr: unknown key; did you mean 'per'?"),
        ("count r.toml per=much", "[count] per: Input should be a valid number"),
        ("count r.toml sft.epochs=2", "'sft.epochs=2': of [sft], and [count] is what is read here"),
        ("sft r.toml per=2", "[sft] has no 'per'; [count] has, and is not read"),
        ("sft r.toml count.per=much", "of [count], and [sft] is what is read here"),
        ("count none.toml", "none.toml: no such recipe file"),
        ("settings cont", "cont: no table; did you mean 'count'?"),
    ],
)
def test_its_table_is_checked_as_all_are(kedge, words, said):
    status, _, err = kedge(*words.split())
    assert (status, said in err) == (2, True), err


def test_a_wrong_table_of_it_stops_other_stages_too(kedge):
    file = Path("r.toml")
    file.write_text(file.read_text().replace('text = "the cat sat"\n', ""))
    assert "[count] text: missing" in kedge("sft", "r.toml")[2]


def test_settings_show_it(kedge):
    status, out, _ = kedge("settings", "count")
    assert status == 0
    assert out == (
        "[count]\nA text -> the number of its words (`kedge count`).\n\n  text: must be given  (text)\n      Words.\n"
        "  per = 1.0  (number)\n      Points a word.\n  run = none  (text | none)\n      Folder.\n"
    )
    assert "[count]" in kedge("settings")[1]


def test_help_shows_it(kedge):
    assert "The recipe's count table, a stage of count 1.0." in " ".join(kedge("--help")[1].replace("│", " ").split())
    assert "kedge_count" not in sys.modules
    assert "A text -> the number of its words (the recipe's count table)." in " ".join(
        kedge("count", "--help")[1].split()
    )


def test_it_is_not_planned(kedge):
    assert [stage for stage, _ in plans(Recipe(Path("r.toml"), []))] == ["sft"]
    Path("r.toml").write_text('[count]\ntext = "x"\n')
    status, _, err = kedge("plan", "r.toml")
    assert (status, "no table to plan; there are [sft], [reward] and [ppo]" in err) == (2, True)


def test_help_answers_without_torch(kedge, tmp_path):
    """Nor does it import what other packages bring."""
    code = (
        "import sys\nsys.argv = ['kedge', *sys.argv[1:]]\nfrom kedge.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'kedge_count') if name in sys.modules])"
    )
    path = [str(tmp_path / "site"), *sys.path]
    for words in (["--help"], ["ppo", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\nsys.path[:] = {path!r}\n{code}", *words],
            capture_output=True,
            text=True,
        )
        assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("kedge_count:Nothing", r"count: count 1\.0 brings it \(kedge_count:Nothing\), and it cannot be loaded"),
        ("kedge_count:CountJob", r"count 1\.0 brings it, and it is no stage"),
        ("kedge.recipes.stages.ppo:PPOStage", "calls itself 'ppo'; its entry point must have the same name"),
    ],
)
def test_what_is_no_stage(kedge, tmp_path, value, said):
    (tmp_path / "site/count-1.0.dist-info/entry_points.txt").write_text(f"[kedge.stages]\ncount = {value}\n")
    with pytest.raises(ConfigError, match=said):
        Recipe(Path("r.toml"), [])


def test_the_built_in_ones_come_first():
    assert names()[:5] == ["sft", "reward", "ppo", "evaluate", "control"]
    with pytest.raises(ConfigError, match="no stage is called 'evalute'; did you mean 'evaluate'"):
        stage_called("evalute")


@pytest.fixture
def calling_itself(tmp_path):
    """``calling_itself(name)``: the stage has another name, and its recipe's table too."""

    def make(name):
        (tmp_path / "site/count-1.0.dist-info/entry_points.txt").write_text(
            f"[kedge.stages]\n{name} = kedge_count:CountStage\n"
        )
        module = tmp_path / "site/kedge_count.py"
        module.write_text(module.read_text().replace('"count"', f'"{name}"'))
        (tmp_path / "r.toml").write_text(f'[{name}]\ntext = "the cat sat"\n')

    return make


def test_a_name_that_kedge_uses_itself(kedge, calling_itself):
    calling_itself("plan")
    status, _, err = kedge("plan", "r.toml")
    assert (status, "plan: count 1.0 brings it, and it has a name that kedge uses itself" in err) == (2, True), err
    status, out, _ = kedge("settings")
    assert status == 0
    assert "it has a name that kedge uses itself" in out
    assert "before anything is loaded" in kedge("plan", "--help")[1]  # kedge's own


def test_all_commands_of_kedge_are_taken():
    commands = {command.name or command.callback.__name__ for command in program().registered_commands}
    groups = {group.name for group in program().registered_groups}
    assert commands | groups == {*STAGES.built_in, *COMMANDS}


def test_one_that_cannot_be_loaded_costs_the_others_nothing(kedge, tmp_path):
    (tmp_path / "site/kedge_count.py").write_text("def\n")
    status, out, _ = kedge("settings")
    assert status == 0
    assert "[count]\ncount: count 1.0 brings it (kedge_count:CountStage), and it cannot be" in out
    assert "[control]" in out
    status, _, err = kedge("settings", "count")
    assert (status, "cannot be loaded: invalid syntax" in err) == (2, True)
    assert kedge("settings", "sft")[0] == 0


def test_help_of_one_that_does_not_resume_has_no_such_option(kedge, tmp_path):
    assert "--resume" in kedge("count", "--help")[1]
    module = tmp_path / "site/kedge_count.py"
    module.write_text(module.read_text() + "    resumes = False\n")
    sys.modules.pop("kedge_count")
    assert "--resume" not in kedge("count", "--help")[1]
    status, _, err = kedge("count", "r.toml", "--resume")
    assert (status, "--resume: [count] cannot go on" in err) == (2, True)


def test_one_without_a_run(kedge, tmp_path):
    module = tmp_path / "site/kedge_count.py"
    module.write_text(
        module.read_text().replace("self.run.start()", "self.run = None").replace("self.run.write_summary(summary)", "")
    )
    assert kedge("count", "r.toml") == (0, "", "")


def test_one_that_trains_and_does_not_say_how_it_is_planned(kedge, tmp_path):
    module = tmp_path / "site/kedge_count.py"
    module.write_text(module.read_text() + '    trains = "text"\n')
    Path("r.toml").write_text('[count]\ntext = "x"\n')
    status, _, err = kedge("plan", "r.toml")
    said = "[count]: cannot be planned; its table must be a TrainingConfig with a key 'text'"
    assert (status, said in err) == (2, True), err
    module.write_text(
        module.read_text()
        .replace("class Counting(Config)", "class Counting(TrainingConfig)")
        .replace("from kedge.config.settings import Config", "from kedge.training.config import TrainingConfig")
    )
    sys.modules.pop("kedge_count")
    status, _, err = kedge("plan", "r.toml")
    assert (status, "[count]: the stage does not say how it is planned" in err) == (2, True), err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('name, about = "count", "A text -> the number of its words"', 'name = "count"', "give CountStage about"),
        ("import torch", "raise RuntimeError('no licence')", "it cannot be loaded: no licence"),
        ("        return Counting", "        import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_whatever_a_package_does_wrong_costs_the_others_nothing(kedge, tmp_path, before, after, said):
    module = tmp_path / "site/kedge_count.py"
    module.write_text(module.read_text().replace(before, after))
    status, out, _ = kedge("settings")
    assert (status, said in " ".join(out.split()), "[control]" in out) == (0, True, True), out
    Path("e.toml").write_text('[evaluate]\npolicy = "p"\nbaseline = "b"\nprompts = "q"\n')
    status, _, err = kedge("plan", "e.toml")
    assert (status, "no table to plan; there are [sft], [reward] and [ppo]" in err) == (2, True), err
