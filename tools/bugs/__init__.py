"""The bugs that tools/mutants.py plants, by the floor they are planted in."""

from bugs.ahead import AHEAD_BUGS
from bugs.cluster import CLUSTERS
from bugs.control import CONTROL
from bugs.core import CORE
from bugs.engine import ENGINE_BUGS
from bugs.launch import LAUNCH
from bugs.less import LESS
from bugs.loop import LOOP_BUGS
from bugs.losses import LOSSES_MUTANTS
from bugs.lower import LOWER
from bugs.mutant import Mutant
from bugs.people import PEOPLES
from bugs.plan import PLAN
from bugs.ppo import PPO
from bugs.recipes import RECIPE_BUGS
from bugs.rewards import REWARDS
from bugs.seams import SEAMS
from bugs.serving import SERVING
from bugs.sharding import SHARDING_BUGS
from bugs.surviving import SURVIVING
from bugs.tasks import TASKS
from bugs.together import TOGETHER
from bugs.training import TRAINING
from bugs.trust_region import TRUST_REGION
from bugs.trying import TRYING
from bugs.unseen import UNSEEN
from bugs.update import UPDATE_MUTANTS
from bugs.watching import WATCHING
from bugs.worth import WORTH

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [
    *CORE, *LOSSES_MUTANTS, *LOWER, *ENGINE_BUGS, *REWARDS, *SURVIVING, *TRAINING, *PPO, *UPDATE_MUTANTS, *TOGETHER,
    *TRUST_REGION, *LOOP_BUGS, *WATCHING, *CONTROL, *PLAN, *UNSEEN, *SEAMS, *RECIPE_BUGS, *LESS, *WORTH, *SERVING,
    *PEOPLES, *TRYING, *TASKS, *AHEAD_BUGS, *SHARDING_BUGS, *LAUNCH, *CLUSTERS,
]  # fmt: skip
