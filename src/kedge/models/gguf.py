"""A model as one file of llama.cpp's (GGUF): Llamas in float32, with their tokenizer, and nothing that was not tried.

Left out on purpose: other architectures, packed weights, scaled rotary embeddings. llama.cpp's own converter, which is
no package, has them; it reads the folder that ``kedge export --to hf`` writes.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.data.encode import Tokenizer
from kedge.errors import ConfigError
from kedge.models.adapters import adapter_of
from kedge.models.language_model import LanguageModel

FILE = "model.gguf"
ELSEWHERE = "export it with --to hf, and convert the folder with llama.cpp's convert_hf_to_gguf.py"

LAYERS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Names of a layer's weights: transformers', and llama.cpp's."""

WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip
"""Of those outside of layers."""


def refuse_unwritable(lm: LanguageModel) -> None:
    """Raise where :func:`write_gguf` has no way to write a model.

    Raises:
        ConfigError: another architecture or tokenizer, or an adapter that is not merged; or gguf is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("--to gguf: gguf is not installed; pip install 'kedge[gguf]'") from None
    name, config = type(lm.model).__name__, lm.model.config
    if name != "LlamaForCausalLM":
        raise ConfigError(f"--to gguf: {name} is not written here, only LlamaForCausalLM; {ELSEWHERE}")
    if adapter_of(lm.model) is not None:
        raise ConfigError("--to gguf: the model has an adapter; add --merge")
    rope = config.rope_parameters or {}
    if config.attention_bias or config.mlp_bias or rope.get("rope_type", "default") != "default":
        raise ConfigError(
            f"--to gguf: a Llama with biases or scaled rotary embeddings is not written here; {ELSEWHERE}"
        )
    _words_of(lm.tokenizer)


def write_gguf(lm: LanguageModel, path: Path) -> None:
    """Write model and tokenizer as one file.

    Raises:
        ConfigError: as :func:`refuse_unwritable`.
    """
    refuse_unwritable(lm)
    import gguf

    config: Any = lm.model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(path.parent.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, lm)
    for name, weight in lm.model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is none
        writer.add_tensor(_renamed(name), _turned(name, weight, config).float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _renamed(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, number, part = name.split(".", 3)
    return f"blk.{number}.{LAYERS[part.removesuffix('.weight')]}.weight"


def _turned(name: str, weight: Tensor, config: Any) -> Tensor:
    """Queries and keys with the two numbers that a rotation turns side by side, and not half a head apart."""
    weight = weight.detach().cpu()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _words_of(tokenizer: Tokenizer) -> tuple[str, dict[str, Any]]:
    """llama.cpp's name of its kind, and all of it as tokenizers writes it.

    Raises:
        ConfigError: a kind that is not written here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    model = whole.get("model") or {}
    before: dict[str, Any] = whole.get("pre_tokenizer") or {}
    if model.get("type") == "BPE" and model.get("byte_fallback") and not before:
        return "llama", whole
    if model.get("type") == "BPE" and before.get("type") == "ByteLevel" and before.get("use_regex"):
        return "gpt2", whole
    raise ConfigError(f"--to gguf: its tokenizer is neither SentencePiece's nor GPT-2's kind of BPE; {ELSEWHERE}")


def _add_tokenizer(writer: Any, lm: LanguageModel) -> None:
    from gguf import TokenType

    kind, whole = _words_of(lm.tokenizer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
    special = {each["id"] for each in whole["added_tokens"] if each["special"]}
    added = {each["id"] for each in whole["added_tokens"]}
    words = {index: word for word, index in lm.tokenizer.get_vocab().items()}
    rank = {merge.replace(" ", ""): -float(place) for place, merge in reversed([*enumerate(merges)])}
    rows = lm.model.config.vocab_size
    types, scores = [], []
    for index in range(rows):
        word = words.get(index)
        if word is None:
            types.append(TokenType.UNUSED)
        elif index in added:
            types.append(TokenType.CONTROL if index in special else TokenType.USER_DEFINED)
        else:
            is_byte = kind == "llama" and len(word) == 6 and word.startswith("<0x")
            types.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
        scores.append(rank.get(word or "", -1e9 if word is None else -float(len(merges))))
    if kind == "llama" and words.get(0) == "<unk>":
        types[0] = TokenType.UNKNOWN
    writer.add_tokenizer_model(kind)
    writer.add_token_list([words.get(index, f"[unused{index}]") for index in range(rows)])
    writer.add_token_types(types)
    if kind == "llama":
        writer.add_token_scores(scores)
        prepends = any(part.get("type") == "Prepend" for part in (whole["normalizer"] or {}).get("normalizers", ()))
        writer.add_add_space_prefix(prepends)
    else:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(merges)
    begins = lm.tokenizer("a").input_ids[:1] == [lm.tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    if lm.tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(lm.tokenizer.bos_token_id)
    if lm.eos_ids:
        writer.add_eos_token_id(lm.eos_ids[0])
    writer.add_pad_token_id(lm.pad_id)
    if lm.tokenizer.chat_template:
        writer.add_chat_template(lm.tokenizer.chat_template)
