"""Scoring a method: at the end of training, and by `diffi2i eval`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import torch
from rich.progress import track

from diffi2i.callbacks.scores import ValidationScores, as_scores
from diffi2i.callbacks.targets import TargetsSeen
from diffi2i.config.checks import check_held, check_source
from diffi2i.config.commands import EvalConfig
from diffi2i.config.compose import METHOD_KEYS
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import Sample
from diffi2i.data.degrade import has_holes
from diffi2i.data.given import masks_at
from diffi2i.data.images import read_mask, read_size, require_equal_sizes
from diffi2i.data.manifest import hash_of_manifest, manifest
from diffi2i.data.sources import Item
from diffi2i.errors import UserError
from diffi2i.files import inside, whole
from diffi2i.kinds.kind import kind_of
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.metrics.cost import parameters, peak_memory_mb, real_calls, timed, work
from diffi2i.metrics.intervals import of_all_ranks
from diffi2i.metrics.spec import METRICS
from diffi2i.run.directory import WEIGHTS, load_method
from diffi2i.run.hardware import autocast_of, is_first_rank, new_trainer, placed, prepare, with_others
from diffi2i.run.hub import located
from diffi2i.run.provenance import provenance
from diffi2i.run.record import Cost, DataFacts, Init, MethodFacts, Record, Training
from diffi2i.run.state import working_on
from diffi2i.tables.runs import print_table
from diffi2i.weights import cache_dir

TIMED_SECONDS = 20.0
"""A prediction that takes longer is timed on some of its network's calls."""


def method_facts(method: Method, init: Init | None, settings: Sequence[str] = ()) -> MethodFacts:
    """What the record says of the method; `settings` are those that an evaluation changed."""
    config = method.config
    depth = [f"depth {depth}"] if (depth := config.model.network.get("depth")) else []
    rounded = ["int8"] if config.method.get("int8") else []
    own = [setting.removeprefix("method.") for setting in settings if setting.startswith("method.")]
    return MethodFacts(
        name=config.method["name"],
        label=", ".join([method.label, *depth, *rounded, *own]),
        model=config.model.name,
        sees_target=method.sees_target,
        options={key: value for key, value in config.method.items() if key == "role" or key not in METHOD_KEYS},
        settings=list(settings),
        init=init,
    )


