"""All score sheets on 1, 2 and 3 processes: the same numbers, each image once, an error where a process dies."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffi2i.config.schema import ProtocolConfig
from diffi2i.metrics import distribution
from diffi2i.metrics.depth import DepthScores
from diffi2i.metrics.image import ImageScores
from diffi2i.metrics.intervals import of_all_ranks
from diffi2i.metrics.segmentation import SegmentationScores
from tests.processes import CONTEXT, joined, together

CLASSES = 4
COUNTS = (2, 7, 8, 101)
METRICS = ["psnr", "psnr_y", "ssim", "ssim_y", "psnr_hole", "fid", "kid"]
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")


class Tiny(nn.Module):
    """Eight features in the Inception's place: what is tested is how processes are put together."""

    def forward(self, image: Tensor) -> Tensor:
        x = image.float() / 255
        halves = [x[..., :8, :], x[..., 8:, :]]
        return torch.cat([f(half).flatten(1) for half in halves for f in (mean, spread)], 1)[:, :8]


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def spread(x: Tensor) -> Tensor:
    return x.var((2, 3))


def image(index: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(index))


def scores_of(indices: range) -> list[dict[str, Any]]:
    """Every kind's sheet over the images of these numbers."""
    distribution._build = lambda network: Tiny()
    sheets = (ImageScores(ProtocolConfig(metrics=METRICS)), SegmentationScores(CLASSES), DepthScores(1e-3, 10, None))
    for i in indices:
        target, names = image(i, 1, 3, 16, 18), [f"{i:03}"]
        mask = (image(i + 1000, 1, 1, 16, 18) > 0.5).float()
        sheets[0].update((target + 0.1 * image(i + 2000, 1, 3, 16, 18)).clamp(0, 1), target, names=names, mask=mask)
        labels = (image(i + 3000, 1, 16, 18) * CLASSES).long()
        sheets[1].update(image(i + 4000, 1, CLASSES, 16, 18), labels, names=names)
        depth = 1 + 5 * image(i + 5000, 1, 1, 16, 18)
        sheets[2].update(depth * (0.8 + 0.4 * image(i, 1, 1, 16, 18)), depth, names=names, mask=mask)
    found: list[dict[str, Any]] = []
    for sheet in sheets:
        everyone = [record["name"] for record in of_all_ranks(sheet.per_image)]
        found.append({"scores": sheet.compute(), "counts": sheet.counts(), "names": everyone})
    return found


def one_of(rank: int, world: int, folder: str) -> None:
    with joined(rank, world, folder):
        found = [scores_of(range(n)[rank::world]) for n in COUNTS]
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def alone() -> list[list[dict[str, Any]]]:
    build = distribution._build
    try:
        return [scores_of(range(n)) for n in COUNTS]
    finally:
        distribution._build = build


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.long), 3])
def test_several_processes_give_the_scores_of_one(world: int, alone: Any, tmp_path: Path) -> None:
    together(one_of, world, tmp_path)
    for rank in range(world):
        for count, theirs, ours in zip(COUNTS, torch.load(tmp_path / f"{rank}.pt"), alone, strict=True):
            for their, our in zip(theirs, ours, strict=True):
                assert their["names"] == our["names"] == [f"{i:03}" for i in range(count)]
                assert their["counts"] == our["counts"]
                assert their["scores"].keys() == our["scores"].keys()
                for key, score in our["scores"].items():
                    assert their["scores"][key] == pytest.approx(score, rel=1e-6, abs=1e-9), key


def dies_or_computes(rank: int, folder: str) -> None:
    with joined(rank, 2, folder):
        if rank == 1:
            os._exit(3)
        scores_of(range(2))


def test_a_killed_process_ends_the_others_with_an_error(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=dies_or_computes, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        processes[0].join(120)
        assert processes[0].exitcode not in (None, 0), "it waits for a process that is gone"
    finally:
        for process in processes:
            process.kill()
