"""The errors a user can cause or meet; the command line prints their message on one line."""


class UserError(Exception):
    """Bad input or configuration. The message is one line: what is wrong, where, and what to write instead."""


class WeightsUnavailableError(Exception):
    """Pretrained weights that cannot be had here. The message says what, from where, and where to put it."""


class LostProcessError(Exception):
    """A process of a run has ended, or does not answer. The message is one line."""
