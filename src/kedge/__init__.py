"""PPO for language models, from preferences to a served model.

The names below are the front door; the mathematics is in :mod:`kedge.core`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.errors import KedgeError
    from kedge.evaluation.evaluate import evaluate
    from kedge.models.language_model import load_language_model
    from kedge.runs import Run, open_run
    from kedge.runs.callbacks import Callback
    from kedge.sampling.local.engine import Engine
    from kedge.sampling.settings import Sampling
    from kedge.training.ppo import PPO, PPOConfig
    from kedge.training.reward_modeling import RewardConfig, RewardModeling
    from kedge.training.sft import SFT, SFTConfig

__version__ = version("kedge")

__all__ = [
    "PPO",
    "SFT",
    "Callback",
    "Engine",
    "KedgeError",
    "PPOConfig",
    "RewardConfig",
    "RewardModeling",
    "Run",
    "SFTConfig",
    "Sampling",
    "__version__",
    "evaluate",
    "load_language_model",
    "open_run",
]

_HOME = {
    "Callback": "kedge.runs.callbacks",
    "Engine": "kedge.sampling.local.engine",
    "KedgeError": "kedge.errors",
    "PPO": "kedge.training.ppo",
    "PPOConfig": "kedge.training.ppo",
    "RewardConfig": "kedge.training.reward_modeling",
    "RewardModeling": "kedge.training.reward_modeling",
    "Run": "kedge.runs",
    "SFT": "kedge.training.sft",
    "SFTConfig": "kedge.training.sft",
    "Sampling": "kedge.sampling.settings",
    "evaluate": "kedge.evaluation.evaluate",
    "load_language_model": "kedge.models.language_model",
    "open_run": "kedge.runs",
}


# Torch and transformers take seconds to import, and `kedge --help` needs neither.
__getattr__, __dir__ = lazily(__name__, _HOME)
