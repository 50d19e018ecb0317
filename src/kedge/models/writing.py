"""Weights that are spread over the processes, written as the Hugging Face folder that one process would write.

They are put together a file at a time, so that no host need have room for all of them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from kedge.models.adapters import plain_weights, with_adapter
from kedge.parallel import ALONE, gathered, joined, written_together

BYTES = 2**30
"""Of a file, at most, unless one weight is more."""


def write_merged(model: PreTrainedModel, folder: Path | None) -> None:
    """Write a model that has an adapter as a plain one that gives the same, and leave it as it is. All processes call
    it together.

    Args:
        model: its adapter is no prefix, which is no part of any weight.
        folder: where; None in a process that does not write.
    """
    weights, added_to = plain_weights(model)

    def merged(name: str) -> Tensor:
        return with_adapter(*added_to[name]) if name in added_to else gathered(weights[name])

    write_in_parts(model, folder, weights, merged)


def write_base(model: PreTrainedModel, folder: Path | None) -> None:
    """Write a model that has an adapter as it would be without one. All processes call it together.

    Args:
        model: its adapter is no prefix.
        folder: where; None in a process that does not write.
    """
    write_in_parts(model, folder, plain_weights(model)[0])


def write_in_parts(
    model: PreTrainedModel,
    folder: Path | None,
    weights: Mapping[str, Tensor],
    whole: Callable[[str], Tensor] | None = None,
) -> None:
    """Write a model's weights with its configuration. All processes call it together.

    Args:
        model: whose they are.
        folder: where; None in a process that does not write.
        weights: by name, sharded or not.
        whole: gives what is written under a name; None: the weight itself.
    """
    whole = whole or (lambda name: gathered(weights[name]))
    # Where a file has the weights of several modules as one, or the other way round, they are wanted together.
    conversions = getattr(model, "_weight_conversions", None) or ()
    limit = None if any(isinstance(each, WeightConverter) for each in conversions) else BYTES
    groups = list(_groups(_names(model, weights), weights, limit))
    processes = joined() if any(isinstance(weight, DTensor) for weight in weights.values()) else ALONE
    with written_together(folder, processes):
        if folder is not None:
            model.save_pretrained(folder, state_dict={})  # all but the weights
    files: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        tensors = {name: whole(name).cpu().contiguous() for name in names}
        with written_together(folder, processes):
            if folder is not None:
                file = SAFE_WEIGHTS_NAME if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
                written = revert_weight_conversion(model, tensors)
                save_file(written, folder / file, metadata={"format": "pt"})
                files |= dict.fromkeys(written, file)
    if folder is not None and len(groups) > 1:
        size = sum(weights[name].nbytes for names in groups for name in names)
        index = {"metadata": {"total_size": size}, "weight_map": files}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _names(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> list[str]:
    """Those that a file holds: of tied ones the one that ``from_pretrained`` reads."""
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    return [name for name in weights if name not in left_out]


def _groups(names: Iterable[str], weights: Mapping[str, Tensor], limit: int | None) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name in names:
        if group and limit is not None and size + weights[name].nbytes > limit:
            yield group
            group, size = [], 0
        group.append(name)
        size += weights[name].nbytes
    yield group
