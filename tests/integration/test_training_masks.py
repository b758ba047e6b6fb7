"""Inpainting trains on other masks than it is scored on where the budget says so, and otherwise as LaMa does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffi2i.commands import train
from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.dataset import Draw
from diffi2i.data.degrade import Inpaint
from diffi2i.data.masks import narrow
from diffi2i.errors import UserError
from tests.conftest import Make

NARROW = "{_target_: diffi2i.data.degrade.Inpaint, mask: {_target_: diffi2i.data.masks.narrow}}"
ROWS = ("table1/diffi2i", "table7/s1", "table8/l1", "figure6/t4", "figure1/inpainting")


def degradations(settings: Config) -> tuple[Any, Any]:
    data: Any = build_data(settings)
    return data.train_samples.keywords["degrade"], data.val_samples.keywords["degrade"]


def box_weights(degrade: Inpaint) -> list[tuple[float, float]]:
    """Odds of boxes and largest area of each mask: what tells LaMa's kinds apart."""
    return [(mask.box_weight, mask.max_area) for mask in degrade.masks]


@pytest.mark.parametrize("row", ROWS)
def test_the_papers_budget_trains_on_lamas_training_masks_and_scores_on_its_test_masks(row: str) -> None:
    trained, scored = degradations(compose.load(Config, "train", [f"experiment={row}", "budget=paper"]))
    assert box_weights(trained) == [(1.0, 1.0)]
    assert box_weights(scored) == [(0.3, 0.5)]  # wide
    trained, scored = degradations(compose.load(Config, "train", [f"experiment={row}", "budget=demo"]))
    assert trained is scored


def test_the_papers_budget_scores_wide_and_narrow_masks_by_default() -> None:
    trained, scored = degradations(compose.load(Config, "train", ["task=inpainting", "budget=paper"]))
    assert box_weights(trained) == [(1.0, 1.0)]
    assert box_weights(scored) == [(0.3, 0.5), (0.0, 0.5)]


def test_training_masks_are_in_the_training_samples_alone(images: Path) -> None:
    plain = ["task=inpainting", "budget=smoke", "dataset=folder", f"root={images}"]
    draws = [Draw(step, 0, 32) for step in range(40)]

    def masks(*overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
        data = build_data(compose.load(Config, "train", [*plain, *overrides]))
        data.setup("fit")
        fitted = data.train_dataloader().dataset
        seen = data.val_dataloader()
        samples = (seen[0] if isinstance(seen, list) else seen).dataset
        return torch.stack([fitted[draw]["mask"] for draw in draws]), samples[0]["mask"]

    (wide, scored), (thin, as_before) = masks(), masks(f"+train.degrade={NARROW}")
    assert not torch.equal(wide, thin)
    torch.testing.assert_close(scored, as_before)


@pytest.mark.parametrize("override", ["train.degrade=null", "task.budgets.paper.train_degrade=null"])
def test_training_masks_can_be_left_out(override: str) -> None:
    trained, scored = degradations(compose.load(Config, "train", ["task=inpainting", "budget=paper", override]))
    assert trained is scored


def test_both_degradations_have_one_scale() -> None:
    other = "+train.degrade={_target_: diffi2i.data.degrade.Bicubic, scale: 2}"
    with pytest.raises(UserError, match=r"train\.degrade works at scale 2, task\.degrade at 4"):
        build_data(compose.load(Config, "train", ["task=sisr", other]))


def test_one_training_mask_of_its_own() -> None:
    one = "train.degrade.mask={_target_: diffi2i.data.masks.narrow}"
    trained, _ = degradations(compose.load(Config, "train", ["task=inpainting", "budget=paper", one]))
    assert box_weights(trained) == [(0.0, 0.5)]
    assert trained.masks[0].strokes == narrow().strokes


def test_the_papers_budget_is_optimised_as_lama_is() -> None:
    for method in ("diffi2i_s1", "diffi2i_s2"):
        settings = compose.load(Config, "train", ["task=inpainting", "budget=paper", f"method={method}"])
        budget = settings.train
        assert (budget.schedule, budget.warmup, budget.lr, budget.ema_decay, budget.clip) == ("constant", 0, 2e-4, 0, 1)
        assert settings.task.optimizer["betas"] == [0.9, 0.999]
    small = compose.load(Config, "train", ["task=inpainting", "budget=reduced"])
    assert (small.train.schedule, small.train.warmup, small.train.ema_decay) == ("cosine", 0.05, 0.999)
    assert small.task.optimizer["betas"] == [0.9, 0.99]


def test_without_an_average_the_final_weights_are_the_networks_own(make: Make) -> None:
    run = train.train(make("raw", "train.ema_decay=0"))
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    assert all(torch.equal(value, kept["current_model_state"][name]) for name, value in kept["state_dict"].items())
    averaged = train.train(make("averaged", "train.ema_decay=0.5"))
    kept = torch.load(averaged / "checkpoints" / "last.ckpt", weights_only=False)
    assert any(not torch.equal(value, kept["current_model_state"][name]) for name, value in kept["state_dict"].items())


@pytest.mark.parametrize(
    ("dataset", "augment"),
    [("celebahq", "none"), ("celebahq_lists", "none"), ("places", "flips"), ("photos", "flips_and_turns")],
)
def test_faces_are_neither_mirrored_nor_turned(dataset: str, augment: str, tmp_path: Path) -> None:
    overrides = ["task=inpainting", f"dataset={dataset}", f"root={tmp_path}"]
    settings = compose.load(Config, "train", overrides)
    assert settings.dataset.augment == augment
    data: Any = build_data(settings)
    assert data.train_samples.keywords["augment"] == augment
