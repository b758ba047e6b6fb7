"""Every command that computes does so on as many threads as it is told."""

from pathlib import Path

import pytest
import torch

from diffi2i import cli


class SeenError(Exception):
    """The number of threads that was asked for."""


@pytest.mark.parametrize("command", ["train", "eval", "predict", "bench", "compress", "score"])
def test_a_command_keeps_to_the_threads(
    command: str, stage1: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(threads: int) -> None:
        raise SeenError(threads)

    words = {
        "train": ["task=sisr", "budget=smoke", f"run_dir={tmp_path / 'run'}"],
        "eval": [f"run={stage1}"],
        "predict": [f"run={stage1}", f"input={images}", f"output={tmp_path / 'out'}"],
        "bench": ["task=sisr", "budget=smoke"],
        "compress": [f"run={stage1}"],
        "score": ["task=deblur", f"pred={images}", f"target={images}"],
    }[command]
    monkeypatch.setattr(torch, "set_num_threads", seen)
    with pytest.raises(SeenError, match="3"):
        cli.main([command, *words, "trainer.threads=3"])
