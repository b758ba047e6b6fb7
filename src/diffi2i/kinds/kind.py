"""What stands in the file of each kind of prediction. All that differs between kinds is behind these members."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ProtocolConfig, TaskConfig
from diffi2i.data.photos import Photo
from diffi2i.data.sources import Item


class Scores(Protocol):
    """A score sheet: what `ImageScores` says of each member holds for all."""

    per_image: list[dict[str, str | float]]

    def to(self, device: torch.device | str) -> object: ...
    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str], mask: Tensor | None = None) -> None: ...
    def compute(self) -> dict[str, float | None]: ...
    def counts(self) -> dict[str, int]: ...
    def reasons(self) -> dict[str, str]: ...
    def per_class(self) -> list[float | None] | None: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class Pairs:
    """How `diffi2i score` reads files.

    Attributes:
        read: a prediction, as a sheet takes it, and of its target a batch of one: `target`, perhaps `valid`. Raises
            `UserError`: one cannot be read, or their sizes differ.
        remarks: once all are read, what there is to say of them. Raises `UserError` where they cannot be right.
    """

    read: Callable[[Path, Path], tuple[Tensor, dict[str, Tensor]]]
    remarks: Callable[[], list[str]] = list


class Kind(Protocol):
    """A kind is a module. A batch is that of `methods.batch`, an output what a network predicts for it."""

    @property
    def suffixes(self) -> frozenset[str]:
        """Of the files that may hold it, with the dot."""

    def samples(self, config: Config) -> dict[str, Any]:
        """What `ImageDataModule` makes of a dataset's items: its arguments `train_samples` to `on_device`."""

    def check_targets(self, items: Sequence[Item], config: Config) -> None:
        """Looks at some targets before any time is spent. Raises `UserError` where they cannot be what they should."""

    def constant(self, items: Sequence[Item], config: Config) -> float | None:
        """The best guess without looking, learnt from the training items; None where the input itself is one.

        Raises:
            UserError: nothing can be learnt from the items, or one cannot be read and such are not skipped.
        """

    def naive(self, batch: Mapping[str, Any], task: TaskConfig, constant: float | None) -> Tensor:
        """The baseline's output: the `constant`, or the input itself."""

    def final(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The output as it is shown, saved and scored."""

    def average(self, outputs: Iterable[Tensor], count: int) -> Tensor:
        """One output of `count` views of the same input, all of one size."""

    def sheet(self, task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> Scores:
        """An empty score sheet; `statistics` as for `DistributionScores`."""

    def pictures(self, output: Tensor, batch: Mapping[str, Any], task: TaskConfig) -> list[Tensor]:
        """Input, output, target and error of the batch's first image, each (3, H, W) around [0, 1]."""

    def values(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """What one output, without its batch dimension, says of each pixel of an image of `size`, on the CPU."""

    def save(self, output: Tensor, size: Sequence[int], file: Path | BytesIO) -> None:
        """Writes one output, without its batch dimension, as a PNG of `size` (height, width), whatever its suffix."""

    def shown(self, path: Path) -> Photo:
        """What `diffi2i predict` has written, in colours for a screen."""

    def pairs(self, config: ScoreConfig, targets: Sequence[Path]) -> Pairs:
        """How files are read to be scored; `targets` are all that will be."""

    def random_target(self, task: TaskConfig, size: int) -> Tensor:
        """A ground truth to time methods on, which some of them see: a batch of one, `size` pixels a side."""


def mean(outputs: Iterable[Tensor], count: int) -> Tensor:
    """That of `count` outputs of one size, which need not be held together."""
    return sum((output / count for output in outputs), torch.zeros(()))


def kind_of(task: TaskConfig) -> Kind:
    """What the task predicts."""
    return cast(Kind, import_module(f"diffi2i.kinds.{task.kind}"))
