"""What control's recipes reach: kedge and Stable-Baselines3 with the same settings, five seeds each.

    python benchmarks/control_scores.py [recipes/control/acrobot.toml ...] [--seeds 5] [--only kedge|sb3] [--log FILE]

Each run trains as its recipe says and is scored by 20 episodes of likeliest actions. A finished run is a line in the
log, and is not run again. SB3's memory is sb3-contrib's RecurrentPPO. One thread.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as sb3_evaluate
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn
from workload import show

from kedge.config.settings import read_recipe
from kedge.control import Agent, ControlConfig, evaluate_policy

RECIPES = Path(__file__).parents[1] / "recipes" / "control"
EPISODES, FIRST_SEED = 20, 10_000
SHARED = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range_vf", "normalize_advantage",
          "ent_coef", "vf_coef", "max_grad_norm", "target_kl", "seed", "device")  # fmt: skip


def kedge(env: str, config: ControlConfig) -> float:
    """The score of our agent."""
    return evaluate_policy(Agent(env, config).learn(), env, EPISODES, seed=FIRST_SEED)[0]


def sb3(env: str, config: ControlConfig) -> float:
    """The score of Stable-Baselines3's agent with the same settings."""
    settings: dict[str, Any] = {name: getattr(config, name) for name in SHARED}
    for name in ("learning_rate", "clip_range"):
        start = getattr(config, name)
        annealed = getattr(config, f"{name}_schedule") == "linear"
        settings[name] = (lambda left, start=start: start * left) if annealed else start
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[config.activation]
    shape: dict[str, Any] = {"activation_fn": activation, "log_std_init": config.log_std_init}
    if config.policy == "lstm":
        *layers, width = config.hidden_sizes
        shape |= {"net_arch": {"pi": layers, "vf": layers}, "lstm_hidden_size": width}
        algorithm, policy = sb3_contrib.RecurrentPPO, "MlpLstmPolicy"
    else:
        shape |= {"net_arch": list(config.hidden_sizes)}
        algorithm, policy = stable_baselines3.PPO, "MlpPolicy"
    train, test = make_vec_env(env, config.n_envs, seed=config.seed), make_vec_env(env, 1, seed=FIRST_SEED)
    scales = {"norm_obs": config.normalize_observations, "norm_reward": config.normalize_rewards}
    if any(scales.values()):
        train = VecNormalize(train, gamma=config.gamma, **scales)
        test = VecNormalize(test, training=False, norm_obs=config.normalize_observations, norm_reward=False)
        test.obs_rms = train.obs_rms
    agent = algorithm(policy, train, policy_kwargs=shape, **settings)
    agent.learn(config.total_timesteps)
    return float(sb3_evaluate(agent, test, EPISODES)[0])


WHO = {"kedge": kedge, "sb3": sb3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=sorted(RECIPES.glob("*.toml")))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=WHO)
    parser.add_argument("--log", type=Path, default=Path("control_scores.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(x) for x in arguments.log.read_text().splitlines()] if arguments.log.exists() else []
    done = {(x["recipe"], x["who"], x["seed"]): x["score"] for x in lines}
    rows = []
    for recipe in arguments.recipes:
        settings = read_recipe(recipe)["control"]
        env = settings.pop("env")
        row = [env, f"{settings['total_timesteps']:,}"]
        for who, score in WHO.items():
            for seed in range(arguments.seeds) if arguments.only in (None, who) else ():
                key = (recipe.stem, who, seed)
                if key in done:
                    continue
                start = time.perf_counter()
                done[key] = score(env, ControlConfig(**settings | {"seed": seed}))
                line = dict(zip(("recipe", "who", "seed"), key, strict=True)) | {"score": done[key]}
                with arguments.log.open("a") as log:
                    log.write(json.dumps(line | {"seconds": round(time.perf_counter() - start, 1)}) + "\n")
            scores = [done[recipe.stem, who, s] for s in range(arguments.seeds) if (recipe.stem, who, s) in done]
            row.append(f"{statistics.median(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})" if scores else "")
        rows.append(row)
    show("Return, median (range) of the seeds", ("task", "steps", *WHO), rows, {"benchmark": "control_scores"})


if __name__ == "__main__":
    main()
