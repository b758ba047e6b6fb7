"""The compared methods' networks and objectives: published sizes, any image size, what is predicted from what."""

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffi2i.commands import train
from diffi2i.config.compose import conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.data.resize import imresize
from diffi2i.methods.build import build_method, check, new_method
from diffi2i.methods.codec import Unshuffled, condition_of
from diffi2i.metrics.cost import parameters, timed, work
from diffi2i.models.autoencoder import Autoencoder
from diffi2i.models.nafnet import NAFBlock, NAFNet
from diffi2i.models.rrdb import RRDBNet
from diffi2i.models.unet import DenoisingUNet
from diffi2i.run.record import Record
from tests.conftest import Make, awake, random_batch
from tests.refusals import refusal

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
FILES: dict[str, Any] = {file.stem: OmegaConf.load(file) for file in sorted((conf_dir() / "model").glob("*.yaml"))}
METHOD_OF = {
    "DenoisingUNet": "pixel_diffusion",
    "NAFNet": "regressor",
    "RRDBNet": "regressor",
    "UNet": "regressor",
    "DIRformer": "regressor",
}
OTHERS = [name for name, node in FILES.items() if "cpen" not in node]


def on_meta(*overrides: str) -> Any:
    with torch.device("meta"):
        return new_method(load(Config, "train", overrides))


@pytest.mark.slow
@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("task", ["inpainting", "sisr"])
def test_every_model_without_a_prior_builds_for_every_image_task(model: str, task: str) -> None:
    method = METHOD_OF[str(FILES[model].network._target_).rpartition(".")[2]]
    made = on_meta(f"task={task}", f"method={method}", f"model={model}", "budget=smoke")
    assert parameters(*made.parts().values()) > 0
    if "autoencoder" in FILES[model]:
        assert parameters(*on_meta(f"task={task}", "method=ldm", f"model={model}", "budget=smoke").parts().values()) > 0


@pytest.mark.parametrize(
    ("model", "task", "count"),
    [("nafnet", "deblur", 67_888_835), ("restormer", "deblur", 26_126_644), ("rrdb", "sisr", 16_697_987)],
)
def test_published_networks_have_their_published_sizes(model: str, task: str, count: int) -> None:
    assert parameters(*on_meta(f"task={task}", "method=regressor", f"model={model}").parts().values()) == count


@pytest.mark.parametrize("task", ["inpainting", "sisr"])
@pytest.mark.parametrize("name", ["diffir_s1", "ldm", "pixel_diffusion"])
def test_a_method_brings_its_model_at_every_budget(name: str, task: str) -> None:
    models: Any = OmegaConf.load(conf_dir() / "method" / f"{name}.yaml").models
    paper = models.paper if isinstance(models.paper, str) else models.paper[task]
    for budget, expected in (("smoke", models.default), ("paper", paper)):
        loaded = load(Config, "train", [f"method={name}", f"task={task}", f"budget={budget}"])
        assert loaded.model.name == expected
        assert "models" not in loaded.method
    other = load(Config, "train", [f"method={name}", f"task={task}", f"model={paper}", "budget=smoke"])
    assert other.model.name == paper


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (65, 66)])
@torch.no_grad()
def test_regressors_take_images_of_any_size(scale: int, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    for network in (NAFNet(3, 8, [1, 1], 1, [1, 1], scale), RRDBNet(3, 8, 4, 1, scale)):
        assert network(image).shape == (1, 3, size[0] * scale, size[1] * scale)


@torch.no_grad()
def test_a_block_of_nafnet_is_written_out() -> None:
    torch.manual_seed(0)
    block = awake(NAFBlock(4)).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)

    def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
        mean, spread = x.mean(1, keepdim=True), (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        out: Tensor = (x - mean) / spread * layer.weight[:, None, None] + layer.bias[:, None, None]
        return out

    def pointwise(x: Tensor, layer: Any) -> Tensor:
        out: Tensor = torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]
        return out

    wide = pointwise(norm(x, block.norm1), block.convolve[0])
    wide = F.conv2d(wide, block.convolve[1].weight, block.convolve[1].bias, padding=1, groups=8)  # type: ignore[arg-type]
    gated = wide[:, :4] * wide[:, 4:]
    attended = gated * pointwise(gated.mean((2, 3), keepdim=True), block.attend[1])
    y = x + pointwise(attended, block.project1) * block.beta
    wide = pointwise(norm(y, block.norm2), block.widen)
    expected = y + pointwise(wide[:, :4] * wide[:, 4:], block.project2) * block.gamma
    torch.testing.assert_close(block(x), expected)


