"""What a person looks at: the learning curve, and the agent at work."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from kedge.control.environments import make
from kedge.errors import ConfigError

if TYPE_CHECKING:
    from kedge.control.agent import Agent

BLUE, GREY = "#2563a8", "#6b7280"


def learning_curve(metrics: Sequence[dict[str, float]], path: Path, *, title: str) -> None:
    """The mean return of each rollout's episodes against steps, as a PNG."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        points = [(line["step"], line["return"]) for line in metrics if "return" in line]
        if points:
            steps, returns = (np.array(column) for column in zip(*points, strict=True))
            axes.plot(steps, returns, color=BLUE, alpha=0.3, linewidth=1)
            span = max(1, len(returns) // 20)
            smooth = np.convolve(returns, np.ones(span) / span, mode="valid")
            axes.plot(steps[span - 1 :], smooth, color=BLUE, linewidth=1.8, label=f"mean of {span} rollouts")
            axes.annotate(f"{smooth[-1]:.4g}", (steps[-1], smooth[-1]), textcoords="offset points", xytext=(4, 0),
                          color=BLUE, va="center")  # fmt: skip
        axes.set(xlabel="steps", title=title)
        axes.set_ylabel("return of an episode")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
        axes.grid(axis="y", color=GREY, alpha=0.2)
        figure.savefig(path)


def film(agent: "Agent", path: Path, *, seed: int = 0, every: int = 2, most: int = 600) -> int:
    """Render an episode of the agent at work as a GIF; returns how many frames it has.

    Args:
        every: keep one frame in so many.
        most: stop after so many steps.

    Raises:
        ConfigError: the environment does not render, or was not given by its id.
    """
    if agent.env_id is None:
        raise ConfigError("to be watched, an agent must have been trained on an environment's id")
    if "rgb_array" not in make(agent.env_id).metadata.get("render_modes", ()):
        raise ConfigError(f"{agent.env_id} cannot be watched: it has no render mode rgb_array")
    environment: Any = make(agent.env_id, render_mode="rgb_array")
    frames, steps = [], 0
    observation, _ = environment.reset(seed=seed)
    state, start, over = None, True, False
    while not over and steps < most:
        if steps % every == 0:
            frames.append(Image.fromarray(np.asarray(environment.render(), np.uint8)))
        action, state = agent.predict(observation, state, start, deterministic=True)
        observation, _, ended, cut_off, _ = environment.step(action)
        steps, start, over = steps + 1, False, ended or cut_off
    pace = 1000 * every / (environment.metadata.get("render_fps") or 30)
    environment.close()
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pace, loop=0)
    return len(frames)
