"""TransE (Bordes et al. 2013) of PyKEEN, fitted to a graph."""

import gc
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from kedge.config.optional import needed

DIMENSIONS, LEARNING_RATE, BATCH, NEGATIVES = 64, 0.01, 512, 16
"""With the self-adversarial loss of RotatE (Sun et al. 2019)."""


class TransE:
    """Entities as points, relations as steps from heads to tails.

    Args:
        triples: head, relation and tail of each.
        epochs: of training.
        who: needs it, for the message where PyKEEN is not installed.

    Raises:
        ConfigError: PyKEEN is not installed.
    """

    def __init__(self, triples: Sequence[tuple[str, str, str]], *, epochs: int, who: str) -> None:
        numpy, factories, models, training, utils = (
            needed(module, who, "links")
            for module in ("numpy", "pykeen.triples", "pykeen.models", "pykeen.training", "pykeen.utils")
        )
        graph = factories.TriplesFactory.from_labeled_triples(numpy.array(triples))
        self._entities, self._relations = graph.entity_to_id, graph.relation_to_id
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self._model = models.TransE(
                triples_factory=graph, embedding_dim=DIMENSIONS, loss="nssa", random_seed=utils.NoRandomSeedNecessary
            )
            loop = training.SLCWATrainingLoop(
                model=self._model,
                triples_factory=graph,
                optimizer=torch.optim.Adam(self._model.parameters(), lr=LEARNING_RATE),
                negative_sampler_kwargs={"num_negs_per_pos": NEGATIVES},
            )
            gc.freeze()  # PyKEEN collects garbage after each epoch, which takes a second where much is loaded
            try:
                with warnings.catch_warnings(action="ignore"):  # of PyKEEN's own use of PyTorch
                    loop.train(graph, num_epochs=epochs, batch_size=BATCH, use_tqdm=False)
            finally:
                gc.unfreeze()

    def tails(self, head: str, relation: str) -> list[str]:
        """Every entity, the likeliest tail first; none where head or relation are unknown."""
        return self._ranked(self._model.predict_t, (self._entities, head), (self._relations, relation))

    def heads(self, relation: str, tail: str) -> list[str]:
        """Every entity, the likeliest head first; none where relation or tail are unknown."""
        return self._ranked(self._model.predict_h, (self._relations, relation), (self._entities, tail))

    def _ranked(self, scores: Any, *asked: tuple[Any, str]) -> list[str]:
        if any(name not in ids for ids, name in asked):
            return []
        found = scores(torch.tensor([[ids[name] for ids, name in asked]]))[0].tolist()
        return sorted(self._entities, key=lambda name: (-found[self._entities[name]], name))
