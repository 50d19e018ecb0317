"""What every command prints on, and what it keeps quiet."""

import os

from rich.console import Console

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of several processes the first one speaks


def quiet() -> None:
    """Loading bars and reports of libraries say nothing that our own errors do not."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
