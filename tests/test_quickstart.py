"""The quickstart's wiring, on a desk of a few rows; the real one is measured by the slow test."""

import io
import json
from functools import partial

import pytest
from rich.console import Console

from kedge import quickstart as module
from kedge.errors import ConfigError
from kedge.tasks.support_desk import write_support_desk


@pytest.fixture
def small(monkeypatch):
    """Everything the quickstart does, of everything a little."""
    rows = {"demonstrations": 24, "pairs": 16, "heldout_pairs": 8, "prompts": 16, "heldout_prompts": 6}
    tables = module.recipe_tables

    def shortened(folder, seed):
        recipe = tables(folder, seed)
        recipe["sft"] |= {"epochs": 1.0, "warmup_steps": 1}
        recipe["reward"] |= {"warmup_steps": 1}
        recipe["ppo"] |= {"steps": 2, "batch_size": 8, "mini_batch_size": 4, "eval_every": 1}
        return recipe

    monkeypatch.setattr(module, "write_support_desk", partial(write_support_desk, **rows))
    monkeypatch.setattr(module, "recipe_tables", shortened)


@pytest.mark.usefixtures("small")
def test_it_shows_and_leaves_what_it_did(tmp_path):
    console = Console(record=True, width=120, file=io.StringIO())
    summary = module.quickstart(tmp_path / "q", seed=3, console=console)
    assert summary["eval_prompts"] == 6
    assert set(summary["win_rate"]) == {"score", "gold"}
    shown = console.export_text()
    for words in ("gold itself agrees with", "Before and after PPO", "On the way", "What to type next"):
        assert words in shown
    first = json.loads((tmp_path / "q/data/prompts-heldout.jsonl").read_text().splitlines()[0])["prompt"][0]["content"]
    assert first.split()[0] in shown
    assert json.loads((tmp_path / "q/ppo/summary.json").read_text()) == summary
    for result in ("sft/policy", "reward/reward_model", "ppo/policy", "ppo/critic"):
        assert (tmp_path / "q" / result).is_dir()
    with pytest.raises(ConfigError, match="overwrite=True"):
        module.quickstart(tmp_path / "q", console=console)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_same_seed_does_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Console(quiet=True)

    def run():
        summary = module.quickstart(tmp_path / "q", seed=1, overwrite=True, console=console)
        return {key: value for key, value in summary.items() if key != "seconds"}

    assert run() == run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_readme_promises(tmp_path, seed):
    folder = tmp_path / "q"
    summary = module.quickstart(folder, seed=seed, console=Console(quiet=True))
    rate = summary["win_rate"]["gold"]
    assert rate["n"] >= 200
    assert rate["rate"] >= 0.8
    assert rate["low"] >= 0.7
    assert summary["after"]["kl"] <= 20
    assert summary["after"]["length"] >= summary["before"]["length"] / 3
    accuracy = json.loads((folder / "reward/summary.json").read_text())["after"]["accuracy"]
    rows = [json.loads(line) for line in (folder / "data/preferences-heldout.jsonl").read_text().splitlines()]
    assert accuracy >= sum(row["gold_chosen"] > row["gold_rejected"] for row in rows) / len(rows) - 0.03
