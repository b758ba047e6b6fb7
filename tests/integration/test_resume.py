"""A training interrupted at any place and given again is the training that was not: weights, scores and curves."""

import csv
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from diffi2i.commands import train
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.methods.build import build_method
from tests.adversaries import HINGE, gan
from tests.checkpoints import Running
from tests.conftest import Make
from tests.interruption import (
    InterruptedRunError,
    stop_after_training,
    stop_before_step,
    stop_while_saving,
    stop_while_scoring,
)
from tests.processes import script
from tests.runs import repeatable, weight_bytes

AVERAGED = ("train.ema_decay=0.99", "train.steps=6")


PLACES: dict[str, list[Callable[[Any], None]]] = {
    "twice in mid training": [lambda patch: stop_before_step(3, patch), lambda patch: stop_before_step(5, patch)],
    "after the last step": [stop_after_training],
    "while saving": [stop_while_saving],
    "while scoring": [stop_while_scoring],
    "everywhere": [
        lambda patch: stop_before_step(4, patch),
        stop_after_training,
        stop_while_saving,
        stop_while_scoring,
    ],
}
KINDS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "stage 1": ((), list(PLACES)),
    "stage 2": (("method=diffi2i_s2",), ["everywhere"]),
    "batch normalisation": (("task=segmentation", "train.patch=64"), ["after the last step", "everywhere"]),
    "regressor": (("method=regressor",), ["everywhere"]),
    "regressor and discriminator": (("method=regressor", *gan("sisr")), ["everywhere"]),
    "discriminator": ((*gan("sisr"), "train.adversarial_from=0.3"), ["everywhere"]),
    "autoencoder": (("method=autoencoder",), ["everywhere"]),
    "latent diffusion": (("method=ldm",), ["everywhere"]),
    "pixel diffusion": (("method=pixel_diffusion",), ["everywhere"]),
    "ResShift": (("method=resshift",), ["everywhere"]),
    "CoDi": (("method=codi",), ["everywhere"]),
    "consistency distillation": (("method=codi", "method.learns=consistency"), ["everywhere"]),
    "InvSR and discriminator": (("method=invsr", *gan("sisr", HINGE)), ["everywhere"]),
}
ALIKE = ("regressor", "autoencoder", "latent diffusion", "pixel diffusion", "ResShift", "CoDi")
"""Of which the others have all that a checkpoint keeps: a start from another run, a moving target, a discriminator."""
UNCONDITIONAL = ("method=pixel_diffusion", "method.conditional=false")
STARTS: dict[str, list[tuple[str, ...]]] = {
    "stage 2": [("method=diffi2i_s1",)],
    "latent diffusion": [("method=autoencoder",)],
    "CoDi": [UNCONDITIONAL],
    "consistency distillation": [UNCONDITIONAL, ("method=codi", "method.learns=denoising")],
    "InvSR and discriminator": [UNCONDITIONAL],
}
"""The runs before it, each of which starts from the one before."""