def score(
    method: Method,
    data: ImageDataModule,
    output: Path,
    facts: MethodFacts,
    trained_on: str | None,
    training: Training | None,
    constant: float | None = None,
    masks: str | None = None,
) -> Record:
    """Scores the validation images, saves pictures into `output` and returns the record. Collective under DDP.

    `trained_on` is the hash of the training files; for `constant` see `Kind.naive`, for `masks` `DataFacts`.
    """
    config, pictures, panel = method.config, inside(output, "images"), inside(output, "panel.png")
    sheet = ValidationScores(config.task, config.dataset.name, pictures, constant, statistics_file(config, data))
    targets = TargetsSeen(config)
    trainer = new_trainer(
        config.trainer,
        callbacks=[sheet, targets],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with with_others(trainer, config.trainer.timeout):
        trainer.validate(method, data, verbose=False)
    assert sheet.pictures is not None
    images, main, naive = of_all_ranks(sheet.own.per_image), config.task.main_metric, sheet.baseline
    scores = as_scores(sheet.own, sheet.values, images, naive.compute() if naive else {})
    scores[main] = replace(scores[main], gains=sheet.gains)
    record = Record(
        task=config.task.name,
        budget=config.budget,
        seed=config.seed,
        main_metric=main,
        method=facts,
        data=DataFacts(
            dataset=config.dataset.name,
            train=trained_on,
            val=data.val_manifest,
            inputs=sheet.inputs_hash(),
            degrade=None if masks else config.task.degrade,
            crop=config.train.val_crop,
            crops=config.train.val_crops,
            input_scale=config.task.scenes.input_scale,
            protocol=asdict(config.task.protocol),
            baseline=None if naive is None else "input itself" if constant is None else "constant",
            constant=constant,
            masks=masks,
        ),
        scores=scores,
        cost=cost(method, data.val_set[0]),
        training=training,
        provenance=provenance(config),
        images=images,
        baseline_images=of_all_ranks(naive.per_image) if naive else [],
        classes=sheet.own.per_class(),
    )
    if trainer.is_global_zero:
        for line in targets.lines:
            print(line, flush=True)
    if trainer.is_global_zero and sheet.pictures.rows:
        with whole(panel) as place:
            sheet.pictures.panel().save(place, "PNG")
    return record


def statistics_file(config: Config, data: ImageDataModule) -> Path | None:
    """Where the features of these very targets are kept for FID and its like; None where none is asked for."""
    if not any(METRICS[metric].of_set for metric in config.task.protocol.metrics):
        return None
    crop = "whole" if config.train.val_crop is None else f"{config.train.val_crop}x{config.train.val_crops}"
    return cache_dir() / "statistics" / f"{data.val_manifest}-{crop}.safetensors"


def cost(method: Method, sample: Sample) -> Cost:
    """Parameters at inference, and what a prediction of one image takes."""
    trainer, parts = method.config.trainer, method.parts()
    # Lightning leaves the network on the CPU when its Trainer is done.
    placed(method, trainer).eval()
    images = {key: value[None].to(method.device) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    batch = cast(Batch, images | {"name": [sample["name"]]})

    def predict() -> torch.Tensor:
        return method.predict(batch, method.noise(batch))

    counted = work(predict, parts)
    with autocast_of(trainer):
        real = real_calls(predict, parts, counted.calls, TIMED_SECONDS)
        times = [timed(predict, parts, real) for _ in range(3 if real is None else 1)]
    return Cost(
        parameters=parameters(*parts.values()),
        macs=counted.macs,
        calls=counted.calls,
        seconds_per_image=median(each.seconds for each in times),
        cpu_seconds=median(each.cpu_seconds for each in times),
        peak_memory_mb=peak_memory_mb(),
        measured_at=list(sample["target"].shape),
        timed_calls=times[0].calls,
    )


def evaluate(config: EvalConfig) -> Path:
    """`diffi2i eval`: writes `result.json` and pictures into `output`, prints the table. Returns `output`.

    Raises:
        UserError: no finished run, or images that do not fit its task.
    """
    run_dir = located(config.run)
    # Weights and a configuration alone will do. A record of an earlier version is refused before these do not fit.
    alone = not (run_dir / "result.json").is_file() and (run_dir / WEIGHTS).is_file()
    trained = None if alone else Record.read(run_dir)
    method = load_method(run_dir, config.set, config.trust)
    settings = method.config
    settings.trainer = config.trainer
    if config.dataset is not None:
        target, task = config.dataset.target, settings.task
        check_held(task.kind, task.name, target, config.dataset.name)
        if target is not None and (classes := target.get("classes")) != task.classes:
            raise UserError(f"dataset={config.dataset.name} has {classes} classes, the run {task.classes}")
        settings.dataset = config.dataset
        check_source(settings.dataset)
        source = settings.dataset.source
        if "val_root" in source and source.get("root") and not source["val_root"]:
            # A folder named for evaluation is evaluated whole: nothing in it is trained on.
            source |= {"val_root": source["root"], "root": None}
    prepare(config.trainer)
    data = build_data(settings)
    data.check(splits=("val",))
    kind_of(settings.task).check_targets(data.val_items, settings)
    masks = None if config.mask is None else give_masks(data, settings, config)
    output = Path(config.output) if config.output else inside(run_dir, f"eval/{settings.dataset.name}")
    if (output / "config.yaml").exists():
        raise UserError(f"output={output} is a run, whose record would be replaced: name another folder")
    output.mkdir(parents=True, exist_ok=True)
    before, on = (trained.method, trained.data.train) if trained else (None, None)
    facts = method_facts(method, before.init if before else None, config.set)
    facts = replace(facts, imported=before.imported if before else None)
    training, constant = (trained.training, trained.data.constant) if trained else (None, None)
    with working_on(output):
        score(method, data, output, facts, on, training, constant, masks).write(output / "result.json")
    print_table([str(output)])
    return output


def give_masks(data: ImageDataModule, settings: Config, config: EvalConfig) -> str:
    """Has the validation images masked by the files at `config.mask`, all of which it reads. Returns their hash.

    Raises:
        UserError: a task without holes, crops of images, a missing mask, one of another size, or as `read_mask`.
    """
    assert config.mask is not None
    if not has_holes(settings.task):
        raise UserError(f"run={config.run} is not an inpainting run: leave out mask")
    if (crop := settings.train.val_crop) is not None:
        raise UserError(
            f"mask is for whole images, and this run is scored on crops of {crop} pixels: "
            "write set=[train.val_crop=null,train.val_crops=1] too"
        )
    found = masks_at(config.mask, [item.name for item in data.val_items])
    masks = {item.name: found[item.name] for item in data.val_items}
    for item in track(data.val_items, description="reading the masks", disable=not is_first_rank()):
        mask = read_mask(masks[item.name])
        require_equal_sizes(masks[item.name], mask, f"image {item.target}", torch.empty(read_size(item.target)))
    data.val_samples = partial(data.val_samples, masks=masks)
    return hash_of_manifest(manifest([Item(name, mask) for name, mask in masks.items()], seal=data.seal))