def test_a_new_nafnet_is_the_enlarged_input_plus_its_tail() -> None:
    """Its blocks start as the identity, at beta = gamma = 0."""
    network, image = NAFNet(3, 8, [1], 1, [1], 4), torch.rand(1, 3, 8, 8)
    for parameter in network.tail.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(network(image), imresize(image, 4).clamp(0, 1))


# --- codecs --------------------


def test_unshuffling_is_a_permutation() -> None:
    image = torch.rand(2, 3, 8, 12)
    for factor in (1, 4):
        codec = Unshuffled(factor)
        code = codec.encode(image)
        assert code.shape == (2, codec.channels, 8 // factor, 12 // factor)
        assert torch.equal(codec.decode(code), image)


@pytest.mark.parametrize(("scale", "factor", "channels"), [(4, 4, 3), (1, 4, 48), (4, 1, 3), (2, 4, 12), (1, 1, 3)])
def test_the_condition_lies_on_the_codes_grid(scale: int, factor: int, channels: int) -> None:
    image = torch.rand(1, 3, 16 // scale, 24 // scale)
    enlarged = imresize(image, scale) if scale > 1 else image
    found = condition_of(image, scale, factor, enlarged)
    assert found.shape == (1, channels, 16 // factor, 24 // factor)
    assert found.min() >= -1.2
    if factor == scale:
        assert torch.equal(found, 2 * image - 1)


@pytest.mark.parametrize("codebook", [None, 16])
def test_an_autoencoder_measures_the_spread_of_its_codes(codebook: int | None) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder([8, 8, 8], 1, 3, codebook=codebook)
    image = 2 * torch.rand(4, 3, 16, 16) - 1
    assert autoencoder.factor == 4
    for _ in range(600):
        with torch.no_grad():
            autoencoder.reconstruct(image, torch.randn(4, 3, 4, 4))
    autoencoder.eval()
    before = autoencoder.spread.clone()
    code = autoencoder.encode(image)
    assert code.shape == (4, 3, 4, 4)
    assert float(code.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(autoencoder.spread, before)  # only training measures
    if codebook is None:
        mean = autoencoder.model.encode(image).latent_dist.mean
        torch.testing.assert_close(autoencoder.decode(code), autoencoder.model.decode(mean).sample)


# --- objectives and predictions --------------------


def made(make: Make, name: str, *overrides: str) -> Any:
    torch.manual_seed(0)
    return awake(build_method(make("x", f"method={name}", *overrides)))


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize(
    "overrides", [(), ("method.residual=true",), ("method.conditional=false",), ("method.codec=pixels",)]
)
def test_the_denoiser_learns_the_target_of_its_schedule(
    make: Make, prediction: str, overrides: tuple[str, ...]
) -> None:
    method = made(make, "pixel_diffusion", "task=sisr", f"method.diffusion.prediction={prediction}", *overrides)
    batch = random_batch(method.config, 32)
    seen: list[Any] = []
    method.network.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    terms, output = method.objective(batch, torch.Generator().manual_seed(3))
    assert output is None
    ((given, time, found),) = seen
    rng = torch.Generator().manual_seed(3)
    t = torch.randint(1, 21, (2,), generator=rng)
    torch.testing.assert_close(time, t / 20)
    base = imresize(batch["input"], 4).clamp(0, 1)
    x = batch["target"] - base if "method.residual=true" in overrides else 2 * batch["target"] - 1
    x = x if "method.codec=pixels" in overrides else F.pixel_unshuffle(x, 4)
    eps = torch.randn(x.shape, generator=rng)
    bars = torch.tensor(method.schedule.alpha_bar)[t][:, None, None, None].float()
    torch.testing.assert_close(given[:, : x.shape[1]], bars.sqrt() * x + (1 - bars).sqrt() * eps)
    condition = 2 * (base if "method.codec=pixels" in overrides else batch["input"]) - 1
    seen_beside = given[:, x.shape[1] :]
    if "method.conditional=false" in overrides:
        assert seen_beside.shape[1] == 0
    else:
        torch.testing.assert_close(seen_beside, condition)
    aim = {"x0": x, "eps": eps, "v": bars.sqrt() * eps - (1 - bars).sqrt() * x}[prediction]
    torch.testing.assert_close(terms["loss_denoising"], ((found - aim) ** 2).mean())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pixel_diffusion", ()),
        ("pixel_diffusion", ("method.residual=true",)),
        *((name, ()) for name in ("resshift", "rddm", "bridge", "codi", "invsr")),
    ],
)
@torch.no_grad()
def test_with_a_perfect_denoiser_the_prediction_is_the_target(
    make: Make, name: str, settings: tuple[str, ...], monkeypatch: Any
) -> None:
    method = made(make, name, "task=sisr", *settings).eval()
    batch = random_batch(method.config, 36)
    target, base = batch["target"], imresize(batch["input"], 4).clamp(0, 1)
    x0 = target - base if settings else 2 * target - 1
    monkeypatch.setattr(method.network, "forward", lambda *_: F.pixel_unshuffle(x0, 4))
    torch.testing.assert_close(method.predict(batch, method.noise(batch)), target, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_repaint_keeps_what_is_known(make: Make) -> None:
    method = made(make, "repaint", "task=inpainting").eval()
    batch = random_batch(method.config, 24)
    output = method.predict(batch, method.noise(batch))
    known = 1 - batch["mask"]
    torch.testing.assert_close(output * known, batch["input"] * known, rtol=1e-5, atol=1e-5)
    hidden = batch | {"input": batch["input"] + 0.5 * batch["mask"]}  # what lies in the hole is not looked at
    assert torch.equal(method.predict(hidden, method.noise(hidden)), output)


@pytest.mark.parametrize(
    "name", ["pixel_diffusion", "ldm", "resshift", "bridge", "autoencoder", "codi", "invsr", "diffir_s2"]
)
@pytest.mark.parametrize("size", [(1, 1), (65, 66)])
@torch.no_grad()
def test_any_image_size(make: Make, name: str, size: tuple[int, int]) -> None:
    for task, scale in (("sisr", 4), ("deblur", 1)):
        method = made(make, name, f"task={task}").eval()
        batch: Any = {
            "input": torch.rand(1, 3, *size),
            "name": ["a"],
            "target": torch.rand(1, 3, size[0] * scale, size[1] * scale),
        }
        assert method.predict(batch, method.noise(batch)).shape == batch["target"].shape


def test_training_validates_with_the_cheap_sampler(make: Make, monkeypatch: Any) -> None:
    calls: list[int] = []
    forward = DenoisingUNet.forward

    def counted(self: Any, x: Tensor, time: Tensor) -> Tensor:
        calls.append(self.training)
        return forward(self, x, time)

    monkeypatch.setattr(DenoisingUNet, "forward", counted)
    config = make(
        "run", "method=pixel_diffusion", "task=sisr", "method.sampler.steps=7", "method.validation_sampler.steps=2"
    )
    run_dir = train.train(config)
    images = 2
    in_training = sum(calls)  # one a step
    assert in_training == 4
    # Two validations with two calls an image, then the final one with seven, and what its cost takes.
    assert len(calls) - in_training >= 2 * 2 * images + 7 * images
    found = Record.read(run_dir)
    assert found.cost is not None
    assert (found.cost.calls, found.cost.timed_calls) == (7, 7)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=ldm"], "method=ldm needs a trained autoencoder: write method.init=<run of method=autoencoder>"),
        (
            ["method=ldm", "method.codec=pixels"],
            "method.codec=pixels: this method diffuses codes, write method.codec=latent",
        ),
        (["method=repaint"], "method=repaint fills holes, and task=sisr has none: write task=inpainting"),
        (["method=repaint", "task=inpainting"], "method=repaint needs a diffusion: write method.init=<run of"),
        (["method=repaint", "task=inpainting", "method.jump=7"], "jump=7 lies in 1 to steps=6"),
        (["method=repaint", "task=inpainting", "method.steps=21"], "steps=21 does not fit a schedule of 20 steps"),
        (["method=diffir_s2"], "method=diffir_s2 needs stage 1's weights: write method.init=<run of method=diffir_s1>"),
        (["method=pixel_diffusion", "method.sampler.steps=21"], "method.sampler: steps=21 does not fit a schedule"),
        (["method=pixel_diffusion", "method.sampler.steps=[5,3,20]"], "steps=[5, 3, 20] must increase within 1..20"),
        (["method=pixel_diffusion", "+method.sampler.eta=much"], "method.sampler.eta=much: Input should be a valid"),
        (["method=pixel_diffusion", "method.validation_sampler.steps=0"], "method.validation_sampler: steps=0"),
        (["method=pixel_diffusion", "method.codec=latent"], "has no autoencoder for method.codec=latent"),
        (["method=pixel_diffusion", "method.codec=fourier"], "method.codec=fourier: choose one of pixels, unshuffled"),
        (
            ["method=pixel_diffusion", "method.residual=true", "method.conditional=false"],
            "method.residual needs pixels",
        ),
        (
            ["method=codi"],
            "method=codi needs a diffusion: write method.init=<run of method=pixel_diffusion method.cond",
        ),
        (["method=codi", "method.learns=all"], "method.learns=all: choose one of distillation, denoising, consistency"),
        (["method=codi", "method.trained=encoder"], "method.trained=encoder: choose one of all, adapter"),
        (["method=codi", "method.intervals=21"], "method.intervals=21: write 2 to method.diffusion.steps=20"),
        (["method=codi", "method.target_decay=1"], "method.target_decay=1.0 lies in [0, 1): write 0.95"),
        (["method=codi", "method.learns=consistency"], "distils a conditional diffusion: write method.init=<run of"),
        (["method=invsr"], "method=invsr needs a diffusion: write method.init=<run of method=pixel_diffusion"),
        *(
            (
                ["method=invsr", f"method.starts={starts}"],
                f" must fall from at most 20 to at least 1: write for example method.starts={example}",
            )
            for starts, example in (
                ("[2,3]", "[3,2]"),
                ("[5,5]", "[5]"),
                ("[21,5]", "[5]"),
                ("[0]", "[20]"),
                ("[]", "[20]"),
            )
        ),
        (
            ["method=invsr", "method.times=[20,2]"],
            "must fall to at least 1 from one of method.starts=[5, 4, 3, 2]: write",
        ),
        (["method=invsr", "method.times=[5,6]"], "method.times=[5, 6] must fall to at least 1"),
        (
            ["method=invsr", "method.noise=drawn"],
            "method.noise=drawn learns nothing: train with method.noise=predicted",
        ),
        (["method=invsr", "method.noise=none"], "method.noise=none: choose one of predicted, drawn"),
        (
            ["method=invsr", "method.predictor.widths=[8]"],
            "method=invsr: attention=[False, True] and widths=[8] must name",
        ),
        (["method=resshift", "method.min_noise=3"], "min_noise between 0 and 0.99 x kappa"),
        (["method=rddm", "method.visited=21"], "visited within 1..steps"),
        (
            ["method=diffi2i_s2", "method.sampler.variance_noise=maybe"],
            "method.sampler.variance_noise=maybe: Input should",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Make, overrides: list[str], words: str) -> None:
    assert words in refusal(lambda: check(make("run", *overrides)))


@pytest.mark.parametrize("name", ["diffir_s1", "ldm", "resshift"])
def test_another_network_is_refused(name: str) -> None:
    words = refusal(lambda: check(load(Config, "train", [f"method={name}", "task=sisr", "model=tiny"])))
    assert f"method={name} has a " in words
    assert words.endswith("a DI2Iformer: leave out model")


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("name", ["diffir_s1", "ldm", "pixel_diffusion"])
def test_methods_of_images_take_no_labels_or_depth(name: str, task: str) -> None:
    assert "predicts image, task=" in refusal(lambda: load(Config, "train", [f"method={name}", f"task={task}"]))


# --- cost --------------------


@torch.no_grad()
def test_work_counted_on_one_run_of_each_part_is_the_whole_work(make: Make) -> None:
    calls_of = {"pixel_diffusion": 4, "ldm": 4, "resshift": 4, "rddm": 4, "codi": 4, "invsr": 2, "diffi2i_s2": 4}
    for name, calls in (calls_of | {"regressor": 1}).items():
        method = made(make, name, "task=sisr").eval()
        batch = random_batch(method.config, 32, images=1)

        def predict(method: Any = method, batch: Any = batch) -> Tensor:
            return method.predict(batch, method.noise(batch))  # type: ignore[no-any-return]

        before = predict()
        found = work(predict, method.parts())
        with FlopCounterMode(display=False) as counter:
            predict()
        assert (found.macs, found.calls) == (counter.get_total_flops() // 2, calls), name
        assert torch.equal(predict(), before), name  # and leaves the method as it was
        assert timed(predict, method.parts()).calls == calls


def test_the_rest_of_a_long_prediction_is_reckoned() -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.01)
            return x

    part = Slow()

    def predict() -> Tensor:
        x = torch.zeros(1)
        for _ in range(50):
            x = part(x)
        return x

    some, every = timed(predict, {"slow": part}, 5), timed(predict, {"slow": part})
    assert (some.calls, every.calls) == (5, 50)
    assert some.seconds == pytest.approx(every.seconds, rel=0.5)
    assert "forward" not in vars(part)
