"""CoDi and InvSR: their equations against numpy in float64, what they start as, what they train and what follows."""

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from diffi2i.diffusion.consistency import consistent, interval
from diffi2i.diffusion.schedule import Schedule, linear
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.build import build_method, new_method
from diffi2i.methods.invsr import InvSR
from diffi2i.models.adapter import AdaptedUNet, decoded, encoded
from diffi2i.models.unet import DenoisingUNet
from tests.conftest import Make, random_batch
from tests.networks import pictures, pictures64, randomise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
UNCONDITIONAL = ("method=pixel_diffusion", "method.conditional=false")
Array = np.ndarray[Any, np.dtype[np.float64]]


def made(make: Make, method: str, *overrides: str, start: tuple[str, ...] = UNCONDITIONAL) -> Any:
    """A method of `task=sisr`, ready to train, of a diffusion with random weights."""
    torch.manual_seed(0)
    init = randomise(new_method(make("start", *start)))
    return build_method(make("x", f"method={method}", *overrides), init)


def batch64(method: Any) -> Any:
    """The input as the codes see it, too, is of float64 then."""
    return {key: x.double() if isinstance(x, Tensor) else x for key, x in random_batch(method.config).items()}


def unshuffled(image: Tensor) -> Array:
    """(B, 3, H, W) in [0, 1] -> (B, 48, H / 4, W / 4) in [-1, 1], by slices."""
    array = 2 * image.double().numpy() - 1
    parts = [array[:, c, i::4, j::4] for c in range(3) for i in range(4) for j in range(4)]
    return np.stack(parts, axis=1)


def clock(t: int) -> float:
    """The time that networks are told of step t of 20, which is of float32."""
    return float(np.float32(t / 20))


# --- consistency functions --------------------


def test_a_consistency_function_is_the_identity_at_the_start_of_time() -> None:
    x, found = pictures64(2, 3, 4, 4), pictures64(2, 3, 4, 4, seed=1)
    for steps in (4, 20, 1000):
        assert torch.equal(consistent(x, 0, steps, found), x)
        torch.testing.assert_close(consistent(x, steps, steps, found), found, rtol=1e-6, atol=1e-6)


def test_its_coefficients_are_those_of_latent_consistency_models() -> None:
    theirs: Any = LCMScheduler(num_train_timesteps=1000)  # type: ignore[no-untyped-call]
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t in (0, 1, 3, 250, 999):
        c_skip, c_out = theirs.get_scalings_for_boundary_condition_discrete(t)
        assert float(consistent(one, t, 1000, zero)) == pytest.approx(float(c_skip), rel=1e-12)
        assert float(consistent(zero, t, 1000, one)) == pytest.approx(float(c_out), rel=1e-12)


def test_intervals_are_of_equal_length_and_meet() -> None:
    schedule = Schedule(linear(1000, 1e-4, 0.02), "x0")
    found = [interval(schedule, 50, number) for number in range(1, 51)]
    assert found == [(20 * n, 20 * (n - 1)) for n in range(1, 51)]
    uneven = [interval(Schedule(linear(10, 0.1, 0.5), "x0"), 4, number) for number in range(1, 5)]
    assert uneven == [(3, 0), (5, 3), (8, 5), (10, 8)]


# --- the adapter --------------------


def adapted(attention: list[bool]) -> AdaptedUNet:
    torch.manual_seed(0)
    return AdaptedUNet(randomise(DenoisingUNet(2, 3, [4, 8], 2, attention, head_dim=4)), 5)


@torch.no_grad()
def test_without_the_condition_it_is_the_denoiser_bit_for_bit() -> None:
    network = adapted([False, True])
    x, time = pictures(2, 7, 9, 6), torch.tensor([0.25, 1.0])
    assert torch.equal(network(x, time), network.denoiser(x[:, :2], time))
    assert torch.equal(network.mu, torch.zeros(1 + 2 + 1 + 2 + 1))  # the first convolution, levels, what leads down
    with torch.no_grad():
        network.mu[3] = 0.1
    assert not torch.equal(network(x, time), network.denoiser(x[:, :2], time))


