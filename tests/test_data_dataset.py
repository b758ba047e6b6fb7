"""Draws, crops, partners, shards and the DataModule."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from PIL import Image

from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import DrawSampler, EvalImages, ImageCache, ShardSampler, TrainImages
from diffi2i.data.degrade import Bicubic, Degradation, Inpaint, Recorded
from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.data.masks import narrow, wide
from diffi2i.data.resize import imresize, quantize
from diffi2i.data.sources import Item, folder, pairs
from diffi2i.errors import UserError

SIZES = [(40, 61), (37, 33), (5, 90), (1, 1)]


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return folder("val", val_root=tmp_path)


@pytest.fixture
def paired_root(tmp_path: Path) -> Path:
    """Pairs at scale 2 whose input pixel is 255 minus the top-left target pixel of its 2x2 block."""
    rng = np.random.default_rng(1)
    for side in ("input", "target"):
        (tmp_path / side).mkdir()
    for i, (height, width) in enumerate([(41, 60), (36, 33), (6, 90)]):
        target = rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
        source = 255 - target[::2, ::2]
        target = np.pad(target, ((0, height % 2), (0, width % 2), (0, 0)))
        Image.fromarray(target).save(tmp_path / "target" / f"{i}.png")
        Image.fromarray(source).save(tmp_path / "input" / f"{i}.png")
    return tmp_path


def train_set(items: list[Item], degrade: Degradation, patch: int = 32, seed: int = 3) -> TrainImages:
    return TrainImages(items, degrade, patch, draws=8, seed=seed, cache=ImageCache(1))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


@pytest.mark.parametrize("degrade", [Bicubic(4), Inpaint([narrow(), wide()])])
def test_samples_keep_the_contract(items: list[Item], degrade: Degradation) -> None:
    dataset = train_set(items, degrade)
    side = 32 // degrade.scale
    for draw in range(30):
        sample = dataset[draw]
        assert sample["target"].shape == (3, 32, 32)
        assert sample["input"].shape == (3, side, side)
        for key in ("input", "target"):
            assert sample[key].dtype == torch.float32
            assert sample[key].min() >= 0
            assert sample[key].max() <= 1
        if isinstance(degrade, Inpaint):
            mask = sample["mask"]
            assert mask.shape == (1, 32, 32)
            torch.testing.assert_close(sample["input"], sample["target"] * (1 - mask))
        else:
            torch.testing.assert_close(sample["input"], quantize(imresize(sample["target"], 1 / 4)))


def test_a_draw_depends_on_seed_and_number_alone(items: list[Item]) -> None:
    degrade = Inpaint(wide())
    first, second = train_set(items, degrade), train_set(items, degrade)
    backwards = {draw: second[draw] for draw in reversed(range(20))}
    assert all(same(first[draw], backwards[draw]) for draw in range(20))
    other_seed = train_set(items, degrade, seed=4)
    assert not any(same(first[draw], other_seed[draw]) for draw in range(20))
    assert len({first[draw]["name"] for draw in range(20)}) == len(SIZES)


def test_crops_come_from_the_image_in_all_eight_orientations(tmp_path: Path) -> None:
    pixels = np.arange(40 * 60, dtype=np.int64).reshape(40, 60)
    coded = np.stack([pixels // 256, pixels % 256, np.zeros_like(pixels)], 2).astype(np.uint8)
    Image.fromarray(coded).save(tmp_path / "a.png")
    dataset = train_set([Item("a", tmp_path / "a.png")], Recorded(1), patch=8)
    dataset.degrade = Inpaint(narrow())
    seen = set()
    for draw in range(80):
        r, g, _ = (dataset[draw]["target"] * 255).round().long()
        code = r * 256 + g
        steps = (int(code[0, 1] - code[0, 0]), int(code[1, 0] - code[0, 0]))
        torch.testing.assert_close(
            code, code[0, 0] + steps[0] * torch.arange(8)[None] + steps[1] * torch.arange(8)[:, None]
        )
        seen.add(steps)
    assert seen == {(a, b) for x in (1, -1) for y in (60, -60) for a, b in ((x, y), (y, x))}


def test_small_images_are_mirrored_up_to_the_patch(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10] * 3, [20] * 3]], np.uint8)).save(tmp_path / "a.png")
    dataset = train_set([Item("a", tmp_path / "a.png")], Bicubic(1), patch=4)
    expected = np.tile([10, 20, 20, 10], (4, 1))
    for draw in range(8):
        grey = (dataset[draw]["target"][0] * 255).round().int().numpy()
        assert (grey == expected).all() or (grey == expected.T).all()


def test_paired_crops_are_aligned(paired_root: Path) -> None:
    items = pairs("val", val_root=paired_root)
    dataset = train_set(items, Recorded(2), patch=16)
    for draw in range(60):
        sample = dataset[draw]
        assert sample["input"].shape == (3, 8, 8)
        # Blocks are constant, so this holds after every flip and turn if the crops start at a block.
        torch.testing.assert_close(
            sample["target"], 1 - sample["input"].repeat_interleave(2, 1).repeat_interleave(2, 2)
        )
    for sample in (EvalImages(items, Recorded(2), 0, ImageCache(1))[i] for i in range(3)):
        torch.testing.assert_close(
            sample["target"], 1 - sample["input"].repeat_interleave(2, 1).repeat_interleave(2, 2)
        )


def test_pairs_that_do_not_fit_are_named(paired_root: Path) -> None:
    items = pairs("val", val_root=paired_root)
    for scale in (1, 4):
        with pytest.raises(UserError, match=r"input/0\.png \(30x20\) does not fit .*target/0\.png \(60x41\)"):
            EvalImages(items, Recorded(scale), 0, ImageCache(1))[0]
    with pytest.raises(UserError, match="does not fit"):
        module(partial(pairs, val_root=paired_root), Recorded(1)).check(["val"])
    with pytest.raises(UserError, match="dataset=folder"):
        train_set(items, Inpaint(narrow()))


def test_wrong_uses_are_refused(items: list[Item]) -> None:
    with pytest.raises(UserError, match="dataset=pairs"):
        train_set(items, Recorded(1))[0]
    with pytest.raises(UserError, match="patch=30"):
        train_set(items, Bicubic(4), patch=30)
    with pytest.raises(UserError, match="smaller than 4"):
        EvalImages(items, Bicubic(4), 0, ImageCache(1))[3]


def test_evaluation_images_are_whole_and_independent_of_their_order(items: list[Item]) -> None:
    large = items[:3]
    sample = EvalImages(large, Bicubic(4), 0, ImageCache(1))[1]
    torch.testing.assert_close(sample["target"], to_tensor(read_rgb(large[1].target))[:, :36, :32])
    assert sample["input"].shape == (3, 9, 8)

    forwards = EvalImages(items, Inpaint(wide()), 5, ImageCache(1))
    backwards = EvalImages(items[::-1], Inpaint(wide()), 5, ImageCache(1))
    assert all(same(forwards[i], backwards[len(items) - 1 - i]) for i in range(len(items)))
    assert not same(forwards[0], EvalImages(items, Inpaint(wide()), 6, ImageCache(1))[0])


def test_partner_is_the_next_image(items: list[Item]) -> None:
    dataset = EvalImages(items, Inpaint(narrow()), 0, ImageCache(1), partner=True)
    alone = EvalImages(items, Inpaint(narrow()), 0, ImageCache(1))
    for i in range(len(items)):
        assert same(dataset[i]["other"], alone[(i + 1) % len(items)])
        assert "other" not in alone[i]
    assert "other" not in EvalImages(items[:1], Inpaint(narrow()), 0, ImageCache(1), partner=True)[0]


def test_cache_keeps_to_its_budget(items: list[Item]) -> None:
    first, second = (read_rgb(item.target) for item in items[:2])
    cache = ImageCache((first.nbytes + 3) / 2**20)
    for _ in range(2):
        for item in items:
            np.testing.assert_array_equal(cache.read(item.target), read_rgb(item.target))
    # The second does not fit any more, the last (one pixel) just does.
    assert set(cache.images) == {items[0].target, items[3].target}
    assert second.nbytes > 3
    with pytest.raises(ValueError, match="read-only"):
        cache.read(items[0].target)[0] = 0


def test_central_crops_are_parts_of_the_whole(items: list[Item]) -> None:
    whole = EvalImages(items, Bicubic(4), 0, ImageCache(1))
    cropped = EvalImages(items, Bicubic(4), 0, ImageCache(1), crop=16)
    for i, (height, width) in enumerate(SIZES[:2]):
        top, left = (height - 16) // 2 // 4 * 4, (width - 16) // 2 // 4 * 4
        assert torch.equal(cropped[i]["target"], whole[i]["target"][:, top : top + 16, left : left + 16])
        assert cropped[i]["input"].shape == (3, 4, 4)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_draws_cover_every_epoch_once_whatever_the_processes(world_size: int) -> None:
    for epoch in (0, 5):
        samplers = [DrawSampler(12, rank, world_size, lambda: 12 * epoch) for rank in range(world_size)]  # noqa: B023
        drawn = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(draws) for draws in drawn]
        assert sorted(chain(*drawn)) == list(range(12 * epoch, 12 * epoch + 12))
        # The processes' first batches together are the first global batch.
        per_process = 6 // world_size
        assert sorted(chain(*(draws[:per_process] for draws in drawn))) == list(range(12 * epoch, 12 * epoch + 6))


@pytest.mark.parametrize("n", [1, 7, 8])
def test_shards_are_disjoint_and_complete(n: int) -> None:
    shards = [ShardSampler(n, rank, 3) for rank in range(3)]
    assert sorted(chain(*shards)) == list(range(n))
    assert sum(len(shard) for shard in shards) == n


def module(source: Any, degrade: Degradation, **options: Any) -> ImageDataModule:
    return ImageDataModule(source, degrade, patch=16, batch_size=2, steps_per_epoch=3, **options)


def test_workers_do_not_change_the_batches(items: list[Item]) -> None:
    batches = []
    for workers in (0, 2):
        data = module(lambda split: items, Inpaint(wide()), num_workers=workers)
        data.setup("fit")
        loader = data.train_dataloader()
        sampler = loader.sampler
        assert isinstance(sampler, DrawSampler)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        epochs = []
        for epoch in (0, 1):
            sampler.first = lambda: 6 * epoch  # noqa: B023
            epochs += list(loader)
        batches.append(epochs)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert len(batches[0]) == 6
    assert all(same(a, b) for a, b in zip(*batches, strict=True))
    assert not same(batches[0][0], batches[0][3])


class Recorder(LightningModule):
    """Trains nothing; notes the crops it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["target"])
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_interrupted_and_resumed_sees_the_same_crops(items: list[Item], tmp_path: Path) -> None:
    def fit(epochs: int, resume: Path | None = None) -> Recorder:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
        )
        recorder = Recorder()
        trainer.fit(recorder, module(lambda split: items, Bicubic(4)), ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return recorder

    whole, first = fit(3).seen, fit(1).seen
    rest = fit(3, tmp_path / "1.ckpt").seen
    assert len(whole) == 9
    assert all(torch.equal(a, b) for a, b in zip(whole, first + rest, strict=True))
    draws = TrainImages(items, Bicubic(4), 16, 6, 0, ImageCache(1))
    assert torch.equal(torch.cat(whole), torch.stack([draws[draw]["target"] for draw in range(18)]))


def test_hydra_builds_the_parts() -> None:
    config = OmegaConf.create(
        {
            "source": {
                "_target_": "diffi2i.data.sources.photos",
                "_partial_": True,
                "held_out": ["coffee"],
            },
            "degrade": {
                "_target_": "diffi2i.data.degrade.Inpaint",
                "mask": [{"_target_": "diffi2i.data.masks.narrow"}, {"_target_": "diffi2i.data.masks.wide"}],
            },
        }
    )
    parts = instantiate(config)
    data = module(parts.source, parts.degrade)
    data.setup("fit")
    assert [item.name for item in data.val_items] == ["coffee"]
    assert data.degrade.scale == 1
    assert 0 < data.train_set[0]["mask"].mean() < 1


def test_validation_loader(items: list[Item]) -> None:
    data = module(lambda split: items, Inpaint(narrow()), partner=True, max_val_images=3)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [batch["name"] for batch in batches] == [["0"], ["1"], ["2"]]
    assert batches[2]["other"]["name"] == ["0"]
    assert batches[0]["input"].shape == (1, 3, *SIZES[0])
    assert data.val_manifest != data.train_manifest
    assert not hasattr(data, "train_set")


def test_check_finds_broken_files_early(items: list[Item]) -> None:
    data = module(lambda split: items, Inpaint(narrow()))
    data.check()
    items[2].target.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png: not a readable image"):
        data.check()
