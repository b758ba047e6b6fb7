"""A refusal is one line."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from diffi2i import cli
from diffi2i.errors import UserError


def refusal(call: Callable[..., object], *arguments: Any) -> str:
    """The line of the `UserError` with which this call ends."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def command_refusal(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr with which `diffi2i` ends, its status 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line