@torch.no_grad()
def test_its_encoder_is_the_denoisers_but_for_its_first_convolution() -> None:
    network = adapted([False, True])
    ours, theirs = network.encoder.state_dict(), network.denoiser.unet.state_dict()
    kept = {key for key in theirs if key.startswith(("down_blocks.", "mid_block."))}
    assert ours.keys() == kept | {"conv_in.weight", "conv_in.bias"}
    assert all(torch.equal(ours[key], theirs[key]) for key in kept)
    assert ours["conv_in.weight"].shape == (4, 5, 3, 3)


@pytest.mark.parametrize("attention", [[False, False], [False, True]])
@torch.no_grad()
def test_features_are_merged_as_eq_12_says(attention: list[bool]) -> None:
    """By hooks on diffusers' own forward pass: what its decoder is given is taken down, mixed, and put in its place."""
    network = randomise(adapted(attention)).double()
    network.mu.uniform_(-1, 2)
    x, time = pictures64(2, 7, 8, 12), torch.tensor([0.3, 0.8], dtype=torch.float64)
    other = randomise(DenoisingUNet(5, 3, [4, 8], 2, attention, head_dim=4)).double()
    other.unet.load_state_dict(network.encoder.state_dict(), strict=False)
    other.unet.time_embedding.load_state_dict(network.denoiser.unet.time_embedding.state_dict())

    def run(unet: Any, image: Tensor, given: Callable[[int, Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        """The decoder's features, after `given` has been made of each; skips counted from the coarsest."""
        seen: list[Tensor] = []

        def replaced(block: Any, arguments: tuple[Any, ...]) -> Any:
            h, skips, *rest = arguments
            skips = [given(len(seen) + i, skip) for i, skip in enumerate(reversed(skips))]
            seen.extend(skips)
            return h, tuple(reversed(skips)), *rest

        def middle(block: Any, arguments: Any, h: Tensor) -> Tensor:
            middles.append(given(-1, h))
            return middles[0]

        middles: list[Tensor] = []
        handles = [block.register_forward_pre_hook(replaced) for block in unet.up_blocks]
        handles.append(unet.mid_block.register_forward_hook(middle))
        output = unet(image, 1000 * time).sample
        for handle in handles:
            handle.remove()
        return [*seen, *middles], output

    theirs, _ = run(other.unet, x[:, 2:], lambda _, h: h)
    mu = [*network.mu[:-1].tolist()[::-1], float(network.mu[-1])]
    _, expected = run(network.denoiser.unet, x[:, :2], lambda i, h: h + mu[i] * (theirs[i] - h))
    torch.testing.assert_close(network(x, time), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_pruned_it_keeps_the_finest_features_of_both_encoders() -> None:
    """Against the whole network's features, of which the decoder's remaining blocks are given the first ones."""
    network = randomise(adapted([False, True]))
    x, time = pictures(2, 7, 8, 12), torch.tensor([0.3, 0.8])
    embedded = network.denoiser.unet.time_embedding(network.denoiser.unet.time_proj(1000 * time))
    pairs = zip(
        encoded(network.denoiser.unet, x[:, :2], embedded), encoded(network.encoder, x[:, 2:], embedded), strict=True
    )
    features = [h + mu * (other - h) for mu, (h, other) in zip(network.mu, pairs, strict=True)]
    assert network.depth == 7
    network.keep(7)
    assert len(network.mu) == 7
    network.keep(3)
    assert (network.depth, len(network.mu)) == (3, 4)
    zeros = features[2].new_zeros(2, network.denoiser.unet.mid_block.channels, *features[2].shape[2:])
    expected = decoded(network.denoiser.unet, [*features[:3], zeros], embedded)
    torch.testing.assert_close(network(x, time), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="does not fit a network of depth 3"):
        network.keep(4)


def test_a_student_starts_as_its_teacher(make: Make) -> None:
    torch.manual_seed(0)
    teacher: Any = randomise(new_method(make("start", *UNCONDITIONAL))).eval()
    student: Any = new_method(make("x", "method=codi"), teacher).eval()
    batch = random_batch(student.config)
    with torch.no_grad():
        assert torch.equal(student.predict(batch, student.noise(batch)), teacher.predict(batch, teacher.noise(batch)))


@pytest.mark.parametrize("method", ["codi", "invsr"])
def test_codes_of_a_latent_diffusion_are_kept(make: Make, method: str) -> None:
    latent = (
        "model=ldm_tiny",
        "method.codec=latent",
        "model.autoencoder.widths=[8,8,8]",
        "model.autoencoder.channels=2",
    )
    torch.manual_seed(0)
    teacher: Any = randomise(new_method(make("start", "method=ldm", "method.conditional=false")))
    student: Any = new_method(make("x", f"method={method}", *latent), teacher)
    assert student.parts()["autoencoder"] is student.codec
    theirs = teacher.codec.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in student.codec.state_dict().items())
    assert not any(weight.requires_grad for weight in student.codec.parameters())
    batch = random_batch(student.config)
    assert student.predict(batch, student.noise(batch)).shape == batch["target"].shape


# --- CoDi --------------------


def patched(method: Any, network: str, gain: float, monkeypatch: Any) -> None:
    """In a network's place a known function of code, condition and time; `known` is the same in numpy."""

    def forward(seen: Tensor, time: Tensor) -> Tensor:
        return gain * (seen[:, :48] + 0.3 * seen[:, 48:].mean(1, keepdim=True) + time[:, None, None, None]).sin()

    monkeypatch.setattr(getattr(method, network), "forward", forward)


def known(gain: float, z: Array, condition: Array, time: float) -> Array:
    found: Array = gain * np.sin(z + 0.3 * condition.mean(1, keepdims=True) + time)
    return found


class Process:
    """The diffusion in numpy, of the parametrisation: signal and noise of a prediction."""

    def __init__(self, prediction: str) -> None:
        self.prediction = prediction
        self.bars = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 20))])

    def both(self, z: Array, t: int, predicted: Array) -> tuple[Array, Array]:
        a, s = math.sqrt(self.bars[t]), math.sqrt(1 - self.bars[t])
        if self.prediction == "eps":
            return (z - s * predicted) / a, predicted
        if self.prediction == "v":
            return a * z - s * predicted, a * predicted + s * z  # Eq. 8
        return predicted, (z - a * predicted) / s

    def noised(self, x: Array, t: int, noise: Array) -> Array:
        found: Array = math.sqrt(self.bars[t]) * x + math.sqrt(1 - self.bars[t]) * noise
        return found


