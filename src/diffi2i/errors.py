"""What a user can cause or meet: three errors and a note, each of which the command line prints on one line."""

import re
import unicodedata


class UserError(Exception):
    """Bad input or configuration. The message is one line: what is wrong, where, and what to write instead."""

    def __init__(self, message: str) -> None:
        # torch hands on what a loader's process has raised inside its traceback, at the end of which it stands.
        super().__init__(re.sub(r"(?s)^Caught \w+ in DataLoader worker process.*Error: ", "", message).strip())


class WeightsUnavailableError(Exception):
    """Pretrained weights that cannot be had here. The message says what, from where, and where to put it."""


class LostProcessError(Exception):
    """A process of a run has ended, or does not answer. The message is one line."""


class Note(UserWarning):
    """What the user should know while the work goes on, for `warnings.warn`. One line, as of a `UserError`."""


def printable(text: str) -> bool:
    """Whether it can stand in a line: no control codes, no ends of lines, no bytes that are no text."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)
