"""Steps of a training job on tensors that take no memory: kedge's own code, from the engine to AdamW.

What is rehearsed is the worst step that the data allows: the longest rows meet in one minibatch, and every answer is as
long as it may be. The optimizer has its states and the engine its cache, as from the second step on.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kedge.inspection.ledger import Account, Ledger
from kedge.inspection.machine import Machine
from kedge.inspection.parts import Parts
from kedge.models.device import logits_at_a_time
from kedge.models.head import untried_head
from kedge.models.language_model import LanguageModel
from kedge.training.adalora import Ranks
from kedge.training.config import TrainingConfig
from kedge.training.optimization import clip_gradients, precision

CPU = torch.device("cpu")
"""Where fake tensors pretend to be. What the fused kernels of attention keep is the same on a GPU."""


@dataclass(frozen=True)
class Phase:
    """A part of a step."""

    name: str
    held: Mapping[Account, int]
    """Bytes by role and kind, when they are most."""
    seconds: float | None
    """Of a step, as estimated; None without speeds."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    """Each role's weights, as sharding would cut them."""
    runs: Sequence[str] = ()
    """Roles that passes go through."""
    passes: int = 0
    """So many in a step."""
    backward: bool = False
    """Whether they are gone back over."""
    steps: int = 0
    """Of the optimizer."""
    whole: Sequence[str] = ()
    """Roles that a sharded job puts together once, for all of the phase."""

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return sum(self.held.values())


class Rehearsal(ABC):
    """One job, built on fake tensors."""

    def __init__(self, config: TrainingConfig, ledger: Ledger, machine: Machine) -> None:
        self.config, self.ledger, self.machine = config, ledger, machine
        self.parts: dict[str, Parts] = {}
        """Of each role's weights, by its name in the ledger."""

    @property
    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Of all trained weights."""

    @property
    @abstractmethod
    def ranks(self) -> Ranks:
        """Of adapters whose ranks come down."""

    @abstractmethod
    def phases(self) -> list[Phase]:
        """What a step is made of, in order."""

    def settle(self) -> None:
        """The optimizer's states come with its first step, and what ranks are allocated by."""
        self._with_gradients()
        with self.ledger.booking("optimizer"):
            self._step(foreach=True)
            self.ranks.weigh()
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A phase begins: its own peak and its own clock, in the precision of the job."""
        self.ledger.begin()
        with precision(self.config, CPU):
            yield

    def phase(self, name: str, seconds: float, **how: Any) -> Phase:
        """What has been running; ``how``: the other fields of it."""
        timed = None if self.machine.speeds is None else seconds
        return Phase(name, self.ledger.peak, timed, self.parts, **how)

    def accumulate(
        self,
        micro_batches: Sequence[Sequence[int]],
        sizes: Sequence[int],
        losses: Callable[[Sequence[int]], Iterable[Tensor]],
    ) -> float:
        """Forward and backward of the micro-batches that can be the peak; returns seconds a token, padding included.

        The first one finds no gradients; the others find all of them there, and the largest of those counts.

        Args:
            micro_batches: indices of rows.
            sizes: each row's tokens.
            losses: of a micro-batch, each computed when the one before it has been gone back over.
        """
        before = self.ledger.seconds
        tokens = [padded_size(rows, sizes) for rows in micro_batches]
        rehearsed = [0]
        if len(tokens) > 1:
            later = max(range(1, len(tokens)), key=tokens.__getitem__)
            rehearsed = [later] if tokens[later] >= tokens[0] else [0, later]
            if rehearsed == [later]:
                self._with_gradients()
        for i in rehearsed:
            for loss in losses(micro_batches[i]):
                loss.backward()
        return (self.ledger.seconds - before) / sum(tokens[i] for i in rehearsed)

    def apply(self) -> float:
        """Clip and step; returns its seconds."""
        before = self.ledger.seconds
        clip_gradients(self._trained, self.config.max_grad_norm)
        with self.ledger.booking("optimizer"):
            self._step(foreach=self.machine.device == "cuda")
        self.optimizer.zero_grad(set_to_none=True)
        return self.ledger.seconds - before

    def _step(self, *, foreach: bool) -> None:
        """``foreach``: all weights at once, as AdamW does on CUDA, where it needs room for one more copy of them."""
        for group in self.optimizer.param_groups:
            if "foreach" in group:
                group["foreach"] = foreach
        self.optimizer.step()

    def _with_gradients(self) -> None:
        with self.ledger.booking("gradients"):
            for weight in self._trained:
                weight.grad = torch.zeros_like(weight)

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]


def without_trials(lm: LanguageModel, machine: Machine) -> None:
    """Set what is found out elsewhere: the head, by a trial, for which there are no numbers here; and how many logits
    are made at a time, by the device, which is another."""
    vars(lm)["head"] = untried_head(lm.model)
    vars(lm)["logits_at_a_time"] = logits_at_a_time(machine.device, machine.total)


@contextmanager
def on_paper(machine: Machine) -> Iterator[Ledger]:
    """Inside, everything is rehearsed and nothing computed; a job that comes after draws the random numbers it would
    have drawn."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), Ledger(machine.speeds, machine.trials) as ledger:
        warnings.simplefilter("ignore")
        yield ledger


def padded_size(rows: Sequence[int], sizes: Sequence[int]) -> int:
    """Tokens of a micro-batch, padding included. The longest row is its first."""
    return len(rows) * sizes[rows[0]]
