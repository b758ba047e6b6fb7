"""Objects from the `_target_` nodes of a configuration."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffi2i.data.constant import constant_depth, constant_label
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import (
    Augment,
    EvalImages,
    Phase,
    TrainImages,
    check_image,
    degrade_batch,
    degrades_on_device,
)
from diffi2i.data.scenes import EvalScenes, TrainScenes, check_scene
from diffi2i.data.seen import DepthSeen, impossible, unit_of
from diffi2i.data.skip import OnError
from diffi2i.data.sources import Item
from diffi2i.errors import UserError, WeightsUnavailableError
from diffi2i.schema import Config


def build(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Hydra's `instantiate`, its long errors cut to the line that names the key and the cause."""
    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, WeightsUnavailableError):
            raise UserError(str(cause)) from error
        raise UserError(f"{key}: {str(cause).splitlines()[0]}") from error


def micro_batches(config: Config) -> int:
    """Batches of one device that make up its share of an optimiser step: gradients accumulate over them."""
    share = config.train.batch // (config.trainer.devices * config.trainer.num_nodes)
    return share // (config.trainer.device_batch or share)


def build_data(config: Config) -> ImageDataModule:
    """The images of a configuration. Raises `UserError` where `_target_`s cannot be built."""
    train, dataset = config.train, config.dataset
    first = Phase(0, train.patch, train.batch)
    return ImageDataModule(
        source=build(dataset.source, "dataset.source"),
        phases=[first, *(Phase(phase.step, phase.patch, phase.batch) for phase in train.phases)],
        steps_per_epoch=train.epoch_steps,
        micro_batches=micro_batches(config),
        seed=config.seed,
        num_workers=dataset.workers,
        cache_mb=dataset.cache_mb,
        max_val_images=dataset.max_val_images,
        max_fit_images=config.validation.max_images,
        skip_broken=dataset.on_error == "skip",
        **(image_samples(config) if config.task.kind == "image" else scene_samples(config)),
    )


def image_samples(config: Config) -> dict[str, Any]:
    """What `ImageDataModule` makes of photos: crops, degraded, or with their recorded input."""
    assert config.task.degrade is not None
    degrade = build(config.task.degrade, "task.degrade")
    train_degrade = build(config.train.degrade, "train.degrade") if config.train.degrade else degrade
    if train_degrade.scale != degrade.scale:
        raise UserError(
            f"train.degrade works at scale {train_degrade.scale}, task.degrade at {degrade.scale}: write the same"
        )
    seed, on_error = config.seed, cast(OnError, config.dataset.on_error)
    augment = cast(Augment, config.dataset.augment)
    on_device = partial(degrade_batch, degrade=train_degrade, seed=seed) if degrades_on_device(train_degrade) else None
    return {
        "train_samples": partial(TrainImages, degrade=train_degrade, seed=seed, augment=augment, on_error=on_error),
        "val_samples": partial(
            EvalImages,
            degrade=degrade,
            seed=config.task.protocol.seed,
            partner=True,
            crop=config.train.val_crop,
            crops=config.train.val_crops,
        ),
        "check_item": partial(check_image, degrade=degrade),
        "on_device": on_device,
    }


def scene_samples(config: Config) -> dict[str, Any]:
    """What `ImageDataModule` makes of photos with labels or depth."""
    assert config.dataset.target is not None
    target, scenes = build(config.dataset.target, "dataset.target"), config.task.scenes
    sizes = {key: getattr(scenes, key) for key in ("input_scale", "short_side", "long_side")}
    return {
        "train_samples": partial(
            TrainScenes,
            target=target,
            seed=config.seed,
            zoom=scenes.zoom,
            aspect=scenes.aspect,
            jitter=scenes.jitter,
            rotate=scenes.rotate,
            box=config.dataset.train_box,
            **sizes,
            on_error=cast(OnError, config.dataset.on_error),
        ),
        "val_samples": partial(EvalScenes, target=target, partner=True, **sizes),
        "check_item": check_scene,
    }


def check_depth(items: Sequence[Item], config: Config) -> None:
    """Looks at up to 16 depth files, evenly spaced, before any time is spent on a wrong unit; other tasks pass.

    Raises:
        UserError: a file cannot be read, or depths so far from the protocol's that their unit must be another.
    """
    if config.task.kind != "depth":
        return
    assert config.dataset.target is not None
    target, seen = build(config.dataset.target, "dataset.target"), DepthSeen()
    files = [item.target for item in items[:: -(-len(items) // 16)]]
    for file in files:
        seen.add(target.read(file))
    if why := impossible(seen, config.task.protocol, unit_of(target, files), "dataset.target.unit"):
        raise UserError(f"dataset={config.dataset.name}: {why}")


def constant_target(items: Sequence[Item], config: Config) -> float:
    """The best guess without looking: the most frequent class, or the mean depth in metres.

    Taken over at most 1000 training items, evenly spaced; those that cannot be read are left out where training skips
    them too.
    """
    assert config.dataset.target is not None
    target = build(config.dataset.target, "dataset.target")
    chosen, skip = [item.target for item in items[:: -(-len(items) // 1000)]], config.dataset.on_error == "skip"
    if config.task.kind == "depth":
        return constant_depth(chosen, target, skip)
    return constant_label(chosen, target, skip)
