"""The time left of a whole run."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from diffi2i.callbacks.progress import Eta, Progress
from diffi2i.commands import train
from diffi2i.config.schema import TrainerConfig
from diffi2i.run.hardware import prepare
from tests.conftest import Make


def test_the_time_left_follows_the_speed_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 130.0, 160.0])
    monkeypatch.setattr("diffi2i.callbacks.progress.time.monotonic", lambda: next(clock))
    eta = Eta()
    eta.start(40)  # a resumed run: the steps before it took no time of this one
    assert eta.left(40, 100) == "?"
    assert eta.left(50, 100) == "0:02:30"
    assert eta.left(100, 100) == "0:00:00"


def test_advice_that_does_not_apply_is_dropped() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(TrainerConfig())
        warnings.warn("Checkpoint directory runs/s1 exists and is not empty.", stacklevel=1)
        warnings.warn("the learning rate is odd", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the learning rate is odd"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_terminal_shows_step_and_eta(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    metrics = Progress.get_metrics

    def recorded(self: Progress, *args: Any) -> dict[str, Any]:
        shown.append(metrics(self, *args))
        return shown[-1]

    monkeypatch.setattr(Progress, "get_metrics", recorded)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run_dir = train.train(make("bar"))
    assert isinstance(run_dir, Path)
    assert shown[-1]["step"] == "4/4"
    assert shown[-1]["eta"] == "0:00:00"
    assert "v_num" not in shown[-1]
