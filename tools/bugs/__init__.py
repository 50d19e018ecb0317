"""The bugs that tools/mutants.py plants, by the floor they are planted in."""

from bugs.core import CORE
from bugs.lower import LOWER
from bugs.mutant import Mutant
from bugs.ppo import PPO
from bugs.training import TRAINING

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [*CORE, *LOWER, *TRAINING, *PPO]
