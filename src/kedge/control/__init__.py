"""PPO on control tasks (Gymnasium), with the mathematics of :mod:`kedge.core`; ``pip install 'kedge[control]'``."""

from kedge.control.agent import PPO
from kedge.control.config import ControlConfig
from kedge.control.evaluate import evaluate_policy
from kedge.control.plain import PPO as PlainPPO
from kedge.runs.callbacks import Callback

__all__ = ["PPO", "Callback", "ControlConfig", "PlainPPO", "evaluate_policy"]