def interrupted(config: Config, places: Sequence[Callable[[Any], None]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trains, is interrupted at each of these places in turn, and goes on to the end."""
    for place in places:
        with monkeypatch.context() as patch:
            place(patch)
            with pytest.raises(InterruptedRunError):
                train.train(config)
        assert not (Path(str(config.run_dir)) / "result.json").exists()
    return train.train(config)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind in ALIKE)) for kind in KINDS])
def test_interrupted_anywhere_gives_the_same_bits(make: Make, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    settings, places = (*KINDS[kind][0], *AVERAGED), KINDS[kind][1]
    init: tuple[str, ...] = ()
    for number, start in enumerate(STARTS.get(kind, [])):
        init = (f"method.init={train.train(make(f'start {number}', *start, *init))}",)
    settings = (*settings, *init)
    whole = train.train(make("whole", *settings))
    raw = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, last = raw["state_dict"], raw["current_model_state"]
    moved = [key for key, value in averaged.items() if value.is_floating_point() and not torch.equal(value, last[key])]
    assert moved, "the average is the last weights: nothing would be tested"
    for name in places:
        broken = interrupted(make(name, *settings), PLACES[name], monkeypatch)
        assert weight_bytes(broken) == weight_bytes(whole), name
        assert repeatable(broken) == repeatable(whole), name


def test_nothing_in_a_checkpoint_runs(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, last = make("run"), tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": Running(Path.touch, tmp_path / "marker")}, last)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        train.fit(config, build_method(config), build_data(config), tmp_path / "run", None, last)
    assert not (tmp_path / "marker").exists()


def logged(run_dir: Path) -> list[tuple[str, int, int, str]]:
    """(key, step, epoch, value as written) of all parts of a run's table, in the order of writing; no final scores."""
    rows = []
    for file in sorted(run_dir.glob("logs/version_*/metrics.csv")):
        for row in csv.DictReader(file.open()):
            rows += [
                (key, int(row["step"]), int(row["epoch"]), value)
                for key, value in row.items()
                if value and key.startswith(("train/", "val/"))
            ]
    return rows


@pytest.mark.parametrize(("loss", "every", "device_batch"), [("l1", 1, 1), ("l1", 2, 2), ("gan", 1, 2), ("gan", 2, 1)])
def test_curves_of_a_resumed_run_lie_on_the_uninterrupted_ones(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, every: int, device_batch: int
) -> None:
    settings = (
        *(gan("sisr") if loss == "gan" else ()),
        "logger=csv",
        "train.steps=9",
        "train.epoch_steps=2",
        f"validation.every_epochs={every}",
        f"trainer.device_batch={device_batch}",
    )
    whole = logged(train.train(make("whole", *settings)))
    points = {point[:2]: point for point in whole}
    assert len(points) == len(whole)
    steps = sorted(step for key, step in points if key == "train/loss")
    assert steps == [1, 3, 5, 7]
    validated = sorted(step for key, step in points if key == "val/folder/psnr_y")
    assert validated == ([1, 3, 5, 7] if every == 1 else [3, 7])
    assert all(epoch == step // 2 for _, step, epoch, _ in whole)

    # In an epoch, at the start of one, and in the next before any checkpoint.
    places = [partial(stop_before_step, step) for step in (3, 4, 5)]
    resumed = logged(interrupted(make("broken", *settings), places, monkeypatch))
    assert len(resumed) >= len(whole)
    for point in resumed:
        assert points.get(point[:2]) == point
    assert {point[:2] for point in resumed} == points.keys()
    assert weight_bytes(tmp_path / "broken") == weight_bytes(tmp_path / "whole")


SCRIPT = """
import os, shutil, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from diffi2i.commands.train import train
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.methods.build import build_method

def give(name):
    file = OmegaConf.load(here / f"{name}.yaml")
    train(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), file)))

here = Path(sys.argv[1])
give("whole")
if os.environ.get("LOCAL_RANK", "0") == "0":
    for name, missing in (("scoring", []), ("saving", ["weights.safetensors", "training.json"])):
        shutil.copytree(here / "whole", here / name)
        for file in ["result.json", *missing]:
            (here / name / file).unlink()
    (here / "copied").touch()
while not (here / "copied").exists():
    time.sleep(0.01)
give("scoring")
give("saving")
"""


def test_two_processes_go_on_where_scoring_was_interrupted(make: Make, tmp_path: Path) -> None:
    """Each process comes to the interrupted run by itself, as under torchrun or Slurm."""
    settings = (*AVERAGED, "trainer.devices=2", "trainer.device_batch=1")
    for name in ("whole", "scoring", "saving"):
        OmegaConf.save(OmegaConf.structured(make(name, *settings)), tmp_path / f"{name}.yaml")
    (tmp_path / "main.py").write_text(SCRIPT)
    done = script(tmp_path / "main.py", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    whole = tmp_path / "whole"
    for name in ("scoring", "saving"):
        assert weight_bytes(tmp_path / name) == weight_bytes(whole)
        assert repeatable(tmp_path / name) == repeatable(whole)
