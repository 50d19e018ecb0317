"""Prefix tuning (Li & Liang 2021): keys and values that are learnt, before those of every text, and no weight touched.

PEFT makes of them the beginning of a key-value cache. Here every attention has its own and puts them before what it is
given, so caches, recorded steps, checkpointing and heads know nothing of them; what comes out is the same, and
:func:`add_prefix` tries that out. As with PEFT they stand on the first positions, and a text begins behind them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kedge.errors import ConfigError
from kedge.models.bottom import layers_of
from kedge.models.head import agree, in_eval_mode, last_hidden, trunk_of, vocabulary_rows
from kedge.models.positions import max_positions

PREFIX_TUNING = "prefix_tuning"
SAVED = "prompt_embeddings"
"""PEFT's name in its files: ``[virtual tokens, layers * 2 * heads * width]``, a layer's keys before its values."""

SPREAD = 0.02
"""Of their first numbers. PEFT draws them with a spread of 1, by which a model that could write writes noise."""

PREFIXED = "kedge_prefixed"
"""The attention of a model with a prefix, as transformers finds it."""


class Prefix(nn.Module):
    """What one attention sees before any text.

    Args:
        keys: ``[heads, virtual tokens, width]``.
        values: the same.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def before(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, heads, L, width]`` with the prefix's before them."""
        return _joined(self.keys, keys), _joined(self.values, values)


def _joined(first: Tensor, rest: Tensor) -> Tensor:
    return torch.cat([first.to(rest.dtype).expand(len(rest), -1, -1, -1), rest], dim=2)


def prefixed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention by PyTorch's kernels, of queries that see the module's prefix too."""
    prefix: Any = module.prefix
    asked, given = query.shape[2], key.shape[2]
    if attention_mask is None and asked > 1:  # causal from the first key on, which is how the kernels take it
        attention_mask = torch.ones(asked, given, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        seen = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = pad(attention_mask, (prefix.keys.shape[1], 0), value=seen)
    key, value = prefix.before(key, value)
    found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return found


AttentionInterface.register(PREFIXED, prefixed_attention)
AttentionMaskInterface.register(PREFIXED, sdpa_mask)


def behind_the_prefix(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The call of the module that runs the layers, with its text on the positions behind the prefix."""
    places = kwargs.get("position_ids")
    if places is None:
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        cache = kwargs.get("past_key_values")
        done = 0 if cache is None else cache.get_seq_length()
        places = torch.arange(done, done + tokens.shape[1], device=tokens.device)[None]
    return args, kwargs | {"position_ids": places + module.prefix_length}


def is_prefix(config: Any) -> bool:
    """Whether PEFT's configuration of an adapter, or None, is one of prefix tuning."""
    return getattr(config, "peft_type", None) == "PREFIX_TUNING"


def prefix_length(model: nn.Module) -> int:
    """The positions that a model's prefix takes; 0 where it has none."""
    config: Any = model.config
    if config._attn_implementation != PREFIXED:  # asked for with every request, and there are many modules
        return 0
    return next((prefix.keys.shape[1] for prefix in prefixes_of(model).values()), 0)


