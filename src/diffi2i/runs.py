"""Run directories: whose they are, and the weights inside.

config.yaml            the resolved configuration
checkpoints/last.ckpt  everything an interrupted training needs to go on
weights.safetensors    the averaged weights, once training is done
images/, panel.png     inputs, outputs and targets of validation images
logs/                  curves
result.json            the record; its presence says that the run is finished
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from diffi2i.config import read_run_config
from diffi2i.errors import UserError
from diffi2i.results import config_hash
from diffi2i.schema import Config
from diffi2i.stages.joint import JointStage
from diffi2i.stages.pretrain import PretrainStage

Stage = PretrainStage | JointStage


def default_run_dir(config: Config) -> Path:
    names = (config.dataset.name, config.model.name, config.stage.name, config.scale, f"seed{config.seed}")
    return Path("outputs") / config.task.name / "-".join([*names, config_hash(config)])


def claim(run_dir: Path, config: Config) -> bool:
    """Makes the directory this configuration's own; False where its run is finished.

    Raises:
        UserError: it holds another run, or something else.
    """
    file = run_dir / "config.yaml"
    started = (run_dir / "checkpoints" / "last.ckpt").is_file() or (run_dir / "weights.safetensors").is_file()
    if started or (run_dir / "result.json").is_file():
        saved = read_run_config(run_dir)
        if difference := first_difference(asdict(saved), asdict(config)):
            key, theirs, ours = difference
            raise UserError(f"{run_dir} holds a run with {key}={theirs}, this one has {ours}: name another run_dir")
        return not (run_dir / "result.json").is_file()
    if run_dir.is_dir() and not file.is_file() and any(run_dir.iterdir()):
        raise UserError(f"{run_dir} is not empty and holds no run: name another run_dir")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        temporary = run_dir / f"config.{os.getpid()}"
        OmegaConf.save(OmegaConf.structured(config), temporary)
        temporary.replace(file)
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
    return True


def first_difference(saved: Any, ours: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ, hardware, what is watched, and place apart."""
    if key in ("trainer", "logger", "validation", "run_dir", "dataset.workers", "dataset.cache_mb") or saved == ours:
        return None
    if isinstance(saved, dict) and isinstance(ours, dict):
        # What a user writes comes before what follows from it.
        for name in sorted(saved | ours, key=lambda name: name == "task"):
            path = f"{key}.{name}" if key else str(name)
            if found := first_difference(saved.get(name), ours.get(name), path):
                return found
        return None
    return key, saved, ours


def load_stage(run_dir: Path) -> Stage:
    """A finished run's LightningModule with its (averaged) weights.

    Raises:
        UserError: the weights are missing or belong to another model.
    """
    config = read_run_config(run_dir)
    file = run_dir / "weights.safetensors"
    if not file.is_file():
        raise UserError(f"{run_dir} has no weights.safetensors: its training has not finished")
    if (encoder := config.model.network.get("encoder")) and "pretrained" in encoder:
        encoder["pretrained"] = "none"  # they are in the file
    stage: Stage = PretrainStage(config) if config.stage.name == "pretrain" else JointStage(config, None)
    try:
        stage.load_state_dict(load_file(file))
    except Exception as error:
        raise UserError(f"{file} does not hold the model of its config.yaml: {str(error).splitlines()[0]}") from error
    return stage


def save_weights(stage: Stage, file: Path) -> None:
    """All weights but a discriminator's, as averaged by the EMA, in a format that cannot carry code."""
    temporary = file.with_suffix(".tmp")
    kept = {key: value for key, value in stage.state_dict().items() if not key.startswith("task_loss.")}
    save_file({key: value.detach().cpu().contiguous() for key, value in kept.items()}, temporary)
    temporary.replace(file)
