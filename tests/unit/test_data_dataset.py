"""Draws, crops, partners, shards and the DataModule."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms.functional import center_crop

from diffi2i.data.datamodule import ImageDataModule
from diffi2i.data.dataset import (
    Draw,
    EvalImages,
    ImageCache,
    Phase,
    StepSampler,
    TrainImages,
    centred,
    check_image,
    degrade_batch,
)
from diffi2i.data.degrade import Bicubic, Degradation, Inpaint, Recorded
from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.data.manifest import hash_of_manifest
from diffi2i.data.masks import narrow, wide
from diffi2i.data.resize import imresize, quantize
from diffi2i.data.sources import Item, folder, pairs
from diffi2i.errors import UserError
from tests.samples import same

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


def train_set(items: list[Item], degrade: Degradation, seed: int = 3, **options: Any) -> TrainImages:
    return TrainImages(items, degrade, seed, ImageCache(1), **options)


def some_draws(n: int, patch: int = 32) -> list[Draw]:
    return [Draw(i // 4, i % 4, patch) for i in range(n)]


@pytest.mark.parametrize("degrade", [Bicubic(4), Inpaint([narrow(), wide()])])
def test_samples_keep_the_contract(items: list[Item], degrade: Degradation) -> None:
    dataset = train_set(items, degrade)
    side = 32 // degrade.scale
    for draw in some_draws(30):
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


def test_a_sample_depends_on_seed_and_draw_alone(items: list[Item]) -> None:
    degrade, draws = Inpaint(wide()), some_draws(20)
    first, second = train_set(items, degrade), train_set(items, degrade)
    backwards = {draw: second[draw] for draw in reversed(draws)}
    assert all(same(first[draw], backwards[draw]) for draw in draws)
    other_seed = train_set(items, degrade, seed=4)
    assert not any(same(first[draw], other_seed[draw]) for draw in draws)
    assert len({first[draw]["name"] for draw in draws}) == len(SIZES)
    # Step and index do not run into each other, and no two draws are the same.
    assert not same(first[Draw(1, 2, 32)], first[Draw(2, 1, 32)])
    assert not any(same(first[one], first[two]) for one, two in combinations(draws, 2))


def test_crops_come_from_the_image_in_all_eight_orientations(tmp_path: Path) -> None:
    pixels = np.arange(40 * 60, dtype=np.int64).reshape(40, 60)
    coded = np.stack([pixels // 256, pixels % 256, np.zeros_like(pixels)], 2).astype(np.uint8)
    Image.fromarray(coded).save(tmp_path / "a.png")
    dataset = train_set([Item("a", tmp_path / "a.png")], Recorded(1))
    dataset.degrade = Inpaint(narrow())
    seen = set()
    for draw in some_draws(80, patch=8):
        r, g, _ = (dataset[draw]["target"] * 255).round().long()
        code = r * 256 + g
        steps = (int(code[0, 1] - code[0, 0]), int(code[1, 0] - code[0, 0]))
        torch.testing.assert_close(
            code, code[0, 0] + steps[0] * torch.arange(8)[None] + steps[1] * torch.arange(8)[:, None]
        )
        seen.add(steps)
    assert seen == {(a, b) for x in (1, -1) for y in (60, -60) for a, b in ((x, y), (y, x))}


def test_crops_of_faces_stay_upright(tmp_path: Path) -> None:
    gradient = np.arange(40)[:, None] * 6 + np.arange(60) * [1]
    Image.fromarray(np.stack([gradient] * 3, 2).astype(np.uint8)).save(tmp_path / "a.png")
    items, draws = [Item("a", tmp_path / "a.png")], some_draws(40, patch=8)

    def directions(augment: str) -> set[tuple[int, int]]:
        crops = [train_set(items, Inpaint(narrow()), augment=augment)[draw]["target"][0] * 255 for draw in draws]
        return {(round(float(c[0, 1] - c[0, 0])), round(float(c[1, 0] - c[0, 0]))) for c in crops}

    assert directions("none") == {(1, 6)}
    assert directions("flips") == {(1, 6), (-1, 6)}
    assert len(directions("flips_and_turns")) == 8


def test_the_hole_is_the_same_whatever_the_crop_is_turned_to(items: list[Item]) -> None:
    upright, turned = (train_set(items, Inpaint(wide()), augment=how) for how in ("none", "flips_and_turns"))
    for draw in some_draws(12):
        assert torch.equal(upright[draw]["mask"], turned[draw]["mask"])
        assert float(upright[draw]["target"].sum()) == pytest.approx(float(turned[draw]["target"].sum()), rel=1e-5)


@pytest.mark.parametrize("kind", ["made", "holes", "recorded", "on device"])
def test_a_sample_is_the_centre_of_its_context(kind: str, items: list[Item], paired_root: Path) -> None:
    degrades: dict[str, Any] = {
        "made": Bicubic(4),
        "holes": Inpaint(wide()),
        "recorded": Recorded(2),
        "on device": Darken(),
    }
    degrade = degrades[kind]
    listed = pairs("train", root=paired_root) if kind == "recorded" else items
    for step, patch in ((0, 12), (1, 20), (2, 28)):
        draws = [Draw(step, index, patch) for index in range(3)]
        dataset, alone = train_set(listed, degrade, context=28), train_set(listed, degrade)
        batch = degrade_batch(default_collate([dataset[draw] for draw in draws]), degrade, 3)
        larger = [replace(draw, patch=28) for draw in draws]
        context = degrade_batch(default_collate([alone[draw] for draw in larger]), degrade, 3)
        assert same(batch["context"], context)
        assert batch["name"] == context["name"]
        for key, side in {"target": patch, "input": patch // degrade.scale, "mask": patch}.items():
            if key in context:
                assert torch.equal(batch[key], center_crop(context[key], [side, side])), key
        assert "draw" not in batch
        assert "patch" not in batch


def test_the_centre_lies_on_the_inputs_grid(items: list[Item]) -> None:
    whole = train_set(items, Bicubic(4))[Draw(0, 0, 28)]
    sample = centred(whole, 8)  # of 7 pixels of the input 2: 2 lie before them, 3 after
    assert torch.equal(sample["input"], whole["input"][:, 2:4, 2:4])
    assert torch.equal(sample["target"], whole["target"][:, 8:16, 8:16])


def test_small_images_are_mirrored_up_to_the_patch(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10] * 3, [20] * 3]], np.uint8)).save(tmp_path / "a.png")
    dataset = train_set([Item("a", tmp_path / "a.png")], Bicubic(1))
    expected = np.tile([10, 20, 20, 10], (4, 1))
    for draw in some_draws(8, patch=4):
        grey = (dataset[draw]["target"][0] * 255).round().int().numpy()
        assert (grey == expected).all() or (grey == expected.T).all()


def test_paired_crops_are_aligned(paired_root: Path) -> None:
    items = pairs("val", val_root=paired_root)
    dataset = train_set(items, Recorded(2))
    for draw in some_draws(60, patch=16):
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
        train_set(items, Recorded(1))[Draw(0, 0, 32)]
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


@pytest.mark.parametrize("count", [2, 3, 4])
def test_partner_is_the_image_half_the_list_away(items: list[Item], count: int) -> None:
    dataset = EvalImages(items[:count], Inpaint(narrow()), 0, ImageCache(1), partner=True)
    alone = EvalImages(items[:count], Inpaint(narrow()), 0, ImageCache(1))
    for i in range(count):
        assert same(dataset[i]["other"], alone[(i + count // 2) % count])
        assert dataset[i]["other"]["name"] != dataset[i]["name"]
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


PHASES = [Phase(0, 16, 8), Phase(3, 32, 16), Phase(5, 48, 4)]


def global_batches(
    world_size: int, micro_batches: int, first: int = 0, steps: int = 7, phases: Sequence[Phase] = PHASES
) -> list[set[Draw]]:
    """What all processes together draw at each optimiser step that an epoch of `steps` still has."""
    batches: list[set[Draw]] = [set() for _ in range(steps - first)]
    for rank in range(world_size):
        sampler = StepSampler(phases, steps, micro_batches, rank, world_size, lambda: first)
        drawn = list(sampler)
        assert len(sampler) == steps * micro_batches  # of a whole epoch, by which Lightning counts
        assert len(drawn) == (steps - first) * micro_batches
        for i, batch in enumerate(drawn):
            assert len(batch) == len(drawn[i // micro_batches * micro_batches]), "unequal micro batches"
            assert batches[i // micro_batches].isdisjoint(batch)
            batches[i // micro_batches] |= set(batch)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_steps_global_batch_is_the_same_however_it_is_divided(world_size: int, micro_batches: int) -> None:
    phases = [Phase(0, 16, 8), Phase(3, 32, 16)]
    expected = [{Draw(step, index, 16) for index in range(8)} for step in range(3)]
    expected += [{Draw(step, index, 32) for index in range(16)} for step in range(3, 7)]
    assert global_batches(world_size, micro_batches, phases=phases) == expected


def test_micro_batches_are_consecutive_parts_of_the_step() -> None:
    halves = [[draw.index for draw in batch] for batch in StepSampler([Phase(0, 16, 8)], 1, 2)]
    assert halves == [[0, 1, 2, 3], [4, 5, 6, 7]]
    ranks = [
        [draw.index for batch in StepSampler([Phase(0, 16, 8)], 1, 2, rank, 2) for draw in batch] for rank in (0, 1)
    ]
    assert ranks == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_phases_change_patch_and_batch_at_their_step() -> None:
    batches = global_batches(1, 1)
    seen = [({draw.patch for draw in batch}, len(batch)) for batch in batches]
    assert seen == [({16}, 8)] * 3 + [({32}, 16)] * 2 + [({48}, 4)] * 2
    assert [{draw.step for draw in batch} for batch in batches] == [{step} for step in range(7)]


@pytest.mark.parametrize("first", range(1, 7))
def test_resuming_in_any_phase_draws_the_same(first: int) -> None:
    assert global_batches(2, 2, first) == global_batches(1, 1)[first:]


def test_the_first_step_is_asked_anew_at_every_epoch() -> None:
    made = 0
    sampler = StepSampler(PHASES, 2, first=lambda: made)
    for made in (0, 2, 4):
        assert [batch[0].step for batch in sampler] == [made, made + 1]


def module(source: Any, degrade: Degradation, **options: Any) -> ImageDataModule:
    settings: dict[str, Any] = {"phases": [Phase(0, 16, 2)], "steps_per_epoch": 3} | options
    on_device = getattr(degrade, "on_device", False)
    return ImageDataModule(
        source,
        train_samples=partial(TrainImages, degrade=degrade, seed=0),
        val_samples=partial(EvalImages, degrade=degrade, seed=0, partner=True),
        check_item=partial(check_image, degrade=degrade),
        on_device=partial(degrade_batch, degrade=degrade, seed=0) if on_device else None,
        **settings,
    )


def test_workers_do_not_change_the_batches(items: list[Item]) -> None:
    batches = []
    for workers in (0, 2):
        data = module(lambda split: items, Inpaint(wide()), num_workers=workers)
        data.setup("fit")
        loader = data.train_dataloader()
        sampler = loader.batch_sampler
        assert isinstance(sampler, StepSampler)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        epochs = []
        for epoch in (0, 1):
            sampler.first = lambda: 3 * epoch  # noqa: B023
            epochs += list(loader)
        batches.append(epochs)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert len(batches[0]) == 6
    assert all(same(a, b) for a, b in zip(*batches, strict=True))
    assert not same(batches[0][0], batches[0][3])


class Darken:
    """A degradation on the batch's device: each image times its own random number."""

    scale, on_device = 1, True

    def __call__(self, target: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"input": target * rng.random()}

    def batch(self, target: torch.Tensor, generators: list[np.random.Generator]) -> dict[str, torch.Tensor]:
        made = [self(image, rng)["input"] for image, rng in zip(target, generators, strict=True)]
        return {"input": torch.stack(made)}


