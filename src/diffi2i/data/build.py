"""The images of a configuration."""

import os

from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import Phase
from diffi2i.kinds.kind import kind_of
from diffi2i.run.hardware import device_of


def build_data(config: Config) -> ImageDataModule:
    """The images of a configuration. Raises `UserError` where `_target_`s cannot be built."""
    train, dataset = config.train, config.dataset
    first = Phase(0, train.patch, train.batch)
    return ImageDataModule(
        source=build(dataset.source, "dataset.source"),
        phases=[first, *(Phase(phase.step, phase.patch, phase.batch) for phase in train.phases)],
        steps_per_epoch=train.epoch_steps,
        micro_batches=config.micro_batches,
        seed=config.seed,
        num_workers=loading_processes(config),
        cache_mb=dataset.cache_mb,
        max_val_images=dataset.max_val_images,
        max_fit_images=config.validation.max_images,
        skip_broken=dataset.on_error == "skip",
        **kind_of(config.task).samples(config),
    )


def loading_processes(config: Config) -> int:
    """As `dataset.workers` says, of each of the processes of a run on this machine."""
    if config.dataset.workers is not None:
        return config.dataset.workers
    if device_of(config.trainer).type == "cpu":
        return 0
    return min(8, (os.cpu_count() or 1) // config.trainer.devices)
