"""DiffI2I as a whole: the builders, Algorithms 1 and 2 on real networks, and float32 where it counts."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffi2i.config.compose import load
from diffi2i.config.schema import Config, CpenConfig, ModelConfig, TaskConfig
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.noise import step_generator
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.diffi2i import build_cpen, build_network
from tests import reference as ref
from tests.conftest import awake, with_l1
from tests.settings import task_config

DIM = 8
SISR = task_config(name="sisr", in_channels=3, scale=4)
INPAINTING = task_config(name="inpainting", in_channels=4, scale=1)


def model_of(task: TaskConfig) -> ModelConfig:
    network = {
        "_target_": "diffi2i.models.di2iformer.DI2Iformer",
        "in_channels": task.in_channels,
        "scale": task.scale,
        "width": 2,
        "blocks": [1, 1, 1, 1],
        "refinement": 1,
        "expansion": 1.0,
        "projection": "pointwise",
    }
    return ModelConfig(name="test", network=network, cpen=CpenConfig(channels=DIM // 4, blocks=1))


MODEL = model_of(SISR)
both_predictions = pytest.mark.parametrize("kind", ["eps", "x0"])


def stage_2(*options: str) -> DiffI2IS2:
    """A stage 2 of x4 super-resolution whose blocks are no longer the identity."""
    torch.manual_seed(0)
    config = load(Config, "train", ["task=sisr", "model=tiny", "method=diffi2i_s2", *options])
    config.model = MODEL
    return awake(with_l1(DiffI2IS2(config)))


def predicting(kind: str, *options: str) -> DiffI2IS2:
    return stage_2(f"method.diffusion.prediction={kind}", *options)


def images(seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, 9, 6, generator=torch.Generator().manual_seed(seed))


def normal(seed: int) -> Tensor:
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(seed))


def silent(_: int) -> Tensor:
    raise AssertionError("no noise is inserted")


def loop(method: DiffI2IS2, z_T: Tensor, D: Tensor, kind: str, times: list[int] | None = None) -> ref.Array:
    """The numpy reverse process with the method's denoiser in float64."""
    assert method.denoiser is not None
    denoiser, betas = deepcopy(method.denoiser).double(), ref.linear_betas(4)

    def one(z: Tensor, d: Tensor) -> ref.Array:
        def predict(z_t: ref.Array, t: int) -> ref.Array:
            with torch.no_grad():
                time = torch.tensor([t / 4], dtype=torch.float64)
                return np.asarray(denoiser(torch.from_numpy(z_t)[None], time, d.double()[None])[0])

        return ref.reverse(z.double().numpy(), predict, kind, betas, times)

    return np.stack([one(z, d) for z, d in zip(z_T, D, strict=True)])


