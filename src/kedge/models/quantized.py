"""Frozen bases in four or eight bits a weight, under adapters in float32 (QLoRA, Dettmers et al. 2023).

``nf4`` is bitsandbytes' NormalFloat with quantised constants, ``int8`` torchao's eight bits with one scale a row.
Both make the weight anew where a layer needs it and multiply in the model's own precision, so a text's result does not
depend on what stands beside it in a batch. (LLM.int8, which rounds activations too, does not have that: the first ratio
of PPO would not be 1.)
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from kedge.errors import ConfigError, ModelError

NOT_ON_NF4 = ("loha", "lokr")
"""Methods of adapters whose layers read the weight's own shape."""

Quantization = Literal["nf4", "int8"]
LIBRARIES: dict[Quantization, str] = {"nf4": "bitsandbytes", "int8": "torchao"}
FILE = "quantization_config.json"
"""Beside an adapter: how its base was held when it was trained, as transformers writes it."""


def quantization_config(kind: Quantization, dtype: torch.dtype, *, method: str = "lora") -> Any:
    """What ``from_pretrained`` takes.

    Args:
        kind: ``nf4`` or ``int8``.
        dtype: to multiply in.
        method: of the adapter that is to come.

    Raises:
        ConfigError: what it needs is not installed, or there is no such adapter for it.
    """
    if kind == "nf4" and method in NOT_ON_NF4:
        raise ConfigError(f"quantization: PEFT has no {method} on weights in nf4; use int8, or lora")
    if find_spec(LIBRARIES[kind]) is None:
        raise ConfigError(f"quantization: {kind} needs {LIBRARIES[kind]}; pip install 'kedge[quantization]'")
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def refuse_misfit(model: PreTrainedModel, kind: Quantization) -> None:
    """Raise where a model has no layers that can be held so, or reads their weights past them, as Mamba does.

    Raises:
        ConfigError: it is so.
    """
    name = type(model).__name__
    if not any(map(_held_in_less, model.modules())):
        raise ConfigError(f"quantization: no layer of {name} can be held in {kind}; take it out")
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
    except (RuntimeError, TypeError, AttributeError) as error:  # whatever its code does with what is no plain weight
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
        (folder / FILE).write_text(json.dumps(how if isinstance(how, dict) else how.to_dict(), indent=2, default=str))


def quantization_of(folder: str | Path) -> Quantization | None:
    """How the base of the adapter in a folder was held.

    Raises:
        ModelError: in a way that is not known here.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    method = json.loads(path.read_text()).get("quant_method")
    for kind, library in LIBRARIES.items():
        if method == library:
            return kind
    raise ModelError(f"{path}: quant_method {method!r} is not known here; known are {', '.join(LIBRARIES.values())}")


class RemadeLinear(nn.Linear):
    """A frozen linear layer that makes its weight anew for the backward pass, and does not keep it until then."""

    def made(self) -> Tensor:
        """The weight ``[out, in]``, as plain numbers."""
        return values(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Remade.apply(x, self)
        return result


class _Remade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: RemadeLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return nn.functional.linear(x, layer.made(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return (gradient @ ctx.layer.made().to(gradient.dtype)).to(ctx.dtype), None


def left_plain(model: PreTrainedModel) -> list[str]:
    """The layers that transformers leaves as they are."""
    return list(get_keys_to_not_convert(model))


def settle(model: PreTrainedModel) -> None:
    """After loading: what the libraries would do with their weights later on is not done."""
    for layer in model.modules():
        if type(layer) is nn.Linear and _is_torchao(layer.weight):
            layer.__class__ = RemadeLinear
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
    """The numbers that a weight stands for."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        found: Tensor = dequantize_4bit(weight.data, state)
        return found
    return weight.dequantize() if _is_torchao(weight) else weight


def can_be_trained(weight: Tensor) -> bool:
    """Whether a gradient could change it."""
    return weight.is_floating_point() and not _is_torchao(weight)


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
        weight = values(layer.weight).to(model.dtype)
        weight = weight.t().contiguous() if isinstance(made, Conv1D) else weight
        made._parameters["weight"] = nn.Parameter(weight)
        if layer.bias is not None:
            made._parameters["bias"] = layer.bias
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, made)
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)


def _held_in_less(layer: nn.Module) -> Any:
    weight = layer._parameters.get("weight")
    return weight is not None and (getattr(weight, "quant_state", None) is not None or _is_torchao(weight))


def _is_torchao(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("torchao.")
