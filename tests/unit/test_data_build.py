"""How many processes load images."""

import os

import pytest
import torch

from diffi2i.data import build
from tests.conftest import Make


@pytest.mark.parametrize(
    ("device", "devices", "cores", "words", "processes"),
    [
        ("cpu", 1, 16, [], 0),
        ("cuda", 1, 16, [], 8),
        ("cuda", 4, 16, [], 4),
        ("cuda", 1, 16, ["dataset.workers=0"], 0),
        ("cpu", 1, 16, ["dataset.workers=3"], 3),
    ],
)
def test_beside_a_gpu_other_processes_load_images(
    make: Make, monkeypatch: pytest.MonkeyPatch, device: str, devices: int, cores: int, words: list[str], processes: int
) -> None:
    monkeypatch.setattr(build, "device_of", lambda trainer: torch.device(device))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    config = make("run", "train.batch=4", *words)
    config.trainer.devices = devices
    assert build.build_data(config).num_workers == processes
