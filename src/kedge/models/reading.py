"""How a score is made of what a reward model's head gives: objectives weighed, and its scale."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from kedge.errors import ConfigError, ModelError
from kedge.models.steps import Steps

FILE = "score.json"
"""Where it stands, beside the weights. A model without that file gives its head's one output as the score."""


@dataclass(frozen=True)
class Objective:
    """One of the numbers that the head gives."""

    name: str
    weight: float = 1.0
    """In the score."""
    mean: float = 0.0
    """Of the ratings that were learnt: where the head gives 0."""
    std: float = 1.0
    """Of these: what 1 of the head is."""


@dataclass(frozen=True)
class Reading:
    """``score = (sum over objectives of weight * (mean + std * output) - mean) / std``."""

    objectives: tuple[Objective, ...] = ()
    """In the order of the head's outputs; none: one output, which is the score."""
    mean: float = 0.0
    """Of the scores of a reference's answers."""
    std: float = 1.0
    """Of these."""
    steps: Steps | None = None
    """Where the output is read at the end of each step, and made one; None: at the end of the text."""

    @property
    def width(self) -> int:
        """How many outputs the head has."""
        return max(1, len(self.objectives))

    def each(self, outputs: Tensor) -> dict[str, Tensor]:
        """``{objective: [N]}`` of ``outputs [N, width]``, as raters would give them; nothing without objectives."""
        columns = outputs.unbind(-1) if self.objectives else ()
        return {o.name: o.mean + o.std * column for o, column in zip(self.objectives, columns, strict=True)}

    def several(self, outputs: Tensor) -> dict[str, Tensor]:
        """The same of several; one alone is the score."""
        return self.each(outputs) if len(self.objectives) > 1 else {}

    def score(self, outputs: Tensor) -> Tensor:
        """``[N]`` of ``outputs [N, width]``."""
        # Not a product of matrices, which autocast would round.
        return (outputs * outputs.new_tensor(self._factors())).sum(-1) + self._shift()

    def score_so_far(self, outputs: Tensor) -> Tensor:
        """``[S]`` what the score would be after each step, of the outputs ``[S]`` of an answer's steps."""
        assert self.steps is not None
        pooled = [self.steps.pooled(outputs[: end + 1]) for end in range(len(outputs))]
        return self.score(torch.stack(pooled)[:, None])

    @torch.no_grad()
    def fold(self, outputs: nn.Linear, into: nn.Linear) -> None:
        """Make a head with one output and a bias give the score itself.

        Args:
            outputs: gives what this reads.
            into: is overwritten.
        """
        factors = outputs.weight.new_tensor(self._factors())
        bias = 0.0 if outputs.bias is None else factors @ outputs.bias
        into.weight.copy_((factors @ outputs.weight)[None])
        into.bias.copy_(bias + self._shift())

    def weighed(self, weights: Mapping[str, float]) -> Self:
        """With other weights; an objective that is not named counts nothing. The scale is that of the new score.

        Raises:
            ConfigError: an objective that there is none of.
        """
        there = [o.name for o in self.objectives]
        for name in weights:
            if name not in there:
                raise ConfigError(f"objectives: there is no {name!r}; there are: {', '.join(there) or 'none'}")
        if not any(weights.values()):
            raise ConfigError("objectives: all weigh 0, so that every score would be the same")
        return replace(
            self,
            objectives=tuple(replace(o, weight=weights.get(o.name, 0.0)) for o in self.objectives),
            mean=0.0,
            std=1.0,
        )

    def write(self, folder: Path) -> None:
        """Beside the weights; nothing where there is nothing to say."""
        if self != PLAIN:
            (folder / FILE).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> "Reading":
        """What :meth:`write` wrote.

        Raises:
            ModelError: the file says something else.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return cls()
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            objectives = tuple(Objective(**each) for each in said.pop("objectives"))
            steps = said.pop("steps", None)
            return cls(objectives, **said, steps=None if steps is None else Steps(**steps))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{path}: not what `kedge reward` writes: {error}") from None

    def _factors(self) -> list[float]:
        return [o.weight * o.std / self.std for o in self.objectives] or [1 / self.std]

    def _shift(self) -> float:
        return (sum(o.weight * o.mean for o in self.objectives) - self.mean) / self.std


PLAIN = Reading()
"""The one output is the score."""
