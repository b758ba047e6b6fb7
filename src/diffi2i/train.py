"""`diffi2i train`: from a checked configuration to a finished run directory."""

import sys
from pathlib import Path

import lightning as L
import torch
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffi2i.build import build, build_data, check_depth, constant_target, micro_batches
from diffi2i.callbacks.guard import StopOnNonFinite
from diffi2i.callbacks.progress import Progress
from diffi2i.callbacks.scores import ValidationScores
from diffi2i.callbacks.showcase import Showcase
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.errors import UserError
from diffi2i.evaluate import score
from diffi2i.metrics import LOWER_IS_BETTER
from diffi2i.results import write_result
from diffi2i.runs import Stage, claim, default_run_dir, load_stage, save_weights
from diffi2i.runtime import new_trainer, quiet
from diffi2i.schema import Config
from diffi2i.stages.joint import JointStage
from diffi2i.stages.pretrain import PretrainStage
from diffi2i.tracking import log_result, shows_pictures, tracking


def train(config: Config) -> Path:
    """Trains one stage, or goes on where an interrupted run stopped, and scores it. Returns the run directory.

    Raises:
        UserError: the directory holds another run, or the data cannot be used; before any step is made.
    """
    run_dir = Path(config.run_dir) if config.run_dir else default_run_dir(config)
    if not claim(run_dir, config):
        say(f"{run_dir} is finished: nothing to do (see {run_dir / 'result.json'})")
        return run_dir

    quiet()
    L.seed_everything(config.seed, workers=True, verbose=False)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    data = build_data(config)
    stage = build_stage(config)
    data.check()
    check_depth(data.val_items, config)
    last = run_dir / "checkpoints" / "last.ckpt"
    say(f"{'resuming' if last.is_file() else 'training'} {config.stage.name} of {config.task.name} in {run_dir}")

    with tracking(config, run_dir) as logger:
        fit_and_score(config, stage, data, run_dir, logger)
    return run_dir


def fit_and_score(config: Config, stage: Stage, data: ImageDataModule, run_dir: Path, logger: Logger | None) -> None:
    """Trains, from the last checkpoint where there is one, and leaves weights, scores and record in the directory."""
    last = run_dir / "checkpoints" / "last.ckpt"
    timer = Timer()
    trainer = build_trainer(config, stage, run_dir, timer, logger)
    try:
        trainer.fit(stage, data, ckpt_path=str(last) if last.is_file() else None)
    except SystemExit:
        # Lightning turns Ctrl-C into exit(1) and so hides it from the command line.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch normalisation has a single value per channel (one image a batch, one pixel at the coarsest level): "
            f"write trainer.device_batch=2 or train.patch={2 * config.train.patch}"
        ) from error
    if trainer.is_global_zero:
        save_weights(stage, run_dir / "weights.safetensors")
    constant = None if config.task.kind == "image" else constant_target(data.train_items, config)
    scores = score(config, stage, data, run_dir, constant)
    if trainer.is_global_zero:
        record = scores | {
            "steps": trainer.global_step,
            "wall_time_s": timer.time_elapsed("train"),
            "loss": config.train.loss,
        }
        manifests = {"train": data.train_manifest, "val": data.val_manifest}
        write_result(run_dir / "result.json", config, manifests, record)
        log_result(logger, record, run_dir)


@rank_zero_only
def say(line: str) -> None:
    print(line, flush=True)


def build_stage(config: Config) -> Stage:
    """The LightningModule; stage 2 starts from the weights of `stage.init`."""
    losses, loss = config.task.losses, None
    if config.stage.prior != "traditional":  # that one trains the diffusion alone
        try:
            loss = build(losses[config.train.loss], f"task.losses.{config.train.loss}")
        except UserError as error:
            others = ", ".join(name for name in losses if name != config.train.loss)
            raise UserError(f"{error}; this task's other losses: train.loss={others}") from error
    try:
        if config.stage.name == "pretrain":
            return PretrainStage(config, loss)
        assert config.stage.init is not None
        return JointStage(config, load_stage(Path(config.stage.init)), loss)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"model={config.model.name}: {str(cause).splitlines()[0]}") from error


def build_trainer(config: Config, stage: Stage, run_dir: Path, timer: Timer, logger: Logger | None) -> L.Trainer:
    """Lightning's Trainer. An epoch is `train.epoch_steps` optimiser steps and ends with a checkpoint."""
    train, trainer = config.train, config.trainer
    # With a discriminator the stage itself accumulates and clips the gradients of both networks.
    manual = not stage.automatic_optimization
    main, checkpoints = config.task.main_metric, run_dir / "checkpoints"
    scores = ValidationScores(config.task, config.dataset.name)
    callbacks: list[Callback] = [
        EMAWeightAveraging(decay=train.ema_decay, update_every_n_steps=train.ema_every, use_buffers=False),
        scores,
        # Without a monitored metric, the one checkpoint kept is the newest.
        ModelCheckpoint(
            checkpoints,
            filename="last",
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        ModelCheckpoint(
            checkpoints,
            filename="best",
            monitor=f"val/{config.dataset.name}/{main}",
            mode="min" if main in LOWER_IS_BETTER else "max",
            enable_version_counter=False,
        ),
        StopOnNonFinite(),
        timer,
    ]
    if shows_pictures(logger):
        callbacks.append(Showcase(config, scores))
    if trainer.progress and sys.stdout.isatty():
        callbacks.append(Progress())
    return new_trainer(
        trainer,
        max_steps=train.steps,
        max_epochs=-1,
        accumulate_grad_batches=1 if manual else micro_batches(config),
        gradient_clip_val=None if manual else train.clip,
        unused_parameters=manual or config.stage.prior_only > 0,
        check_val_every_n_epoch=config.validation.every_epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, train.epoch_steps),
        callbacks=callbacks,
        logger=logger or False,
        enable_progress_bar=trainer.progress and sys.stdout.isatty(),
        default_root_dir=run_dir,
    )