def boundary(z: Array, t: int, found: Array) -> Array:
    """Eq. 11, of 20 steps."""
    tau = 10 * 1000 * t / 20
    mixed: Array = 0.25 / (tau**2 + 0.25) * z + tau / math.sqrt(tau**2 + 0.25) * found
    return mixed


def drawn(method: Any, batch: Any, first: int, seed: int) -> tuple[Array, Array, Array, int, int]:
    """x, the condition and the noise, t and s, as the objective has them."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 48, 8, 8, generator=rng).double().numpy()
    number = int(torch.randint(first, 11, (), generator=rng))
    return unshuffled(batch["target"]), 2 * batch["input"].numpy() - 1, noise, 2 * number, 2 * number - 2


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_distillation_is_eqs_14_and_15(make: Make, prediction: str, monkeypatch: Any) -> None:
    given = f"method.diffusion.prediction={prediction}"
    method = made(make, "codi", given, start=(*UNCONDITIONAL, given))
    patched(method, "network", 0.7, monkeypatch)
    patched(method, "target", 0.4, monkeypatch)
    batch, process = batch64(method), Process(prediction)
    times = set()
    for seed in range(8):
        terms, output = method.objective(batch, torch.Generator().manual_seed(seed))
        x, c, noise, t, s = drawn(method, batch, 2, seed)
        times.add(s)
        z_t = process.noised(x, t, noise)
        signal, predicted = process.both(z_t, t, known(0.7, z_t, c, clock(t)))
        z_s = process.noised(signal, s, noise)
        _, aim = process.both(z_s, s, known(0.4, z_s, c, clock(s)))
        assert output is None
        assert terms.keys() == {"loss_noise", "loss_signal"}
        np.testing.assert_allclose(terms["loss_signal"], ((x - signal) ** 2).mean(), rtol=1e-9)
        squares = (boundary(z_s, s, aim) - boundary(z_t, t, predicted)) ** 2
        np.testing.assert_allclose(terms["loss_noise"], squares.mean(), rtol=1e-9)
    assert min(times) >= 2  # at s = 0 there is no noise to predict
    assert len(times) > 3


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_consistency_distillation_takes_a_step_of_the_teacher(make: Make, prediction: str, monkeypatch: Any) -> None:
    given = f"method.diffusion.prediction={prediction}"
    method = made(make, "codi", given, "method.learns=consistency", start=("method=codi", given))
    for network, gain in (("network", 0.7), ("target", 0.4), ("teacher", 0.9)):
        patched(method, network, gain, monkeypatch)
    batch, process = batch64(method), Process(prediction)
    for seed in range(12):
        terms, _ = method.objective(batch, torch.Generator().manual_seed(seed))
        x, c, noise, t, s = drawn(method, batch, 1, seed)
        z_t = process.noised(x, t, noise)
        z_s = process.noised(*(lambda both: (both[0], s, both[1]))(process.both(z_t, t, known(0.9, z_t, c, clock(t)))))
        found, _ = process.both(z_t, t, known(0.7, z_t, c, clock(t)))
        aim = z_s if s == 0 else boundary(z_s, s, process.both(z_s, s, known(0.4, z_s, c, clock(s)))[0])
        np.testing.assert_allclose(terms["loss_consistency"], ((boundary(z_t, t, found) - aim) ** 2).mean(), rtol=1e-9)


def test_adapting_without_distilling_is_the_loss_of_diffusion(make: Make, monkeypatch: Any) -> None:
    method = made(make, "codi", "method.learns=denoising")
    patched(method, "network", 0.7, monkeypatch)
    batch = batch64(method)
    terms, _ = method.objective(batch, torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 48, 8, 8, generator=rng).double().numpy()
    t = torch.randint(1, 21, (2,), generator=rng).tolist()
    x, c, process = unshuffled(batch["target"]), 2 * batch["input"].numpy() - 1, Process("x0")
    errors = [
        known(0.7, process.noised(x[i : i + 1], t[i], noise[i : i + 1]), c[i : i + 1], clock(t[i])) - x[i : i + 1]
        for i in range(2)
    ]
    np.testing.assert_allclose(terms["loss_denoising"], (np.concatenate(errors) ** 2).mean(), rtol=1e-9)


def test_the_target_follows_the_network(make: Make, monkeypatch: Any) -> None:
    method = made(make, "codi", "method.target_decay=0.9")
    before = {key: value.double().numpy() for key, value in method.target.state_dict().items()}

    def step(self: nn.Module, *_: Any) -> None:
        with torch.no_grad():
            for weight in self.network.parameters():  # type: ignore[union-attr]
                weight.add_(0.25)

    monkeypatch.setattr(L.LightningModule, "optimizer_step", step)
    for _ in range(2):
        method.optimizer_step(0, 0, None, None)
    after = method.target.state_dict()
    for key, start in before.items():  # 0.9 (0.9 w + 0.1 (w + 0.25)) + 0.1 (w + 0.5)
        np.testing.assert_allclose(after[key].numpy(), start + 0.9 * 0.025 + 0.05, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learns", ["distillation", "denoising", "consistency"])
@pytest.mark.parametrize("trained", ["all", "adapter"])
def test_what_trains_learns_and_what_is_frozen_stays(make: Make, learns: str, trained: str) -> None:
    start = ("method=codi",) if learns == "consistency" else UNCONDITIONAL
    method = made(make, "codi", f"method.learns={learns}", f"method.trained={trained}", start=start)
    with torch.no_grad():
        method.network.mu.fill_(0.5)
    learning = {key for key, weight in method.named_parameters() if weight.requires_grad}
    assert all(key.startswith("network.") for key in learning)
    assert any(key.startswith("network.denoiser.") for key in learning) == (trained == "all")
    before = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer = torch.optim.Adam([weight for weight in method.parameters() if weight.requires_grad], lr=1e-3)
    terms, _ = method.objective(random_batch(method.config), torch.Generator().manual_seed(0))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == learning


# --- InvSR --------------------


def noise_predictor(method: Any, monkeypatch: Any) -> tuple[Callable[[Array, float], tuple[Array, Array]], float]:
    """Known functions in place of both networks; mean and log-variance in numpy, and the denoiser's gain."""

    def forward(seen: Tensor, time: Tensor) -> Tensor:
        mean = 0.4 * seen.mean(1, keepdim=True).expand(-1, 48, -1, -1) + time[:, None, None, None]
        return torch.cat([mean, mean.cos() - 1], dim=1)

    def moments(condition: Array, time: float) -> tuple[Array, Array]:
        mean = np.repeat(0.4 * condition.mean(1, keepdims=True) + time, 48, axis=1)
        return mean, np.cos(mean) - 1

    monkeypatch.setattr(method.predictor, "forward", forward)
    monkeypatch.setattr(method.network, "forward", lambda x, time: 0.6 * (x + time[:, None, None, None]).sin())
    return moments, 0.6


def enlarged(batch: Any) -> Array:
    from diffi2i.data.resize import imresize  # itself tested against MATLAB's

    return unshuffled(imresize(batch["input"], 4).clamp(0, 1))


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_the_noise_is_drawn_by_its_moments_and_judged_after_one_step(
    make: Make, prediction: str, monkeypatch: Any
) -> None:
    given = f"method.diffusion.prediction={prediction}"
    method = made(make, "invsr", given, start=(*UNCONDITIONAL, given))
    moments, gain = noise_predictor(method, monkeypatch)
    batch, process, starts = batch64(method), Process(prediction), set()
    for seed in range(8):
        terms, output = method.objective(batch, torch.Generator().manual_seed(seed))
        rng = torch.Generator().manual_seed(seed)
        t = [5, 4, 3, 2][int(torch.randint(4, (), generator=rng))]
        starts.add(t)
        e = torch.randn(2, 48, 8, 8, generator=rng).double().numpy()
        mean, log_variance = moments(2 * batch["input"].numpy() - 1, clock(t))
        x_t = process.noised(enlarged(batch), t, mean + np.sqrt(np.exp(log_variance)) * e)
        x0, _ = process.both(x_t, t, gain * np.sin(x_t + clock(t)))
        assert terms == {}
        np.testing.assert_allclose(unshuffled(output.detach()), x0, rtol=1e-9, atol=1e-9)
    assert len(starts) > 2


@torch.no_grad()
def test_later_steps_draw_their_noise_as_the_diffusion_does(make: Make, monkeypatch: Any) -> None:
    """By Bayes: x_s of x_t = x_s's noising and of q(x_s | x_0), two normals in x_s."""
    method = made(make, "invsr", "method.times=[5,3,1]").eval()
    moments, gain = noise_predictor(method, monkeypatch)
    batch, process = batch64(method), Process("x0")
    noise = method.noise(batch)

    def normal(what: str = "") -> Array:
        found: Array = noise((48, 8, 8), what).double().numpy()
        return found

    mean, log_variance = moments(2 * batch["input"].numpy() - 1, clock(5))
    x = process.noised(enlarged(batch), 5, mean + np.exp(log_variance / 2) * normal())
    for t, s in ((5, 3), (3, 1)):
        x0 = np.clip(gain * np.sin(x + clock(t)), -1, 1)
        ratio = process.bars[t] / process.bars[s]
        precision = ratio / (1 - ratio) + 1 / (1 - process.bars[s])
        middle = (
            math.sqrt(ratio) * x / (1 - ratio) + math.sqrt(process.bars[s]) * x0 / (1 - process.bars[s])
        ) / precision
        x = middle + normal(f"step {t}") / math.sqrt(precision)
    expected = np.clip(gain * np.sin(x + clock(1)), -1, 1)
    np.testing.assert_allclose(unshuffled(method.predict(batch, noise)), expected, rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_it_begins_with_the_standard_normal(make: Make) -> None:
    method, plain = (made(make, "invsr", *more) for more in ((), ("method.noise=drawn",)))
    batch = random_batch(method.config)
    first = method.predict(batch, method.noise(batch))
    assert torch.equal(first, plain.predict(batch, plain.noise(batch)))
    randomise(method.predictor)
    assert not torch.equal(method.predict(batch, method.noise(batch)), first)


def test_the_predictor_alone_learns(make: Make) -> None:
    method: InvSR = made(make, "invsr")
    randomise(method.predictor)
    method.learn_from(TaskLoss({"own": lambda output, batch: (output - batch["target"]).square().mean()}))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer = torch.optim.Adam([weight for weight in method.parameters() if weight.requires_grad], lr=1e-3)
    method.training_step(random_batch(method.config), 0).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"predictor.{key}" for key in method.predictor.state_dict()}
