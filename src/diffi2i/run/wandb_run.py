"""A training's run at W&B.

It has the id kept in its run directory, so that a resumed training goes on in the same run. Where no key is set, or W&B
cannot be reached, it is kept on disk until `wandb sync`.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffi2i.callbacks.panels import COLUMNS
from diffi2i.files import whole
from diffi2i.run.record import Record

# How long W&B may keep a training from starting (WANDB_INIT_TIMEOUT comes before it), and a finished one from ending.
INIT_SECONDS, FINISH_SECONDS = 30.0, 600.0


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


def log_pictures(logger: WandbLogger, key: str, pictures: Mapping[str, Image.Image], step: int) -> None:
    """Logs pictures under one key, each with its caption."""
    # W&B shows pictures of one key at one size, and distorts the others.
    size = tuple(max(sides) for sides in zip(*(picture.size for picture in pictures.values()), strict=True))
    shown = [wandb.Image(padded(picture, size), caption=caption) for caption, picture in pictures.items()]
    logger.log_metrics({key: shown}, step)  # type: ignore[dict-item]


def padded(picture: Image.Image, size: tuple[int, ...]) -> Image.Image:
    """The picture in the upper left of a white one of `size` (width, height)."""
    canvas = Image.new("RGB", (size[0], size[1]), "white")
    canvas.paste(picture)
    return canvas


def log_result(logger: WandbLogger, values: Mapping[str, Any], record: Record, panel: Path) -> None:
    """Logs final values with tables of the scores and of each image's, and the panel where there is one."""
    shown = {**values, "final/scores": scores_table(record), "final/per_image": images_table(record.images)}
    if panel.is_file():
        shown["final/panel"] = wandb.Image(str(panel), caption=" | ".join(COLUMNS))
    # Without W&B's own step: it refuses one that an interrupted run has already sent.
    logger.experiment.log(shown)


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
