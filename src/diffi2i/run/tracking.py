"""Where curves, pictures and final scores go: one of Lightning's loggers, or W&B with its own ways, see `wandb_run`.

That is imported where it is used: it takes a third of a second.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.files import inside
from diffi2i.run.provenance import provenance
from diffi2i.run.record import Record

COSTS = ("parameters", "macs", "seconds_per_image", "peak_memory_mb")


@contextmanager
def tracking(config: Config, run_dir: Path) -> Iterator[Logger | None]:
    """The logger of one training; None for logger=none. Ends the W&B run, as failed where an error leaves the block."""
    logger = build_logger(config, run_dir)
    failed = True
    try:
        yield logger
        failed = False
    finally:
        if end := getattr(logger, "end", None):  # WandbRun's
            end(failed)


def build_logger(config: Config, run_dir: Path) -> Logger | None:
    """The logger that `config.logger` names, told the configuration and its provenance; None for none.

    Raises:
        UserError: its `_target_` cannot be built from its settings, or would write elsewhere.
    """
    node = {key: value for key, value in (config.logger or {}).items() if key != "panels"}
    if not node.get("_target_"):
        return None
    for key in {"name", "version", "sub_dir"} & node.keys():
        inside(run_dir, str(node[key]))  # which the loggers make folders of
    logger: Logger = build({**node, "save_dir": str(run_dir)}, "logger")
    logger.log_hyperparams(asdict(config) | {"provenance": asdict(provenance(config))})
    return logger


def shows_pictures(logger: Logger | None) -> bool:
    """Whether `log_pictures` has somewhere to put them."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


def log_pictures(logger: Logger | None, key: str, pictures: Mapping[str, Image.Image], step: int) -> None:
    """Logs pictures under one key, each with its caption. W&B and TensorBoard only."""
    if isinstance(logger, WandbLogger):
        from diffi2i.run import wandb_run

        wandb_run.log_pictures(logger, key, pictures, step)
    elif isinstance(logger, TensorBoardLogger):
        for caption, picture in pictures.items():
            logger.experiment.add_image(f"{key}/{caption}", np.asarray(picture), step, dataformats="HWC")


def log_result(logger: Logger | None, record: Record, run_dir: Path) -> None:
    """Logs the final scores and costs as `final/<key>` and the baseline's as `baseline/<key>`.

    W&B and TensorBoard also have the panel, W&B also tables of the scores and of each image's. `record` is a run's.
    """
    if logger is None:
        return
    assert record.training is not None
    steps = record.training.steps
    measured = {key: score.value for key, score in record.scores.items()} | record.scores[record.main_metric].gains
    measured |= {key: getattr(record.cost, key) for key in COSTS}
    measured |= {"steps": steps, "wall_time_s": record.training.seconds, "cpu_time_s": record.training.cpu_seconds}
    logged = {f"final/{key}": value for key, value in measured.items()}
    logged |= {f"baseline/{key}": score.baseline for key, score in record.scores.items()}
    values: dict[str, Any] = {key: float(value) for key, value in logged.items() if value is not None}
    panel = run_dir / "panel.png"
    if isinstance(logger, WandbLogger):
        from diffi2i.run import wandb_run

        wandb_run.log_result(logger, values, record, panel)
        return
    logger.log_metrics(values, steps)
    if panel.is_file():
        log_pictures(logger, "final", {"panel": Image.open(panel)}, steps)
    logger.save()


def logged_step(trainer: L.Trainer) -> int:
    """The step under which Lightning logs the scores of a validation."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped
