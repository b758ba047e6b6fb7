"""The images of a configuration."""

from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import Phase
from diffi2i.kinds.kind import kind_of


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
        num_workers=dataset.workers,
        cache_mb=dataset.cache_mb,
        max_val_images=dataset.max_val_images,
        max_fit_images=config.validation.max_images,
        skip_broken=dataset.on_error == "skip",
        **kind_of(config.task).samples(config),
    )
