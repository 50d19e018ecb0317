"""The bugs that tools/mutants.py plants, by the floor they are planted in."""

from bugs.core import CORE
from bugs.engine import ENGINE_BUGS
from bugs.lower import LOWER
from bugs.mutant import Mutant
from bugs.plan import PLAN
from bugs.ppo import PPO
from bugs.together import TOGETHER
from bugs.training import TRAINING

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [*CORE, *LOWER, *ENGINE_BUGS, *TRAINING, *PPO, *TOGETHER, *PLAN]
