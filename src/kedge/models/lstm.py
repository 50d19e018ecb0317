"""An LSTM: what an agent remembers by on tasks with hidden state, and a small language model of its own.

The language model is registered with transformers, whose Auto classes load and save it where kedge is imported; where
it is not, a saved folder brings this file along (``trust_remote_code=True``).
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

State = tuple[Tensor, Tensor]
"""Hidden and cell state, ``[layers, N, H]`` each."""


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) over N sequences that may begin anew on the way."""

    def __init__(self, inputs: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.cells = nn.LSTM(inputs, hidden, layers)
        self.begin_weights()

    def begin_weights(self) -> None:
        """Orthogonal ones (Saxe et al. 2014), biases 0."""
        for name, weight in self.cells.named_parameters():
            init.zeros_(weight) if "bias" in name else init.orthogonal_(weight)

    def nothing(self, n: int) -> State:
        """The state before the first step."""
        weight: Any = self.cells.weight_hh_l0
        zeros = weight.new_zeros(self.cells.num_layers, n, self.cells.hidden_size)
        return zeros, zeros

    def forward(self, inputs: Tensor, state: State | None = None, starts: Tensor | None = None) -> tuple[Tensor, State]:
        """``[T, N, inputs]`` -> ``[T, N, H]`` and the state after the last step.

        Args:
            starts: ``[T, N]`` bool, True where a sequence begins: what was before is forgotten.
        """
        state = self.nothing(inputs.shape[1]) if state is None else state
        if starts is None:
            return self.run(inputs, state)
        parts = []
        # Between two beginnings nothing is forgotten, and the cells may run over all of it at once.
        edges = [0, *(t for t in range(1, len(inputs)) if bool(starts[t].any())), len(inputs)]
        for first, last in pairwise(edges):
            kept = (~starts[first]).to(inputs.dtype)[None, :, None]
            part, state = self.run(inputs[first:last], (state[0] * kept, state[1] * kept))
            parts.append(part)
        return torch.cat(parts), state

    def run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """The cells in their weights' own precision, under autocast too: PyTorch has no bfloat16 ones for every CPU."""
        with torch.autocast(inputs.device.type, enabled=False):
            weight: Any = self.cells.weight_hh_l0
            features, state = self.cells(inputs.to(weight), (state[0].to(weight), state[1].to(weight)))
        return features, state


class LSTMConfig(PreTrainedConfig):
    """Sizes of the language model; embeddings are as wide as the hidden state."""

    model_type = "kedge_lstm"

    vocab_size: int = 512
    hidden_size: int = 256
    num_hidden_layers: int = 1
    tie_word_embeddings: bool = True
    initializer_range: float = 0.1
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class LSTMCache:
    """What has been read so far: all of it is in the state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def reorder_cache(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        hidden, cell = self.state
        self.state = hidden.index_select(1, rows), cell.index_select(1, rows)


class LSTMPreTrainedModel(PreTrainedModel):
    """Loading, saving and first weights."""

    config_class = LSTMConfig
    base_model_prefix = "model"
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LSTM):
            module.begin_weights()
        elif not isinstance(module, nn.LSTM):  # transformers would begin it in its own way
            super()._init_weights(module)


class LSTMModel(LSTMPreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lstm = LSTM(config.hidden_size, config.hidden_size, config.num_hidden_layers)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: LSTMCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states ``[B, L, H]`` of ``input_ids [B, L]``.

        Args:
            attention_mask: ``[B, L]`` 0 on padding: what stands before a row's first token is not remembered.
        """
        inputs = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        state = None if past_key_values is None else past_key_values.state
        starts = None
        if attention_mask is not None and state is None:
            seen = attention_mask.bool()
            starts = (seen & ~seen.roll(1, dims=1)).T
        features, state = self.lstm(inputs.transpose(0, 1), state, starts)
        cache: Any = LSTMCache(state) if use_cache else None
        return BaseModelOutputWithPast(last_hidden_state=features.transpose(0, 1), past_key_values=cache)


class LSTMForCausalLM(LSTMPreTrainedModel, GenerationMixin):
    """Tokens to the next one's logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012, as transformers has it

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: LSTMCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[B, L, V]``; the loss of the tokens ``labels [B, L]``, where they are given."""
        output = self.model(input_ids, attention_mask, past_key_values, inputs_embeds, use_cache)
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)


AutoConfig.register(LSTMConfig.model_type, LSTMConfig)
AutoModel.register(LSTMConfig, LSTMModel)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM)
LSTMConfig.register_for_auto_class()
LSTMModel.register_for_auto_class("AutoModel")
LSTMForCausalLM.register_for_auto_class("AutoModelForCausalLM")
