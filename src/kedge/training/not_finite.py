"""Steps with NaN or infinity in them: left out, written down, and counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.errors import NotFiniteError, NumericsError
from kedge.runs.folder import RunFolder
from kedge.runs.progress import say
from kedge.storage.writing import storage

FOLDER = "not_finite"


class LeftOut:
    """Leaves out the rest of a step where a number in it is not finite, and counts such steps in a row."""

    def __init__(self, run: RunFolder | None, *, limit: int, in_a_row: int = 0) -> None:
        self.run = run
        self.limit = limit
        self.in_a_row = in_a_row
        self._at_hand: dict[str, Any] = {}

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Around the work of ``step`` (from 1). What it has noted goes to ``not_finite/step-000012.pt`` in the run
        folder, where it is left out.

        Raises:
            NumericsError: it is the last of ``limit`` in a row.
        """
        self._at_hand = {}
        try:
            yield
            self.in_a_row = 0
        except NotFiniteError as error:
            self._leave_out(step, error)
        finally:
            self._at_hand = {}

    def note(self, **at_hand: Any) -> None:
        """What the step works on: tensors and plain values."""
        self._at_hand |= at_hand

    def tell(self, step: int, message: str) -> None:
        """Say it, and write it to the run's events."""
        say(message)
        if self.run is not None:
            self.run.write_event(step, event="not_finite", message=message)

    def _leave_out(self, step: int, error: NotFiniteError) -> None:
        self.in_a_row += 1
        message = f"step {step} is left out from there on, and the weights are safe: {error}"
        if self.run is not None:
            message += f" (what it worked on: {self._write(self.run, step)})"
        self.tell(step, message)
        if self.in_a_row >= self.limit:
            raise NumericsError(f"{message}\nThat is {self.in_a_row} in a row (max_left_out): the run stops") from error

    def _write(self, run: RunFolder, step: int) -> Path:
        path = run.path / FOLDER / f"step-{step:06d}.pt"
        with run.processes.agreeing():
            if run.processes.leads:
                with storage(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(self._at_hand, path)
        return path


def refuse_not_finite(what: str, rows: Tensor, samples: Tensor | None = None) -> None:
    """Raise where a number is not finite.

    Args:
        what: the number's name, such as ``"values"``.
        rows: ``[N, ...]``, a row a sample.
        samples: ``[N]`` their numbers in the step; None: 0, 1, 2 ...

    Raises:
        NotFiniteError: naming ``what`` and the samples.
    """
    if rows.isfinite().all():
        return
    broken = (~rows.isfinite()).flatten(1).any(1) if rows.dim() > 1 else ~rows.isfinite()
    numbers = torch.arange(len(rows)) if samples is None else samples
    raise NotFiniteError(f"{what}: NaN or infinite in {in_words(numbers[broken.cpu()].tolist())}")


def in_words(samples: Sequence[int], most: int = 8) -> str:
    """``sample 3``, or ``samples 3, 5, 9 and 4 more``."""
    shown = ", ".join(str(i) for i in sorted(samples)[:most])
    more = f" and {len(samples) - most} more" if len(samples) > most else ""
    return f"sample{'s' if len(samples) > 1 else ''} {shown}{more}"
