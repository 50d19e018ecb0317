"""A loop that is killed where it is told to. Processes run it."""

import os
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from kedge.recipes.recipe import Recipe
from kedge.serving.loop.loop import Loop
from kedge.serving.loop.rounds import Round


def go(recipe, at=None):
    """``at``: an arrow, and how many files and folders it may put in their place before it is killed."""
    torch.set_num_threads(1)
    present, put = ["feedback"], [0]
    if at is not None:
        going = Round.go

        def gone(self, arrow):
            present[0], put[0] = arrow, 0
            going(self, arrow)

        Round.go = gone
        for name in ("replace", "rename"):
            setattr(os, name, killing(getattr(os, name), present, put, at))
    Loop(Recipe(Path(recipe), [], stage="loop")).run()


def killing(real, present, put, at):
    def done(*args, **kwargs):
        put[0] += 1
        if (present[0], put[0]) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    return done
