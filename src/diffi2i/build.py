"""Objects from the `_target_` nodes of a configuration."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffi2i.data.datamodule import ImageDataModule
from diffi2i.errors import UserError
from diffi2i.schema import Config


def build(node: dict[str, Any], key: str) -> Any:
    """Hydra's `instantiate`, its long errors cut to the line that names the key and the cause."""
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{key}: {str(cause).splitlines()[0]}") from error


def build_data(config: Config) -> ImageDataModule:
    """The images of a configuration. Raises `UserError` where `_target_`s cannot be built."""
    train = config.train
    world = config.trainer.devices * config.trainer.num_nodes
    per_device = config.trainer.device_batch or train.batch // world
    return ImageDataModule(
        source=build(config.dataset.source, "dataset.source"),
        degrade=build(config.task.degrade, "task.degrade"),
        patch=train.patch,
        batch_size=per_device,
        steps_per_epoch=train.epoch_steps * train.batch // (world * per_device),
        seed=config.seed,
        num_workers=config.dataset.workers,
        cache_mb=config.dataset.cache_mb,
        partner=True,
        max_val_images=config.dataset.max_val_images,
        val_crop=train.val_crop,
    )
