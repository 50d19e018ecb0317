"""Fits PyKEEN's TransE in a process of its own: ``{"triples": [...], "epochs": 100}`` in, vectors out, as JSON.

PyKEEN collects every optimizer class that is loaded and refuses two of one name, and collects garbage after each epoch:
nothing for the process that asks. So it is imported where it is used, too.
"""

import gc
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy
import torch

DIMENSIONS, LEARNING_RATE, BATCH, NEGATIVES = 64, 0.01, 512, 16
"""With the self-adversarial loss of RotatE (Sun et al. 2019)."""


def fitted(triples: list[tuple[str, str, str]], epochs: int) -> dict[str, dict[str, list[float]]]:
    """``{"entities": {name: vector}, "relations": {name: vector}}``."""
    from pykeen.models import TransE
    from pykeen.training import SLCWATrainingLoop
    from pykeen.triples import TriplesFactory

    graph = TriplesFactory.from_labeled_triples(numpy.array(triples))
    model = TransE(triples_factory=graph, embedding_dim=DIMENSIONS, loss="nssa", scoring_fct_norm=1, random_seed=0)
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=graph,
        optimizer=torch.optim.Adam(model.parameters(), lr=LEARNING_RATE),
        negative_sampler_kwargs={"num_negs_per_pos": NEGATIVES},
    )
    gc.freeze()  # PyKEEN collects garbage after each epoch, which takes a second where much is loaded
    loop.train(graph, num_epochs=epochs, batch_size=BATCH, use_tqdm=False)

    def vectors(ids: Mapping[str, int], of: Any) -> dict[str, list[float]]:
        found = of(indices=None).tolist()
        return {name: found[place] for name, place in ids.items()}

    return {
        "entities": vectors(graph.entity_to_id, model.entity_representations[0]),
        "relations": vectors(graph.relation_to_id, model.relation_representations[0]),
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    result = fitted(asked["triples"], asked["epochs"])
    json.dump(result, sys.stdout)
