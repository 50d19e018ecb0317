"""AdaLoRA (Zhang et al. 2023): the ranks of an adapter's layers, which come down to a budget while it is trained.

What each triplet of singular value and vectors is worth, and which are masked, says PEFT's ``RankAllocator``; this says
when, as PEFT's own model would that is not here, counted in the optimizer's steps. A step that was planned and is not
taken (an update that ends early, a batch that is left out) is counted all the same, and what fell due with it comes
with the next: so ranks are down in time, and a place in the schedule is a function of the training's step.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from kedge.models.adalora import is_adalora, refuse_ranks, refuse_steps
from kedge.models.adapters import adapter_of
from kedge.models.role import Role
from kedge.runs.folder import Metrics

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""What an allocator remembers of the steps before, by PEFT's names."""


class Ranks:
    """Those of all roles that have such an adapter; where none has, nothing is done.

    Args:
        roles: what is trained, by name.
        steps: optimizer steps of the whole training, as planned.
        idle: how many of them, from the first, each role is not trained in; others: none.

    Raises:
        ConfigError: the schedule does not fit the steps.
    """

    def __init__(
        self, roles: Mapping[str, Role] | None = None, steps: int = 0, idle: Mapping[str, int] | None = None
    ) -> None:
        self._step = 0
        self._idle = idle or {}
        self._of: dict[str, _Allocation] = {}
        for name, role in (roles or {}).items():
            model = next((part for part in role.module.modules() if is_adalora(adapter_of(part))), None)
            if model is not None:
                self._of[name] = _Allocation(model, steps - self._idle.get(name, 0))

    def begin(self, step: int) -> None:
        """So many optimizer steps were planned before the next."""
        self._step = step

    def before_step(self) -> None:
        """Gradients are whole, and not yet clipped: the regularisation adds its own."""
        self._step += 1
        for adapter, _ in self._trained():
            adapter.regularize()

    def after_step(self) -> None:
        """The optimizer has taken its step, and the gradients are still there."""
        for adapter, step in self._trained():
            adapter.allocate(step)

    def weigh(self) -> None:
        """Take into account what the gradients say that are there, and no more: for a rehearsal."""
        for adapter in self._of.values():
            adapter.allocator.update_ipt(adapter.model)

    def hold(self) -> None:
        """The last step has been taken again: what was masked after it is masked."""
        for adapter, _ in self._trained():
            adapter.hold()

    def end(self, step: int) -> None:
        """So many optimizer steps were planned until here: what is to be final by now is, without those not taken."""
        self._step = step
        for adapter, own in self._trained():
            adapter.finish(own)

    def metrics(self) -> Metrics:
        """The mean rank of each role's layers."""
        return {f"{name}/adapter_rank": adapter.rank for name, adapter in self._of.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {name: adapter.state_dict() for name, adapter in self._of.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state_dict` said."""
        for name, adapter in self._of.items():
            adapter.load_state_dict(state[name])

    def _trained(self) -> Iterator[tuple["_Allocation", int]]:
        """Each adapter that is trained by now, and how many steps of its own were planned."""
        for name, adapter in self._of.items():
            own = self._step - self._idle.get(name, 0)
            if own > 0:
                yield adapter, own


class _Allocation:
    """The ranks of one adapter."""

    def __init__(self, model: Any, steps: int) -> None:
        from peft.tuners.adalora import RankAllocator

        [name] = model.peft_config
        self.config = model.peft_config[name] = copy.copy(model.peft_config[name])
        refuse_ranks(self.config.init_r, self.config.target_r)
        refuse_steps(self.config.tinit, self.config.tfinal, steps)
        self.config.total_step = steps
        self.model: nn.Module = model
        self.allocator = RankAllocator(model, self.config, name)
        self.last = 0
        """The last step that was allocated after."""
        self.pattern: dict[str, list[bool]] | None = None
        """What the last mask has left of each layer's triplets."""
        self.is_masked = False
        """Whether it came after the last step."""
        self.is_final = False

    @property
    def ends(self) -> int:
        """The step after which ranks stay as they are."""
        return int(self.config.total_step - self.config.tfinal)

    @property
    def rank(self) -> float:
        """A mean over layers, by the last mask."""
        if self.pattern is None:
            return float(self.config.init_r)
        return sum(map(sum, self.pattern.values())) / len(self.pattern)

    def weights(self) -> dict[str, Parameter]:
        """The adapter's, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if ".lora_" in name}

    def regularize(self) -> None:
        """Add the gradient of the singular vectors' distance from orthonormal ones, as PEFT adds that to its loss."""
        sides = [(name, weight) for name, weight in self.weights().items() if ".lora_E" not in name]
        if self.config.orth_reg_weight:
            with torch.autocast(sides[0][1].device.type, enabled=False):
                distances = [_from_orthonormal(weight.T if ".lora_B" in name else weight) for name, weight in sides]
                (self.config.orth_reg_weight * torch.stack(distances).mean()).backward()

    @torch.no_grad()
    def allocate(self, step: int) -> None:
        """Weigh the triplets by what the step has said of them, and mask those that the schedule has no room for."""
        for weight in self.weights().values():
            if weight.grad is None:  # of a layer that no token has met
                weight.grad = torch.zeros_like(weight)
        self.is_masked = False
        if self.is_final:
            self._hold_to(self.pattern)
        elif step < self.ends:
            every, since = self.config.deltaT, max(self.last, self.config.tinit)
            is_due = step // every > since // every
            self._hold_to(self.allocator.update_and_allocate(self.model, step, force_mask=is_due)[1])
        else:
            if not self.allocator.exp_avg_ipt:  # of all steps the first that is taken
                self.allocator.update_ipt(self.model)
            self.finish(step)
        self.last = step

    @torch.no_grad()
    def finish(self, step: int) -> None:
        """Where ranks are to be down after this step, bring them down for good."""
        if step >= self.ends and not self.is_final and self.allocator.exp_avg_ipt:
            self._hold_to(self.allocator.update_and_allocate(self.model, self.ends, force_mask=True)[1])
            self.allocator.reset_ipt()
            self.is_final = True

    def hold(self) -> None:
        """Mask once more what was masked after the last step."""
        if self.is_masked:
            self._hold_to(self.pattern)

    def _hold_to(self, pattern: dict[str, list[bool]] | None) -> None:
        if pattern is not None:
            self.pattern, self.is_masked = pattern, True
            self.allocator.mask_using_rank_pattern(self.model, pattern)
            torch.clear_autocast_cache()  # which holds low-precision copies of the weights as they were

    def state_dict(self) -> dict[str, Any]:
        names = ("last", "pattern", "is_final")
        averages = {name: dict(getattr(self.allocator, name)) for name in AVERAGES}
        return {name: getattr(self, name) for name in names} | averages

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weights = self.weights()
        self.last, self.pattern, self.is_final = state["last"], state["pattern"], state["is_final"]
        for name in AVERAGES:
            kept = {key: value.to(weights[key].device) for key, value in state[name].items()}
            setattr(self.allocator, name, kept)
        self.allocator.ipt = dict(self.allocator.exp_avg_ipt)  # its keys say what has been seen; it is made anew


def _from_orthonormal(rows: Tensor) -> Tensor:
    """The Frobenius norm of what the rows' products with each other are beside those of orthonormal ones."""
    return torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device))