def prefixes_of(model: nn.Module) -> dict[str, Prefix]:
    """Those of a model's attentions by name, from below."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Prefix)}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as PEFT's class takes them.

    Raises:
        ConfigError: no number of virtual tokens, or a setting that is not known here.
    """
    why = {
        "prefix_projection": "the prefix itself is learnt here, which is what PEFT saves; take it out",
        "init_weights": "zeros everywhere would have all virtual tokens stay alike; take it out",
    }
    for name in given:
        if name != "num_virtual_tokens":
            said = why.get(name, f"{PREFIX_TUNING} has no setting but num_virtual_tokens")
            raise ConfigError(f"adapter.{name}: {said}")
    if "num_virtual_tokens" not in given:
        raise ConfigError(f"adapter.num_virtual_tokens: missing; {PREFIX_TUNING} needs it, such as 20")
    count = given["num_virtual_tokens"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(
            f"adapter.num_virtual_tokens: {PREFIX_TUNING} needs a whole number of at least 1, such as 20; not {count!r}"
        )
    return {"num_virtual_tokens": count}


def no_room(count: int, positions: int) -> ConfigError:
    """A prefix takes all positions, or more."""
    return ConfigError(
        f"adapter.num_virtual_tokens: {count} leave no room for a text in {positions} positions; lower it"
    )


def add_prefix(model: PreTrainedModel, config: Any, generator: torch.Generator | None = None) -> None:
    """Give a model a prefix, in place.

    Args:
        model: with or without a head.
        config: PEFT's, which learns the sizes.
        generator: of the first numbers; None where others are read into their places.

    Raises:
        ConfigError: the model's attention or cache is not of the usual kind, or it has no room for so many tokens.
    """
    trunk, name, count = trunk_of(model), type(model).__name__, config.num_virtual_tokens
    refused = f"adapter.method: {PREFIX_TUNING} does not go with {name}"
    positions = max_positions(model.config)
    if positions is not None and count >= positions:
        raise no_room(count, positions)
    if trunk.config._attn_implementation != "sdpa":
        how = trunk.config._attn_implementation
        raise ConfigError(f"{refused}, whose attention is computed by {how!r} and not by 'sdpa'; take lora")
    attentions = [module for module in trunk.modules() if type(module).__name__.endswith("Attention")]
    layers = _cached(trunk)
    if not layers or len(layers) != len(attentions) or len({layer.keys.shape for layer in layers}) > 1:
        raise ConfigError(f"{refused}, which keeps something else than keys and values of one size a layer; take lora")
    for attention, layer in zip(attentions, layers, strict=True):
        sizes = [(each.shape[1], count, each.shape[3]) for each in (layer.keys, layer.values)]
        attention.prefix = Prefix(*(torch.randn(size, generator=generator).to(trunk.device) for size in sizes))
    heads, width = layers[0].keys.shape[1], layers[0].keys.shape[3]
    config.num_layers, config.num_attention_heads, config.token_dim = len(layers), heads, heads * width
    config.num_transformer_submodules = 1
    _runs_layers(trunk).prefix_length = count
    _runs_layers(trunk).register_forward_pre_hook(behind_the_prefix, with_kwargs=True)
    trunk.config._attn_implementation = PREFIXED
    if detect_fake_mode(list(trunk.parameters())) is None and not _tried_out(model):
        raise ConfigError(f"{refused}, which does not read it as the beginning of its cache; take lora")
    with torch.no_grad():
        for prefix in prefixes_of(trunk).values():
            prefix.keys.mul_(SPREAD)
            prefix.values.mul_(SPREAD)
    model.peft_config = {"default": config}


def _runs_layers(trunk: PreTrainedModel) -> Any:
    """The module whose forward pass goes through a trunk's layers: the trunk itself, or a part of it."""
    layers = layers_of(trunk)
    lists = (each for each in trunk.modules() if any([*child.children()] == layers for child in each.children()))
    return next(lists)


@torch.no_grad()
def _cached(trunk: PreTrainedModel) -> Sequence[Any]:
    """The layers of a cache that holds two tokens; none where they are not of the usual kind."""
    cache = DynamicCache(config=trunk.config)
    tokens = torch.arange(2, device=trunk.device)[None] % vocabulary_rows(trunk)
    with in_eval_mode(trunk):
        try:
            trunk(input_ids=tokens, past_key_values=cache, use_cache=True)
        # What an architecture raises that keeps something else is its own code's.
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            return ()
    usual = all(type(each) is DynamicLayer and each.keys is not None and each.keys.dim() == 4 for each in cache.layers)
    return cache.layers if usual else ()


@torch.no_grad()
def _tried_out(model: PreTrainedModel) -> bool:
    """Whether a model with its prefix gives what it gives without, from a cache that begins with it: its trunk alone,
    and within all of it."""
    trunk: Any = trunk_of(model)
    tokens = torch.arange(10, device=trunk.device).view(2, 5) % vocabulary_rows(trunk)
    cache = DynamicCache(config=trunk.config)
    for number, prefix in enumerate(prefixes_of(trunk).values()):
        keys, values = (part.to(trunk.dtype).expand(2, -1, -1, -1) for part in (prefix.keys, prefix.values))
        cache.update(keys, values, number)
    seen: list[Tensor] = []
    places = torch.arange(5, device=trunk.device)[None]
    hook = _runs_layers(trunk).register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    try:
        with in_eval_mode(model):
            ours = last_hidden(trunk, tokens)
            model(input_ids=tokens, use_cache=False)
            trunk.config._attn_implementation = "sdpa"
            theirs = trunk(input_ids=tokens, position_ids=places, past_key_values=cache, use_cache=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):  # an architecture's own code again
        return False
    finally:
        trunk.config._attn_implementation = PREFIXED
        hook.remove()
    return all(agree(each, theirs.last_hidden_state) for each in (ours, *seen))


def saved_form(prefixes: Mapping[str, Prefix], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefixes as PEFT saves them, of the weights of a model by name."""
    parts = [weights[f"{name}.{part}"] for name in prefixes for part in ("keys", "values")]
    return {SAVED: torch.stack(parts).permute(2, 0, 1, 3).flatten(1)}


@torch.no_grad()
def read_prefix(model: nn.Module, saved: Tensor) -> None:
    """Replace a model's prefixes by what PEFT has saved of them, or computed."""
    prefixes = list(prefixes_of(model).values())
    heads, count, width = prefixes[0].keys.shape
    parts = saved.view(count, 2 * len(prefixes), heads, width).permute(1, 2, 0, 3)
    for number, prefix in enumerate(prefixes):
        prefix.keys.copy_(parts[2 * number])
        prefix.values.copy_(parts[2 * number + 1])
