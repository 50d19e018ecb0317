"""What a run was trained on, as far as its recipe says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.data.records import demonstrations, plain
from kedge.errors import KedgeError
from kedge.runs import run_of
from kedge.training.ppo.prompts import split_prompts
from kedge.training.supervised import read_split


def prompts_trained_on(run: str | Path) -> set[str] | None:
    """The texts of the prompts that a run of ``kedge ppo`` or ``kedge sft`` was itself trained on; None where that is
    not known: it is no run, or one from Python, or its data are no longer there.

    Args:
        run: its folder, the ``policy`` in it, or a checkpoint.
    """
    found = run_of(run)
    if found is None:
        return None
    try:
        tables = found.recipe
        for stage, read in (("ppo", _of_ppo), ("sft", _of_sft)):
            if stage in tables:
                return read(tables[stage])
    except (KedgeError, KeyError):
        return None
    return None


def _of_ppo(table: Mapping[str, Any]) -> set[str]:
    held_out = table.get("eval_prompts", "none")
    train, _ = split_prompts(
        table["prompts"],
        None if held_out == "none" else held_out,
        eval_size=table.get("eval_size", 0),
        columns=table.get("columns"),
        seed=table["seed"],
    )
    return {plain(prompt.text) for prompt in train}


def _of_sft(table: Mapping[str, Any]) -> set[str]:
    held_out = table.get("eval_data", "none")
    train, _ = read_split(
        demonstrations,
        table["data"],
        None if held_out == "none" else held_out,
        eval_size=table.get("eval_size", 0),
        columns=table.get("columns"),
        seed=table["seed"],
    )
    return {plain(demonstration.prompt) for demonstration in train}
