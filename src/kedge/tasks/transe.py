"""TransE (Bordes et al. 2013), fitted to a graph by PyKEEN."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from kedge.errors import ConfigError


class TransE:
    """Entities as points, relations as steps from heads to tails.

    Args:
        triples: head, relation and tail of each.
        epochs: of training.
        who: needs it, for the message where PyKEEN is not installed.

    Raises:
        ConfigError: PyKEEN is not installed, or failed.
    """

    def __init__(self, triples: Sequence[tuple[str, str, str]], *, epochs: int, who: str) -> None:
        if find_spec("pykeen") is None:
            raise ConfigError(f"{who}: PyKEEN is not installed; pip install 'kedge[links]'")
        asked = json.dumps({"triples": list(triples), "epochs": epochs, "threads": torch.get_num_threads()})
        command = [sys.executable, "-W", "ignore", "-m", "kedge.tasks.transe_fit"]
        with TemporaryDirectory() as home:  # of folders that PyKEEN makes when it is imported
            there = {**os.environ, "PYSTOW_HOME": home}
            done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, env=there)
        if done.returncode:
            raise ConfigError(f"{who}: PyKEEN failed:\n{done.stderr[-1000:]}")
        found = json.loads(done.stdout)
        self._names = list(found["entities"])
        self._points = torch.tensor(list(found["entities"].values()))
        self._places = {name: place for place, name in enumerate(self._names)}
        self._steps = {name: torch.tensor(step) for name, step in found["relations"].items()}

    def tails(self, head: str, relation: str) -> list[str]:
        """Every entity, the likeliest tail first; none where head or relation are unknown."""
        if head not in self._places or relation not in self._steps:
            return []
        return self._nearest(self._points[self._places[head]] + self._steps[relation])

    def heads(self, relation: str, tail: str) -> list[str]:
        """Every entity, the likeliest head first; none where relation or tail are unknown."""
        if tail not in self._places or relation not in self._steps:
            return []
        return self._nearest(self._points[self._places[tail]] - self._steps[relation])

    def _nearest(self, point: Tensor) -> list[str]:
        far = (self._points - point).abs().sum(-1).tolist()
        return sorted(self._names, key=lambda name: (far[self._places[name]], name))
