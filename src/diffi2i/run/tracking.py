"""Where curves, pictures and final scores go: one of Lightning's loggers, or W&B with its own ways.

A W&B run has the id kept in its run directory, so that a resumed training goes on in the same run. Where no key is set,
or W&B cannot be reached, it is kept on disk until `wandb sync`.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffi2i.callbacks.panels import COLUMNS
from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.files import inside, whole
from diffi2i.run.provenance import provenance
from diffi2i.run.record import Record

# How long W&B may keep a training from starting (WANDB_INIT_TIMEOUT comes before it), and a finished one from ending.
INIT_SECONDS, FINISH_SECONDS = 30.0, 600.0
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
        if isinstance(logger, WandbRun):
            logger.end(failed)


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


class WandbRun(WandbLogger):
    """Lightning's W&B logger, counting W&B's own steps as training does.

    So what a resumed training logs a second time, between the last checkpoint and the interruption, has the place
    that it had: without that an offline run would count from 0 again.

    Args:
        save_dir: the run directory; the run's name, and the place of its id.
        arguments: of `wandb.init`: project, entity, group, job_type, tags.
    """

    def __init__(self, save_dir: str, **arguments: Any) -> None:
        run = start_run(Path(save_dir), **arguments)
        super().__init__(save_dir=save_dir, project=arguments.get("project"), experiment=run)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        at = {} if step is None else {"trainer/global_step": step}
        self.experiment.log({**metrics, **at}, step=step)

    @rank_zero_only
    def end(self, failed: bool) -> None:
        """Ends the run and says how to send what is still on disk alone."""
        self.experiment.finish(exit_code=int(failed))
        kept = offline_parts(Path(str(self.save_dir)))
        if unsent := [str(folder) for folder in kept if not list(folder.glob("*.wandb.synced"))]:
            print(f"W&B, offline: wandb sync {' '.join(unsent)}", flush=True)


@rank_zero_only
def start_run(run_dir: Path, **arguments: Any) -> Any:
    """Begins the W&B run of a run directory, or goes on with it; on disk alone where W&B cannot be had.

    WANDB_MODE, where set, decides; else a key does. Returns wandb's Run; None on all ranks but the first.
    """
    arguments |= {
        "id": run_id(run_dir),
        "name": run_dir.name,
        "dir": str(run_dir),
        "resume": "allow",
        "settings": wandb.Settings(
            quiet=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            finish_timeout=FINISH_SECONDS,
        ),
    }
    try:
        run = wandb.init(**arguments, mode=chosen_mode())
    except wandb.Error as error:
        print(f"W&B: {str(error).splitlines()[0]}: this run is kept on disk", flush=True)
        wandb.teardown()  # its service still holds the id
        run = wandb.init(**arguments, mode="offline")
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if run.settings.mode == "online":
        print(f"W&B: {run.url}", flush=True)
    return run


def chosen_mode() -> Any:
    """`online` with a key, `offline` without; None leaves the choice to WANDB_MODE. Raises `wandb.Error`: a bad key."""
    if os.environ.get("WANDB_MODE"):
        return None
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def run_id(run_dir: Path) -> str:
    """The W&B id of a run directory, made when first asked for. It stays when the directory is moved."""
    file = run_dir / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as temporary:
            temporary.write_text(secrets.token_hex(4))
    return file.read_text().strip()


def offline_parts(run_dir: Path) -> list[Path]:
    """What W&B has kept on disk, oldest first: a folder for each time that the training was started."""
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def shows_pictures(logger: Logger | None) -> bool:
    """Whether `log_pictures` has somewhere to put them."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


def log_pictures(logger: Logger | None, key: str, pictures: Mapping[str, Image.Image], step: int) -> None:
    """Logs pictures under one key, each with its caption. W&B and TensorBoard only."""
    if isinstance(logger, WandbLogger):
        # W&B shows pictures of one key at one size, and distorts the others.
        size = tuple(max(sides) for sides in zip(*(picture.size for picture in pictures.values()), strict=True))
        shown = [wandb.Image(padded(picture, size), caption=caption) for caption, picture in pictures.items()]
        logger.log_metrics({key: shown}, step)  # type: ignore[dict-item]
    elif isinstance(logger, TensorBoardLogger):
        for caption, picture in pictures.items():
            logger.experiment.add_image(f"{key}/{caption}", np.asarray(picture), step, dataformats="HWC")


def padded(picture: Image.Image, size: tuple[int, ...]) -> Image.Image:
    """The picture in the upper left of a white one of `size` (width, height)."""
    canvas = Image.new("RGB", (size[0], size[1]), "white")
    canvas.paste(picture)
    return canvas


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
        values |= {"final/scores": scores_table(record), "final/per_image": images_table(record.images)}
        if panel.is_file():
            values["final/panel"] = wandb.Image(str(panel), caption=" | ".join(COLUMNS))
        # Without W&B's own step: it refuses one that an interrupted run has already sent.
        logger.experiment.log(values)
        return
    logger.log_metrics(values, steps)
    if panel.is_file():
        log_pictures(logger, "final", {"panel": Image.open(panel)}, steps)
    logger.save()


def logged_step(trainer: L.Trainer) -> int:
    """The step under which Lightning logs the scores of a validation."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def scores_table(record: Record) -> Any:
    """One row a score or gain that applies: value, 95 % interval, the baseline's value, and how many images count."""
    table = wandb.Table(columns=["metric", "score", "low", "high", "baseline", "images"])
    for key, score in record.scores.items():
        if score.value is not None:
            table.add_data(key, score.value, score.low, score.high, score.baseline, score.n)
    for key, gain in record.scores[record.main_metric].gains.items():
        table.add_data(key, gain, None, None, None, None)
    return table


def images_table(per_image: list[dict[str, Any]]) -> Any:
    """One row an image, one column a score."""
    columns = list(dict.fromkeys(key for image in per_image for key in image))
    return wandb.Table(columns=[*columns], data=[[image.get(key) for key in columns] for image in per_image])
