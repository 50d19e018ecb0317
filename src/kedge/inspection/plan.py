"""What a job will need, before anything is loaded: memory, seconds, and what to change where it does not fit."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kedge.errors import KedgeError, ModelError
from kedge.inspection.machine import Machine
from kedge.inspection.ppo_rehearsal import PPOWork
from kedge.inspection.rehearsal import Phase
from kedge.inspection.supervised_rehearsal import SupervisedWork
from kedge.training.config import TrainingConfig
from kedge.training.micro_batches import ENOUGH

# An architecture may refuse tensors without numbers in any of these ways; what it does with them is its own code.
NOT_ON_PAPER = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
)


# glibc keeps freed memory for later, so that a process on the CPU takes more than it uses: so many times as much at the
# most, of the shapes in benchmarks/plan.py.
ALLOCATOR_KEEPS = 1.7

# Share of the peak below which a change is not worth its cost.
WORTHWHILE = 0.01


@dataclass(frozen=True)
class PlannedJob:
    """A table of a recipe, ready to be rehearsed."""

    stage: str
    model: str
    config: Any  # the table's settings: PPOConfig or SupervisedConfig, as the work takes them
    work: PPOWork | SupervisedWork
    machine: Machine

    def plainly_fits(self) -> bool:
        """Whether it needs no rehearsal to be known to fit."""
        work: Any = self.work
        return bool(work.plainly_fits(self.config, self.machine))

    def rehearse(self, changes: Mapping[str, Any] | None = None) -> list[Phase]:
        """The phases with some settings changed.

        Raises:
            ModelError: the architecture cannot be rehearsed. KedgeError: what the job itself would raise.
        """
        config = changed(self.config, changes or {})
        work: Any = self.work
        if "eval_size" in (changes or {}):
            work = replace(work, evaluated=config.eval_size)
        try:
            return work.rehearse(config, self.machine)
        except NOT_ON_PAPER as error:
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ModelError(f"{self.model}: cannot be planned without its weights: {said}") from error


@dataclass(frozen=True)
class Advice:
    """A change of settings, on top of those before it."""

    settings: Mapping[str, Any]
    cost: str
    phases: Sequence[Phase]

    @property
    def peak(self) -> int:
        """Bytes, with this and all before it."""
        return max(phase.peak for phase in self.phases)

    @property
    def seconds(self) -> float | None:
        """Of a step, with this and all before it."""
        return seconds_of(self.phases)


@dataclass(frozen=True)
class Plan:
    """What a job needs."""

    job: PlannedJob
    phases: Sequence[Phase]
    advice: Sequence[Advice] = field(default_factory=tuple)
    """In order of what they cost, until it fits; empty where it does already."""

    @property
    def peak(self) -> int:
        """Bytes, of the phase that needs most."""
        return max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Into what is free now."""
        return self.peak <= self.job.machine.free

    @property
    def tight(self) -> bool:
        """It fits, if what is freed is given back."""
        hoards = self.job.machine.device == "cpu" and sys.platform == "linux"
        return self.fits and hoards and ALLOCATOR_KEEPS * self.peak > self.job.machine.free

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: bytes and seconds."""
        job = self.job
        return {
            "model": job.model,
            "device": job.machine.device,
            "limit": job.machine.free,
            "peak": self.peak,
            "fits": self.fits,
            "tight": self.tight,
            "seconds": seconds_of(self.phases),
            "phases": {phase.name: _phase_as_dict(phase) for phase in self.phases},
            "advice": [
                {
                    "settings": {f"{job.stage}.{key}": value for key, value in advice.settings.items()},
                    "cost": advice.cost,
                    "peak": advice.peak,
                    "seconds": advice.seconds,
                    "fits": advice.peak <= job.machine.free,
                }
                for advice in self.advice
            ],
        }


def make_plan(job: PlannedJob) -> Plan:
    """The plan, with advice where it does not fit.

    Raises:
        ModelError: the architecture cannot be rehearsed. KedgeError: what the job itself would raise.
    """
    plan = Plan(job, job.rehearse())
    return plan if plan.fits else replace(plan, advice=tuple(advise(job, plan.phases)))


def advise(job: PlannedJob, phases: Sequence[Phase]) -> Iterator[Advice]:
    """Settings that lower the peak, each rehearsed together with those before it, until it fits."""
    taken: dict[str, Any] = {}
    peak = max(phase.peak for phase in phases)
    for offer in OFFERS:
        best = _smallest_change(job, offer, taken)
        if best is None or best.peak > (1 - WORTHWHILE) * peak:
            continue
        taken, peak = {**taken, **best.settings}, best.peak
        yield best
        if peak <= job.machine.free:
            return


def _smallest_change(job: PlannedJob, offer: "Offer", taken: Mapping[str, Any]) -> Advice | None:
    """The mildest change of the offer that makes the job fit, or else that comes near to what the strongest does."""

    def tried(settings: Mapping[str, Any]) -> Advice | None:
        try:
            return Advice(settings, offer.cost, job.rehearse({**taken, **settings}))
        except KedgeError:  # does not go with the other settings, the data or the architecture
            return None

    options = list(offer.settings(changed(job.config, taken)))
    best = None
    while options and best is None:
        best = tried(options.pop())
    if best is None:
        return None
    enough = max(job.machine.free, (1 + WORTHWHILE) * best.peak)
    first, last = 0, len(options)
    while first < last:
        middle = (first + last) // 2
        found = tried(options[middle])
        if found is not None and found.peak <= enough:
            best, last = found, middle
        else:
            first = middle + 1
    return best


@dataclass(frozen=True)
class Offer:
    """A kind of change, and what it costs."""

    cost: str
    settings: Callable[[Any], Iterator[Mapping[str, Any]]]
    """Changes to try, the mildest first; nothing where it has no meaning."""


def _fewer_tokens(config: TrainingConfig) -> Iterator[Mapping[str, Any]]:
    tokens = max(ENOUGH.values()) if config.micro_batch_tokens == "auto" else config.micro_batch_tokens
    while tokens > 64:
        tokens //= 2
        yield {"micro_batch_tokens": tokens}


def _checkpointing(config: TrainingConfig) -> Iterator[Mapping[str, Any]]:
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}


def _autocast(config: TrainingConfig) -> Iterator[Mapping[str, Any]]:
    if config.autocast is None and config.dtype in ("auto", "float32"):
        yield {"autocast": "bfloat16"}


def _shared_critic(config: Any) -> Iterator[Mapping[str, Any]]:
    if getattr(config, "advantage_estimator", None) == "gae" and config.critic == "separate":
        yield {"critic": "shared"}


def _fewer_held_out(config: Any) -> Iterator[Mapping[str, Any]]:
    for part in (2, 4):
        if getattr(config, "eval_size", 0) >= 16 * part and hasattr(config, "response_length"):
            yield {"eval_size": config.eval_size // part}


def _fewer_prompts(config: Any) -> Iterator[Mapping[str, Any]]:
    for part in (2, 4, 8):
        if hasattr(config, "mini_batch_size") and config.batch_size % part == 0:
            size = config.batch_size // part
            mini = min(config.mini_batch_size, size * config.num_generations)
            yield {"batch_size": size} | ({"mini_batch_size": mini} if mini < config.mini_batch_size else {})


def _shorter_answers(config: Any) -> Iterator[Mapping[str, Any]]:
    for part in (2, 4):
        if getattr(config, "response_length", 0) >= 16 * part:
            yield {"response_length": config.response_length // part}


def _low_precision(config: TrainingConfig) -> Iterator[Mapping[str, Any]]:
    if config.dtype in ("auto", "float32"):
        yield {"dtype": "bfloat16"} | ({"autocast": None} if config.autocast else {})


OFFERS = (
    Offer("a little time; the result is the same", _fewer_tokens),
    Offer("a third more computing; the result is the same", _checkpointing),
    Offer("wider intervals in the evaluation", _fewer_held_out),
    Offer("rounding to three digits; slower on most CPUs", _autocast),
    Offer("coarser values", _shared_critic),
    Offer("noisier steps", _fewer_prompts),
    Offer("answers are cut off sooner", _shorter_answers),
    Offer("small steps of the weights vanish", _low_precision),
)
"""From the cheapest to the dearest."""


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """The same kind of settings with some of them changed.

    Raises:
        ConfigError: they do not go together.
    """
    if not changes:
        return config
    kept = {key: getattr(config, key) for key in config.model_fields_set} | dict(changes)
    # A setting that the change makes meaningless goes with it.
    conditions = config.USED_WHEN.items()
    idle = {key for key, (other, values) in conditions if other in changes and values and changes[other] not in values}
    return type(config)(**{key: value for key, value in kept.items() if key not in idle})


def seconds_of(phases: Sequence[Phase]) -> float | None:
    """Of a whole step; evaluation is not part of one."""
    seconds = [phase.seconds for phase in phases if phase.name != "evaluate"]
    return None if None in seconds else sum(second or 0.0 for second in seconds)


def _phase_as_dict(phase: Phase) -> dict[str, Any]:
    roles: dict[str, dict[str, int]] = {}
    for (role, kind), size in phase.held.items():
        roles.setdefault(role, {})[kind] = size
    return {"peak": phase.peak, "seconds": phase.seconds, "bytes": roles}
