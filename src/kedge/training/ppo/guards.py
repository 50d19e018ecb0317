"""Watching a run for the ways in which PPO goes wrong. Each guard compares one number of a step with its limit."""

import math
import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from kedge.config.settings import Config
from kedge.runs.folder import Metrics

Action = Literal["warn", "pause", "off"]

NAMES = (
    "update_kl", "lr_scale", "kl", "value_loss", "explained_variance", "ratio", "entropy", "repetition", "empty",
    "short", "cut_off", "masked", "equal_rewards", "equal_groups", "one_component",
    "unmoved_component",
)  # fmt: skip

AT_ONCE = {"update_kl", "ratio", "short", "unmoved_component"}
"""Guards that speak at the first step beyond their limit."""

AT_THE_BEGINNING = {"masked", "equal_rewards", "equal_groups"}
"""Guards that speak at once where a run's very first step is beyond their limit: it may never learn anything."""

WATCHED_VALUE_LOSSES = 20
"""Steps of whose value losses the median is taken."""

FEWEST_VALUE_LOSSES = 5
"""Steps that a first median takes."""


class GuardsConfig(Config):
    """What to do about each sign of trouble: ``warn`` says it, ``pause`` also keeps a checkpoint and stops."""

    patience: int = Field(3, ge=1)
    """Steps in a row beyond the limit before a guard speaks (``update_kl``, ``ratio``, ``short``,
    ``unmoved_component``: at once; ``masked``, ``equal_rewards``, ``equal_groups``: at once in the first step;
    ``explained_variance``: its own)."""
    update_kl: Action = "warn"
    """An update moved the policy too far at once."""
    update_kl_limit: float = Field(0.2, gt=0)
    """Nats a token, from the policy that sampled."""
    lr_scale: Action = "warn"
    """``target_kl`` keeps the learning rate far below the recipe's."""
    lr_scale_limit: float = Field(0.5, gt=0, le=1)
    """Share of the recipe's."""
    kl: Action = "warn"
    """The KL from the reference is running away."""
    kl_limit: float = Field(1.0, gt=0)
    """Nats a token."""
    value_loss: Action = "warn"
    """The value loss explodes."""
    value_loss_limit: float = Field(10.0, gt=1)
    """Times the lowest median of 20 steps so far."""
    explained_variance: Action = "warn"
    """The critic is worse than a constant for long."""
    explained_variance_limit: float = Field(0.0, le=1)
    """Explained variance."""
    explained_variance_steps: int = Field(20, ge=1)
    """For how many steps in a row."""
    ratio: Action = "warn"
    """A step's first minibatch does not have ratio 1: sampler and update disagree."""
    ratio_limit: float | None = Field(None, gt=0)
    """Largest log-ratio of a token there; ``none``: rounding at the models' precision."""
    entropy: Action = "warn"
    """The policy collapses onto few answers."""
    entropy_limit: float = Field(0.1, gt=0, lt=1)
    """Share of the first step's entropy a token."""
    repetition: Action = "warn"
    """Answers that repeat themselves take over."""
    repetition_limit: float = Field(0.3, gt=0, lt=1)
    """Rise since the first step of the share of token pairs that were there before in the same answer."""
    empty: Action = "warn"
    """Empty answers take over."""
    empty_limit: float = Field(0.3, gt=0, lt=1)
    """Rise since the first step of their share."""
    short: Action = "warn"
    """Answers have become much shorter."""
    short_limit: float = Field(0.25, gt=0, lt=1)
    """Share of the first step's mean length."""
    cut_off: Action = "warn"
    """Answers at the length limit take over."""
    cut_off_limit: float = Field(0.5, gt=0, lt=1)
    """Rise since the first step of their share."""
    masked: Action = "warn"
    """``cutoff = "mask"`` leaves out the answers: there is nothing to learn from."""
    masked_limit: float = Field(1.0, gt=0, le=1)
    """Share of the answers."""
    equal_rewards: Action = "warn"
    """All scores of a step are equal: there is nothing to learn from."""
    equal_rewards_limit: float = Field(0.0, ge=0)
    """Standard deviation of the scores."""
    equal_groups: Action = "warn"
    """The answers to one prompt all have the same score: without a critic they teach nothing."""
    equal_groups_limit: float = Field(1.0, gt=0, le=1)
    """Share of the prompts."""
    one_component: Action = "warn"
    """One of several reward components decides everything."""
    one_component_limit: float = Field(0.95, gt=0, lt=1)
    """Its share of the components' standard deviations, weights included."""
    unmoved_component: Action = "warn"
    """The policy no longer moves one of several reward components: the others have its place."""
    unmoved_component_limit: float = Field(1.0, gt=0)
    """Standard errors between its mean over 20 steps and over the 20 before, at the most in the last 20 steps."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "explained_variance_steps": ("explained_variance", ("warn", "pause")),
        **{f"{name}_limit": (name, ("warn", "pause")) for name in NAMES},
    }


@dataclass(frozen=True)
class Alarm:
    """A guard that speaks."""

    guard: str
    value: float
    limit: float
    message: str
    pause: bool


@dataclass(frozen=True)
class Guard:
    """One guard: the number it watches, and what to say."""

    name: str
    value: Callable[[Metrics, "History"], float | None]
    """None where the step does not have the number."""
    says: str
    """With ``{value}`` and ``{limit}``."""
    remedy: str
    beyond: Callable[[float, float], bool] = operator.gt
    """Whether a value is on the wrong side of the limit."""


@dataclass
class History:
    """What guards remember of the steps before."""

    first: Metrics
    """Of each metric, when it was first there."""
    value_losses: list[float]
    steps: int = 0
    """How many they were."""
    usual_value_loss: float = math.inf
    """The lowest median so far: a later one may have exploded already."""

    def take_in(self, metrics: Metrics) -> None:
        """After a step was watched."""
        self.steps += 1
        self.first = {**metrics, **self.first}
        if "loss/value_avg" in metrics:
            self.value_losses = [*self.value_losses, metrics["loss/value_avg"]][-WATCHED_VALUE_LOSSES:]
        if len(self.value_losses) >= FEWEST_VALUE_LOSSES:
            self.usual_value_loss = min(self.usual_value_loss, statistics.median(self.value_losses))


def _kl_a_token(metrics: Metrics, _: History) -> float | None:
    return metrics["objective/kl"] / max(metrics["completions/mean_length"], 1.0)


def _value_loss(metrics: Metrics, history: History) -> float | None:
    usual = history.usual_value_loss
    return metrics["loss/value_avg"] / usual if 0 < usual < math.inf and "loss/value_avg" in metrics else None


def _entropy(metrics: Metrics, history: History) -> float | None:
    at_first = history.first.get("policy/entropy_avg", 0.0)
    return metrics["policy/entropy_avg"] / at_first if at_first > 0 and "policy/entropy_avg" in metrics else None


def _rise(name: str) -> Callable[[Metrics, History], float | None]:
    return lambda metrics, history: metrics[name] - history.first[name]


def _is(name: str) -> Callable[[Metrics, History], float | None]:
    return lambda metrics, _: metrics.get(name)


def _length(metrics: Metrics, history: History) -> float | None:
    at_first = history.first["completions/mean_length"]
    return metrics["completions/mean_length"] / at_first if at_first > 0 else None


GUARDS = (
    Guard(
        "update_kl",
        _is("policy/update_kl"),
        "one update moved the policy by {value:.2g} nats a token (limit {limit:g}): it is soon another one",
        "lower learning_rate (`kedge doctor` finds one that does), raise mini_batch_size, or set a smaller target_kl",
    ),
    Guard(
        "lr_scale",
        _is("policy/lr_scale"),
        "target_kl holds the learning rate at {value:.2g} times the recipe's (limit {limit:g})",
        "lower learning_rate to that, and keep the schedule that you meant; `kedge doctor` finds one that does",
        operator.lt,
    ),
    Guard(
        "kl",
        _kl_a_token,
        "KL from the reference is {value:.2f} nats a token (limit {limit:g}): the policy runs away from it",
        "raise kl_coef or lower learning_rate; read samples.jsonl for what the reward fell for",
    ),
    Guard(
        "value_loss",
        _value_loss,
        "the value loss is {value:.0f} times what it was (limit {limit:g})",
        "lower critic_learning_rate, or set scale_rewards or clip_rewards; look for rewards of a new size",
    ),
    Guard(
        "explained_variance",
        _is("val/explained_variance"),
        "the critic explains {value:.2f} of the returns' variance (limit {limit:g}): worse than a constant",
        'set critic_warmup_steps, critic = "separate" or another critic_learning_rate; or do without a critic '
        '(advantage_estimator = "rloo")',
        operator.lt,
    ),
    Guard(
        "ratio",
        _is("policy/first_drift_max"),
        "log-probabilities of the first minibatch differ from the sampler's by {value:.2g} (limit {limit:g}); they "
        "must be the same",
        "look for dropout, a low-precision dtype or an attention implementation at fault; "
        'autocast = "none" or dtype = "float32" tells them apart',
    ),
    Guard(
        "entropy",
        _entropy,
        "the policy's entropy is {value:.0%} of what it was (limit {limit:.0%}): it collapses onto few answers",
        "lower learning_rate, raise kl_coef, or set entropy_coef",
        operator.lt,
    ),
    Guard(
        "repetition",
        _rise("completions/repeated"),
        "answers repeat themselves: {value:.0%} more of their token pairs than in the first step (limit {limit:.0%})",
        "raise kl_coef, or let the reward count repetition",
    ),
    Guard(
        "empty",
        _rise("completions/empty"),
        "{value:.0%} more of the answers are empty than in the first step (limit {limit:.0%})",
        "see that the reward pays nothing for an empty answer; raise kl_coef",
    ),
    Guard(
        "short",
        _length,
        "answers are {value:.0%} as long as in the first step (limit {limit:.0%})",
        "read samples.jsonl: a reward that is a mean over words, or that punishes mistakes, is won by saying little; "
        "let it count length, or raise kl_coef",
        operator.lt,
    ),
    Guard(
        "cut_off",
        _rise("completions/cut_off"),
        "{value:.0%} more of the answers reach response_length than in the first step (limit {limit:.0%})",
        'set cutoff = "penalty" or "mask", raise response_length, or let the reward count length',
    ),
    Guard(
        "masked",
        _is("completions/masked"),
        '{value:.0%} of the answers were cut off and are left out by cutoff = "mask": there is nothing to learn from',
        'raise response_length, or set cutoff = "keep" or "penalty"',
        operator.ge,
    ),
    Guard(
        "equal_rewards",
        _is("objective/scores_std"),
        "the scores of all answers are as good as equal (standard deviation {value:g}, limit {limit:g}): there is "
        "nothing to learn from",
        "look at the reward: it is too coarse, or every answer reaches it",
        operator.le,
    ),
    Guard(
        "equal_groups",
        _is("objective/equal_groups"),
        "for {value:.0%} of the prompts all answers have the same score: there is nothing to learn from",
        "look at the reward: it is too coarse, or the prompts too easy or too hard; raise num_generations",
        operator.ge,
    ),
    Guard(
        "one_component",
        _is("rewards/largest_share"),
        "one reward component makes {value:.0%} of the spread (limit {limit:.0%}); the others hardly count",
        "weigh the components so that their spreads compare",
    ),
    Guard(
        "unmoved_component",
        _is("rewards/smallest_trend"),
        "the policy no longer moves one of the reward components ({value:.1f} standard errors in 20 steps, limit "
        "{limit:g}): it is at its end, or given up for the others",
        "look for its rewards/NAME_trend in the metrics; raise its weight, or lower the others'",
        operator.lt,
    ),
)


class Guards:
    """All guards of a run. Each speaks once when it finds trouble, and again only after the trouble was over."""

    def __init__(self, config: GuardsConfig, *, rounding: float) -> None:
        """``rounding``: how far log-probabilities of one token may differ at the models' precision."""
        self.config = config
        self.rounding = rounding
        self.history: History | None = None
        self.in_a_row: dict[str, int] = {}
        self.spoken: dict[str, list[Any]] = {}
        """Guards that have said it, and the settings they had then: with other ones they may say it again."""

    def watch(self, metrics: Metrics) -> list[Alarm]:
        """Look at a step's metrics, a finished step after the other."""
        history = self.history = self.history or History(dict(metrics), [])
        found = [warning for guard in GUARDS if (warning := self._look(guard, metrics, history))]
        history.take_in(metrics)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        history = None if self.history is None else vars(self.history).copy()
        return {"history": history, "in_a_row": dict(self.in_a_row), "spoken": dict(self.spoken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.history = None if state["history"] is None else History(**state["history"])
        self.in_a_row, self.spoken = dict(state["in_a_row"]), dict(state["spoken"])

    def _look(self, guard: Guard, metrics: Metrics, history: History) -> Alarm | None:
        action: Action = getattr(self.config, guard.name)
        value = guard.value(metrics, history) if action != "off" else None
        if value is None:
            return None
        limit = getattr(self.config, f"{guard.name}_limit")
        limit = self.rounding if limit is None else limit
        self.in_a_row[guard.name] = self.in_a_row.get(guard.name, 0) + 1 if guard.beyond(value, limit) else 0
        settings = [action, limit, self._patience(guard)]
        due = 1 if guard.name in AT_THE_BEGINNING and not history.steps else self._patience(guard)
        if not self.in_a_row[guard.name]:
            self.spoken.pop(guard.name, None)
        if self.in_a_row[guard.name] < due or self.spoken.get(guard.name) == settings:
            return None
        self.spoken[guard.name] = settings
        message = f"{guard.name}: {guard.says.format(value=value, limit=limit)}. Try: {guard.remedy}"
        return Alarm(guard.name, value, limit, message, action == "pause")

    def _patience(self, guard: Guard) -> int:
        if guard.name == "explained_variance":
            return self.config.explained_variance_steps
        return 1 if guard.name in AT_ONCE else self.config.patience
