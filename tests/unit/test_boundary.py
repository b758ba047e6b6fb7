"""Optimal boundary conditions: the start of many that is best on training images, the same for all images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.commands import train
from diffi2i.commands.eval import evaluate
from diffi2i.config.commands import EvalConfig
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.data.datamodule import ImageDataModule
from diffi2i.methods.boundary import Boundary
from diffi2i.methods.build import check
from diffi2i.methods.noise import step_generator
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from tests.conftest import Make, awake, random_batch
from tests.refusals import refusal
from tests.runs import result, weights
from tests.settings import CPU


def chosen(make: Make, *settings: str) -> tuple[Boundary, PixelDiffusion, list[Any]]:
    """The method, calibrated; the diffusion that it starts from; the reference pairs that there were, one too many."""
    config = make("run", "method=boundary", "method.init=x", "method.draws=5", "method.images=3", *settings)
    torch.manual_seed(0)
    diffusion = awake(PixelDiffusion(make("plain", "method=pixel_diffusion")).eval())
    method = Boundary(config, diffusion).eval()
    both = random_batch(config, config.train.patch, images=4)
    pairs: list[Any] = [{key: value[i : i + 1] for key, value in both.items()} for i in range(4)]
    given = iter(pairs)
    with torch.no_grad():
        method.calibrate(given)
    assert len([*given]) == 1  # no more were asked for
    return method, diffusion, pairs


@torch.no_grad()
def test_the_start_is_the_best_of_the_draws(make: Make) -> None:
    """Against DDIM and the squared error written out, in float64 and all images at once."""
    method, diffusion, pairs = chosen(make)
    network, bars = diffusion.double().network, [float(bar) for bar in method.schedule.alpha_bar]
    y, z = (torch.cat([pair[key] for pair in pairs[:3]]).double() for key in ("input", "target"))
    starts, errors, generator = list[Tensor](), list[float](), step_generator("start, 0", 0, 0)
    for _ in range(5):
        starts.append(torch.randn(48, 8, 8, generator=generator))
        x = torch.stack([starts[-1].double()] * 3)
        for t, s in ((20, 15), (15, 10), (10, 5), (5, 0)):
            x0 = network(torch.cat([x, 2 * y - 1], 1), torch.full((3,), t / 20).double()).double().clamp(-1, 1)
            direction = (x - x0 * bars[t] ** 0.5) / (1 - bars[t]) ** 0.5
            x = x0 * bars[s] ** 0.5 + direction * (1 - bars[s]) ** 0.5
        image = ((F.pixel_shuffle(x, 4) + 1) / 2).clip(0, 1)
        errors.append(float((image - z).pow(2).sum()))
    assert len(set(errors)) == 5
    assert torch.equal(method.start, starts[min(range(5), key=errors.__getitem__)])


@torch.no_grad()
def test_all_images_start_alike_and_larger_ones_from_tiles(make: Make) -> None:
    method, _, pairs = chosen(make, "method.draws=1")
    noise = method.noise({"input": torch.zeros(2, 3, 8, 8), "name": ["a", "b"]})
    start = method.start
    for height, width in ((8, 8), (5, 7), (19, 9)):
        found = noise((48, height, width))
        assert found.shape == (2, 48, height, width)
        for i in range(height):
            for j in range(width):
                assert torch.equal(found[:, :, i, j], start[None, :, i % 8, j % 8].expand(2, 48))
    other = noise((48, 8, 8), "step 3")  # what a sampler might draw is each image's own
    assert not torch.equal(other[0], other[1])
    one, two = (pairs[0] | {"name": [name]} for name in ("one", "two"))
    assert torch.equal(method.predict(one, method.noise(one)), method.predict(two, method.noise(two)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "method=boundary needs a diffusion: write method.init=<run of method=pixel_diffusion>"),
        (["method.draws=0"], "method.draws=0 must be at least 1"),
        (["method.images=0"], "method.images=0 must be at least 1"),
        (["method.distance=l1"], "method.distance=l1: choose one of mse, lpips"),
        (["+method.sampler.eta=0.5"], "method.sampler draws noise at its steps"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], said: str) -> None:
    words = ["method=boundary", "task=sisr", "budget=smoke", *overrides]
    assert said in refusal(lambda: check(load(Config, "train", words)))


def test_another_run_is_refused_and_missing_weights_are(make: Make, nowhere: Path) -> None:
    config = make("run", "method=boundary", "method.init=x", "method.distance=lpips")
    pixel = make("plain", "method=pixel_diffusion")
    for other, said in (
        (make("other", "method=ldm"), "is a run of ldm: name one of pixel_diffusion"),
        (make("other", "method=deepcache"), "is a run of deepcache: name one of pixel_diffusion"),
        (make("other", "method=pixel_diffusion", "method.residual=true"), "method.residual=True: write method.resid"),
        (pixel, "or write method.distance=mse"),
    ):
        typed: Any = Boundary(config).options
        assert said in refusal(lambda other=other, typed=typed: Boundary.check(config, typed, other))


def test_a_run_is_calibrated_once(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = train.train(make("pixel", "method=pixel_diffusion", "train.steps=2"))
    asked = list[str]()
    drawn = ImageDataModule.crops

    def watched(self: ImageDataModule) -> Iterator[Any]:
        for batch in drawn(self):
            asked.extend(batch["name"])
            yield batch

    monkeypatch.setattr(ImageDataModule, "crops", watched)
    settings = ("method=boundary", f"method.init={pixel}")
    run = train.train(make("run", *settings))
    assert len(asked) == 2
    assert weights(run)["start"].shape == (48, 8, 8)
    assert weights(run)["start"].any()
    assert all(torch.equal(weights(run)[key], value) for key, value in weights(pixel).items())
    assert (result(run).training.steps, result(run).training.network_steps) == (0, 2)
    (run / "result.json").unlink()  # as where it was interrupted while it was scored
    again = result(train.train(make("run", *settings)))
    scored = result(evaluate(EvalConfig(run=str(run), trainer=CPU, output=str(tmp_path / "scored"))))
    assert scored.scores == again.scores
    assert len(asked) == 2
    words = "set=method.draws: the run was made with it: of its method write one of method.sampler"
    assert words in refusal(evaluate, EvalConfig(run=str(run), trainer=CPU, set=["method.draws=9"]))
