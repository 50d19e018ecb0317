"""The errors a user can cause and mend. Each message names what is wrong, where, and the fix.

Everything else (a bug of ours, a full disk, a crash inside the user's own function) propagates as it is.
"""


class KedgeError(Exception):
    """Something the user can put right. The command line prints the message and exits with status 2."""


class ConfigError(KedgeError):
    """A recipe or a setting is wrong: unknown key, unused key, value out of range."""


class DataError(KedgeError):
    """A data file, or a row of it, is not what the job needs."""


class ModelError(KedgeError):
    """A model, tokenizer or head is missing, or does not fit the others."""


class RewardError(KedgeError):
    """A reward function or reward model gave something that is not a score for every sample."""


class NumericsError(KedgeError):
    """A number that must not be: NaN, infinity, or a ratio that is not 1 before the first update."""
