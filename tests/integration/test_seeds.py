"""The evaluation has a seed of its own: what is scored does not depend on the training's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffi2i.callbacks.scores import input_hash
from diffi2i.commands import train
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.dataset import Draw
from diffi2i.methods.batch import Batch
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from tests.conftest import Make
from tests.runs import repeatable
from tests.samples import same

RANDOM = ("inpainting", "deblur", "realsr")


def scored(config: Config) -> list[dict[str, Any]]:
    data = build_data(config)
    data.setup("validate")
    return [data.val_set[i] for i in range(len(data.val_set))]


def trained(config: Config) -> Any:
    data = build_data(config)
    data.setup("fit")
    return data.train_set[Draw(3, 1, 32)]


@pytest.mark.parametrize("task", [*RANDOM, "sisr"])
def test_what_is_scored_is_the_same_for_every_training_seed(make: Make, task: str) -> None:
    zero, one, other = (make("x", f"task={task}", seed) for seed in ("seed=0", "seed=1", "task.protocol.seed=1"))
    for first, second, third in zip(scored(zero), scored(one), scored(other), strict=True):
        assert same(first, second)
        changed = not torch.equal(
            first["mask" if task == "inpainting" else "input"], third["mask" if task == "inpainting" else "input"]
        )
        assert changed == (task in RANDOM)
        assert torch.equal(first["target"], third["target"])


@pytest.mark.parametrize("task", [*RANDOM, "sisr"])
def test_what_is_trained_on_follows_the_training_seed(make: Make, task: str) -> None:
    zero, one, other = (make("x", f"task={task}", seed) for seed in ("seed=0", "seed=1", "task.protocol.seed=1"))
    assert not same(trained(zero), trained(one))
    assert same(trained(zero), trained(other))


@pytest.mark.parametrize("task", ["inpainting", "realsr"])
def test_records_say_that_their_inputs_are_the_same(make: Make, task: str) -> None:
    def run(name: str, *overrides: str) -> Any:
        settings = (f"task={task}", "train.steps=1", "train.epoch_steps=1", *overrides)
        return repeatable(train.train(make(name, *settings)))

    zero, one, other = run("zero", "seed=0"), run("one", "seed=1"), run("other", "task.protocol.seed=1")
    assert len(zero.data.inputs) == 64
    assert zero.data.inputs == one.data.inputs != other.data.inputs
    assert zero.data.val == one.data.val == other.data.val
    assert zero.baseline_images == one.baseline_images != other.baseline_images
    assert zero.images != one.images


def test_the_hash_of_an_input_sees_image_and_mask(make: Make) -> None:
    sample = scored(make("x", "task=inpainting"))[0]
    batch: Any = {key: value[None] for key, value in sample.items() if isinstance(value, torch.Tensor)}
    first = input_hash(batch, 0)
    assert input_hash(batch | {"target": 0 * batch["target"]}, 0) == first
    for key in ("input", "mask"):
        changed = batch[key].clone()
        changed[..., 0, 0] = 1 - changed[..., 0, 0]
        assert input_hash(batch | {key: changed}, 0) != first


@torch.no_grad()
def test_the_noise_of_inference_follows_the_evaluations_seed(make: Make) -> None:
    def prior(*overrides: str) -> torch.Tensor:
        noisy = ("method.diffusion.prediction=eps", "method.sampler.variance_noise=true")
        config = make("x", "method=diffi2i_s2", *noisy, *overrides)
        torch.manual_seed(0)
        method = DiffI2IS2(config).eval()
        batch: Batch = {"input": torch.full((2, 3, 8, 8), 0.5), "name": ["a", "b"]}
        return method.prior(method.seen(batch), method.noise(batch))

    assert torch.equal(prior("seed=0"), prior("seed=1"))
    assert not torch.equal(prior(), prior("task.protocol.seed=1"))


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_scenes_have_no_random_input(make: Make, task: str, tmp_path: Path) -> None:
    zero, one = (scored(make("x", f"task={task}", seed)) for seed in ("seed=0", "task.protocol.seed=1"))
    assert all(same(first, second) for first, second in zip(zero, one, strict=True))
