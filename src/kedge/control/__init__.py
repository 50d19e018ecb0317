"""PPO on control tasks (Gymnasium), with the mathematics of :mod:`kedge.core`; ``pip install 'kedge[control]'``."""

import warnings

from kedge.control.agent import Agent
from kedge.control.config import ControlConfig
from kedge.control.evaluate import evaluate_policy
from kedge.control.plain import PlainPPO
from kedge.runs.callbacks import Callback

__all__ = ["Agent", "Callback", "ControlConfig", "PlainPPO", "evaluate_policy"]


def __getattr__(name: str) -> type[Agent]:
    if name == "PPO":
        warnings.warn("kedge.control.PPO is called kedge.control.Agent now", DeprecationWarning, stacklevel=2)
        return Agent
    raise AttributeError(f"module 'kedge.control' has no attribute {name!r}")
