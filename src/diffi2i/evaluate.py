"""Scoring a trained stage: at the end of training, and by `diffi2i eval`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from diffi2i.bench import latency, multiply_accumulates, parameters, peak_memory_mb
from diffi2i.build import build_data, check_depth
from diffi2i.callbacks.scores import ValidationScores, as_scores
from diffi2i.callbacks.targets import TargetsSeen
from diffi2i.config import check_diffusion, check_held, check_protocol, check_source, held_kind, read_run_config
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.errors import UserError
from diffi2i.metrics.intervals import of_all_ranks
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.diffi2i import build_diffusion
from diffi2i.run.directory import Stage, load_stage
from diffi2i.run.hardware import autocast_of, device_of, new_trainer, quiet
from diffi2i.run.provenance import provenance
from diffi2i.run.record import Cost, DataFacts, Init, MethodFacts, Record, Training
from diffi2i.schema import SET_METRICS, Config, EvalConfig
from diffi2i.stages.joint import JointStage
from diffi2i.tables.runs import print_table
from diffi2i.weights import cache_dir

LABELS = {
    "truth": "stage 1 (sees GT)",
    "zero": "no prior",
    "joint": "stage 2",
    "none": "stage 2, no diffusion",
    "traditional": "stage 2, traditional",
}


def method_facts(
    config: Config, init: Init | None, settings: Sequence[str] = (), window: int | None = None
) -> MethodFacts:
    """What the record says of the method; `settings` and TLC's `window` are those of an evaluation."""
    stage, words = config.stage, []
    if stage.name == "pretrain" and init:
        words.append("trained on")
    if stage.budget == "gan":
        words.append("GAN")
    if stage.diffusion.timesteps:
        words.append(f"time steps {','.join(map(str, stage.diffusion.timesteps))}")
    if window:
        words.append(f"TLC {window}")
    return MethodFacts(
        name="no_prior" if stage.prior == "zero" else {"pretrain": "diffi2i_s1", "joint": "diffi2i_s2"}[stage.name],
        label=", ".join([LABELS[stage.prior], *words]),
        model=config.model.name,
        sees_target=stage.prior == "truth",
        options={key: value for key, value in asdict(stage).items() if key != "init"},
        settings=list(settings),
        init=init,
    )


