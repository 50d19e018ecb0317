"""Frozen bases in four or eight bits a weight, under adapters in float32 (QLoRA, Dettmers et al. 2023).

``nf4`` is bitsandbytes' NormalFloat with quantised constants, ``int8`` whole numbers with one scale a row. Both make
the weight anew where a layer needs it and multiply in the model's own precision, so a text's result does not depend on
what stands beside it in a batch. (LLM.int8 rounds activations too, and the first ratio of PPO would not be 1. torchao,
whose eight bits are these, keeps the weights that it makes for the backward pass, and costs every start of transformers
seconds where it is installed.)
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from kedge.errors import ConfigError, ModelError

NOT_ON_NF4 = ("loha", "lokr")
"""Methods of adapters whose layers read the weight's own shape."""

Quantization = Literal["nf4", "int8"]
METHODS: dict[Quantization, str] = {"nf4": "bitsandbytes", "int8": "kedge_int8"}
"""By transformers' key ``quant_method``."""
PACKED = "kedge_packed_from"
"""In the record: the precision of the weights that were packed."""
HEADS = ("score", "classifier", "pre_classifier")
"""A reward model's, which are trained beside an adapter and saved with it."""
REFUSALS = (RuntimeError, TypeError, AttributeError, AssertionError)
"""Whatever a model's code does with what is no plain weight."""
FILE = "quantization_config.json"
"""Beside an adapter: how its base was held when it was trained."""


def refuse_unheld(kind: Quantization, method: str) -> None:
    """Raise where an adapter cannot be put on weights held so.

    Args:
        kind: how.
        method: of the adapter.

    Raises:
        ConfigError: what it needs is not installed, or PEFT has no such adapter for it.
    """
    if kind == "nf4" and method in NOT_ON_NF4:
        raise ConfigError(f"quantization: PEFT has no {method} on weights in nf4; use int8, or lora")
    if kind == "nf4" and find_spec("bitsandbytes") is None:
        raise ConfigError("quantization: nf4 needs bitsandbytes; pip install 'kedge[quantization]'")


def how_to_load(
    kind: Quantization | None,
    dtype: torch.dtype,
    device: object,
    record: Mapping[str, Any] | None,
    heads: Sequence[str],
) -> dict[str, Any]:
    """What ``from_pretrained`` takes for it. ``int8`` is made of what has been loaded (:func:`hold_in_int8`).

    Args:
        kind: how.
        dtype: to compute in.
        device: where.
        record: of how it was held before, see :func:`record_of`.
        heads: modules that stay as they are; none: those that transformers leaves.
    """
    if kind != "nf4":
        return {}
    refuse_unheld(kind, "lora")
    if record is None:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    else:
        config = BitsAndBytesConfig.from_dict({key: value for key, value in record.items() if key != PACKED})
    config.bnb_4bit_compute_dtype = dtype
    config.llm_int8_skip_modules = [*heads] or config.llm_int8_skip_modules
    return {"quantization_config": config, "device_map": {"": device}}


def refuse_misfit(model: PreTrainedModel, kind: Quantization) -> None:
    """Raise where a model has no layers that can be held so, or reads their weights past them, as Mamba does.

    Raises:
        ConfigError: it is so.
    """
    name = type(model).__name__
    if not any(map(_held_in_less, model.modules())):
        other = "nf4, or take it out" if any(isinstance(m, Conv1D) for m in model.modules()) else "take it out"
        raise ConfigError(f"quantization: no layer of {name} can be held in {kind}; {other}")
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
    except REFUSALS as error:
        raise ConfigError(
            f"quantization: {name} cannot compute with weights in {kind} ({error}); take it out"
        ) from None


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether a model, or the one that this is the trunk of, holds its linear layers in less than it computes in."""
    return getattr(model.config, "quantization_config", None) is not None


def write_quantization(model: PreTrainedModel, folder: Path) -> None:
    """Beside an adapter: how its base is held, where that is not as the base's own folder says."""
    if is_quantized(model):
        how = model.config.quantization_config
        record = how if isinstance(how, dict) else how.to_dict()
        record = record | {PACKED: getattr(model.config, PACKED, None) or _packed_from(model)}
        (folder / FILE).write_text(json.dumps(record, indent=2, default=str))


def quantization_of(folder: str | Path) -> Quantization | None:
    """How the base of the adapter in a folder was held.

    Raises:
        ModelError: in a way that is not known here.
    """
    record = record_of(folder)
    return None if record is None else kind_of(record, Path(folder) / FILE)


def record_of(folder: str | Path) -> dict[str, Any] | None:
    """What :func:`write_quantization` wrote into a folder, where it did."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def kind_of(record: Mapping[str, Any], where: object) -> Quantization:
    """By the method that a record, or a model's configuration, names.

    Raises:
        ModelError: in a way that is not known here.
    """
    method = record.get("quant_method")
    for kind, name in METHODS.items():
        if str(getattr(method, "value", method)) == name:
            return kind
    raise ModelError(f"{where}: quant_method {method!r} is not known here; known are {', '.join(METHODS.values())}")


def held_as(model: PreTrainedModel) -> Quantization:
    """How a quantised model's base is held."""
    how = model.config.quantization_config
    return kind_of(how if isinstance(how, dict) else how.to_dict(), "policy")