@both_predictions
@pytest.mark.parametrize("times", [None, [4], [2, 4]])
@torch.no_grad()
def test_prior_is_the_reverse_process_conditioned_on_the_input(kind: str, times: list[int] | None):
    steps = "null" if times is None else str(times).replace(" ", "")
    method, image, z_T = predicting(kind, f"method.sampler.steps={steps}"), images(), normal(1)
    expected = loop(method, z_T, method.cpen_s2(image), kind, times)
    np.testing.assert_allclose(method.estimate(image, z_T, silent), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prediction_is_algorithm_2():
    """From standard normal noise, by name, through the reverse process to the DI2Iformer."""
    method, data = stage_2(), batch()
    method.eval()
    noise = method.noise(data)
    output = method.predict(data, noise)
    assert output.shape == (2, 3, 36, 24)
    z = loop(method, noise((DIM,)), method.cpen_s2(data["input"]), "x0")
    expected = method.network(data["input"], torch.from_numpy(z).float())
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(output, method.network(data["input"], torch.zeros(2, DIM)))


@torch.no_grad()
def test_without_diffusion_the_prior_is_what_cpen_s2_says():
    method, image = stage_2("method.prior=none"), images()
    assert method.denoiser is None
    assert torch.equal(method.estimate(image, normal(1), silent), method.cpen_s2(image))


@torch.no_grad()
def test_variance_noise_changes_the_prior_and_follows_its_source():
    image, z_T = images(), normal(1)
    quiet, noisy = predicting("eps"), predicting("eps", "method.sampler.variance_noise=true")

    def estimate(seed: int) -> Tensor:
        return noisy.estimate(image, z_T, lambda t: normal(10 * seed + t))

    one, same, other = estimate(1), estimate(1), estimate(2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, quiet.estimate(image, z_T, silent))


@both_predictions
@torch.no_grad()
def test_reverse_process_runs_in_float32_under_bfloat16_autocast(kind: str):
    method, image, z_T = predicting(kind), images(), normal(1)
    convolved: list[torch.dtype] = []
    dense: list[torch.dtype] = []
    conditions: list[Tensor] = []
    method.cpen_s2.register_forward_hook(lambda _, __, output: conditions.append(output))
    for module in method.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: convolved.append(output.dtype))
    assert method.denoiser is not None
    for module in method.denoiser.modules():
        module.register_forward_hook(lambda _, inputs, output: dense.extend([*(x.dtype for x in inputs), output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        z = method.estimate(image, z_T, silent)
    assert set(convolved) == {torch.bfloat16}  # autocast was on
    assert set(dense) == {torch.float32}
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z, loop(method, z_T, conditions[0].float(), kind), rtol=1e-4, atol=1e-4)


@both_predictions
def test_every_part_learns_from_the_image_through_all_steps(kind: str):
    torch.manual_seed(0)
    config = load(Config, "train", ["task=sisr", "method=diffi2i_s2", f"method.diffusion.prediction={kind}"])
    config.model = MODEL
    method, data = DiffI2IS2(config), batch()
    learning = [(name, p) for part in method.parts().values() for name, p in part.named_parameters()]
    optimizer = torch.optim.Adam([p for _, p in learning], lr=1e-3)
    for _ in range(3):  # the denoiser's zeros move first, then CPEN_S2's, then all
        optimizer.zero_grad()
        method.predict(data, method.noise(data)).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert [name for name, p in learning if p.grad is None or not p.grad.any()] == []


def test_builders_size_the_networks_by_task_and_model():
    assert build_cpen(SISR, MODEL, gt=True).features[0].in_channels == 51
    assert build_cpen(SISR, MODEL, gt=False).features[0].in_channels == 3
    assert build_cpen(INPAINTING, MODEL, gt=True).features[0].in_channels == 7 * 16
    assert build_cpen(INPAINTING, MODEL, gt=False).features[0].in_channels == 4 * 16
    assert MODEL.cpen is not None
    only_gt = replace(MODEL, cpen=replace(MODEL.cpen, s1_sees_input=False))
    assert build_cpen(INPAINTING, only_gt, gt=True).features[0].in_channels == 3 * 16
    assert build_cpen(INPAINTING, only_gt, gt=False).features[0].in_channels == 4 * 16
    former = build_network(model_of(INPAINTING), prior=True)
    assert isinstance(former, DI2Iformer)
    assert (former.embed.in_channels, former.scale) == (4, 1)
    assert build_network(MODEL, prior=True).scale == 4
    assert former(images(channels=4), normal(0)).shape == (2, 3, 9, 6)


@pytest.mark.parametrize(("name", "power"), [("linear", 1.0), ("sqrt_linear", 2.0)])
def test_every_setting_of_the_diffusion_is_passed_on(name: str, power: float):
    diffusion = f"method.diffusion={{steps: 6, beta_1: 0.2, beta_T: 0.8, prediction: eps, schedule: {name}}}"
    method = stage_2(diffusion, "method.sampler={steps: [3, 6], variance_noise: true}")
    assert (method.schedule.steps, method.schedule.prediction) == (6, "eps")
    betas = (0.0, *(np.linspace(0.2 ** (1 / power), 0.8 ** (1 / power), 6) ** power).tolist())
    np.testing.assert_allclose(method.schedule.alpha_bar, ref.cumulative(betas), rtol=1e-12)
    assert isinstance(method.sampler, partial)
    assert method.sampler.keywords == {"steps": [3, 6], "variance_noise": True}


@pytest.mark.parametrize("task", [SISR, INPAINTING])
def test_tiny_model_composes_and_runs(task: TaskConfig):
    config = load(Config, "train", ["model=tiny", f"task={task.name}", "method=diffi2i_s2"])
    method = DiffI2IS2(config)
    data: Any = {"input": images(), "name": ["a", "b"]}
    if task.in_channels == 4:
        data["mask"] = torch.ones(2, 1, 9, 6)
    with torch.no_grad():
        output = method.predict(data, method.noise(data))
    assert output.shape == (2, 3, 9 * task.scale, 6 * task.scale)
    assert method.schedule.steps == 4
    np.testing.assert_allclose(method.schedule.alpha_bar, ref.cumulative(ref.linear_betas(4, 0.1, 0.99)), rtol=1e-12)


def batch() -> Any:
    return {"input": images(), "target": torch.rand(2, 3, 36, 24), "name": ["a", "b"]}


@pytest.mark.parametrize("loss", ["l1", "l2", "kl"])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_joint_training_step_is_algorithm_1(loss: str):
    method, data = stage_2(f"method.prior_loss={loss}"), batch()
    path: list[Tensor] = []
    assert method.denoiser is not None
    hook = method.denoiser.register_forward_hook(lambda _, inputs, __: path.append(inputs[0]))
    total = method.training_step(data, 0)
    hook.remove()
    assert method.cpen_s1 is not None
    with torch.no_grad():
        z = method.cpen_s1(data["input"], data["target"])
        noise = torch.randn(z.shape, generator=step_generator(method.config.seed, 0, 0))
        z_T = ref.diffuse(z.double().numpy(), noise.double().numpy(), 4, ref.linear_betas(4))
        np.testing.assert_allclose(path[0], z_T, rtol=1e-4, atol=1e-6)  # Eq. 10
        z_hat = loop(method, torch.from_numpy(z_T), method.cpen_s2(data["input"]), "x0")
        output = method.network(data["input"], torch.from_numpy(z_hat).float())
    prior = {"l1": ref.prior_l1, "l2": ref.prior_l2, "kl": ref.prior_kl}[loss](z_hat, z.double().numpy())
    expected = np.abs((output - data["target"]).numpy()).mean() + prior
    np.testing.assert_allclose(total.item(), expected, rtol=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in method.cpen_s1.parameters())
    learning = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    assert [name for name, p in learning if p.grad is None or not p.grad.any()] == []


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_energy_compares_two_draws_of_the_same_input():
    method, data = stage_2("method.prior_loss=energy"), batch()
    total = method.training_step(data, 0)
    assert method.cpen_s1 is not None
    rng = step_generator(method.config.seed, 0, 0)
    with torch.no_grad():
        z, d = method.cpen_s1(data["input"], data["target"]), method.cpen_s2(data["input"])
        starts = [torch.randn(z.shape, generator=rng).double().numpy() for _ in range(2)]
        noised = [ref.diffuse(z.double().numpy(), noise, 4, ref.linear_betas(4)) for noise in starts]
        one, other = (loop(method, torch.from_numpy(z_T), d, "x0") for z_T in noised)
        output = method.network(data["input"], torch.from_numpy(one).float())
    far = [np.linalg.norm(a - b, axis=1) for a, b in ((one, z.numpy()), (other, z.numpy()), (one, other))]
    expected = np.abs((output - data["target"]).numpy()).mean() + np.mean(far[0] + far[1] - far[2]) / 2
    np.testing.assert_allclose(total.item(), expected, rtol=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    learning = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    assert [name for name, p in learning if p.grad is None or not p.grad.any()] == []


def test_sampler_is_a_setting_of_scoring_where_there_is_a_diffusion():
    assert stage_2("method.prior=joint").scored_under == ("sampler", "tlc")
    assert stage_2("method.prior=none").scored_under == ("tlc",)


def test_traditional_objective_with_noise_prediction_is_equation_4():
    method, data = predicting("eps", "method.prior=traditional"), batch()
    times: list[Tensor] = []
    assert method.denoiser is not None
    hook = method.denoiser.register_forward_hook(lambda _, inputs, __: times.append(inputs[1]))
    z, noise = normal(0), normal(1)
    loss = method.random_step_loss(data["input"], z, noise, torch.Generator().manual_seed(5))
    hook.remove()
    denoiser, D = deepcopy(method.denoiser).double(), method.cpen_s2(data["input"]).double()
    steps = [round(4 * t) for t in times[0].tolist()]
    assert times[0].tolist() == [t / 4 for t in steps]
    assert all(1 <= t <= 4 for t in steps)

    def error(i: int) -> float:
        def predict(z_t: ref.Array, t: int) -> ref.Array:
            time = torch.tensor([t / 4], dtype=torch.float64)
            return denoiser(torch.from_numpy(z_t)[None], time, D[i : i + 1])[0].detach().numpy()  # type: ignore[no-any-return]

        return ref.noise_objective(
            z[i].double().numpy(), noise[i].double().numpy(), steps[i], predict, ref.linear_betas(4)
        )

    np.testing.assert_allclose(loss.item(), np.mean([error(0), error(1)]), rtol=1e-5)


def test_traditional_objective_draws_every_time_step():
    method, data = stage_2("method.prior=traditional"), batch()
    times: set[float] = set()
    assert method.denoiser is not None
    method.denoiser.register_forward_hook(lambda _, inputs, __: times.update(inputs[1].tolist()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        method.random_step_loss(data["input"], normal(0), normal(1), generator)
    assert times == {0.25, 0.5, 0.75, 1.0}


@pytest.mark.parametrize("variance_noise", ["false", "true"])
@torch.no_grad()
def test_estimated_prior_of_an_image_does_not_depend_on_its_batch(variance_noise: str):
    method, image = predicting("eps", f"method.sampler.variance_noise={variance_noise}"), images()
    pair: Any = {"input": image, "name": ["a", "b"]}
    single: Any = {"input": image[1:], "name": ["b"]}
    together, alone = (method.prior(method.seen(batch), method.noise(batch)) for batch in (pair, single))
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)
