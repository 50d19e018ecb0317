"""The bugs that tools/mutants.py plants, by the floor they are planted in."""

from bugs.core import CORE
from bugs.engine import ENGINE_BUGS
from bugs.lower import LOWER
from bugs.mutant import Mutant
from bugs.ppo import PPO
from bugs.rewards import REWARDS
from bugs.surviving import SURVIVING
from bugs.together import TOGETHER
from bugs.training import TRAINING
from bugs.watching import WATCHING

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [*CORE, *LOWER, *ENGINE_BUGS, *REWARDS, *SURVIVING, *TRAINING, *PPO, *TOGETHER, *WATCHING]
