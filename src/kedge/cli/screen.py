"""What every command prints on, and what it keeps quiet."""

import logging
import os

from rich.console import Console

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of several processes the first one speaks


def quiet() -> None:
    """Loading bars and reports of libraries say nothing that our own errors do not."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for library in ("torchao", "torch.utils._pytree"):  # kernels for GPUs that are not here; what it does to PyTorch
        logging.getLogger(library).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
