"""The one DataModule: a source, a degradation, and the loaders of this process."""

from collections.abc import Callable, Sequence
from functools import cached_property

import lightning as L
import torch
import torch.distributed
from torch.utils.data import DataLoader

from diffi2i.data.dataset import (
    DrawSampler,
    EvalImages,
    ImageCache,
    Sample,
    ShardSampler,
    TrainImages,
    require_pair_sizes,
    require_usable,
)
from diffi2i.data.degrade import Degradation
from diffi2i.data.images import read_size
from diffi2i.data.sources import Item, Split, manifest_hash

# Opening a header takes well under a millisecond on a local disk, several on a network one.
CHECKED_FILES = 4000


class ImageDataModule(L.LightningDataModule):
    """Crops to train on and whole images to validate on.

    The Trainer must be built with `use_distributed_sampler=False`: the samplers here already divide the
    work among the processes.
    """

    def __init__(
        self,
        source: Callable[[Split], list[Item]],
        degrade: Degradation,
        patch: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int = 0,
        num_workers: int = 0,
        cache_mb: float = 1024,
        partner: bool = False,
        max_val_images: int | None = None,
        val_crop: int | None = None,
    ) -> None:
        """Store the settings; nothing is read yet.

        Args:
            source: lists the items of a split.
            degrade: makes the input from the target.
            patch: side of a training crop, in target pixels.
            batch_size: crops per step and process.
            steps_per_epoch: batches per epoch and process.
            seed: of crops and degradations, >= 0.
            num_workers: loader processes.
            cache_mb: memory for decoded images per process, shared out among its workers.
            partner: validation samples carry another image's sample as `other`.
            max_val_images: validate on the first so many images only.
            val_crop: validate on the central crop of this side in target pixels, None on whole images.
        """
        super().__init__()
        self.source, self.degrade, self.patch = source, degrade, patch
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.num_workers, self.cache_mb = num_workers, cache_mb
        self.partner, self.max_val_images, self.val_crop = partner, max_val_images, val_crop

    @cached_property
    def train_items(self) -> list[Item]:
        """The training images. Raises UserError as the source does."""
        return self.source("train")

    @cached_property
    def val_items(self) -> list[Item]:
        """The validation images, at most `max_val_images`. Raises UserError as the source does."""
        return self.source("val")[: self.max_val_images]

    @cached_property
    def train_manifest(self) -> str:
        """Hash of the training files; reads them all. Raises UserError."""
        return manifest_hash(self.train_items)

    @cached_property
    def val_manifest(self) -> str:
        """Hash of the validation files in use; reads them all. Raises UserError."""
        return manifest_hash(self.val_items)

    def check(self, splits: Sequence[Split] = ("val", "train")) -> None:
        """Open the headers of up to `CHECKED_FILES` images a split, to fail before training, not during.

        Raises:
            UserError: naming the broken file or the pair whose sizes do not fit.
        """
        for split in splits:
            items = self.val_items if split == "val" else self.train_items
            require_usable(items, self.degrade)
            for item in items[:CHECKED_FILES]:
                size = read_size(item.target)
                if item.input is not None:
                    require_pair_sizes(item, read_size(item.input), size, self.degrade.scale)

    def setup(self, stage: str) -> None:
        """Build the datasets; training images only for `stage` "fit", so evaluation needs none."""
        cache = ImageCache(self.cache_mb / max(1, self.num_workers))
        self.val_set = EvalImages(self.val_items, self.degrade, self.seed, cache, self.partner, self.val_crop)
        if stage == "fit":
            self.train_set = TrainImages(
                self.train_items, self.degrade, self.patch, self._draws_per_epoch, self.seed, cache
            )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of `batch_size` crops, `steps_per_epoch` of them."""
        sampler = DrawSampler(self._draws_per_epoch, *self._rank_and_world, first=self._draws_made)
        return self._loader(self.train_set, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the validation images, one a batch since their sizes differ."""
        return self._loader(self.val_set, ShardSampler(len(self.val_set), *self._rank_and_world), 1)

    def _loader(
        self, dataset: TrainImages | EvalImages, sampler: DrawSampler | ShardSampler, batch_size: int
    ) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without its own generator a loader draws from the global one, and the model's noise would
            # depend on how often loaders were started.
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def _draws_per_epoch(self) -> int:
        return self.steps_per_epoch * self.batch_size * self._rank_and_world[1]

    def _draws_made(self) -> int:
        """Draws behind the optimiser steps made so far, all processes together."""
        if self.trainer is None:
            return 0
        per_step = self.trainer.accumulate_grad_batches * self.batch_size * self.trainer.world_size
        return self.trainer.global_step * per_step

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