def test_a_degradation_on_the_device_depends_on_the_draw_alone(items: list[Item]) -> None:
    def inputs(batch: int, micro_batches: int) -> dict[tuple[int, int], torch.Tensor]:
        options: dict[str, Any] = {"phases": [Phase(0, 16, batch)], "micro_batches": micro_batches}
        data = module(lambda split: items, Darken(), **options)
        data.setup("fit")
        made: dict[tuple[int, int], torch.Tensor] = {}
        for sample in data.train_dataloader():
            assert "input" not in sample
            draws = [tuple(draw) for draw in sample["draw"].tolist()]
            completed = data.on_after_batch_transfer(sample, 0)
            assert "draw" not in completed
            factors = completed["input"].flatten(1).sum(1) / completed["target"].flatten(1).sum(1)
            assert len(set(factors.tolist())) == len(draws)
            made |= dict(zip(draws, completed["input"], strict=True))
        return made

    whole, parts = inputs(4, 1), inputs(4, 2)
    assert whole.keys() == parts.keys() == {(step, index) for step in range(3) for index in range(4)}
    assert all(torch.equal(whole[draw], parts[draw]) for draw in whole)


def test_validation_batches_are_left_as_they_are(items: list[Item]) -> None:
    data = module(lambda split: items, Darken())
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert "input" in batch


