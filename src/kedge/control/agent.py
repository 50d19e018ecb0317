"""PPO on control tasks, shaped as users of Stable-Baselines3 know it."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kedge.control.config import ControlConfig
from kedge.control.dense import single_threaded
from kedge.control.distributions import distribution_for
from kedge.control.environments import environments_of
from kedge.control.networks import ActorCritic, Memory
from kedge.control.normalization import Normalization
from kedge.control.observations import batched, flatten, has_images, is_batch, is_image, length, width
from kedge.control.rollout import Collector
from kedge.control.update import AgentUpdate
from kedge.errors import ConfigError, ModelError
from kedge.models.device import pick_device
from kedge.runs.callbacks import Callback, CallbackLike, callbacks_of, is_end
from kedge.storage.writing import whole_folder

AGENT_FILE, SETTINGS_FILE = "agent.safetensors", "agent.json"


class Agent:
    """An agent that learns a Gymnasium task.

    ``Agent("CartPole-v1", n_steps=32).learn(100_000)``

    Args:
        env: an id, an environment, or a vector environment in any autoreset mode.
        config: settings; or single ones by keyword (see :class:`ControlConfig`).

    Raises:
        ConfigError: an unknown id, a space that is not supported, or settings that do not fit.
    """

    def __init__(
        self,
        env: str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        config: ControlConfig | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, ControlConfig | Mapping):
            raise ConfigError('the environment comes first: Agent("CartPole-v1", policy="feedforward")')
        given = ControlConfig.of(config).model_dump(exclude_unset=True) | settings
        if isinstance(env, VectorEnv) and given.setdefault("n_envs", env.num_envs) != env.num_envs:
            raise ConfigError(f"n_envs: {given['n_envs']}, but the vector environment has {env.num_envs}; take it out")
        self.config = config = ControlConfig(**given)
        self.device = pick_device(config.device)
        self.env_id = env if isinstance(env, str) else None
        self.environments = environments_of(env, 1 if isinstance(env, VectorEnv) else config.n_envs)
        self.observation_space, self.action_space = self.environments.observation_space, self.environments.action_space
        self.distribution = distribution_for(self.action_space)
        torch.manual_seed(config.seed)  # the networks' first weights
        self.network = ActorCritic(self.observation_space, self.distribution, config).to(self.device)
        if config.normalize_observations and has_images(self.observation_space):
            raise ConfigError("normalize_observations: pixels are divided by 255 already; take it out")
        self.normalization = Normalization(
            1 if is_image(self.observation_space) else width(self.observation_space),
            self.environments.n,
            observations=config.normalize_observations,
            rewards=config.normalize_rewards,
            gamma=config.gamma,
        )
        self.collector = Collector(self.environments, self.network, self.distribution, self.normalization, config)
        self.update = AgentUpdate(self.network, self.distribution, config)
        self.num_timesteps = 0
        self.metrics: list[dict[str, float]] = []
        """A line for each rollout so far."""
        self._generator = torch.Generator().manual_seed(config.seed)

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: CallbackLike | Sequence[CallbackLike] | None = None,
        *,
        resume: bool = False,
    ) -> "Agent":
        """Learn for so many steps of all environments together (default: the settings'); returns itself.

        Episodes begin anew; learning twice goes on from the same weights, with other episodes.

        Args:
            callback: looks on: a :class:`Callback`, a function ``f(agent, metrics)`` to be called after each update, or
                several of them.
            resume: the steps that the agent has behind it count, towards ``total_timesteps`` and in what is annealed.

        Raises:
            NotFiniteError: a loss, a gradient or an observation is not finite. ConfigError: no callback.
        """
        callbacks = callbacks_of(callback)
        total = self.config.total_timesteps if total_timesteps is None else total_timesteps
        seed = self.config.seed + self.num_timesteps
        self.collector.begin(seed)
        self.update.generator.manual_seed(seed)
        for each in callbacks:
            each.on_training_start(self)
        with nullcontext() if has_images(self.observation_space) else single_threaded():
            self._learn(total, callbacks, 0 if resume else self.num_timesteps)
        for each in callbacks:
            each.on_training_end(self)
        return self

    def _learn(self, total: int, callbacks: Sequence[Callback], begun: int) -> None:
        before, start, going = self.num_timesteps, time.perf_counter(), True
        while going and self.num_timesteps - begun < total:
            left = 1.0 - (self.num_timesteps - begun) / total
            rollout = self.collector.collect(self.config.n_steps)
            self.num_timesteps += rollout.logprobs.numel()
            answers = [each.on_rollout_end(self) for each in callbacks]
            metrics = self._episodes() | self.update(rollout, left)
            metrics["steps_per_second"] = (self.num_timesteps - before) / (time.perf_counter() - start)
            self.metrics.append({"step": float(self.num_timesteps), **metrics})
            answers += [each.on_step(self, metrics) for each in callbacks]
            going = not any(map(is_end, answers))

    @torch.no_grad()
    def predict(
        self, observation: Any, state: Memory = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Memory]:
        """``(action, state)`` for one observation, or ``(actions, state)`` for a batch of them.

        Args:
            state: what an LSTM remembers, from the call before.
            episode_start: True where an episode begins.
            deterministic: the likeliest action instead of a drawn one.
        """
        space = self.observation_space
        several = is_batch(space, observation)
        n = length(space, observation) if several else 1
        rows = flatten(space, observation if several else batched(space, [observation]), n)
        seen = torch.as_tensor(self.normalization.observations(rows, learn=False), device=self.device)
        begun = np.broadcast_to(False if episode_start is None else np.asarray(episode_start, bool), (n,))
        starts = torch.tensor(begun, device=self.device)[None]
        outputs, state = self.network.outputs(seen[None], starts, state)
        chosen = outputs[0]
        if not deterministic:
            chosen = chosen + self.distribution.noise((n,), self.network.log_std, self._generator)
        actions = self.distribution.for_environment(self.distribution.mode(chosen).cpu().numpy())
        return actions if several else actions[0], state

    def save(self, folder: str | Path) -> None:
        """Write weights, normalisation, what Adam remembers, and settings.

        Raises:
            ConfigError: what is there is no agent's folder.
            StorageError: they cannot be written; what was there is as it was.
        """
        folder = Path(folder).expanduser().absolute()
        others = {path.name for path in folder.iterdir()} - {AGENT_FILE, SETTINGS_FILE} if folder.is_dir() else set()
        if others or folder.is_file():
            raise ConfigError(
                f"{folder}: holds other things ({', '.join(sorted(others)) or 'a file'}); name a new folder"
            )
        weights = {f"network.{name}": x.cpu().numpy() for name, x in self.network.state_dict().items()}
        scales = {f"normalization.{name}": x for name, x in self.normalization.state_dict().items()}
        moments = {f"adam.{name}": x.cpu().numpy() for name, x in self.update.optimizer.state_dict().items()}
        settings = {"env": self.env_id, "config": self.config.resolved(), "num_timesteps": self.num_timesteps}
        with whole_folder(folder) as aside:
            save_file(weights | scales | moments, aside / AGENT_FILE)
            (aside / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, env: str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | None = None) -> "Agent":
        """Read what :meth:`save` wrote, or the agent of a run (``runs/CartPole-v1``).

        ``env`` is needed where it was not given by its id.

        Raises:
            ModelError: no agent there, or it does not fit the environment.
        """
        folder = Path(folder).expanduser()
        if (folder / "agent" / SETTINGS_FILE).is_file():
            folder = folder / "agent"
        if not (folder / SETTINGS_FILE).is_file():
            raise ModelError(f"{folder}: no saved agent ({SETTINGS_FILE} is missing)")
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        env = env or settings["env"]
        if env is None:
            raise ModelError(
                f"{folder}: it was trained on an environment without an id; give one: Agent.load(folder, env)"
            )
        n_envs = {} if isinstance(env, str) else {"n_envs": env.num_envs if isinstance(env, VectorEnv) else 1}
        agent = cls(env, ControlConfig(**settings["config"] | n_envs))
        agent.restore(folder)
        return agent

    def restore(self, folder: Path) -> None:
        """Become the agent that :meth:`save` wrote, with the settings and the environment that this one has.

        Raises:
            ModelError: it cannot be read, or does not fit.
        """
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        parts: dict[str, dict[str, np.ndarray]] = {"network": {}, "normalization": {}, "adam": {}}
        try:
            saved = load_file(folder / AGENT_FILE)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder / AGENT_FILE}: cannot be read: {error}") from None
        for name, x in saved.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = x
        weights = {name: torch.as_tensor(x) for name, x in parts["network"].items()}
        shapes = {name: tuple(x.shape) for name, x in self.network.state_dict().items()}
        if {name: tuple(x.shape) for name, x in weights.items()} != shapes:
            raise ModelError(f"{folder}: the agent's networks do not fit this environment's spaces")
        self.network.load_state_dict(weights)
        self.normalization.load_state_dict(parts["normalization"])
        self.update.optimizer.load_state_dict({name: torch.as_tensor(x) for name, x in parts["adam"].items()})
        self.num_timesteps = settings["num_timesteps"]

    def _episodes(self) -> dict[str, float]:
        finished, self.collector.finished = self.collector.finished, []
        if not finished:
            return {}
        returns, lengths = zip(*finished, strict=True)
        return {"return": float(np.mean(returns)), "length": float(np.mean(lengths)), "episodes": float(len(finished))}
