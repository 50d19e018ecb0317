"""Frozen bases in four or eight bits a weight, under adapters in float32 (QLoRA, Dettmers et al. 2023).

``nf4`` is bitsandbytes' NormalFloat with quantised constants, ``int8`` whole numbers with one scale a row. Both make
the weight anew where a layer needs it and multiply in the model's own precision, so a text's result does not depend on
what stands beside it in a batch. (LLM.int8 rounds activations too, and the first ratio of PPO would not be 1. torchao,
whose eight bits are these, keeps the weights that it makes for the backward pass, and costs every start of transformers
seconds where it is installed.)
"""

import json
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


def how_to_load(kind: Quantization | None, dtype: torch.dtype, device: object) -> dict[str, Any]:
    """What ``from_pretrained`` takes for it. ``int8`` is made of what has been loaded (:func:`hold_in_int8`)."""
    if kind != "nf4":
        return {}
    refuse_unheld(kind, "lora")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": device}}


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
    for kind, name in METHODS.items():
        if method == name:
            return kind
    raise ModelError(f"{path}: quant_method {method!r} is not known here; known are {', '.join(METHODS.values())}")


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

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        scale = layer.weight.detach().abs().amax(1, keepdim=True).float().clamp(min=torch.finfo().tiny) / 127
        numbers = (layer.weight.detach().float() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(numbers, requires_grad=False)
        self.register_buffer("scale", scale.to(layer.weight.dtype))
        self.bias = layer.bias

    def made(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.scale


def hold_in_int8(model: PreTrainedModel) -> None:
    """Round a model's linear layers to eight bits, in place; not the head, as transformers leaves it."""
    plain = left_plain(model)
    for name, layer in [*model.named_modules()]:
        if type(layer) is nn.Linear and name not in plain:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Int8Linear(layer))
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


def left_plain(model: PreTrainedModel) -> list[str]:
    """The layers that transformers leaves as they are."""
    return list(get_keys_to_not_convert(model))


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
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, made)
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    else:
        model.config.quantization_config = None


def _held_in_less(layer: nn.Module) -> bool:
    return isinstance(layer, RemadeLinear) or getattr(layer._parameters.get("weight"), "quant_state", None) is not None
