"""Scoring a method: at the end of training, and by `diffi2i eval`."""

from pathlib import Path
from typing import Any

import torch

from diffi2i.bench import latency, multiply_accumulates, parameters, peak_memory_mb
from diffi2i.build import build_data, check_depth
from diffi2i.callbacks.scores import ValidationScores
from diffi2i.callbacks.targets import TargetsSeen
from diffi2i.config import check_held, check_source, held_kind
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.errors import UserError
from diffi2i.methods.method import Method
from diffi2i.metrics.intervals import image_intervals, of_all_ranks
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.metrics.spec import METRICS
from diffi2i.results import read_result, write_result
from diffi2i.runs import load_method
from diffi2i.runtime import autocast_of, device_of, new_trainer, quiet
from diffi2i.schema import Config, EvalConfig
from diffi2i.tables.runs import print_table
from diffi2i.weights import cache_dir

# What an evaluation's record says of the training, as the run's own does.
TRAINING = ("steps", "network_steps", "wall_time_s", "loss", "changed")


def score(
    config: Config, method: Method, data: ImageDataModule, output: Path, constant: float | None = None
) -> dict[str, Any]:
    """Scores the validation images and saves pictures into `output`.

    `constant` is the baseline of labels and depth; see `callbacks.scores.naive_output`.

    Returns:
        `metrics` and their `intervals`, `baseline`, `constant`, `n_images`, `reasons` for what is n/a, a hash of the
        `inputs` that were made of the images, `per_image` of all ranks, and the size and speed of the inference
        network. Collective under DDP.
    """
    sheet = ValidationScores(
        config.task, config.dataset.name, output / "images", constant, statistics_file(config, data)
    )
    targets = TargetsSeen(config)
    trainer = new_trainer(
        config.trainer,
        callbacks=[sheet, targets],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.validate(method, data, verbose=False)
    assert sheet.baseline is not None
    assert sheet.pictures is not None
    metrics, n_images, per_image = sheet.values, sheet.own.counts(), of_all_ranks(sheet.own.per_image)
    intervals, without = image_intervals(per_image, [key for key, count in n_images.items() if count])
    record = {
        "metrics": metrics,
        "intervals": intervals,
        "baseline": sheet.baseline.compute(),
        "constant": constant,
        "n_images": n_images,
        "reasons": sheet.own.reasons() | without,
        "inputs": sheet.inputs_hash(),
        "per_image": per_image,
        "baseline_per_image": of_all_ranks(sheet.baseline.per_image),
        **({"iou": sheet.own.per_class()} if isinstance(sheet.own, SegmentationScores) else {}),
        **size_and_speed(config, method, data),
    }
    if trainer.is_global_zero:
        for line in targets.lines:
            print(line, flush=True)
    if trainer.is_global_zero and sheet.pictures.rows:
        sheet.pictures.panel().save(output / "panel.png")
    return record


def statistics_file(config: Config, data: ImageDataModule) -> Path | None:
    """Where the features of these very targets are kept for FID and its like; None where none is asked for."""
    if not any(METRICS[metric].of_set for metric in config.task.protocol.metrics):
        return None
    crop = "whole" if config.train.val_crop is None else f"{config.train.val_crop}x{config.train.val_crops}"
    return cache_dir() / "statistics" / f"{data.val_manifest}-{crop}.safetensors"


def size_and_speed(config: Config, method: Method, data: ImageDataModule) -> dict[str, Any]:
    """Parameters at inference, and cost of the first validation image."""
    # Lightning leaves the network on the CPU when its Trainer is done.
    method.to(device_of(config.trainer)).eval()
    sample = data.val_set[0]
    images = {key: value[None].to(method.device) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    batch = {**images, "name": [sample["name"]]}

    def restore() -> torch.Tensor:
        return method.predict(batch, method.noise(batch))

    macs = multiply_accumulates(restore)
    with autocast_of(config.trainer):
        seconds = latency(restore, repeats=3)
    return {
        "parameters": parameters(*method.parts().values()),
        "macs": macs,
        "seconds_per_image": seconds,
        "measured_at": list(sample["target"].shape),
        "peak_memory_mb": peak_memory_mb(),
    }


def evaluate(config: EvalConfig) -> Path:
    """`diffi2i eval`: writes `result.json` and pictures into `output`, prints the table. Returns `output`.

    Raises:
        UserError: no finished run, or images that do not fit its task.
    """
    run_dir = Path(config.run)
    if (run_dir / "result.json").is_file():
        read_result(run_dir)  # refuses what an earlier version left, before its settings or weights do not fit
    method = load_method(run_dir, config.set)
    settings = method.config
    settings.trainer = config.trainer
    if config.dataset is not None:
        target, task = config.dataset.target, settings.task
        check_held(task.kind, task.name, held_kind(target), config.dataset.name)
        if target is not None and (classes := target.get("classes")) != task.classes:
            raise UserError(f"dataset={config.dataset.name} has {classes} classes, the run {task.classes}")
        settings.dataset = config.dataset
        check_source(settings.dataset)
        source = settings.dataset.source
        if "val_root" in source and source.get("root") and not source["val_root"]:
            # A folder named for evaluation is evaluated whole: nothing in it is trained on.
            source |= {"val_root": source["root"], "root": None}
    quiet()
    data = build_data(settings)
    data.check(splits=("val",))
    check_depth(data.val_items, settings)
    output = Path(config.output) if config.output else run_dir / "eval" / settings.dataset.name
    output.mkdir(parents=True, exist_ok=True)
    trained = read_result(run_dir)
    scores = score(settings, method, data, output, trained.get("constant")) | {"settings": config.set}
    origin = {"train": trained["dataset"]["train"], "val": data.val_manifest, "init": trained["init"]}
    write_result(output / "result.json", settings, origin, scores | {key: trained[key] for key in TRAINING})
    print_table([str(output)])
    return output
