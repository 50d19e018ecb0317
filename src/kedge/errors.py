"""The errors a user can cause and mend. Each message names what is wrong, where, and the fix.

Everything else (a bug of ours, a crash inside the user's own function) propagates as it is.
"""


class KedgeError(Exception):
    """Something the user can put right. The command line prints the message and exits with ``exit_status``."""

    exit_status = 2
    known_to_all = False
    """Of several processes, whether all of them raise it; the first one tells the user of it."""


class ConfigError(KedgeError):
    """A recipe or a setting is wrong: unknown key, unused key, value out of range."""


class DataError(KedgeError):
    """A data file, or a row of it, is not what the job needs."""


class ModelError(KedgeError):
    """A model, tokenizer or head is missing, or does not fit the others."""


class RewardError(KedgeError):
    """A reward function or reward model gave something that is not a score for every sample, or wants what is not
    there."""


class NumericsError(KedgeError):
    """A number that must not be: NaN, infinity, or a ratio that is not 1 before the first update."""


class NotFiniteError(NumericsError):
    """NaN or infinity in one step's numbers. A training loop leaves that step out and goes on, a few times."""


class RewardNotFiniteError(RewardError, NotFiniteError):
    """A reward of NaN or infinity."""


class SamplerError(KedgeError):
    """Those who write answers cannot be reached, or do not do what they are asked. Other than what a recipe has wrong,
    that may pass: a job may try again."""

    exit_status = 5


class LostError(KedgeError):
    """A process of the job has died, was stopped, or did not come."""

    exit_status = 4

    def __init__(self, message: str, exit_status: int = 4) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class StorageError(KedgeError):
    """Something could not be written, or a checkpoint is not what was written."""


class Stopped(KedgeError):
    """A run that was asked to stop, or stopped itself, with everything kept that it needs to go on."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:  # as it was, in other processes too
        return type(self), (str(self), self.exit_status)
