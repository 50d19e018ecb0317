"""``[loop]``: from what people say of a server's answers to its next version, round by round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from kedge.config.settings import Config
from kedge.errors import ConfigError
from kedge.recipes.tables import EvaluateRecipe, PPORecipe, RewardRecipe
from kedge.rewards.said import Judges

OWN: Mapping[str, tuple[str, ...]] = {
    "reward": ("model", "data", "run"),
    "ppo": ("policy", "prompts", "eval_prompts", "reward", "run"),
    "evaluate": ("policy", "baseline", "prompts", "reward", "run"),
}
"""What the loop itself says in the tables of a round."""

TABLES: Mapping[str, type[Config]] = {"reward": RewardRecipe, "ppo": PPORecipe, "evaluate": EvaluateRecipe}

CHECKPOINTS: Mapping[str, int] = {"reward": 50, "ppo": 5}
"""Steps between checkpoints, where a table does not say: what broke off goes on from the last."""


class GateConfig(Config):
    """``[loop.gate]``: what a new version must have, to be accepted."""

    min_score_gain: float = 0.0
    """By how much its answers to what people ask must score higher than those of the version before, in the mean, by
    the round's reward model."""
    keep: float = Field(0.95, ge=0, le=1)
    """What its answers to the anchors must score, as a part of what those of the version before do."""
    judge: Judges | None = None
    """Scores the answers to the anchors, whose columns it gets; best one whose scores are between 0 and 1. ``none``:
    the round's reward model, whose zero means nothing."""
    hold_out: float = Field(0.2, gt=0, lt=1)
    """Share of the prompts, of people's and of the anchors', that are asked here; PPO never trains on them, in
    any round."""


class LoopRecipe(Config):
    """``[loop]``."""

    STAGE: ClassVar[str] = "loop"
    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "anchor_share": ("anchors", ()),
        "canary": ("to", ()),
        "canary_wait": ("to", ()),
        "admin_key_file": ("to", ()),
    }

    feedback: str
    """Where people's words are: the database of ``kedge serve --feedback``, or a ``.jsonl`` file that ``kedge feedback
    --import`` would take."""
    policy: str
    """Hub id, folder or run: the version that answers now."""
    reward_model: str | None = None
    """What the reward model of every round begins from; ``none``: the policy."""
    anchors: str | None = None
    """What must not be forgotten: rows with a column ``prompt``, and ``chosen`` and ``rejected`` where people have
    preferred something before. Other columns reach ``gate.judge``."""
    anchor_share: float = Field(0.5, gt=0, lt=1)
    """How much of a round's prompts and of its pairs are anchors', where there are as many."""
    rounds: int = Field(1, ge=1)
    """How many, in all."""
    at_least: int = Field(1, ge=1)
    """New feedback that a round begins with; where there is less, the loop ends, and says so."""
    reward: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of ``[reward]``, without its model and data."""
    ppo: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of ``[ppo]``, without policy, prompts and reward. ``kl_coef`` holds it to the version before."""
    evaluate: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of ``[evaluate]``, without policies, prompts and reward. Length, temperature and what ends an answer are
    those of ``ppo`` where nothing is said."""
    gate: GateConfig = Field(default_factory=GateConfig)
    """What a new version must have."""
    to: str | None = None
    """The server that tries a version which has come through the gate; ``none``: the gate is the end of a round."""
    admin_key_file: str | None = None
    """Its first line is an administrator's key of that server."""
    canary: float = Field(0.1, gt=0, lt=1)
    """Share of the people who are answered by the version on trial."""
    canary_wait: float = Field(0.0, ge=0)
    """Seconds to wait for the end of a trial; after that the loop ends, and looks again when it is started again."""
    run: str | None = None
    """Folder of the rounds; default ``runs/<recipe>-loop``."""

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        if self.to is not None and self.admin_key_file is None:
            raise ValueError("admin_key_file: missing; the server of `to` takes new versions from administrators only")
        for table, own in OWN.items():
            given = getattr(self, table)
            if taken := [key for key in own if key in given]:
                raise ValueError(f"{table}.{taken[0]}: the loop says that itself; take it out")
        for table, settings in self.tables(Path("round"), policy=self.policy).items():
            try:
                TABLES[table](**settings)
            except ConfigError as error:
                raise ValueError("\n".join(f"{table}.{line}" for line in str(error).splitlines())) from None
        return self

    def tables(self, folder: Path, *, policy: str) -> dict[str, dict[str, Any]]:
        """The tables of a round's recipe.

        Args:
            folder: of the round.
            policy: the version that was accepted last.
        """
        data = {name: str(folder / f"{name}.jsonl") for name in ("preferences", "prompts", "held-out")}
        reward, ppo = str(folder / "reward"), str(folder / "ppo")
        return {
            "reward": {"checkpoint_every": CHECKPOINTS["reward"]} | dict(self.reward) | {
                "model": self.reward_model or self.policy, "data": data["preferences"], "run": reward
            },
            "ppo": {"checkpoint_every": CHECKPOINTS["ppo"]} | dict(self.ppo) | {
                "policy": policy, "prompts": data["prompts"], "reward": reward, "run": ppo
            },
            "evaluate": self._evaluated(ppo, policy) | {
                "prompts": data["held-out"], "reward": reward, "run": str(folder / "evaluation")
            },
        }  # fmt: skip

    def anchors_table(self, folder: Path, *, policy: str) -> dict[str, Any]:
        """``[evaluate]`` of the anchors; arguments as of :meth:`tables`."""
        judge = self.gate.resolved()["judge"]
        return self._evaluated(str(folder / "ppo"), policy) | {
            "prompts": str(folder / "anchors-held-out.jsonl"), "run": str(folder / "anchors-evaluation"),
            "reward": str(folder / "reward") if judge == "none" else judge,
        }  # fmt: skip

    def _evaluated(self, policy: str, baseline: str) -> dict[str, Any]:
        alike = ("response_length", "temperature", "stop_tokens", "stop_strings", "seed", "device")
        answered = {key: self.ppo[key] for key in alike if key in self.ppo}
        return answered | dict(self.evaluate) | {"policy": policy, "baseline": baseline}
