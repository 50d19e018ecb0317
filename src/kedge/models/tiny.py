"""A small chat model from nothing: byte-level BPE tokenizer, chat template, Llama or LSTM, random weights."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer as BPETokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

from kedge.data.encode import Tokenizer
from kedge.models.language_model import LanguageModel, wrap
from kedge.models.lstm import LSTMConfig, LSTMForCausalLM

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def new_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer trained on ``texts``, with a chat template; EOS ``<|end|>`` and a pad of its own."""
    bpe = BPETokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = TokenizersBackend(tokenizer_object=bpe, eos_token=END, pad_token=PAD, padding_side="right")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_llama(
    tokenizer: Tokenizer, *, hidden: int, layers: int, heads: int, positions: int, seed: int
) -> LanguageModel:
    """A Llama of random weights for that tokenizer, on the CPU in float32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed % 2**63)
    return wrap(LlamaForCausalLM(config), tokenizer)


def new_lstm(tokenizer: Tokenizer, *, hidden: int, layers: int, seed: int) -> LanguageModel:
    """An LSTM of random weights for that tokenizer, on the CPU in float32."""
    config = LSTMConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed % 2**63)
    return wrap(LSTMForCausalLM(config), tokenizer)
