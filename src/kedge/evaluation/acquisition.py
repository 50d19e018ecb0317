"""Which pairs to have labelled next: those that reward models do not agree about, and not the same one many times."""

import math
from collections.abc import Sequence

from kedge.data.records import Preference, plain
from kedge.evaluation.trust.calibration import chance
from kedge.rewards.library.words import words_of


def information(margins: Sequence[Sequence[float]]) -> list[float]:
    """``[N]`` what a label would tell about which of K models is right, in nats: the entropy of their mean chance less
    their mean entropy (BALD, Houlsby et al. 2011). 0 where all agree, also where all are equally unsure.

    Args:
        margins: ``[K][N]`` chosen less rejected, of each model.
    """
    found = []
    for of_pair in zip(*margins, strict=True):
        chances = [chance(margin) for margin in of_pair]
        mean = math.fsum(chances) / len(chances)
        found.append(max(0.0, _entropy(mean) - math.fsum(map(_entropy, chances)) / len(chances)))
    return found


def spread_out(pairs: Sequence[Preference], values: Sequence[float], count: int) -> list[int]:
    """Indices of ``count`` pairs, the most valuable first; each one's value is less by how much its words are those of
    one that was taken before (Jaccard 1901).

    Args:
        pairs: to choose from.
        values: what each is worth by itself.
        count: how many.
    """
    texts = [f"{plain(pair.chosen)} {plain(pair.rejected)}".lower() for pair in pairs]
    words = [frozenset(words_of(text)) for text in texts]
    alike = [0.0] * len(pairs)
    left, taken = set(range(len(pairs))), list[int]()
    while left and len(taken) < count:
        best = max(left, key=lambda i: (values[i] * (1 - alike[i]), -i))
        taken.append(best)
        left.discard(best)
        for i in left:
            both = len(words[i] | words[best])
            alike[i] = max(alike[i], len(words[i] & words[best]) / both if both else 1.0)
    return taken


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
