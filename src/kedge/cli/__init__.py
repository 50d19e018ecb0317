"""The command line."""

from kedge.cli.app import main, program
from kedge.cli.screen import console

__all__ = ["console", "main", "program"]