def test_broken_training_images_are_skipped_if_asked(items: list[Item]) -> None:
    degrade, draws = Bicubic(4), some_draws(40, patch=16)
    before = train_set(items, degrade)
    whole = [before[draw] for draw in draws]
    Path(items[0].target).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.png: not a readable image"):
        [train_set(items, degrade)[draw] for draw in draws]
    skipping = train_set(items, degrade, on_error="skip")
    with pytest.warns(UserWarning, match="skipped 1 unreadable files") as warned:
        rest = [skipping[draw] for draw in draws]
    assert len(warned) == 1
    assert {sample["name"] for sample in rest} == {"1", "2", "3"}
    # Draws of the other images are as they were.
    assert all(same(a, b) for a, b in zip(whole, rest, strict=True) if a["name"] != "0")
    data = module(lambda split: items[1:] if split == "val" else items, degrade, skip_broken=True)
    data.check()
    data.skip_broken = False
    with pytest.raises(UserError, match="not a readable image"):
        data.check()


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
    crops = train_set(items, Bicubic(4), seed=0)
    drawn = [crops[Draw(step, index, 16)]["target"] for step in range(9) for index in range(2)]
    assert torch.equal(torch.cat(whole), torch.stack(drawn))


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
    assert 0 < data.train_set[Draw(0, 0, 16)]["mask"].mean() < 1


