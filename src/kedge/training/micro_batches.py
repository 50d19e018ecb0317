"""How many tokens go through a model at a time, where nobody says it: by machine and model."""

from typing import Any, TypeVar

from transformers import PreTrainedModel

from kedge.models.device import total_memory
from kedge.runs.folder import RunFolder
from kedge.runs.progress import say
from kedge.training.config import TrainingConfig

Settings = TypeVar("Settings", bound=TrainingConfig)

# Beyond so many tokens a pass is no faster a token, for its products are large enough.
ENOUGH = {"cpu": 1280, "cuda": 8192, "mps": 4096}

# Of a device's memory, for what a pass keeps for its backward pass.
SHARE = 1 / 8

# Bytes in float32 that a layer keeps, a token and unit of its width (Korthikanti et al. 2022, section 4.1, which counts
# 34 in half precision; without attention's scores, which its fused kernels do not keep).
KEPT = 68


def choose_micro_batch(model_config: Any, device: str, memory: int, longest: int) -> int:
    """Tokens of one forward and backward pass: as many as make it fast, as fit, and no fewer than one sequence has.

    Args:
        model_config: of the model that is trained.
        device: ``cpu``, ``cuda`` or ``mps``.
        memory: of the device, in bytes.
        longest: sequence, in tokens.
    """
    config = model_config.get_text_config()
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    fits = ENOUGH[device]
    if isinstance(layers, int) and isinstance(width, int):
        fits = int(SHARE * memory / (KEPT * layers * width))
    return max(min(ENOUGH[device], fits), longest)


def with_micro_batch(
    config: Settings, trunk: PreTrainedModel, longest: int, run: RunFolder | None, stage: str, *, tell: bool
) -> Settings:
    """The settings with ``micro_batch_tokens`` known; chosen here where it is ``auto``, and then in the run's recipe.

    Args:
        config: with or without it.
        trunk: of what is trained.
        longest: sequence, in tokens.
        run: whose recipe it is.
        stage: the recipe's table.
        tell: say what is chosen.
    """
    if config.micro_batch_tokens != "auto":
        return config
    device = trunk.device
    tokens = choose_micro_batch(trunk.config, device.type, total_memory(device), longest)
    if tell:
        say(f"micro_batch_tokens = {tokens}, chosen for this machine and model")
    if run is not None:
        run.settle(stage, micro_batch_tokens=tokens)
    return config.with_micro_batch(tokens)
