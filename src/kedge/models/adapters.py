"""Adapters, by PEFT: a few weights beside those of a frozen model, and all that is trained.

A role with an adapter is a tree of modules of its own, as every role is, and the trees share the frozen base
(:func:`kedge.models.bottom.copy_of_trained`). So policy, reference, critic and reward model are four roles on one trunk
in memory, and no adapter is ever switched on or off.

Saved as PEFT saves them: the adapter alone, with the name of its base. ``PeftModel.from_pretrained`` reads that.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kedge.errors import ConfigError, ModelError
from kedge.models import adalora
from kedge.models.adapter_settings import METHODS, Settings, method_of, peft_config, peft_library, trains_base
from kedge.models.prefix import (
    PREFIX_TUNING,
    SAVED,
    add_prefix,
    is_prefix,
    prefixes_of,
    read_prefix,
    saved_form,
)
from kedge.models.quantized import HEADS, values
from kedge.parallel import gathered

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
OUTER = "base_model.model."
"""Of the names in PEFT's files: of the base within the model around it, and that within PEFT's class."""

REFUSALS = (ValueError, TypeError, AttributeError, LookupError, AssertionError, RuntimeError, ImportError, re.error)
"""What PEFT raises where it is given what does not fit."""


def add_adapter(model: PreTrainedModel, settings: Settings, *, seed: int, frozen: Sequence[nn.Module] = ()) -> None:
    """Give a model an adapter, in place; nothing else of it is trained then.

    Args:
        model: whose linear layers get one.
        settings: as :func:`peft_config` takes them; ``target_modules`` are PEFT's for the architecture unless given.
        seed: of the adapter's first weights.
        frozen: layers that get none.

    Raises:
        ConfigError: wrong settings, or they match nothing.
    """
    peft, config = peft_library(), peft_config(settings)
    name = model.name_or_path or ""
    if Path(name).parent.parent.name == "checkpoints":
        raise ConfigError(f"adapter: its base, {name}, is a checkpoint, which a run deletes; end that run, or copy it")
    config.base_model_name_or_path = str(Path(name).resolve()) if name and Path(name).is_dir() else name
    if is_prefix(config):
        if frozen:
            raise ConfigError(f"num_layers_unfrozen: {PREFIX_TUNING} reaches every layer from the first; take it out")
        add_prefix(model, config, torch.Generator().manual_seed(seed % 2**63))
        train_adapter(model)
        _outlined_with_its_base(model)
        return
    left_out = [name for name, _ in model.named_modules() if _is_head(name)]  # trained as they are
    left_out += [name for name, module in model.named_modules() if any(module in layer.modules() for layer in frozen)]
    if left_out:
        if isinstance(config.exclude_modules, str):
            raise ConfigError("adapter.exclude_modules: a list of names, and no pattern, where others are left out too")
        config.exclude_modules = [*(config.exclude_modules or ()), *left_out]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            peft.inject_adapter_in_model(config, model)
        except REFUSALS as error:
            key = ".target_modules" if "target" in str(error).lower() else ""
            more = ' ("all-linear" takes all linear layers)' if "Please specify" in str(error) else ""
            raise ConfigError(f"adapter{key}: {error}{more}") from None
    named = settings.get("target_modules")
    for name in named if isinstance(named, list | set | tuple) else ():
        if not any(f".{layer}".endswith(f".{name}") for layer in adapted_layers(model)):
            raise ConfigError(f"adapter.target_modules: {name!r} is the name of no linear layer here; take it out")
    if layer := _tied(model):
        raise ConfigError(f"adapter.target_modules: {layer} shares its weight with another module; take it out")
    train_adapter(model)
    _outlined_with_its_base(model)


def _outlined_with_its_base(model: nn.Module) -> None:
    """Where the base is a plan's, whose weights are shapes alone, let the adapter's become so too."""
    outline = detect_fake_mode(list(model.parameters()))
    if outline is None:
        return
    for owner in model.modules():
        for name, weight in [*owner.named_parameters(recurse=False)]:
            if not isinstance(weight, FakeTensor):
                shape = outline.from_tensor(weight.detach())
                owner._parameters[name] = nn.Parameter(shape, requires_grad=weight.requires_grad)


def train_adapter(model: nn.Module) -> None:
    """Of a model with an adapter train that and nothing else; in float32, in whatever the base is held, for small steps
    vanish in less."""
    adalora.to_full_rank(model, adapter_of(model))
    model.requires_grad_(False)
    for layer in adapted_layers(model).values():
        if layer.merged:
            layer.unmerge()
        layer.enable_adapters(True)
        layer.set_adapter(_name(model))
    for prefix in prefixes_of(model).values():
        prefix.requires_grad_(True)
    for name, weight in model.named_parameters():
        if _is_head(name):
            weight.requires_grad_(True)
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.startswith("classifier."):  # which is within the model's own pass
            weight.data = weight.data.float()


def adapter_weights(model: nn.Module) -> list[nn.Parameter]:
    """All weights of a model that are its adapter's; none where it has none."""
    if adapter_of(model) is None and not prefixes_of(model):
        return []
    layers = adapted_layers(model).values()
    base = {id(weight) for layer in layers for weight in layer.get_base_layer().parameters()}
    own = [weight for layer in layers for weight in layer.parameters() if id(weight) not in base]
    return own + [weight for prefix in prefixes_of(model).values() for weight in prefix.parameters()]


