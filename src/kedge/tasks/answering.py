"""Policies' answers to a task's held-out rows, judged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kedge.data.records import read_prompts
from kedge.evaluation.evaluate import Evaluation, judge_answers, measure_policy
from kedge.models.language_model import load_language_model
from kedge.rewards.build import RewardLike, build_reward
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.tasks.task import Row, Task


def answered(task: Task, rows: Sequence[Row], policy: str | Path, sampling: Sampling) -> Evaluation:
    """Its answers, at the task's temperature.

    Args:
        task: whose metrics judge them.
        rows: what is asked, held out.
        policy: hub id, folder or run.
        sampling: but for its temperature.
    """
    lm = load_language_model(policy)
    prompts = read_prompts(task.prompts_of(rows, "eval"))
    return measure_policy(lm, Engine(lm), prompts, task.judges(), replace(sampling, temperature=task.temperature))


def best_of(
    count: int,
    task: Task,
    rows: Sequence[Row],
    policy: str | Path,
    reward: RewardLike | Sequence[RewardLike],
    sampling: Sampling,
) -> Evaluation:
    """Of several sampled answers to a row the one that the reward likes best (Stiennon et al. 2020).

    Args:
        count: answers to each.
        task: whose metrics judge the one.
        rows: what is asked, held out.
        policy: hub id, folder or run.
        reward: what chooses.
        sampling: as they are drawn.
    """
    lm, judges = load_language_model(policy), {"score": build_reward(reward)}
    prompts = read_prompts(task.prompts_of(rows, "eval"))
    engine = Engine(lm)
    drawn = [measure_policy(lm, engine, prompts, judges, sampling, seed=seed) for seed in range(count)]
    scores = zip(*(each.scores["score"] for each in drawn), strict=True)
    best = [drawn[of_one.index(max(of_one))].completions[i] for i, of_one in enumerate(scores)]
    return judge_answers(prompts, best, task.judges())
