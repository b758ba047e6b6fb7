"""The one DataModule: a source, the samples made of it, and the loaders of this process."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count, islice
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, default_collate

from diffi2i.data.dataset import Draw, EvalImages, ImageCache, Phase, Sample, StepSampler
from diffi2i.data.manifest import Manifest, Seal, hash_of_manifest, manifest
from diffi2i.data.scenes import EvalScenes
from diffi2i.data.sources import Item, Split
from diffi2i.errors import Note, UserError
from diffi2i.run.hardware import is_first_rank

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
        train_samples: Callable[..., Dataset[Sample]],
        val_samples: Callable[..., EvalImages | EvalScenes],
        check_item: Callable[[Item], None],
        phases: Sequence[Phase],
        steps_per_epoch: int,
        micro_batches: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        cache_mb: float = 1024,
        max_val_images: int | None = None,
        max_fit_images: int | None = None,
        on_device: Callable[[Sample], Sample] | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Store the settings; nothing is read yet.

        Args:
            source: lists the items of a split.
            train_samples: from `items` and `cache` makes a dataset indexed by `Draw`.
            val_samples: likewise, a dataset indexed by the image's number.
            check_item: raises UserError where an item's headers show that it cannot be used.
            phases: patch and global batch from each step on; see `StepSampler`.
            steps_per_epoch: optimiser steps of an epoch.
            micro_batches: batches of one process per optimiser step.
            seed: >= 0.
            num_workers: loader processes.
            cache_mb: memory for decoded images per process, shared out among its workers.
            max_val_images: validate on the first so many images only.
            max_fit_images: a further bound for the validation during training.
            on_device: completes a training batch where it lies, for degradations that run there.
            skip_broken: training files that cannot be read are left to the dataset, which skips them; validation images
                are read whole before they are listed, and left out where that fails.
        """
        super().__init__()
        self.seal = Seal()
        self.source, self.train_samples, self.val_samples = source, train_samples, val_samples
        self.check_item, self.skip_broken = check_item, skip_broken
        self.phases, self.steps_per_epoch, self.micro_batches = phases, steps_per_epoch, micro_batches
        self.seed, self.num_workers, self.cache_mb = seed, num_workers, cache_mb
        self.max_val_images, self.max_fit_images, self.on_device = max_val_images, max_fit_images, on_device

    @cached_property
    def train_items(self) -> list[Item]:
        """The training images. Raises UserError as the source does."""
        return self._listed("train")

    @cached_property
    def val_items(self) -> list[Item]:
        """The validation images, at most `max_val_images`. Raises UserError as the source does."""
        items = self._listed("val")
        return list(islice(self._readable(items) if self.skip_broken else items, self.max_val_images))

    def _readable(self, items: Sequence[Item]) -> Iterator[Item]:
        """Those of which a sample can be made; a note names each other. Raises UserError where none can."""
        found, last = False, None
        for item in items:
            try:
                self.val_samples(items=[item], cache=ImageCache(0))[0]
            except UserError as error:
                last = error
                if is_first_rank():
                    warnings.warn(f"left out of the validation: {error}", Note, stacklevel=2)
            else:
                found = True
                yield item
        if last and not found:
            raise UserError(f"none of the {len(items)} validation images can be read: {last}")

    def _listed(self, split: Split) -> list[Item]:
        items = self.source(split)
        if not items:
            raise UserError(f"the dataset has no item for {split}: check its folders")
        return items

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The files of both splits by content; reads them all, once. Raises UserError."""
        return {"train": manifest(self.train_items, self.skip_broken, self.seal), "val": self._val_files}

    @cached_property
    def _val_files(self) -> Manifest:
        return manifest(self.val_items, seal=self.seal)

    @cached_property
    def val_manifest(self) -> str:
        """Hash of the validation files in use. Raises UserError."""
        return hash_of_manifest(self._val_files)

    def check(self, splits: Sequence[Split] = ("val", "train")) -> None:
        """Open the headers of up to `CHECKED_FILES` items a split, to fail before training, not during.

        Raises:
            UserError: naming the broken file or the pair whose sizes do not fit.
        """
        for split in splits:
            items = self.val_items if split == "val" else self.train_items
            if split == "train" and self.skip_broken:
                continue
            for item in items[:CHECKED_FILES]:
                self.check_item(item)

    def setup(self, stage: str) -> None:
        """Build the datasets; training images only for `stage` "fit", so evaluation needs none.

        From then on a file that is changed is noticed when it is read.
        """
        _ = self.manifests if stage == "fit" else self._val_files
        cache = ImageCache(self.cache_mb / max(1, self.num_workers), self.seal)
        self.val_set: EvalImages | EvalScenes = self.val_samples(items=self.val_items, cache=cache)
        if stage == "fit":
            self.train_set = self.train_samples(items=self.train_items, cache=cache)

    def crops(self) -> Iterator[Sample]:
        """Training crops without end, on the CPU, each a batch of its own; those that the first step sees come first.

        An image is read when its crop is asked for. Raises UserError as the source and the dataset do.
        """
        images = self.train_samples(items=self.train_items, cache=ImageCache(self.cache_mb, self.seal))
        for index in count():
            batch = default_collate([images[Draw(0, index, self.phases[0].patch)]])
            yield self.on_device(batch) if self.on_device else batch

    def train_dataloader(self) -> DataLoader[Sample]:
        """The batches of `steps_per_epoch` optimiser steps."""
        sampler = StepSampler(
            self.phases, self.steps_per_epoch, self.micro_batches, *self._rank_and_world, first=self._steps_made
        )
        return self._loader(self.train_set, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the validation images, one a batch since their sizes differ.

        A process without an image gets the first one, which does not count (`val_share`): Lightning refuses a loader
        without batches, and ends the epoch, where the scores of all processes meet, only after one.
        """
        return self._loader(self.val_set, sampler=list(self.val_share) or [0])

    @property
    def val_share(self) -> range:
        """Numbers of the validation images of this process, every `world size`th and unpadded: none counts twice."""
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        rank, world = self._rank_and_world
        return range(len(self.val_set))[: self.max_fit_images if fitting else None][rank::world]

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Degrades a training batch on its device, where the task's degradation does that."""
        return self.on_device(batch) if self.on_device else batch

    def _loader(self, dataset: Dataset[Sample], **samplers: Any) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without its own generator a loader draws from the global one, and the model's noise would
            # depend on how often loaders were started.
            generator=torch.Generator().manual_seed(self.seed),
            **samplers,
        )

    def _steps_made(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
