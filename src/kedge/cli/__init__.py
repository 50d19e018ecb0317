"""The command line."""

from kedge.cli.app import main

__all__ = ["main"]
