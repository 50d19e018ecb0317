"""Running scales of observations and rewards, as in OpenAI's baselines: part of what an agent has learnt."""

import numpy as np

FLOOR, LIMIT = 1e-8, 10.0


class RunningScale:
    """Mean and population variance of all rows seen, batch by batch (Chan, Golub & LeVeque 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.count = 1e-4  # so that the first batch counts for nearly everything

    def update(self, rows: np.ndarray) -> None:
        """Take in ``[N, *shape]``."""
        if not len(rows):
            return
        delta, total = rows.mean(0) - self.mean, self.count + len(rows)
        squares = self.variance * self.count + rows.var(0) * len(rows) + delta**2 * self.count * len(rows) / total
        self.mean = self.mean + delta * len(rows) / total
        self.variance, self.count = squares / total, total


class Normalization:
    """Scales what comes from the environments while it learns their scale; frozen it only scales."""

    def __init__(self, width: int, n: int, *, observations: bool, rewards: bool, gamma: float) -> None:
        self.scales_observations, self.scales_rewards, self.gamma = observations, rewards, gamma
        self.seen, self.earned = RunningScale((width,)), RunningScale(())
        self.returns = np.zeros(n)

    def begin(self) -> None:
        """Episodes begin: what was earned in the ones before does not count."""
        self.returns[:] = 0.0

    def observations(self, rows: np.ndarray, *, learn: bool) -> np.ndarray:
        """``[N, width]`` float32."""
        if not self.scales_observations:
            return rows
        if learn:
            self.seen.update(rows)
        scaled = (rows - self.seen.mean) / np.sqrt(self.seen.variance + FLOOR)
        return np.clip(scaled, -LIMIT, LIMIT).astype(np.float32)

    def rewards(self, rewards: np.ndarray, ended: np.ndarray, real: np.ndarray) -> np.ndarray:
        """``[N]`` rewards of a step, divided by the deviation of the discounted return so far."""
        if not self.scales_rewards:
            return rewards
        self.returns = np.where(real, self.returns * self.gamma + rewards, self.returns)
        self.earned.update(self.returns[real])
        self.returns[ended] = 0.0
        return np.clip(rewards / np.sqrt(self.earned.variance + FLOOR), -LIMIT, LIMIT)

    def state_dict(self) -> dict[str, np.ndarray]:
        """What is saved with the agent."""
        scales = {"observations": self.seen, "rewards": self.earned}
        return {
            f"{name}.{part}": np.asarray(getattr(scale, part), dtype=np.float64)
            for name, scale in scales.items()
            for part in ("mean", "variance", "count")
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Become what was saved."""
        for name, scale in (("observations", self.seen), ("rewards", self.earned)):
            scale.mean, scale.variance = state[f"{name}.mean"], state[f"{name}.variance"]
            scale.count = float(state[f"{name}.count"])