def refuse_unwritten(model: PreTrainedModel) -> None:
    """Raise where a model would be written as a whole that no folder can hold.

    Raises:
        ConfigError: it is in kedge's own eight bits.
    """
    if any(isinstance(layer, Int8Linear) for layer in model.modules()):
        raise ConfigError(
            "quantization: a model in int8 is saved as an adapter beside its base, or merged; it has none"
        )


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a quantised model compute in ``dtype``, whatever its weights were packed from, which is kept in its
    configuration; in place."""
    setattr(model.config, PACKED, _packed_from(model))
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    for layer in model.modules():
        if hasattr(layer, "compute_dtype"):
            vars(layer)["compute_dtype"] = dtype
        if (state := getattr(layer._parameters.get("weight"), "quant_state", None)) is not None:
            state.dtype = dtype
        if isinstance(layer, Int8Linear):
            layer.scale = layer.scale.to(dtype)


def layers_to_hold(model: PreTrainedModel, kind: Quantization) -> list[tuple[str, Any]]:
    """The layers that can be held so, by name: all linear ones but the head, whatever it is made of."""
    kinds = (nn.Linear, Conv1D) if kind == "nf4" else (nn.Linear,)  # bitsandbytes turns the latter over
    plain = (*get_keys_to_not_convert(model), *HEADS)
    within = tuple(f"{name}." for name in plain)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) in kinds and name not in plain and not name.startswith(within)
    ]


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put another layer in the place of that name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


class RemadeLinear(nn.Linear):
    """A frozen linear layer that makes its weight anew for the backward pass, and does not keep it until then."""

    def made(self) -> Tensor:
        """The weight ``[out, in]``, as plain numbers."""
        raise NotImplementedError

    @property
    def W_q(self) -> Tensor:  # PEFT's name: by it PEFT knows a layer that it has to ask for its weight, for DoRA
        return self.weight

    def dequantize(self) -> Tensor:
        """As PEFT asks for it."""
        return self.made()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Remade.apply(x, self)
        return result


class Int8Linear(RemadeLinear):
    """A linear layer in eight bits: whole numbers from -127 to 127 and a scale a row.

    Args:
        layer: whose weight is rounded.
    """

    scale: Tensor
    packed_from: torch.dtype

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        scale = layer.weight.detach().abs().amax(1, keepdim=True).float().clamp(min=torch.finfo().tiny) / 127
        numbers = (layer.weight.detach().float() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(numbers, requires_grad=False)
        self.packed_from = layer.weight.dtype
        self.register_buffer("scale", scale.to(layer.weight.dtype))
        self.bias = layer.bias

    def made(self) -> Tensor:
        return (self.weight.to(self.packed_from) * self.scale.to(self.packed_from)).to(self.scale.dtype)


def hold_in_int8(model: PreTrainedModel) -> None:
    """Round a model's linear layers to eight bits, in place; not the head, as transformers leaves it."""
    for name, layer in layers_to_hold(model, "int8"):
        replace_layer(model, name, Int8Linear(layer))
    model.config.quantization_config = {"quant_method": METHODS["int8"]}


class _Remade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: RemadeLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return nn.functional.linear(x, layer.made(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return (gradient @ ctx.layer.made().to(gradient.dtype)).to(ctx.dtype), None


def settle(model: PreTrainedModel) -> None:
    """After loading: what bitsandbytes would do with its weights later on is not done."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # It would pack the weights anew for answers, in place and rounded to bfloat16: others share them, and
            # answers would come from another model than the one that is trained.
            vars(layer)["support_avx512bf16_for_cpu"] = False
            vars(layer)["quant_state"] = None  # the weight has it too, and is shared where the layer is copied


def refuse_unsteady(model: PreTrainedModel) -> None:
    """Raise where what a model says of a text depends on what stands beside it in a batch.

    Raises:
        ConfigError: a layer rounds its inputs.
    """
    if any(type(weight).__name__ == "Int8Params" for weight in model.parameters()):
        raise ConfigError(
            'policy: held in LLM.int8, which rounds a text by what stands beside it; use quantization = "int8"'
        )


def values(weight: Tensor) -> Tensor:
    """The numbers that a weight stands for, where it says so itself."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        found: Tensor = dequantize_4bit(weight.data, state)
        return found
    return weight


def can_be_trained(weight: Tensor) -> bool:
    """Whether a gradient could change it."""
    return weight.is_floating_point()


def dequantize(model: PreTrainedModel) -> None:
    """Make a quantised model a plain one that gives the same, in place; one that is plain stays as it is."""
    if not is_quantized(model):
        return
    with torch.device("meta"):
        plain = type(model)(model.config)
    for name, layer in [*model.named_modules()]:
        if not _held_in_less(layer):
            continue
        made = plain.get_submodule(name)
        weight = (layer.made() if isinstance(layer, RemadeLinear) else values(layer.weight)).to(model.dtype)
        weight = weight.t().contiguous() if isinstance(made, Conv1D) else weight
        made._parameters["weight"] = nn.Parameter(weight)
        if layer.bias is not None:
            made._parameters["bias"] = layer.bias
        replace_layer(model, name, made)
    vars(model.config).pop(PACKED, None)
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    else:
        model.config.quantization_config = None


def _packed_from(model: nn.Module) -> str | None:
    for layer in model.modules():
        if isinstance(layer, Int8Linear):
            return str(layer.packed_from).removeprefix("torch.")
        if (state := getattr(layer._parameters.get("weight"), "quant_state", None)) is not None:
            return str(state.dtype).removeprefix("torch.")
    return None


def _held_in_less(layer: nn.Module) -> bool:
    return isinstance(layer, RemadeLinear) or getattr(layer._parameters.get("weight"), "quant_state", None) is not None