def head_weights(model: nn.Module) -> list[nn.Parameter]:
    """All weights of a model that are a reward model's head."""
    return [weight for name, weight in model.named_parameters() if _is_head(name)]


def adapter_of(model: nn.Module) -> Any:
    """PEFT's configuration of the adapter that a model has; None where it has none."""
    return next(iter(getattr(model, "peft_config", {}).values()), None)


def refuse_unshareable(model: PreTrainedModel) -> None:
    """Raise where the adapter of a model that was brought along cannot be loaded again once it is saved.

    Raises:
        ConfigError: more than the adapter is trained, or a layer of it is another module too.
    """
    if setting := trains_base(adapter_of(model)):
        raise ConfigError(f"policy: its adapter trains parts of the base too ({setting}), which other roles share")
    if layer := _tied(model):
        raise ConfigError(f"policy: its adapter is on {layer} too, which shares its weight with another module")


def refuse_other_adapter(model: PreTrainedModel, settings: Settings) -> None:
    """Raise where a model's adapter is not what the settings say.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    config = adapter_of(model)
    schedule = adalora.SCHEDULE if adalora.is_adalora(config) else ()
    for name, wanted in settings.items():
        if name in schedule:  # the next training's own
            continue
        there = method_of(config) if name == "method" else getattr(config, name, None)
        if isinstance(there, set):  # the modules that were meant, by name
            there = sorted(there if not isinstance(wanted, str) else adapted_layers(model))
            wanted = sorted(_meant(model, wanted) if isinstance(wanted, str) else wanted)
        if there != wanted:
            raise ConfigError(
                f"adapter.{name}: {wanted!r}, but the model has an adapter already, whose is {there!r}; take it out, "
                "or begin with a model without one (`kedge export --merge`)"
            )


def base_within(model: nn.Module) -> PreTrainedModel:
    """The transformers model that PEFT's class is around, with its adapter in it.

    Raises:
        ConfigError: it is something else, or its adapter is not one of layers.
    """
    around: Any = model
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        raise ConfigError(f"policy: a {type(model).__name__} is no transformers model")
    kinds = [method_of(each) for each in around.peft_config.values()]
    if len(kinds) > 1 or kinds[0] not in METHODS:
        raise ConfigError(f"policy: must have one adapter, one of {', '.join(METHODS)}; it has {', '.join(kinds)}")
    base: PreTrainedModel = around.get_base_model()
    if is_prefix(config := next(iter(around.peft_config.values()))) and adapter_of(base) is None:
        learnt = around.get_prompt_embedding_to_save(around.active_adapter)
        # PEFT's class goes on with a base that knows nothing of it: its weights are the same, its modules its own.
        base = copy.deepcopy(base, {id(weight): weight for weight in base.parameters()})
        add_prefix(base, copy.copy(config))
        read_prefix(base, learnt)
    return base


def base_of(folder: str | Path) -> str:
    """Where the model is whose adapter this folder holds; the folder itself, where it holds a model.

    Raises:
        ModelError: the adapter does not say, or it is not where it was.
    """
    if not (Path(folder) / CONFIG_FILE).is_file() or (Path(folder) / "config.json").is_file():
        return str(folder)
    base = peft_library().PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not base:
        raise ModelError(f"{folder}: an adapter that does not name its base (base_model_name_or_path in {CONFIG_FILE})")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(f"{folder}: an adapter of {base}, which is not there; set the new place in its {CONFIG_FILE}")
    return str(base)


def prefix_in(folder: str | Path) -> int:
    """The positions that the prefix takes which a folder holds; 0 where it holds something else."""
    if base_of(folder) == str(folder):
        return 0
    config = peft_library().PeftConfig.from_pretrained(str(folder))
    return int(config.num_virtual_tokens) if is_prefix(config) else 0


def labels_in(folder: str | Path) -> int | None:
    """Outputs of the score head that is saved beside an adapter; None where there is none."""
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        heads = [name for name in file.keys() if {*name.split(".")} & {*HEADS} and name.endswith(".weight")]  # noqa: SIM118
        last = next((name for name in heads if name.endswith("out_proj.weight")), heads[0] if len(heads) == 1 else None)
        return None if last is None else int(file.get_slice(last).get_shape()[0])


def attach(model: PreTrainedModel, folder: str | Path, *, headless: bool = False, outlined: bool = False) -> None:
    """Give a model the adapter that a folder holds, in place; nothing else of it is trained then.

    Args:
        model: of the adapter's base.
        folder: as PEFT writes it.
        headless: the model has a head (a reward model's) that the folder knows nothing of.
        outlined: of shapes alone, for a plan: no weights are read.

    Raises:
        ModelError: it is another model's, or of a kind that is not known here.
    """
    peft = peft_library()
    config = peft.PeftConfig.from_pretrained(str(folder))
    if method_of(config) not in METHODS:
        raise ModelError(f"{folder}: an adapter of type {method_of(config)!r}; known are {', '.join(METHODS)}")
    config.inference_mode = False
    if adalora.is_adalora(config):
        config.rank_pattern = None  # what it takes out is read as zeros
    config.modules_to_save = [name for name in config.modules_to_save or () if name not in HEADS] or None
    if name := trains_base(config):
        raise ModelError(
            f"{folder}: parts of its base are trained too ({name}); merge it with PEFT, and take the result"
        )
    try:
        add_prefix(model, config) if is_prefix(config) else peft.inject_adapter_in_model(config, model)
    except (*REFUSALS, ConfigError) as error:
        raise ModelError(f"{folder}: the adapter does not fit its base: {error}") from None
    if name := _tied(model):
        raise ModelError(f"{folder}: an adapter of {name}, which shares its weight with another module")
    train_adapter(model)
    if outlined:
        _outlined_with_its_base(model)
    else:
        read_adapter(model, Path(folder), headless=headless)


def write_adapter(model: PreTrainedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """As PEFT writes it; ``weights`` are all of the model's, or more."""
    config, state = copy.copy(adapter_of(model)), _state(model, weights)
    heads = sorted({name.partition(".")[0] for name in state} & set(HEADS))
    config.modules_to_save = [*(config.modules_to_save or ()), *heads] or None
    config.task_type = "SEQ_CLS" if heads else "CAUSAL_LM" if model.get_output_embeddings() is not None else None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    outer = _outer(config)
    named = {name if name == SAVED else outer + name: tensor.contiguous() for name, tensor in state.items()}
    save_file(named, folder / WEIGHTS_FILE)


def read_adapter(model: PreTrainedModel, folder: Path, *, headless: bool = False) -> None:
    """Replace the weights of a model's adapter by those in a folder, strictly; ``headless``: see :func:`attach`.

    Raises:
        ModelError: weights missing, misshapen or too many.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"{path}: the adapter's weights are missing")
    outer = f"{model.base_model_prefix}." if model.base_model is model else ""  # a trunk is not within another model
    config, saved = adapter_of(model), load_file(path)
    there = {name.removeprefix(_outer(config)).removeprefix(outer): tensor for name, tensor in saved.items()}
    there = {name: adalora.at_full_rank(name, tensor, config) for name, tensor in there.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in there.items()}
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in _state(model, model.state_dict()).items()
        if not (headless and _is_head(name))
    }
    if shapes != wanted:
        odd = sorted(shapes.items() ^ wanted.items())
        raise ModelError(f"{path}: not this model's adapter; it differs in {', '.join(name for name, _ in odd[:4])}")
    heads = {name: tensor for name, tensor in there.items() if _is_head(name)}
    model.load_state_dict(heads, strict=False)
    if SAVED in there:
        read_prefix(model, there[SAVED])
        return
    others = {name: tensor for name, tensor in there.items() if name not in heads}
    peft_library().set_peft_model_state_dict(model, others, adapter_name=_name(model))


def merge(model: PreTrainedModel) -> None:
    """Make a model with an adapter one without, that gives the same; in place. A prefix is no part of any weight, and
    stays."""
    if is_prefix(adapter_of(model)):
        return
    for name, layer in adapted_layers(model).items():
        layer.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())
    del model.peft_config
    model.name_or_path = ""  # what stands there is another model now


def plain_weights(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, tuple[Any, str]]]:
    """The weights that a model would have without its adapter, by the names that they would have; and of each one that
    the adapter adds to, which layer and weight that is (see :func:`with_adapter`)."""
    layers, own = adapted_layers(model), {id(weight) for weight in adapter_weights(model)}
    weights = {name: weight for name, weight in model.state_dict(keep_vars=True).items() if id(weight) not in own}
    added_to = {
        f"{name}.{weight}": (layer, weight)
        for name, layer in layers.items()
        for weight, _ in layer.get_base_layer().named_parameters()
    }
    return {name.replace(".base_layer.", "."): weight.detach() for name, weight in weights.items()}, added_to


@torch.no_grad()
def with_adapter(layer: Any, weight: str) -> Tensor:
    """A copy of a weight of a layer's base, with what its adapter adds to it. Of a sharded one, all processes ask for
    it together."""
    base = layer.get_base_layer()
    whole = {id(each): nn.Parameter(gathered(each).clone(), requires_grad=False) for each in base.parameters()}
    copied = copy.deepcopy(layer, whole)
    copied.merge()
    merged: Tensor = dict(copied.get_base_layer().named_parameters())[weight]
    return merged.detach()


def share_base(module: nn.Module, other: nn.Module) -> None:
    """Let a frozen module have the tensors of another one where theirs are equal: one trunk in memory.

    Args:
        module: if one of its weights may be trained, nothing is shared.
        other: whose frozen weights it may share.
    """
    if any(weight.requires_grad for weight in module.parameters()):
        return
    known = {_plain(name): weight for name, weight in other.named_parameters() if not weight.requires_grad}
    outlined = detect_fake_mode(list(known.values())) is not None  # no numbers to compare, but the place they come from
    alike = getattr(module, "name_or_path", None) == getattr(other, "name_or_path", None)
    for owner_name, owner in module.named_modules():
        for name, weight in [*owner.named_parameters(recurse=False)]:
            same = known.get(_plain(f"{owner_name}.{name}"))
            if (
                same is None
                or type(same) is not type(weight)
                or same.dtype != weight.dtype
                or same.shape != weight.shape
            ):
                continue
            if alike if outlined else torch.equal(values(same), values(weight)):
                owner._parameters[name] = same


def _plain(name: str) -> str:
    """A weight's name within its trunk, whatever is around trunk and layer."""
    return name.replace(".base_layer.", ".").removeprefix("model.").removeprefix("transformer.").removeprefix("trunk.")


def _state(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's own weights, and a reward model's head, by the names that PEFT saves them under."""
    heads = {name: tensor for name, tensor in weights.items() if _is_head(name)}
    if prefixes := prefixes_of(model):
        return saved_form(prefixes, weights) | heads
    found: dict[str, Tensor] = peft_library().get_peft_model_state_dict(
        model, state_dict=dict(weights), adapter_name=_name(model), save_embedding_layers=False
    )
    return found | heads


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    layers = peft_library().tuners.tuners_utils.BaseTunerLayer
    return {name: module for name, module in model.named_modules() if isinstance(module, layers)}


def _meant(model: PreTrainedModel, pattern: str) -> list[str]:
    """The layers of a model with an adapter that a pattern is for; ``all-linear``: all but the head."""
    layers, found = adapted_layers(model), []
    inner = tuple(f"{name}." for name in layers)
    for name, module in model.named_modules():
        base = layers[name].get_base_layer() if name in layers else module
        if name.startswith(inner) or _is_head(name) or base is model.get_output_embeddings():
            continue
        linear = isinstance(base, nn.Linear | Conv1D)
        if linear if pattern == "all-linear" else linear and re.fullmatch(pattern, name):
            found.append(name)
    return found


def _tied(model: nn.Module) -> str | None:
    """A layer with an adapter whose weight is another module's too: merged, it would change that one."""
    users: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            users[id(weight)] = users.get(id(weight), 0) + 1
    return next(
        (
            name
            for name, layer in adapted_layers(model).items()
            if any(users[id(w)] > 1 for w in layer.get_base_layer().parameters())
        ),
        None,
    )


def _outer(config: Any) -> str:
    return "base_model." if is_prefix(config) else OUTER  # a prefix needs no model around the base


def _is_head(name: str) -> bool:
    return name.partition(".")[0] in HEADS


def _name(model: nn.Module) -> str:
    return str(next(iter(model.peft_config)))  # type: ignore[arg-type]
