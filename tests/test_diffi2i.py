"""DiffI2I as a whole: the builders, Algorithms 1 and 2 on real networks, and float32 where it counts."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffi2i.config import load
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.diffi2i import DiffI2I, build_cpen, build_di2iformer, build_diffi2i, build_diffusion
from diffi2i.schema import Config, CpenConfig, DiffusionConfig, ModelConfig, StageConfig, TaskConfig
from diffi2i.stages.common import step_generator
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from tests import reference as ref
from tests.conftest import awake

DIM = 8
SISR = TaskConfig(name="sisr", in_channels=3, scale=4)
INPAINTING = TaskConfig(name="inpainting", in_channels=4, scale=1)


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


def network(kind: str = "x0", with_diffusion: bool = True, **diffusion: Any) -> DiffI2I:
    torch.manual_seed(0)
    return awake(build_diffi2i(SISR, MODEL, DiffusionConfig(prediction=kind, **diffusion), with_diffusion))


def images(seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, 9, 6, generator=torch.Generator().manual_seed(seed))


def normal(seed: int) -> Tensor:
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(seed))


def loop(model: DiffI2I, z_T: Tensor, D: Tensor, kind: str, times: list[int] | None = None) -> ref.Array:
    """The numpy reverse process with the model's denoiser in float64."""
    assert model.denoiser is not None
    denoiser, betas = deepcopy(model.denoiser).double(), ref.linear_betas(4)

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
    model, image, z_T = network(kind, timesteps=times), images(), normal(1)
    expected = loop(model, z_T, model.cpen_s2(image), kind, times)
    np.testing.assert_allclose(model.estimate_prior(image, z_T), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_output_is_the_di2iformer_guided_by_the_estimated_prior():
    model, image, z_T = network(), images(), normal(1)
    output = model(image, z_T)
    assert output.shape == (2, 3, 36, 24)
    assert torch.equal(output, model.di2iformer(image, model.estimate_prior(image, z_T)))
    assert not torch.equal(output, model.di2iformer(image, torch.zeros(2, DIM)))


@torch.no_grad()
def test_without_diffusion_the_prior_is_what_cpen_s2_says():
    model, image = network(with_diffusion=False), images()
    assert model.denoiser is None
    assert torch.equal(model.estimate_prior(image, normal(1)), model.cpen_s2(image))


@torch.no_grad()
def test_variance_noise_changes_the_prior_and_follows_its_source():
    image, z_T = images(), normal(1)
    quiet, noisy = network("eps"), network("eps", variance_noise=True)

    def estimate(seed: int) -> Tensor:
        return noisy.estimate_prior(image, z_T, lambda index: normal(10 * seed + index))

    one, same, other = estimate(1), estimate(1), estimate(2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, quiet.estimate_prior(image, z_T))


@both_predictions
@torch.no_grad()
def test_reverse_process_runs_in_float32_under_bfloat16_autocast(kind: str):
    model, image, z_T = network(kind), images(), normal(1)
    convolved: list[torch.dtype] = []
    dense: list[torch.dtype] = []
    conditions: list[Tensor] = []
    model.cpen_s2.register_forward_hook(lambda _, __, output: conditions.append(output))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: convolved.append(output.dtype))
    assert model.denoiser is not None
    for module in model.denoiser.modules():
        module.register_forward_hook(lambda _, inputs, output: dense.extend([*(x.dtype for x in inputs), output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        z = model.estimate_prior(image, z_T)
    assert set(convolved) == {torch.bfloat16}  # autocast was on
    assert set(dense) == {torch.float32}
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z, loop(model, z_T, conditions[0].float(), kind), rtol=1e-4, atol=1e-4)


@both_predictions
def test_every_part_learns_from_the_image_through_all_steps(kind: str):
    torch.manual_seed(0)
    model = build_diffi2i(SISR, MODEL, DiffusionConfig(prediction=kind))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):  # the denoiser's zeros move first, then CPEN_S2's, then all
        optimizer.zero_grad()
        model(images(), normal(1)).square().mean().backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_builders_size_the_networks_by_task_and_model():
    assert build_cpen(SISR, MODEL, gt=True).features[0].in_channels == 51
    assert build_cpen(SISR, MODEL, gt=False).features[0].in_channels == 3
    assert build_cpen(INPAINTING, MODEL, gt=True).features[0].in_channels == 7 * 16
    assert build_cpen(INPAINTING, MODEL, gt=False).features[0].in_channels == 4 * 16
    only_gt = replace(MODEL, cpen=replace(MODEL.cpen, s1_sees_input=False))
    assert build_cpen(INPAINTING, only_gt, gt=True).features[0].in_channels == 3 * 16
    assert build_cpen(INPAINTING, only_gt, gt=False).features[0].in_channels == 4 * 16
    former = build_di2iformer(model_of(INPAINTING))
    assert isinstance(former, DI2Iformer)
    assert (former.embed.in_channels, former.scale) == (4, 1)
    assert build_di2iformer(MODEL).scale == 4
    assert former(images(channels=4), normal(0)).shape == (2, 3, 9, 6)


def test_build_diffusion_passes_every_setting_on():
    built = build_diffusion(DiffusionConfig(6, 0.2, 0.8, prediction="eps", variance_noise=True, timesteps=[3, 6]))
    assert (built.steps, built.prediction, built.variance_noise, built.visited) == (6, "eps", True, [0, 3, 6])
    np.testing.assert_allclose(built.alpha_bar, ref.cumulative(ref.linear_betas(6, 0.2, 0.8)), rtol=1e-12)


@pytest.mark.parametrize("task", [SISR, INPAINTING])
def test_tiny_model_composes_and_runs(task: TaskConfig):
    config = load(Config, "train", ["model=tiny", f"task={task.name}"])
    model = build_diffi2i(config.task, config.model, config.method.diffusion)
    with torch.no_grad():
        output = model(images(channels=task.in_channels), torch.randn(2, 4 * config.model.cpen.channels))
    assert output.shape == (2, 3, 9 * task.scale, 6 * task.scale)
    assert (config.method.diffusion.steps, config.method.diffusion.beta_1, config.method.diffusion.beta_T) == (
        4,
        0.1,
        0.99,
    )


def joint_stage(kind: str = "x0", **stage: Any) -> DiffI2IS2:
    torch.manual_seed(0)
    config = load(Config, "train", ["task=sisr", "model=tiny"])
    config.model = MODEL
    config.stage = StageConfig(name="joint", diffusion=DiffusionConfig(prediction=kind), **stage)
    return awake(DiffI2IS2(config, None, TaskLoss({"l1": L1()})))


def batch() -> dict[str, Any]:
    return {"input": images(), "target": torch.rand(2, 3, 36, 24), "name": ["a", "b"]}


@pytest.mark.parametrize("loss", ["l1", "l2", "kl"])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_joint_training_step_is_algorithm_1(loss: str):
    stage, data = joint_stage(prior_loss=loss), batch()
    path: list[Tensor] = []
    assert stage.model.denoiser is not None
    hook = stage.model.denoiser.register_forward_hook(lambda _, inputs, __: path.append(inputs[0]))
    total = stage.training_step(data, 0)
    hook.remove()
    with torch.no_grad():
        z = stage.cpen_s1(data["input"], data["target"])
        noise = torch.randn(z.shape, generator=step_generator(stage.config.seed, 0, 0))
        z_T = ref.diffuse(z.double().numpy(), noise.double().numpy(), 4, ref.linear_betas(4))
        np.testing.assert_allclose(path[0], z_T, rtol=1e-4, atol=1e-6)  # Eq. 10
        z_hat = loop(stage.model, torch.from_numpy(z_T), stage.model.cpen_s2(data["input"]), "x0")
        output = stage.model.di2iformer(data["input"], torch.from_numpy(z_hat).float())
    prior = {"l1": ref.prior_l1, "l2": ref.prior_l2, "kl": ref.prior_kl}[loss](z_hat, z.double().numpy())
    expected = np.abs((output - data["target"]).numpy()).mean() + prior
    np.testing.assert_allclose(total.item(), expected, rtol=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in stage.cpen_s1.parameters())
    assert [name for name, p in stage.model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_traditional_objective_with_noise_prediction_is_equation_4():
    stage, data = joint_stage("eps", prior="traditional"), batch()
    times: list[Tensor] = []
    assert stage.model.denoiser is not None
    hook = stage.model.denoiser.register_forward_hook(lambda _, inputs, __: times.append(inputs[1]))
    z, noise = normal(0), normal(1)
    loss = stage.random_step_loss(data["input"], z, noise, torch.Generator().manual_seed(5))
    hook.remove()
    denoiser, D = deepcopy(stage.model.denoiser).double(), stage.model.cpen_s2(data["input"]).double()
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
    stage, data = joint_stage(prior="traditional"), batch()
    times: set[float] = set()
    assert stage.model.denoiser is not None
    stage.model.denoiser.register_forward_hook(lambda _, inputs, __: times.update(inputs[1].tolist()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        stage.random_step_loss(data["input"], normal(0), normal(1), generator)
    assert times == {0.25, 0.5, 0.75, 1.0}


@pytest.mark.parametrize(
    "variance_noise",
    [
        False,
        True,
    ],
)
@torch.no_grad()
def test_estimated_prior_of_an_image_does_not_depend_on_its_batch(variance_noise: bool):
    stage, image = joint_stage(), images()
    stage.model.diffusion = build_diffusion(DiffusionConfig(prediction="eps", variance_noise=variance_noise))
    together = method.prior({"input": image, "name": ["a", "b"]})
    alone = method.prior({"input": image[1:], "name": ["b"]})
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)
