"""`diffi2i train`: from a checked configuration to a finished run directory."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffi2i.callbacks.average import MovingAverage
from diffi2i.callbacks.counters import Counters
from diffi2i.callbacks.guard import FiniteSteps
from diffi2i.callbacks.last import LastCheckpoint
from diffi2i.callbacks.progress import Progress
from diffi2i.callbacks.ranks import SameRun
from diffi2i.callbacks.scores import ValidationScores
from diffi2i.callbacks.showcase import Showcase
from diffi2i.callbacks.timers import ProcessorTimer
from diffi2i.commands.eval import method_facts, score
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.manifest import changes, file_hash, picture_role, shared_pictures
from diffi2i.errors import UserError
from diffi2i.files import read_json, write_json
from diffi2i.kinds.kind import kind_of
from diffi2i.memory import out_of_memory
from diffi2i.methods.build import build_method
from diffi2i.methods.build import check as check_method
from diffi2i.methods.method import Method
from diffi2i.metrics.spec import METRICS
from diffi2i.run import checkpoints
from diffi2i.run.checkpoints import Checkpoint, CheckpointFiles
from diffi2i.run.directory import SHOWN, WEIGHTS, claim, load_method, load_weights, origin_of, save_weights
from diffi2i.run.ensure import ensure_before
from diffi2i.run.hardware import (
    autocast_of,
    is_first_rank,
    new_trainer,
    placed,
    prepare,
    with_others,
)
from diffi2i.run.plan import place, planned
from diffi2i.run.record import Init, Training
from diffi2i.run.state import checkpoints_of, working_on
from diffi2i.run.tracking import log_result, shows_pictures, tracking


def train_planned(overrides: Sequence[str]) -> None:
    """`diffi2i train`: what the run starts from where that is a row still to be trained, then the run itself.

    Raises:
        UserError: a configuration that cannot be, or a row before it that failed.
    """
    run = planned(overrides)
    ensure_before(run)
    check_method(run.config)  # before anything is written
    with working_on(run.directory):
        train(run.config)


def train(config: Config) -> Path:
    """Trains a method, or goes on where an interrupted run stopped, and scores it. Returns the run directory.

    Raises:
        UserError: the directory holds another run, or the data cannot be used; before any step is made.
    """
    prepare(config.trainer)
    config = check_method(config)
    kind, data = kind_of(config.task), build_data(config)
    data.check()
    kind.check_targets(data.val_items, config)
    # Before the training: what it is made of decides whose the directory is, and a file may be gone when it ends.
    origin = origin_of(config, data)
    run_dir = Path(config.run_dir) if config.run_dir else place(config)
    if not claim(run_dir, config, data, origin):
        say(f"{run_dir} is finished: nothing to do (see {run_dir / 'result.json'})")
        return run_dir

    say_shared(config, data)
    # Also before: a record must not fail for a training file that has gone by the end.
    constant = kind.constant(data.train_items, config)

    L.seed_everything(config.seed, workers=True, verbose=False)
    method = build_method(config, load_method(config.init, trust=config.trust) if config.init else None)
    with tracking(config, run_dir) as logger:
        training = finish_training(config, method, data, run_dir, logger)
        say_changed(config, data)
        facts = method_facts(method, origin["init"] and Init(**origin["init"]))
        record = score(method, data, run_dir, facts, origin["train"], training, constant)
        if is_first_rank():
            record.write(run_dir / "result.json")
            log_result(logger, record, run_dir)
    return run_dir


def finish_training(
    config: Config, method: Method, data: ImageDataModule, run_dir: Path, logger: Logger | None
) -> Training:
    """Leaves the averaged weights in `method` and in the directory, from wherever an interruption left it."""
    weights = run_dir / WEIGHTS
    if (training := trained(run_dir)) is not None:
        say(f"scoring {config.method['name']} of {config.task.name} in {run_dir}")
        load_weights(method, weights)
        return training
    last = checkpoints.newest(run_dir)
    made = checkpoints.read(last) if last else None
    if not method.trains:
        made = calibrated(method, data)
    elif not config.train.steps:
        made = Checkpoint(0, 0.0, 0.0, 0, method.state_dict())
    elif made is None or made.steps < config.train.steps:
        say(f"{'resuming' if made else 'training'} {config.method['name']} of {config.task.name} in {run_dir}")
        fit(config, method, data, run_dir, logger, last)
        made = checkpoints.read(checkpoints_of(run_dir)[0])
    # Lightning copies the average into the network at the end of a fit, which a training that was interrupted after its
    # last step does not have: the last checkpoint holds the same weights in either case.
    method.load_state_dict(made.weights)
    origin = read_json(run_dir / "origin.json")
    if is_first_rank():
        save_weights(method, weights)
    training = Training(
        steps=made.steps,
        network_steps=(origin["init"] or {}).get("network_steps", 0) + method.network_steps(made.steps),
        seconds=made.seconds,
        cpu_seconds=made.cpu_seconds,
        loss=config.train.loss if method.task_loss else None,
        changed=origin.get("changed", []),
        skipped=made.skipped,
        weights=file_hash(weights) if is_first_rank() else None,
    )
    if is_first_rank():
        write_json(run_dir / "training.json", asdict(training))
    return training


def calibrated(method: Method, data: ImageDataModule) -> Checkpoint:
    """What a method without training is ready to be scored with, and what finding it took."""
    trainer, start, busy = method.config.trainer, time.perf_counter(), time.process_time()
    placed(method, trainer).eval()
    with torch.no_grad(), autocast_of(trainer):
        method.calibrate(move_data_to_device(crop, method.device) for crop in data.crops())
    return Checkpoint(0, time.perf_counter() - start, time.process_time() - busy, 0, method.state_dict())


def trained(run_dir: Path) -> Training | None:
    """What a finished training has left beside its weights, as long as these are sound."""
    weights, facts = run_dir / WEIGHTS, run_dir / "training.json"
    if not (weights.is_file() and facts.is_file()):
        return None
    try:
        training = Training(**read_json(facts))
    except (UserError, TypeError):
        return None
    if training.weights != file_hash(weights):
        say(f"{weights} is damaged: made again from the last checkpoint")
        return None
    return training


def fit(
    config: Config, method: Method, data: ImageDataModule, run_dir: Path, logger: Logger | None, last: Path | None
) -> None:
    """Trains, from the checkpoint `last` where there is one, and leaves one after the last step."""
    trainer = build_trainer(config, method, run_dir, logger, last)
    try:
        with with_others(trainer, config.trainer.timeout):
            trainer.fit(method, data, ckpt_path=str(last) if last else None)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch normalisation has a single value per channel (one image a batch, one pixel at the coarsest level): "
            f"write trainer.device_batch=2 or train.patch={2 * config.train.patch}"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        share = config.train.batch // (config.world * config.micro_batches)
        less = f"trainer.device_batch={share // 2}" if share > 1 else f"train.patch={config.train.patch // 2}"
        twice = "" if config.trainer.gradient_checkpointing else "trainer.gradient_checkpointing=true, "
        raise UserError(
            f"the memory does not hold {share} crop(s) of {config.train.patch} pixels and what training needs of them: "
            f"write {twice}{less}, or of whole images that are validated train.val_crop={config.train.patch}"
        ) from error


def say_shared(config: Config, data: ImageDataModule) -> None:
    """Says so where validation images are trained on too: their scores would flatter."""
    shared = shared_pictures(data.manifests["train"], data.manifests["val"], picture_role(config.dataset.target))
    if shared:
        name, other = shared[0]
        say(
            f"{len(shared)} of {len(data.val_items)} validation images are trained on too, such as {name} "
            f"({other} in train): their scores say nothing about new images"
        )


def say_changed(config: Config, data: ImageDataModule) -> None:
    """Says what has become of the data while the run worked, which has noticed only what it has read since."""
    try:
        found = changes(data.manifests, build_data(config).manifests)
    except UserError as error:
        found = [str(error)]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        say(f"trained on the data as they were; they have changed since: {'; '.join(found[:SHOWN])}{more}")


@rank_zero_only
def say(line: str) -> None:
    print(line, flush=True)


def build_trainer(config: Config, method: Method, run_dir: Path, logger: Logger | None, last: Path | None) -> L.Trainer:
    """Lightning's Trainer. An epoch is `train.epoch_steps` optimiser steps and ends with a checkpoint."""
    train, trainer = config.train, config.trainer
    # With a discriminator the method itself accumulates and clips the gradients of both networks.
    manual = not method.automatic_optimization
    main, finite = config.task.main_metric, FiniteSteps(run_dir, None if manual else train.clip)
    callbacks: list[Callback] = [
        SameRun(config, last),
        Counters(train.epoch_steps, config.micro_batches),
        MovingAverage(train.ema_decay, train.ema_every),
        finite,  # before the scores, which only refuse such predictions
        ValidationScores(config.task, config.dataset.name),
        LastCheckpoint(run_dir, finite),
        ModelCheckpoint(
            run_dir / "checkpoints",
            filename="best",
            monitor=f"val/{config.dataset.name}/{main}",
            mode="min" if METRICS[main].lower else "max",
            enable_version_counter=False,
        ),
        Timer(),
        ProcessorTimer(),
    ]
    if shows_pictures(logger):
        callbacks.append(Showcase(config))
    if trainer.progress and sys.stdout.isatty():
        callbacks.append(Progress())
    return new_trainer(
        trainer,
        max_steps=train.steps,
        max_epochs=-1,
        accumulate_grad_batches=1 if manual else config.micro_batches,
        check_val_every_n_epoch=config.validation.every_epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, train.epoch_steps),
        callbacks=callbacks,
        logger=logger or False,
        enable_progress_bar=trainer.progress and sys.stdout.isatty(),
        default_root_dir=run_dir,
        plugins=[CheckpointFiles()],
    )
