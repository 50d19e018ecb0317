"""``kedge control``: from an environment's id or a recipe to a saved agent, its learning curve and its evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedge.config.settings import override
from kedge.control.agent import Agent
from kedge.control.config import ControlConfig
from kedge.control.evaluate import evaluate_policy
from kedge.control.pictures import learning_curve
from kedge.errors import ConfigError, Stopped
from kedge.parallel import ALONE
from kedge.runs import Run
from kedge.runs.callbacks import Callback
from kedge.runs.folder import RunFolder, close_on_error
from kedge.runs.interrupts import Interrupts
from kedge.runs.progress import ProgressBar, say
from kedge.storage.writing import old_of

FILES = ("recipe.toml", "metrics.jsonl", "summary.json", "agent", "curve.png", "watched.gif")
SHOWN = ("return", "length")
SAVED_EVERY = 30.0
"""Seconds between two times that the agent is saved while it learns: what a kill can cost."""


class ControlRecipe(ControlConfig):
    """``[control]``: the settings, and where."""

    env: str
    """The environment's id, such as ``CartPole-v1``."""
    run: str | None = None
    """Folder of the run; default ``runs/`` and the environment's id, or the recipe's name."""


def settings_of(env: str, overrides: Sequence[str]) -> ControlRecipe:
    """The settings of an environment's id and ``key=value``, without a recipe.

    Raises:
        ConfigError: settings that do not fit.
    """
    settings = override({}, [text.removeprefix("control.") for text in overrides])
    if "env" in settings:
        raise ConfigError(f"env: {env} is named already")
    return ControlRecipe(**settings, env=env)


class ControlJob:
    """``[control]``, ready to train, evaluate and save.

    A run that is resumed goes on from the agent that was saved last, in new episodes: what an environment was at cannot
    be saved, so that it is not to the last bit what the uninterrupted run would have been.

    Args:
        path: the run's folder.
        settings: the table.
        overwrite: delete the run that is there.
        resume: go on from its last agent.

    Raises:
        KedgeError: anything in the settings that does not fit, before any training.
    """

    def __init__(self, path: str, settings: ControlRecipe, *, overwrite: bool = False, resume: bool = False) -> None:
        self.settings = settings
        tables = {"control": settings.resolved()}
        self.run = RunFolder(path, tables, overwrite=overwrite, resume=resume, files=FILES)
        self.config = ControlConfig(**settings.model_dump(exclude_unset=True, exclude={"env", "run"}))
        self.agent = Agent(settings.env, self.config)
        if self.run.resume:
            _go_on(self.agent, self.run.path / "agent", self.config)

    def train(self) -> dict[str, Any]:
        """The summary.

        Raises:
            Stopped: Ctrl-C or SIGTERM asked for it; the agent so far and its curve are saved.
        """
        run, agent, config, env = self.run, self.agent, self.config, self.settings.env
        saved = run.path / "agent"
        run.start()
        if run.resume:
            run.forget_after(agent.num_timesteps)
            rows = Run(run.path).rows
            agent.metrics = [{name: value for name, value in row.items() if value is not None} for row in rows]
        with (
            close_on_error(run),
            ProgressBar(env, config.total_timesteps, start=agent.num_timesteps) as bar,
            Interrupts(ALONE) as interrupts,
        ):
            agent.learn(callback=Reporter(run, bar, interrupts, agent.num_timesteps), resume=True)
            asked = interrupts.asked()
            agent.save(saved)
        learning_curve(agent.metrics, run.path / "curve.png", title=env)
        if asked and agent.num_timesteps < config.total_timesteps:
            done = f"{agent.num_timesteps:,} of {config.total_timesteps:,} steps"
            run.close()
            raise Stopped(f"{asked.name} after {done}; the agent so far is in {saved}", 128 + asked)
        summary: dict[str, Any] = {"env": env, "steps": agent.num_timesteps}
        summary["steps_per_second"] = round(agent.metrics[-1]["steps_per_second"])
        if config.eval_episodes:
            mean, deviation = evaluate_policy(agent, env, config.eval_episodes, seed=config.seed + 10_000)
            summary |= {"return": mean, "deviation": deviation, "episodes": config.eval_episodes}
        run.write_summary(summary)
        return summary


def _go_on(agent: Agent, saved: Path, config: ControlConfig) -> None:
    saved = saved if saved.is_dir() else old_of(saved)
    if not saved.is_dir():
        say(f"{saved.parent}: no agent in it yet; the run begins again")
        return
    agent.restore(saved)
    a_rollout = agent.environments.n * config.n_steps
    if agent.num_timesteps >= config.total_timesteps + a_rollout:
        raise ConfigError(
            f"total_timesteps: {config.total_timesteps:,}, and {agent.num_timesteps:,} are done; set more, or leave it"
        )


class Reporter(Callback):
    """Writes a line a rollout, moves the bar, and saves the agent now and then; stops where it was asked for."""

    def __init__(self, run: RunFolder, bar: ProgressBar, interrupts: Interrupts, done: int) -> None:
        self.run, self.bar, self.interrupts, self.last = run, bar, interrupts, done
        self.saved = time.monotonic()

    def on_step(self, trainer: Agent, metrics: dict[str, float]) -> bool:
        self.run.write_metrics(trainer.num_timesteps, metrics)
        shown = {name: metrics[name] for name in SHOWN if name in metrics}
        self.bar.advance(by=trainer.num_timesteps - self.last, **shown)
        self.last = trainer.num_timesteps
        if time.monotonic() - self.saved > SAVED_EVERY:
            trainer.save(self.run.path / "agent")
            self.saved = time.monotonic()
        return self.interrupts.asked() is None
