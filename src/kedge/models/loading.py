"""From a name to a model's files and weights: hub ids, folders, runs; whole models, and adapters on their base."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import kedge.models.lstm  # noqa: F401, so that transformers' Auto classes know it
from kedge.data.encode import Tokenizer
from kedge.data.hub import asked_if_it_answers
from kedge.errors import ConfigError, ModelError
from kedge.models.adapters import CONFIG_FILE, adapter_of, attach, base_of, merge, read_adapter, write_adapter
from kedge.models.device import Device, pick_device
from kedge.models.quantized import (
    HEADS,
    PACKED,
    Quantization,
    compute_in,
    dequantize,
    hold_in_int8,
    how_to_load,
    kind_of,
    record_of,
    refuse_misfit,
    refuse_unwritten,
    settle,
    write_quantization,
)
from kedge.models.writing import write_in_parts
from kedge.parallel import part_of
from kedge.runs.progress import say
from kedge.storage.checkpoints import last_whole
from kedge.storage.writing import old_of

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""``auto`` is float32."""
Held = DType | Literal["stored"]
"""``stored``: as they stand in the file, whose pages they then are."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "vocab.txt",
)


def load_tokenizer(source: str | Path, *, key: str, trust_remote_code: bool = False) -> Tokenizer:
    """Load a tokenizer by hub id or folder; ``key`` is the setting that names another one, for the message.

    Raises:
        ModelError: none there.
    """
    folder = Path(source).expanduser()
    source = folder if folder.is_dir() else source
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{source}: no tokenizer in this folder; save it there, or name one with {key}=...")
    try:
        with asked_if_it_answers(source):
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        _refuse_remote_code(error, source)
        raise ModelError(f"{source}: cannot load a tokenizer: {_first_line(error)}{_offline_hint(source)}") from error


def load_config(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """A model's configuration by hub id or folder.

    Raises:
        ModelError: not found, or no network.
    """
    source = base_of(source)
    try:
        with asked_if_it_answers(source):
            return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        _refuse_remote_code(error, source)
        what = f"{source}: cannot read the model's configuration: {_first_line(error)}"
        raise ModelError(what + _offline_hint(source)) from error


def open_model(
    auto_class: Any,
    folder: str | Path,
    *,
    dtype: Held = "auto",
    device: Device = "auto",
    merged: bool = False,
    headless: bool = False,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
    **how: Any,
) -> tuple[PreTrainedModel, set[str]]:
    """A model, with its adapter on it where the folder holds one; and the names of the weights that were missing.

    Args:
        auto_class: of transformers.
        folder: of a model or of an adapter, or a hub id.
        dtype: of the weights.
        device: ``auto`` is the best there is.
        merged: an adapter becomes a part of the weights, and these are what the adapter was trained on.
        headless: the adapter knows nothing of the model's head.
        quantization: of the base; an adapter that says how its base was held has it held so again.
        trust_remote_code: run code that the model brings.
        how: what else ``from_pretrained`` takes; None: not said.

    Raises:
        ModelError: not found, or weights of another shape. ConfigError: the base is held in another way already.
    """
    base, where = base_of(folder), pick_device(device)
    its_own = getattr(load_config(base, trust_remote_code=trust_remote_code), "quantization_config", None)
    record = record_of(folder) if base != str(folder) and its_own is None else None
    taught = kind_of(record, folder) if record is not None else None
    if quantization and (its_own is not None or taught not in (None, quantization)):
        raise ConfigError(f"quantization: {quantization!r}, but {folder} is quantised already; take it out")
    if dtype == "stored" and base != str(folder) and merged:
        dtype = "float32"  # what an adapter adds to a weight may be less than that has digits for
    torch_dtype, packed = _torch_dtype(dtype), dtype
    if held := taught or quantization:
        heads = HEADS if auto_class is AutoModelForSequenceClassification else ()
        how |= how_to_load(held, torch_dtype, where, record, heads)
        packed = (record or {}).get(PACKED) or dtype  # again from what it was packed from, or it is another base
    model, info = load_weights(auto_class, base, packed, trust_remote_code=trust_remote_code, **how)
    missing = set(info["missing_keys"])
    settle(model)
    if held == "int8":
        hold_in_int8(model)
    if held:
        compute_in(model, torch_dtype)
        refuse_misfit(model, held)
    if base != str(folder):
        if merged:
            dequantize(model)
        attach(model, folder, headless=headless)
        missing = {name for name in missing if name.partition(".")[0] not in HEADS}
        if merged:
            merge(model.requires_grad_(True))
    model.to(where)  # type: ignore[arg-type]
    return model, missing


def load_weights(auto_class: Any, source: str | Path, dtype: Held, **kwargs: Any) -> tuple[PreTrainedModel, dict]:
    """``from_pretrained`` with its report of missing and misshapen weights, and its errors made readable.

    Raises:
        ModelError: not found, no network, or weights of another shape.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    try:
        with asked_if_it_answers(source):
            loaded: tuple[PreTrainedModel, dict] = auto_class.from_pretrained(
                source, dtype="auto" if dtype == "stored" else _torch_dtype(dtype), output_loading_info=True, **given
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        _refuse_remote_code(error, source)
        raise ModelError(f"{source}: cannot load the model: {_first_line(error)}{_offline_hint(source)}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatched" not in str(error):
            raise
        raise ModelError(f"{source}: weights of another shape than its configuration says: {error}") from error
    return loaded


def refuse_missing_weights(missing: Collection[str], source: object, meaning: str) -> None:
    """Raise where ``from_pretrained`` had to invent weights.

    Raises:
        ModelError: naming them.
    """
    if missing:
        raise ModelError(f"{source}: weights missing: {', '.join(sorted(missing)[:4])}; {meaning}")


def write_weights(model: PreTrainedModel, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
    """Write a model's weights as a Hugging Face folder; of one with an adapter that alone, as PEFT does.

    Args:
        model: whose weights they are.
        folder: where; None in a process that has parts of them, and does not write.
        weights: by name.
    """
    if adapter_of(model) is not None:
        if folder is not None:
            write_adapter(model, folder, weights)
            write_quantization(model, folder)
    elif any(isinstance(weight, DTensor) for weight in weights.values()):
        write_in_parts(model, folder, weights)
    elif folder is not None:
        refuse_unwritten(model)
        model.save_pretrained(folder, state_dict=dict(weights))


def copy_weights(model: PreTrainedModel, auto_class: Any, folder: Path) -> None:
    """Copy into ``model`` what :func:`write_weights` wrote of one like it: loaded with ``auto_class``, every weight.

    Raises:
        ModelError: weights missing or misshapen.
    """
    if adapter_of(model) is not None:
        read_adapter(model, folder)
        return
    loaded, info = load_weights(auto_class, folder, _dtype_name(model.dtype))
    refuse_missing_weights(info["missing_keys"], folder, "the saved model is incomplete")
    whole = loaded.state_dict()
    model.load_state_dict({name: part_of(whole[name], own) for name, own in model.state_dict().items()})


def find_and_tell(source: str | Path, part: str) -> str:
    """:func:`find`, which says so where it had to take a checkpoint of a run that is not at its end."""
    found = Path(find(source, part))
    if found.parent.parent.name == "checkpoints" and Path(source).expanduser() == found.parent.parent.parent:
        say(f"{source}: the run is not at its end; {part} is that of its last checkpoint, {found.parent.name}")
    return str(found)


def find(source: str | Path, part: str) -> str:
    """``source``, or the folder ``part`` inside it where ``source`` is a run folder: its result, or that of its last
    whole checkpoint.

    Raises:
        ModelError: it looks like a path and there is nothing.
    """
    path = Path(source).expanduser()
    for result in (path / part, old_of(path / part)):
        if holds_model(result):
            return str(result)
    if (path / "recipe.toml").is_file() and (kept := last_whole(path, part)):
        return str(kept / part)
    looks_like_a_path = str(source).startswith((".", "/", "~", "runs/")) or str(source).count("/") > 1
    if looks_like_a_path and not path.exists():
        raise ModelError(f"{source}: no such folder")
    if path.is_dir() and not holds_model(path):
        raise ModelError(f"{source}: neither a model folder (no config.json) nor a run with a {part}/ in it")
    return str(path) if path.is_dir() else str(source)


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model, or an adapter of one."""
    return (folder / "config.json").is_file() or (folder / CONFIG_FILE).is_file()


def _torch_dtype(dtype: Held) -> torch.dtype:
    found: torch.dtype = torch.float32 if dtype in ("auto", "stored") else getattr(torch, dtype)
    return found


def _dtype_name(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")


def _refuse_remote_code(error: Exception, source: object) -> None:
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        raise ModelError(
            f"{source}: the model brings code of its own, which is not run unbidden; read it, and then set "
            "trust_remote_code=true"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _offline_hint(source: str | Path) -> str:
    if Path(source).exists():
        return ""
    return "; it is no local folder, so it must be a hub id: check the name and the network, or give a folder"