def score(
    config: Config,
    stage: Stage,
    data: ImageDataModule,
    output: Path,
    method: MethodFacts,
    trained_on: str | None,
    training: Training | None,
    constant: float | None = None,
) -> Record:
    """Scores the validation images, saves pictures into `output` and returns the record. Collective under DDP.

    `trained_on` is the hash of the training files. `constant` is the baseline of labels and depth; see
    `callbacks.scores.naive_output`.
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
    trainer.validate(stage, data, verbose=False)
    assert sheet.baseline is not None
    assert sheet.pictures is not None
    values, images = dict(sheet.values), of_all_ranks(sheet.own.per_image)
    dependence = values.pop("prior_dependence")
    scores = as_scores(sheet.own, values, images, sheet.baseline.compute())
    if dependence is not None:
        main = config.task.main_metric
        scores[main] = replace(scores[main], gains={"prior_dependence": dependence})
    record = Record(
        task=config.task.name,
        budget=config.scale,
        seed=config.seed,
        main_metric=config.task.main_metric,
        method=method,
        data=DataFacts(
            dataset=config.dataset.name,
            train=trained_on,
            val=data.val_manifest,
            inputs=sheet.inputs_hash(),
            degrade=config.task.degrade,
            crop=config.train.val_crop,
            crops=config.train.val_crops,
            input_scale=config.task.scenes.input_scale,
            protocol=asdict(config.task.protocol),
            baseline="input itself" if constant is None else "constant",
            constant=constant,
        ),
        scores=scores,
        cost=cost(config, stage, data),
        training=training,
        provenance=provenance(config),
        images=images,
        baseline_images=of_all_ranks(sheet.baseline.per_image),
        classes=sheet.own.per_class() if isinstance(sheet.own, SegmentationScores) else None,
    )
    if trainer.is_global_zero:
        for line in targets.lines:
            print(line, flush=True)
    if trainer.is_global_zero and sheet.pictures.rows:
        sheet.pictures.panel().save(output / "panel.png")
    return record


def tlc_window(config: Config) -> int:
    """In pixels of the input, as TLC's authors choose.

    Half as large again as crops of one size (NAFNet, MPRNet: 384 for 256), and the size of the last where they grow
    (Restormer: 384 for 384).
    """
    phases = config.train.phases
    return (phases[-1].patch if phases else config.train.patch * 3 // 2) // config.task.scale


def statistics_file(config: Config, data: ImageDataModule) -> Path | None:
    """Where the features of these very targets are kept for FID and its like; None where none is asked for."""
    if not set(config.task.protocol.metrics) & set(SET_METRICS):
        return None
    crop = "whole" if config.train.val_crop is None else f"{config.train.val_crop}x{config.train.val_crops}"
    return cache_dir() / "statistics" / f"{data.val_manifest}-{crop}.safetensors"


def cost(config: Config, stage: Stage, data: ImageDataModule) -> Cost:
    """Parameters at inference, and what the first validation image takes."""
    # Lightning leaves the network on the CPU when its Trainer is done.
    stage.to(device_of(config.trainer)).eval()
    sample = data.val_set[0]
    images = {key: value[None].to(stage.device) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    batch = {**images, "name": [sample["name"]]}

    def restore() -> torch.Tensor:
        return stage.restore(batch, stage.prior(batch))

    macs = multiply_accumulates(restore)
    with autocast_of(config.trainer):
        seconds, cpu_seconds = latency(restore, repeats=3)
    return Cost(
        parameters=parameters(*inference_networks(stage)),
        macs=macs,
        calls=None,
        seconds_per_image=seconds,
        cpu_seconds=cpu_seconds,
        peak_memory_mb=peak_memory_mb(),
        measured_at=list(sample["target"].shape),
    )


def inference_networks(stage: Stage) -> list[torch.nn.Module]:
    """What a stage needs to predict: neither a discriminator nor, in stage 2, CPEN_S1."""
    if isinstance(stage, JointStage):
        return [stage.model]
    return [stage.di2iformer] if stage.cpen_s1 is None else [stage.cpen_s1, stage.di2iformer]


def evaluate(config: EvalConfig) -> Path:
    """`diffi2i eval`: writes `result.json` and pictures into `output`, prints the table. Returns `output`.

    Raises:
        UserError: no finished run, or images that do not fit its task.
    """
    run_dir = Path(config.run)
    trained = Record.read(run_dir)  # refuses what an earlier version left, before its settings or weights do not fit
    stage = load_stage(run_dir)
    settings = read_run_config(run_dir)
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
    if config.seed is not None:
        settings.task.protocol.seed = config.seed
    if config.degrade:
        if settings.task.degrade is None:
            raise UserError(f"degrade belongs to images, and run={config.run} is of {settings.task.name}: leave it out")
        settings.task.degrade = config.degrade
    if config.flip is not None:
        settings.task.protocol.flip = config.flip
    if config.sizes is not None:
        settings.task.protocol.sizes = config.sizes
    check_protocol(settings.task)
    if config.timesteps is not None:
        if not isinstance(stage, JointStage):
            raise UserError("timesteps belongs to a stage=joint run: stage 1 has no diffusion")
        settings.stage.diffusion = replace(settings.stage.diffusion, timesteps=config.timesteps)
        check_diffusion(settings.stage.diffusion)
        stage.model.diffusion = build_diffusion(settings.stage.diffusion)
    window = tlc_window(settings) if config.tlc else None
    if window:
        network = stage.model.di2iformer if isinstance(stage, JointStage) else stage.di2iformer
        if not isinstance(network, DI2Iformer):
            raise UserError(f"tlc belongs to the DI2Iformer, and run={config.run} has another network: leave it out")
        network.use_tlc(window)
    stage.config = settings

    quiet()
    data = build_data(settings)
    data.check(splits=("val",))
    check_depth(data.val_items, settings)
    output = Path(config.output) if config.output else run_dir / "eval" / settings.dataset.name
    output.mkdir(parents=True, exist_ok=True)
    changed = [f"timesteps=[{','.join(map(str, config.timesteps))}]"] if config.timesteps is not None else []
    changed += ["tlc=true"] if config.tlc else []
    method = method_facts(settings, trained.method.init if trained.method else None, changed, window)
    on, constant = trained.data.train, trained.data.constant
    score(settings, stage, data, output, method, on, trained.training, constant).write(output / "result.json")
    print_table([str(output)])
    return output
