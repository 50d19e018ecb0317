"""All checks, one after another."""

from collections.abc import Callable

from kedge.errors import ConfigError, DataError, KedgeError, ModelError, RewardError
from kedge.inspection.doctor import learning, models, words
from kedge.inspection.doctor.finding import Examined, Finding, NoAnswersError, Pairs
from kedge.training.ppo import PPO

# In this order: an update changes the policy, so what looks at it as it was comes before.
CHECKS: tuple[tuple[str, Callable[[Examined], Finding]], ...] = (
    ("tokenizer round trip", words.round_trip),
    ("prompt lengths", words.lengths),
    ("weights and heads", models.loaded),
    ("reward", learning.reward),
    ("dropout is off", models.dropout),
    ("answers can end", words.ending),
    ("answers cut off", words.cut_off),
    ("sampler and forward pass agree", models.sampler),
    ("reward model: padding", models.padding),
    ("reward model: swapped pairs", models.pairs),
    ("first minibatch", learning.first_minibatch),
    ("an update raises the surrogate", learning.surrogate),
    ("checkpoint round trip", learning.checkpoint),
    ("how far an update goes", learning.reach),  # the last: it begins again with the policy
)

# What is refused before there is anything to examine, under the name of what it is about.
REFUSED = {
    ConfigError: "settings",
    DataError: "data and prompt lengths",
    ModelError: "weights and heads",
    RewardError: "reward",
}


def examine(build: Callable[[], PPO], pairs: Callable[[], Pairs] = Pairs) -> list[Finding]:
    """Build a run and check it as far as it can be checked. The run is trained by that, and of no further use.

    Args:
        build: makes the run, with a folder to write a checkpoint in.
        pairs: gives preferences to check reward models on.
    """
    try:
        examined = Examined(build(), pairs())
    except KedgeError as error:
        what = next((name for kind, name in REFUSED.items() if isinstance(error, kind)), "the recipe")
        return [Finding(what, "fail", str(error))]
    try:
        return [_checked(name, check, examined) for name, check in CHECKS]
    finally:
        examined.ppo.close()


def _checked(name: str, check: Callable[[Examined], Finding], examined: Examined) -> Finding:
    try:
        return check(examined)
    except NoAnswersError as error:
        return Finding(name, "skip", str(error))
    except KedgeError as error:
        return Finding(name, "fail", str(error))
    except Exception as error:  # noqa: BLE001  of the user's own function, whatever it is; the other checks go on
        return Finding(name, "fail", f"{type(error).__name__}: {error}", "mend what raises it")