def test_validation_loader(items: list[Item]) -> None:
    data = module(lambda split: items, Inpaint(narrow()), max_val_images=3)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [batch["name"] for batch in batches] == [["0"], ["1"], ["2"]]
    assert [batch["other"]["name"] for batch in batches] == [["1"], ["2"], ["0"]]
    assert batches[0]["input"].shape == (1, 3, *SIZES[0])
    assert data.val_manifest == hash_of_manifest(data.manifests["val"]) != hash_of_manifest(data.manifests["train"])
    assert not hasattr(data, "train_set")


def test_check_finds_broken_files_early(items: list[Item]) -> None:
    data = module(lambda split: items, Inpaint(narrow()))
    data.check()
    Path(items[2].target).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png: not a readable image"):
        data.check()


@pytest.mark.parametrize("n", [1, 7, 8])
def test_shards_are_disjoint_and_complete_and_each_process_has_a_batch(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(n):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
    items = folder("val", val_root=str(tmp_path))
    data = module(lambda split: items, Inpaint(narrow()))
    data.setup("validate")
    shares, batches = [], []
    for rank in range(3):
        monkeypatch.setattr(ImageDataModule, "_rank_and_world", (rank, 3))
        shares.append(list(data.val_share))
        batches.append(len(data.val_dataloader()))
    assert sorted(chain(*shares)) == list(range(n))
    assert batches == [max(1, len(share)) for share in shares]
