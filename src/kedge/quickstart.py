"""The whole of kedge on this machine in minutes, offline: the built-in support desk, from nothing to a PPO policy.

It does what a user would do: writes data, a fresh tiny model and a recipe into a folder, and runs the recipe's
stages. The folder stays, to be read, changed and run again a stage at a time.
"""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from kedge.data.files import read_rows
from kedge.inspection.tables import comparison_table, curve_table, examples
from kedge.recipes.jobs import ppo_job, reward_job, sft_job
from kedge.recipes.recipe import Recipe
from kedge.runs import open_run
from kedge.runs.folder import RunFolder
from kedge.tasks.starting import desk_model, parameters
from kedge.tasks.support_desk import DeskFiles, write_support_desk

FILES = ("recipe.toml", "data", "model", "sft", "reward", "ppo")


def quickstart(
    folder: Path, *, seed: int = 0, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Run it all in ``folder``; returns the summary of PPO.

    Raises:
        ConfigError: the folder exists and is not to be overwritten.
    """
    start, folder = time.perf_counter(), folder.expanduser()
    console = console or Console()
    tables = recipe_tables(folder, seed)
    run = RunFolder(folder, tables, overwrite=overwrite, resume=None, files=FILES)
    run.start()
    console.print(
        f"[bold]kedge quickstart[/]: a support desk learns from preferences, in {escape(str(folder))}/", soft_wrap=True
    )
    desk = write_support_desk(folder / "data", seed=seed)
    weights = parameters(desk_model(desk, folder / "model", seed=seed))
    console.print(f"data and a model of {weights / 1e6:.1f} million random weights are written")
    recipe = Recipe(folder / "recipe.toml", [])
    sft_job(recipe).train()
    accuracy = reward_job(recipe).train()["after"]["accuracy"]
    ppo = ppo_job(recipe)
    summary = ppo.train()
    assert ppo.comparison is not None
    console.print()
    console.print(
        f"reward model: agrees with {accuracy:.1%} of the held-out labels; they are noisy, and gold itself agrees with "
        f"{ceiling(desk):.1%}\n",
        soft_wrap=True,
    )
    console.print(comparison_table(summary, title="Before and after PPO"))
    console.print("gold is what people would say; neither the reward model nor PPO ever saw it\n", style="dim")
    evaluations = [row for row in open_run(folder / "ppo").rows if "eval/score" in row]
    curve = {"step": "step", "KL": "eval/kl", "score": "eval/score", "gold": "eval/gold"}
    console.print(curve_table(evaluations, curve, title="On the way"))
    console.print()
    console.print(examples(ppo.comparison, 3, judge="gold"))
    console.print(what_next(escape(str(folder))), soft_wrap=True, highlight=False)
    run.close()
    seconds = time.perf_counter() - start
    console.print(f"done in {seconds:.0f} seconds; everything is in {folder}/", soft_wrap=True, markup=False)
    return summary


def recipe_tables(folder: Path, seed: int) -> dict[str, Any]:
    """The recipe: what a user would write for data and model of their own."""
    data = folder / "data"
    return {
        "sft": {
            "model": str(folder / "model"),
            "data": str(data / "demonstrations.jsonl"),
            "run": str(folder / "sft"),
            "seed": seed,
            "epochs": 2.0,
            "batch_size": 8,
            "learning_rate": 4e-3,
            "warmup_steps": 50,
        },
        "reward": {
            "model": str(folder / "sft"),
            "data": str(data / "preferences.jsonl"),
            "eval_data": str(data / "preferences-heldout.jsonl"),
            "run": str(folder / "reward"),
            "seed": seed,
            "epochs": 1.0,
            "batch_size": 8,
            "learning_rate": 5e-4,
            "warmup_steps": 50,
            "micro_batch_tokens": 2048,  # a batch at once, which is faster here
        },
        "ppo": {
            "policy": str(folder / "sft"),
            "prompts": str(data / "prompts.jsonl"),
            "eval_prompts": str(data / "prompts-heldout.jsonl"),
            "reward": str(folder / "reward"),
            "metrics": ["kedge.tasks.support_desk:gold"],
            "run": str(folder / "ppo"),
            "seed": seed,
            "steps": 50,
            "batch_size": 64,
            "mini_batch_size": 32,
            "num_ppo_epochs": 2,
            "response_length": 60,
            "learning_rate": 5e-4,
            "kl_coef": 0.05,
            "critic": "separate",
            "critic_init": "reward",
            "eval_every": 10,
        },
    }


def ceiling(desk: DeskFiles) -> float:
    """The share of the held-out labels that the gold score itself agrees with: no judge can do better but by luck."""
    rows = [row.columns for row in read_rows(desk.preferences_heldout)]
    return sum(row["gold_chosen"] > row["gold_rejected"] for row in rows) / len(rows)


def what_next(folder: str) -> str:
    """What to type now, as markup."""
    return f"""
[bold]What to type next[/]
  kedge chat {folder}/ppo
      talk to it
  kedge serve {folder}/ppo --feedback {folder}/feedback.db
      the same in a browser, with thumbs and corrections: http://127.0.0.1:8000
  kedge ppo {folder}/recipe.toml ppo.kl_coef=0 ppo.steps=200 ppo.run=runs/no-anchor
      without the anchor and for too long: watch the score rise while gold falls behind
  {folder}/recipe.toml
      the recipe of all this; put your own model and data into a copy of it
"""
